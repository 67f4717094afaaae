"""`streamrnn.client` over TLS, against both ends that lose nothing."""

from __future__ import annotations

import ssl
import threading

import pytest
from test_log import out
from tls_parts import HOST, certificates, options

from streamrnn.builtins.sockets import SocketSinkConfig, SocketSourceConfig
from streamrnn.client import Consumer, Producer, Tls
from streamrnn.codecs.lines import LineFramer
from streamrnn.sinks import socket as socket_sink
from streamrnn.sources import socket as socket_source
from streamrnn.testing import quiet_context


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def beside(tmp_path):
    """Serves an end on a thread of its own, until the test is over."""
    stop, threads, ends = threading.Event(), [], []

    def serve(end, turn):
        def turns():
            while not stop.is_set():
                turn()

        ends.append(end)
        threads.append(threading.Thread(target=turns))
        threads[-1].start()
        return end.addresses[0]

    yield serve
    stop.set()
    for thread in threads:
        thread.join(20)
    for end in ends:
        end.close()


@pytest.fixture
def ingest(tmp_path, beside):
    """The address of a source with a log, and what it read."""

    def listen(tls):
        config = SocketSourceConfig(listen="tcp://127.0.0.1:0", durability="log", log="ingest", tls=tls)
        source = socket_source.build(
            config, quiet_context(base_dir=tmp_path), lambda position=0: LineFramer(1 << 20, position)
        )
        read = []

        def turn():
            if block := source.read(1000, 5):
                read.extend(block.record(i) for i in range(len(block)))

        return beside(source, turn), read

    return listen


def client_tls(files, shown=None, ca="ca"):
    mine = (str(files[shown]), str(files[f"{shown}.key"])) if shown else (None, None)
    return Tls(str(files[ca]), *mine)


def test_a_producer_and_a_consumer_with_certificates(tmp_path, files, ingest, beside):
    address, read = ingest(options(files, client_ca="ca"))
    lines = [b'{"x": %d, "filling": "%s"}' % (i, b"." * (i % 300)) for i in range(2000)]
    with Producer(address, "p", tls=client_tls(files, "good")) as producer:
        for line in lines:
            producer.send(line)
        producer.flush()
        assert producer.acknowledged == len(lines)
    with Producer(address.replace(HOST, "localhost"), "p", tls=client_tls(files, "good")) as producer:
        assert producer.next == len(lines)
        producer.send(b"last")
    assert read[: len(lines)] == lines

    config = SocketSinkConfig(
        to="consumers", listen="tcp://127.0.0.1:0", log="out", tls=options(files, client_ca="ca")
    )
    sink = socket_sink.build(config, quiet_context(base_dir=tmp_path))
    outputs = [b"%d" % i * 50 for i in range(500)]
    sink.write(out("".join(f"{output.decode()}\n" for output in outputs)))
    consumer = Consumer(beside(sink, sink.idle), start=100, tls=client_tls(files, "good"))
    got = [output for _, output in zip(range(400), consumer, strict=False)]
    assert got == list(enumerate(outputs))[100:]
    consumer.close()


SERVERS = [
    ("good", "strangers_ca", "unable to get local issuer certificate"),
    ("stranger", "ca", "unable to get local issuer certificate"),
    ("expired", "ca", "certificate has expired"),
    ("other_name", "ca", "IP address mismatch, certificate is not valid for '127.0.0.1'"),
]


@pytest.mark.parametrize(("shown", "ca", "why"), SERVERS)
def test_a_client_takes_no_server_but_the_right_one(files, ingest, shown, ca, why):
    address, read = ingest(options(files, shown))
    with pytest.raises(ssl.SSLCertVerificationError, match=why):
        Producer(address, "p", tls=client_tls(files, ca=ca))
    with pytest.raises(ssl.SSLCertVerificationError, match=why):
        next(iter(Consumer(address, tls=client_tls(files, ca=ca))))
    assert read == []


@pytest.mark.parametrize("shown", [None, "stranger", "expired"])
def test_a_client_hears_at_once_that_its_certificate_is_refused(files, ingest, shown):
    address, read = ingest(options(files, client_ca="ca"))
    with pytest.raises(ssl.SSLError, match="alert"):
        Producer(address, "p", tls=client_tls(files, shown))
    assert read == []


def test_a_plain_client_finds_an_encrypted_server(files, ingest):
    encrypted, read = ingest(options(files))
    with pytest.raises(ConnectionError, match="the other side closed the connection"):
        Producer(encrypted, "p", patience_s=0)
    assert read == []


def test_an_encrypted_client_finds_a_plain_server(files, ingest):
    plain, read = ingest(None)
    with pytest.raises(ssl.SSLError, match=r"(?i)wrong.version.number|packet length"):
        Producer(plain, "p", tls=client_tls(files))
    assert read == []


def test_tls_is_for_tcp(files):
    with pytest.raises(ValueError, match="expected a tcp:// address for TLS, found 'unix:s'"):
        Producer("unix:s", "p", tls=client_tls(files))
    with pytest.raises(FileNotFoundError):
        Producer("tcp://127.0.0.1:1", "p", tls=Tls(ca="nowhere.pem"))
