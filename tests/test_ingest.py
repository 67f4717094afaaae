"""The `socket` ends that lose nothing, line by line as docs/protocol.md has them."""

from __future__ import annotations

import json
import os
import socket

import pytest
from pydantic import ValidationError
from test_log import files, out

from streamrnn.builtins.ends import StdinConfig
from streamrnn.builtins.logs import LogSinkConfig, LogSourceConfig
from streamrnn.builtins.sockets import SocketSinkConfig, SocketSourceConfig
from streamrnn.codecs.lines import LineFramer
from streamrnn.context import ManualClock
from streamrnn.errors import OptionError, SourceError
from streamrnn.events import Mark
from streamrnn.log import layout
from streamrnn.log.rolling import Rolling
from streamrnn.ports import EndOfStream
from streamrnn.sinks import log as log_sink
from streamrnn.sinks import socket as socket_sink
from streamrnn.sources import log as log_source
from streamrnn.sources import socket as socket_source
from streamrnn.sources import stdin as stdin_source_module
from streamrnn.testing import quiet_context


def new_framer(position=0):
    return LineFramer(100, position)


class Dated(ManualClock):
    date_us = 1000

    def wall_us(self):
        return self.date_us


@pytest.fixture
def clock():
    return Dated()


@pytest.fixture
def open_source(tmp_path, clock):
    opened = []

    def open_one(place=None, **options):
        config = SocketSourceConfig(**{"listen": "unix:s", "durability": "log", "log": "ingest"} | options)
        source = socket_source.build(config, quiet_context(base_dir=tmp_path, clock=clock), new_framer)
        opened.append(source)
        if place is not None:
            source.resume(json.loads(json.dumps(place)))
        return source

    yield open_one
    for source in opened:
        source.close()


class Client:
    def __init__(self, path, hello=None, **more):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(os.fspath(path))
        self.socket.settimeout(0.2)
        self.rest = b""
        self.left = self.at = 0
        if hello is not None:
            self.send(json.dumps({"hello": hello | more}).encode() + b"\n")

    def send(self, data):
        self.socket.sendall(data)

    def heard(self):
        try:
            while data := self.socket.recv(1 << 16):
                self.rest += data
        except TimeoutError:
            pass
        except ConnectionError:
            return ["reset"]
        *lines, self.rest = self.rest.split(b"\n")
        return [json.loads(line) for line in lines]


@pytest.fixture
def connect(tmp_path):
    opened = []

    def connect_one(hello=None, name="s", **more):
        opened.append(Client(tmp_path / name, hello, **more))
        return opened[-1]

    yield connect_one
    for client in opened:
        client.socket.close()


def seen(source, rounds=6):
    """The records of some rounds: who sent them, their number, and what they are or why they are refused."""
    found = []
    for _ in range(rounds):
        try:
            block = source.read(100, 5)
        except EndOfStream:
            return [*found, "end"]
        for i in range(len(block or ())):
            what = block.refused.get(i, block.record(i).decode(errors="replace"))
            found.append((block.fields["log.producer"][i], block.fields["log.seq"][i], what))
    return found


def welcome(name, epoch, following):
    return {"welcome": {"producer": name, "epoch": epoch, "next": following}}


def test_what_is_acknowledged_is_in_the_log(tmp_path, open_source, connect):
    source = open_source()
    client = connect({"producer": "p"})
    client.send(b'{"x": 1}\n\n{"x": 2}\r\nhal')
    assert seen(source) == [("p", 0, '{"x": 1}'), ("p", 1, '{"x": 2}')]
    assert client.heard() == [welcome("p", 1, 0), {"ack": 2}]
    lines = (tmp_path / "ingest" / "0" / f"{0:020d}.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"time": 1000, "producer": "p", "epoch": 1, "seq": 0},
        {"time": 1000, "producer": "p", "epoch": 1, "seq": 0, "value": {"x": 1}},
        {"time": 1000, "producer": "p", "epoch": 1, "seq": 1, "value": {"x": 2}},
    ]
    assert source.position() == {"0": 3}


@pytest.mark.parametrize(
    ("sent", "what", "kept"),
    [
        (b"nonsense", "nonsense", {"text": "nonsense"}),
        (b'"\xff"', '"\ufffd"', {"base64": "Iv8i"}),
        (
            b"z" * 200,
            "line of more than 100 bytes",
            {"text": "z" * 100, "refused": "line of more than 100 bytes"},
        ),
        (b"1 2", "1 2", {"text": "1 2"}),
        (b' {"a": 1} ', ' {"a": 1} ', {"text": ' {"a": 1} '}),
        (b'{"a": "\\u0000", "b": 1e999}', '{"a": "\\u0000", "b": 1e999}', {}),
    ],
)
def test_records_are_kept_as_they_are(tmp_path, open_source, connect, sent, what, kept):
    source = open_source()
    connect({"producer": "p"}).send(b"1\n" + sent + b"\n2\n")
    assert [each for *_, each in seen(source)] == ["1", what, "2"]
    lines = (tmp_path / "ingest" / "0" / f"{0:020d}.jsonl").read_text().splitlines()
    assert len(lines) == 4
    assert json.loads(lines[2]).items() >= kept.items()


def test_records_that_are_sent_again_count_once(open_source, connect):
    source = open_source()
    connect({"producer": "p"}).send(b"0\n1\n2\n")
    assert len(seen(source)) == 3
    again = connect({"producer": "p", "epoch": 1, "seq": 1})
    again.send(b"1\n2\n3\n4\n")
    assert seen(source) == [("p", 3, "3"), ("p", 4, "4")]
    assert again.heard() == [welcome("p", 1, 3), {"ack": 5}]
    third = connect({"producer": "p", "epoch": 1})
    assert seen(source) == []
    assert third.heard() == [welcome("p", 1, 5)]


def conflict(seq, what):
    return ("p", seq, f"sequence number {seq} of p belongs to another record already")


def test_another_record_under_a_number_that_was_used_is_refused_once(tmp_path, open_source, connect):
    source = open_source()
    connect({"producer": "p"}).send(b"0\n1\n2\n")
    assert len(seen(source)) == 3
    again = connect({"producer": "p", "epoch": 1, "seq": 0})
    again.send(b"0\n{}\n2\n3\n")
    assert seen(source) == [conflict(1, "{}"), ("p", 3, "3")]
    assert again.heard() == [welcome("p", 1, 3), {"ack": 4, "seq_conflict": [1]}]
    third = connect({"producer": "p", "epoch": 1, "seq": 1})
    third.send(b"{}\n[]\n3\n4\n")
    assert seen(source) == [conflict(2, "[]"), ("p", 4, "4")]
    assert third.heard() == [welcome("p", 1, 4), {"ack": 5, "seq_conflict": [1, 2]}]
    lines = (tmp_path / "ingest" / "0" / f"{0:020d}.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines if "conflict" in line] == [
        {"time": 1000, "producer": "p", "epoch": 1, "seq": seq, "text": text, "conflict": True}
        | {"refused": conflict(seq, text)[2]}
        for seq, text in ((1, "{}"), (2, "[]"))
    ]


@pytest.mark.parametrize("committed", [True, False])
def test_what_was_sent_is_known_after_a_crash_too(open_source, connect, committed):
    source = open_source()
    connect({"producer": "p"}).send(b"0\n1\n2\n")
    connect({"producer": "q"}).send(b"9\n8\n7\n")
    assert len(seen(source)) == 6
    connect({"producer": "p", "seq": 1}).send(b"[]\n")
    assert seen(source) == [conflict(1, "[]")]
    place = source.place() if committed else None
    source.close()
    source = open_source(place)
    if not committed:
        assert len(seen(source)) == 7
    again = connect({"producer": "p", "epoch": 2, "seq": 0})
    again.send(b"{}\n[]\n2\n3\n")
    assert seen(source) == [conflict(0, "{}"), ("p", 3, "3")]
    assert again.heard()[-1] == {"ack": 4, "seq_conflict": [0, 1]}


def test_a_record_that_was_too_long_is_not_compared(open_source, connect):
    source = open_source()
    connect({"producer": "p"}).send(b"z" * 200 + b"\n1\n")
    assert len(seen(source)) == 2
    again = connect({"producer": "p", "seq": 0})
    again.send(b"2\n" + b"y" * 200 + b"\n3\n")
    assert seen(source) == [("p", 2, "3")]
    assert again.heard()[-1] == {"ack": 3}


def test_of_two_connections_of_a_producer_the_newer_counts(open_source, connect):
    source = open_source()
    first = connect({"producer": "p"})
    first.send(b"0\n")
    assert len(seen(source)) == 1
    second = connect({"producer": "p", "epoch": 1})
    seen(source)
    assert first.heard()[-1]["error"]["code"] == "replaced"
    third = connect({"producer": "p"})
    seen(source)
    assert second.heard()[-1]["error"]["code"] == "fenced"
    assert third.heard() == [welcome("p", 2, 1)]
    late = connect({"producer": "p", "epoch": 1})
    late.send(b"zombie\n")
    third.send(b"1\n")
    assert seen(source) == [("p", 1, "1")]
    (told,) = late.heard()
    assert told["error"] == {"code": "fenced", "reason": "epoch 2 of p has begun"}


@pytest.mark.parametrize(
    ("first", "code"),
    [
        (b'{"x": 1}\n', "hello"),
        (b"GET / HTTP/1.1\n", "hello"),
        (b'{"hello": {}}\n', "hello"),
        (b'{"hello": {"producer": "a b"}}\n', "hello"),
        (b'{"hello": {"producer": "p", "sequence": 1}}\n', "hello"),
        (b'{"hello": {"producer": "p", "seq": -1}}\n', "hello"),
        (b'{"hello": {"producer": "p", "seq": 3}}\n', "gap"),
        (b'{"hello": {"producer": "third"}}\n', "full"),
    ],
)
def test_who_does_not_say_hello_is_turned_away(tmp_path, open_source, connect, first, code):
    source = open_source(max_producers=2)
    for name in ("one", "p"):
        connect({"producer": name})
    seen(source)
    client = connect()
    client.send(first + b'{"x": 2}\n')
    assert seen(source) == []
    (told,) = client.heard()
    assert told["error"]["code"] == code
    if code == "gap":
        assert told["error"]["next"] == 0


def test_a_client_that_leaves_at_once_hears_of_its_records(open_source, connect):
    source = open_source(until="last_connection_closed")
    client = connect({"producer": "p"})
    client.send(b"0\n1\nhalf")
    client.socket.shutdown(socket.SHUT_WR)
    assert seen(source) == [("p", 0, "0"), ("p", 1, "1"), "end"]
    assert client.heard() == [welcome("p", 1, 0), {"ack": 2}]


def test_a_run_goes_on_with_what_the_log_has(tmp_path, open_source, connect, clock):
    source = open_source()
    place = source.place()
    connect({"producer": "p"}).send(b"0\n1\n")
    connect({"producer": "q"}).send(b"0\n")
    assert len(seen(source)) == 3
    later = source.place()
    source.close()
    path = tmp_path / "ingest" / "0" / f"{0:020d}.jsonl"
    with path.open("ab") as file:  # what a loss of power leaves behind
        file.write(
            b'{"time":1000,"producer":"p","epoch":1,"seq":2,"value":2}\n' + b"\0" * 30 + b'\n{"time":1}\nx'
        )
    clock.date_us = 500
    for at, expected in ((place, 4), (later, 1)):
        source = open_source(at)
        found = seen(source)
        assert len(found) == expected
        assert ("p", 2, "2") in found
        client = connect({"producer": "p", "epoch": 1})
        seen(source)
        assert client.heard() == [welcome("p", 1, 3)]
        source.close()
    with_time = [json.loads(line)["time"] for line in path.read_text().splitlines()]
    assert with_time == [1000] * 6


def test_a_log_that_was_cut_is_refused(tmp_path, open_source, connect):
    source = open_source()
    connect({"producer": "p"}).send(b"0\n1\n")
    seen(source)
    place = source.place()
    source.close()
    path = tmp_path / "ingest" / "0" / f"{0:020d}.jsonl"
    os.truncate(path, 10)
    with pytest.raises(SourceError, match="expected at least 3 records, found fewer: it was cut"):
        open_source(place)


def test_time_does_not_go_back(open_source, connect, clock):
    source, client = open_source(), connect({"producer": "p"})
    times = []
    for date_us in (2000, 1000, 3000):
        clock.date_us = date_us
        client.send(b"x\n")
        times += [block.fields["log.time"][0] for _ in range(3) if (block := source.read(9, 5)) is not None]
    assert times == [2000, 2000, 3000]


def test_what_no_commit_needs_is_removed(tmp_path, open_source, connect):
    source = open_source(keep_bytes=0)
    source.place()
    source._log._writer._rolling = Rolling(segment_bytes=100)
    client = connect({"producer": "p"})
    client.send(b"0\n1\n2\n3\n")
    seen(source)
    place = source.place()
    client.send(b"4\n5\n")
    seen(source)
    source.committed(source.place(), place)
    left = layout.segments(source._log._fs, tmp_path / "ingest" / "0")
    assert 0 < left[0] <= place["reader"]["offset"]
    assert [name for name, each in source._log.producers.items() if each.next == 6] == ["p"]


def test_a_backlog_is_served_before_more_is_read(open_source, connect):
    source, client = open_source(max_backlog=2), connect({"producer": "p"})
    client.send(b"0\n1\n2\n")
    for _ in range(3):
        block = source.read(1, 5)
        client.send(b"x\n")
    assert source.position()["0"] <= 3
    assert block is None or len(block) == 1
    assert len(seen(source, 20)) >= 3


def test_the_log_can_be_read_by_another_pipeline(tmp_path, open_source, connect):
    source = open_source()
    connect({"producer": "p"}).send(b"0\nnonsense\n")
    connect({"producer": "q"}).send(b"7\n")
    seen(source)
    for start, count in (("earliest", 3), ({"time": "1970-01-01T00:00:00.002Z"}, 0)):
        config = LogSourceConfig(path="ingest", records="enveloped", start=start)
        reader = log_source.build(config, quiet_context(base_dir=tmp_path), new_framer)
        block = reader.read(100, 1)
        found = [block.record(i) for i in range(len(block))] if hasattr(block, "fields") else []
        assert len(found) == count
        if found:
            assert set(found) == {b"0", b"nonsense", b"7"}
            assert block.fields["log.time"].tolist() == [1000] * 3
        reader.close()


def test_a_codec_without_lines_is_refused(tmp_path):
    from streamrnn.codecs.msgpack import MsgpackFramer

    config = SocketSourceConfig(listen="unix:s", durability="log", log="ingest")
    with pytest.raises(OptionError, match=r"expected decode: \{type: jsonl\}"):
        socket_source.build(config, quiet_context(base_dir=tmp_path), lambda at=0: MsgpackFramer(9, at))


@pytest.mark.parametrize("options", [{"durability": "log"}, {"log": "x"}])
def test_log_and_durability_go_together(options):
    with pytest.raises(ValidationError, match="expected durability: log and log: DIR together"):
        SocketSourceConfig(listen="unix:s", **options)
    if "log" in options:
        with pytest.raises(ValidationError, match="expected to: consumers and log: DIR together"):
            SocketSinkConfig(to="subscribers", listen="unix:s", **options)


# The sink


@pytest.fixture
def open_sink(tmp_path, clock):
    opened = []

    def open_one(**options):
        config = SocketSinkConfig(**{"to": "consumers", "listen": "unix:o.sock", "log": "out"} | options)
        sink = socket_sink.build(config, quiet_context(base_dir=tmp_path, clock=clock))
        sink.attach(log_source.LogSource, None)
        opened.append(sink)
        return sink

    yield open_one
    for sink in opened:
        sink.close()


def taken(sink, client):
    """What a consumer hears: outputs with their offsets, and whatever else it is told."""
    sink.idle()
    sink.idle()
    told = []
    for line in client.heard():
        if client.left:
            told.append((client.at, line))
            client.left, client.at = client.left - 1, client.at + 1
        elif "outputs" in line:
            client.left, client.at = line["outputs"], line["from"]
        else:
            told.append(line)
    return told


def test_a_consumer_says_from_where_on(open_sink, connect):
    sink = open_sink()
    sink.write(out("10\n11\n12\n"))
    client = connect({"from": 1}, "o.sock")
    assert taken(sink, client) == [{"welcome": {"partition": "0", "from": 1}}, (1, 11), (2, 12)]
    sink.write(out("13\n"))
    sink.write(out("90\n", "other"))
    assert taken(sink, client) == [(3, 13)]
    assert taken(sink, connect({"from": "latest"}, "o.sock")) == [{"welcome": {"partition": "0", "from": 4}}]
    assert taken(sink, connect({"from": "earliest"}, "o.sock"))[1:] == [(0, 10), (1, 11), (2, 12), (3, 13)]
    assert taken(sink, connect({"from": 0, "partition": "other"}, "o.sock"))[1:] == [(0, 90)]
    ahead = connect({"from": 5}, "o.sock")
    assert taken(sink, ahead)[1:] == []
    sink.write(out("14\n15\n"))
    assert taken(sink, ahead) == [(5, 15)]


def test_only_committed_outputs_if_told_so(open_sink, connect):
    sink = open_sink(emit="committed")
    sink.write(out("10\n11\n"))
    place = sink.place()
    sink.write(out("12\n"))
    client = connect({"from": 0}, "o.sock")
    assert taken(sink, client)[1:] == []
    sink.committed(place, None)
    assert taken(sink, client) == [(0, 10), (1, 11)]


def test_a_slow_consumer_is_served_from_the_disk(tmp_path, open_sink, connect):
    sink = open_sink(max_pending_bytes=1000)
    client = connect({"from": 0}, "o.sock")
    text = "".join(f'"{i:0500}"\n' for i in range(3000))
    sink.write(out(text))
    (connection,) = sink._server.connections.values()
    assert len(connection.pending) < 1_500_000
    got = []
    while len(got) < 3000:
        got += [offset for offset, _ in filter(lambda each: isinstance(each, tuple), taken(sink, client))]
    assert got == list(range(3000))
    assert files(tmp_path)[0] == text


def test_what_retention_removed_is_refused(open_sink, connect, tmp_path):
    before = log_sink.build(LogSinkConfig(path="out", segment_bytes=4), quiet_context(base_dir=tmp_path))
    before.write(out("1\n2\n3\n"))
    before.close()
    layout.segment_path(tmp_path / "out" / "0", 0).unlink()
    sink = open_sink()
    told = taken(sink, connect({"from": 0}, "o.sock"))
    assert (told[-1]["error"]["code"], told[-1]["error"]["first"]) == ("gone", 2)


@pytest.mark.parametrize("hello", [{}, {"from": -1}, {"from": "now"}, {"from": 0, "partition": "../x"}])
def test_a_consumer_that_says_no_hello_is_turned_away(open_sink, connect, hello):
    sink = open_sink()
    (told,) = taken(sink, connect(hello, "o.sock"))
    assert told["error"]["code"] == "hello"


# Standard input


class Pipe:
    """What arrives at standard input, piece by piece."""

    def __init__(self, *pieces):
        self.pieces = list(pieces)

    def read(self, size, wait_ms):
        return self.pieces.pop(0) if self.pieces else b""


def stdin_source(tmp_path, clock, *pieces):
    config = StdinConfig(durability="log", log="ingest")
    context = quiet_context(base_dir=tmp_path, clock=clock, stdin=Pipe(*pieces))
    return stdin_source_module.build(config, context, new_framer)


def marks_and_records(source, limit=100):
    found = []
    while True:
        try:
            block = source.read(limit, 1)
        except EndOfStream:
            return found
        if isinstance(block, Mark):
            found.append(("end", block.position))
        elif block is not None:
            found += [(int(at), block.record(i).decode()) for i, at in enumerate(block.positions)]


def test_what_a_pipe_gave_is_served_again(tmp_path, clock):
    source = stdin_source(tmp_path, clock, b"a\nb\nc", None, b"c\nd\n", b"last")
    place = source.place()
    assert [source.read(1, 1).record(0), source.read(1, 1).record(0)] == [b"a", b"b"]
    later = source.place()
    source.close()
    for at, expected in ((later, []), (place, [(0, "a"), (1, "b")])):
        source = stdin_source(tmp_path, clock)
        source.resume(json.loads(json.dumps(at)))
        assert marks_and_records(source) == [*expected, ("end", 2)]
        source.close()
    source = stdin_source(tmp_path, clock, b"x\n\nnonsense", b"\nlast")
    source.resume(later)
    assert marks_and_records(source, 1) == [(2, "x"), (3, "nonsense"), (4, "last"), ("end", 5)]
    source.close()


def test_stdin_says_log_and_durability_together():
    with pytest.raises(ValidationError, match="expected durability: log and log: DIR together"):
        StdinConfig(durability="log")


def test_who_connects_and_says_nothing_is_closed_in_time(open_source, connect, clock):
    source = open_source(idle_s=5)
    silent, client = connect(), connect({"producer": "p"})
    assert seen(source) == []
    clock.advance(4)
    client.send(b'{"x": 1}\n')
    assert seen(source) == [("p", 0, '{"x": 1}')]
    clock.advance(2)
    assert seen(source) == []
    assert silent.socket.recv(1) == b""
    assert client.heard() == [welcome("p", 1, 0), {"ack": 1}]
    assert len(source._server.connections) == 1
