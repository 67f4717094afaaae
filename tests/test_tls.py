"""TLS at the `socket` ends: who is let in, who is not, and that nobody waits for a handshake."""

from __future__ import annotations

import logging
import select
import socket
import ssl
import subprocess
import sys
import warnings
from contextlib import suppress

import pytest
from pydantic import ValidationError
from tls_parts import HOST, TurnClient, certificates, options, port, quiet

from streamrnn.builtins.sockets import SocketSinkConfig, SocketSourceConfig
from streamrnn.codecs.lines import LineFramer
from streamrnn.context import ManualClock
from streamrnn.errors import OptionError
from streamrnn.ports import EndOfStream
from streamrnn.sinks import socket as socket_sink
from streamrnn.sources import socket as socket_source
from streamrnn.testing import quiet_context

TLS13, TLS12 = ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return certificates(tmp_path_factory.mktemp("certificates"))


class Server:
    """A `socket` source and what came out of it."""

    def __init__(self, folder, clock, tls, **more):
        config = SocketSourceConfig(listen="tcp://127.0.0.1:0", tls=tls, **more)
        context = quiet_context(base_dir=folder, clock=clock)
        context.log = logging.getLogger("streamrnn")
        self.source = socket_source.build(config, context, lambda position=0: LineFramer(1 << 20, position))
        self.address = self.source.addresses[0]
        self.records, self.owners = [], []

    def turn(self):
        with suppress(EndOfStream):
            if block := self.source.read(1000, 1):
                self.records += [block.refused.get(i, block.record(i)) for i in range(len(block))]
                self.owners += block.connection.tolist()

    def ended(self):
        try:
            return self.source.read(10, 1) is not None
        except EndOfStream:
            return True

    def until(self, count):
        for _ in range(10_000):
            if len(self.records) >= count:
                return self.records
            self.turn()
        raise AssertionError(f"only {self.records!r} came")


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def serve(tmp_path, files, clock):
    opened = []

    def serve_one(client_ca=None, **more):
        server = Server(tmp_path, clock, options(files, client_ca=client_ca), **more)
        opened.append(server)
        return server

    yield serve_one
    for server in opened:
        server.source.close()


@pytest.fixture
def connect(files):
    opened = []

    def connect_one(server, shown=None, version=TLS13):
        opened.append(TurnClient(server.address, files, server.turn, shown, version))
        return opened[-1]

    yield connect_one
    for client in opened:
        client.close()


@pytest.fixture
def knock():
    """Plain connections."""
    opened = []

    def knock_once(server, data=b""):
        client = socket.create_connection((HOST, port(server.address)))
        client.sendall(data)
        client.settimeout(0)
        opened.append(client)
        return client

    yield knock_once
    for client in opened:
        client.close()


@pytest.mark.parametrize("version", [TLS13, TLS12])
def test_records_and_answers_go_both_ways(serve, connect, caplog, version):
    server = serve()
    client = connect(server, version=version).shake()
    assert client.socket.version() == {TLS13: "TLSv1.3", TLS12: "TLSv1.2"}[version]
    client.send(b"one\ntwo\nthr")
    assert server.until(2) == [b"one", b"two"]
    client.send(b"ee\n")
    assert server.until(3)[2:] == [b"three"]
    assert server.owners == [1, 1, 1]
    server.source.answer(1, b"heard\n")
    assert client.receive() == b"heard\n"
    assert caplog.messages == []


REFUSED = [
    (None, "peer did not return a certificate"),
    ("stranger", "certificate refused: unable to get local issuer certificate"),
    ("expired", "certificate refused: certificate has expired"),
]


@pytest.mark.parametrize("version", [TLS13, TLS12])
@pytest.mark.parametrize(("shown", "why"), REFUSED)
def test_only_clients_with_a_certificate_of_the_authority_are_let_in(
    serve, connect, caplog, shown, why, version
):
    server = serve(client_ca="ca")
    client = connect(server, shown, version)
    with pytest.raises(ssl.SSLError, match="alert"):
        client.shake().receive()
    assert quiet(caplog) == [f"a client at 127.0.0.1 was turned away: no TLS connection: {why}"]
    with suppress(OSError):
        client.send(b"let me in\n")
    good = connect(server, "good", version).shake()
    good.send(b"hello\n")
    assert server.until(1) == [b"hello"]
    assert server.owners == [1]


@pytest.mark.skipif(not ssl.HAS_TLSv1_1, reason="this OpenSSL was built without TLS 1.1")
def test_what_is_older_than_tls_1_2_is_refused(serve, connect, caplog):
    server = serve()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        client = connect(server, version=ssl.TLSVersion.TLSv1_1)
        client.socket.context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(ssl.SSLError, match="alert protocol version"):
        client.shake()
    assert quiet(caplog)[0].endswith("no TLS connection: unsupported protocol")


def test_garbage_gets_nowhere_and_does_not_flood_the_log(serve, connect, knock, caplog, clock):
    server = serve()
    for i in range(40):
        knock(server, b'{"hello": {"producer": "p"}}\n' if i % 2 else b"GET / HTTP/1.1\r\n\r\n")
    connect(server).shake().send(b"good\n")
    assert server.until(1) == [b"good"]
    told = quiet(caplog)
    assert len(told) == 10
    assert set(told) == {
        "a client at 127.0.0.1 was turned away: no TLS connection: http request",
        "a client at 127.0.0.1 was turned away: no TLS connection: wrong version number",
    }
    clock.advance(60)
    server.turn()
    knock(server, b"x" * 100)
    server.turn()
    server.turn()
    assert caplog.messages[-1].endswith("(30 more since the last one shown)")


def test_who_leaves_in_the_midst_of_a_handshake_is_not_told(serve, connect, knock, caplog):
    server = serve(until="last_connection_closed")
    for data in (b"", b"\x16\x03\x01\x02\x00"):
        for _ in range(5):
            knock(server, data).close()
    connect(server).shake().close()
    for _ in range(5):
        server.turn()
    assert caplog.messages == []
    assert (len(server.source._server._handshakes), server.source._server.accepted) == (0, 1)


def test_a_stalled_handshake_holds_nobody_up_and_ends(serve, connect, knock, caplog, clock):
    server = serve()
    idle = [knock(server, data) for data in (b"", b"\x16\x03\x01\x02\x00\x01", b"\x16") * 20]
    good = connect(server).shake()
    good.send(b"1\n")
    assert server.until(1) == [b"1"]
    clock.advance(10)
    server.turn()
    assert caplog.messages == []
    later = connect(server)
    server.turn()
    clock.advance(0.5)
    good.send(b"2\n")
    assert server.until(2)[1:] == [b"2"]
    told = "a client at 127.0.0.1 was turned away: its TLS handshake took more than 10 s"
    assert quiet(caplog) == [told] * 10
    assert len(server.source._server._handshakes) == 1
    assert [client.recv(1) for client in idle] == [b""] * 60
    later.shake().send(b"3\n")
    assert server.until(3)[2:] == [b"3"]


def test_a_client_that_is_turned_away_and_stays_is_closed_in_time(serve, knock, clock):
    server = serve()
    client = knock(server, b"no TLS at all\n")
    server.turn()
    server.turn()
    for _ in range(3):
        client.sendall(b"x" * 1000)
        server.turn()
    assert len(server.source._server._handshakes) == 1
    clock.advance(10.5)
    server.turn()
    assert len(server.source._server._handshakes) == 0


def test_handshakes_count_as_connections_and_as_clients(serve, connect, knock, caplog):
    server = serve(max_connections=2, until="last_connection_closed")
    first = connect(server).shake()
    stalled = knock(server, b"\x16")
    server.turn()
    knock(server)
    server.turn()
    assert quiet(caplog) == ["a client was turned away: 2 are connected already"]
    first.close()
    for _ in range(3):
        assert server.source.read(10, 1) is None
    stalled.close()
    assert list(iter(server.ended, True)) in ([], [False], [False] * 2)


@pytest.mark.parametrize("version", [TLS13, TLS12])
def test_records_larger_than_a_read_and_answers_larger_than_the_kernel_takes(serve, connect, version):
    server = serve(max_pending_bytes=1 << 28)
    client = connect(server, version=version).shake()
    lines = [b"%d" % i * (i % 4000) + b"." for i in range(3000)]
    client.send(b"\n".join(lines) + b"\n")
    assert server.until(len(lines)) == lines
    answers, got = b"".join(lines), bytearray()
    for at in range(0, len(answers), 1 << 20):
        server.source.answer(1, answers[at : at + (1 << 20)])
    assert server.source._server.connections[1].pending
    while len(got) < len(answers):
        got += client.receive()
    assert bytes(got) == answers


def test_nothing_is_left_inside_a_record_that_is_read_in_parts(serve, connect):
    server = serve()
    client = connect(server).shake()
    while not server.source._server.connections:
        server.turn()
    client.send(b"x" * 3000)
    connection = server.source._server.connections[1]
    assert select.select([connection.socket], [], [], 10)[0]
    assert connection.receive(1000) == b"x" * 3000
    assert connection.socket.pending() == 0


def test_a_client_that_ends_its_way_still_hears_answers_and_both_ends_are_proper(serve, connect):
    server = serve(until="last_connection_closed")
    client = connect(server).shake()
    client.send(b"last\nhalf")
    client.say_goodbye()
    assert server.until(2) == [b"last", "the connection closed in the midst of a line"]
    server.source.answer(1, b"heard\n")
    assert client.receive() == b"heard\n"
    assert client.receive() == b""


def test_closing_sends_what_waits_and_says_goodbye(serve, connect, knock):
    server = serve()
    client = connect(server).shake()
    stalled = knock(server, b"\x16")
    client.send(b"x\n")
    server.until(1)
    server.source.answer(1, b"y" * 100_000)
    server.source.close()
    got = b""
    while data := client.receive():
        got += data
    assert got == b"y" * 100_000
    assert stalled.recv(1) == b""


def test_subscribers_are_those_whose_handshake_is_done(tmp_path, files, knock):
    from test_socket_sink import out

    config = SocketSinkConfig(
        to="subscribers", listen="tcp://127.0.0.1:0", tls=options(files, client_ca="ca")
    )
    sink = socket_sink.build(config, quiet_context(base_dir=tmp_path))
    sink.address = sink.addresses[0]
    stranger = knock(sink)
    client = TurnClient(sink.address, files, sink.idle, "good").shake()
    sink.idle()
    sink.write(out([7, 7], set()))
    assert client.receive() == b"10\n11\n"
    sink.close()
    assert client.receive() == b""
    assert stranger.recv(1) == b""
    client.close()


def test_unix_sockets_beside_it_stay_plain(tmp_path, files):
    config = SocketSourceConfig(listen=["unix:s", "tcp://127.0.0.1:0"], tls=options(files))
    source = socket_source.build(config, quiet_context(base_dir=tmp_path), LineFramer)
    assert [listener.tls is None for listener in source._server._listeners] == [True, False]
    source.close()


def test_options_that_do_not_go_together(files):
    tls = options(files)
    with pytest.raises(ValidationError, match="expected a tcp:// address in listen, found none"):
        SocketSourceConfig(listen="unix:s", tls=tls)
    with pytest.raises(ValidationError, match="can be reached from other machines; write allow_remote"):
        SocketSourceConfig(listen="tcp://0.0.0.0:1", tls=tls)
    with pytest.raises(ValidationError, match="takes no tls"):
        SocketSinkConfig(to="sender", tls=tls)


MISTAKES = [
    ({"cert": "nowhere.pem", "key": "nowhere.key"}, ["tls.cert: cannot read DIR/nowhere.pem: No such file or "
      "directory", "tls.key: cannot read DIR/nowhere.key: No such file or directory"]),
    ({"cert": "."}, ["tls.cert: cannot read DIR: Is a directory"]),
    ({"cert": "good.key"}, ["tls.cert: expected a CERTIFICATE in PEM in DIR/good.key, found none"]),
    ({"key": "good.pem"}, ["tls.key: expected a PRIVATE KEY in PEM in DIR/good.pem, found none"]),
    ({"key": "stranger.key"}, ["tls.key: expected DIR/stranger.key to be the key, without a password, of the "
      "certificate in DIR/good.pem: key values mismatch"]),
    ({"key": "locked.key"}, ["tls.key: expected DIR/locked.key to be the key, without a password, of the "
      "certificate in DIR/good.pem: "]),
    ({"client_ca": "good.key"}, ["tls.client_ca: expected a CERTIFICATE in PEM in DIR/good.key, found none"]),
    ({"client_ca": "broken.pem"}, ["tls.client_ca: expected certificates in DIR/broken.pem: "]),
]  # fmt: skip


@pytest.mark.parametrize(("change", "told"), MISTAKES)
def test_wrong_files_are_refused_at_the_start(files, change, told):
    from cryptography.hazmat.primitives import serialization as s

    folder = files["ca"].parent
    key = s.load_pem_private_key(files["good.key"].read_bytes(), None)
    locked = s.BestAvailableEncryption(b"secret")
    (folder / "locked.key").write_bytes(key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, locked))
    (folder / "broken.pem").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    config = SocketSourceConfig(
        listen="tcp://127.0.0.1:0", tls={"cert": "good.pem", "key": "good.key"} | change
    )
    with pytest.raises(OptionError) as refused:
        socket_source.build(config, quiet_context(base_dir=folder), LineFramer)
    found = [f"{'.'.join(path)}: {text}" for path, text in refused.value.problems]
    assert len(found) == len(told)
    for text, expected in zip(found, told, strict=True):
        assert text.startswith(expected.replace("DIR", str(folder)))


PIPELINE = """\
source:
  type: socket
  listen: "tcp://127.0.0.1:0"
  tls: {cert: good.pem, key: lost.key}
decode: {type: jsonl}
event: {inputs: {x: [{field: x}]}}
model: {type: formula, output: {y: x}}
encode: {type: jsonl}
sink: {type: socket, to: subscribers, listen: "tcp://127.0.0.1:0", tls: {cert: lost.pem, key: good.key}}
"""


def test_lint_and_run_name_the_files_that_are_missing(tmp_path, files):
    for name in ("good", "good.key"):
        (tmp_path / files[name].name).write_bytes(files[name].read_bytes())
    (tmp_path / "p.yaml").write_text(PIPELINE)
    linted = streamrnn("lint", tmp_path)
    assert linted.stdout.splitlines() == [
        f"p.yaml:4:30: source.tls.key: there is no file {tmp_path}/lost.key",
        f"p.yaml:9:80: sink.tls.cert: there is no file {tmp_path}/lost.pem",
    ]
    assert linted.returncode == 1
    ran = streamrnn("run", tmp_path)
    assert ran.returncode == 2
    assert f"p.yaml:4:30: source.tls.key: cannot read {tmp_path}/lost.key: No such file" in ran.stderr


def streamrnn(command, folder):
    run = [sys.executable, "-m", "streamrnn", command, "p.yaml"]
    return subprocess.run(run, cwd=folder, capture_output=True, text=True, check=False)
