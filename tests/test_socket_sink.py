from __future__ import annotations

import json
import random
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pydantic import ValidationError

from streamrnn.build import build_pipeline
from streamrnn.builtins.sockets import SocketSinkConfig
from streamrnn.config.load import load_pipeline
from streamrnn.context import Context, ManualClock
from streamrnn.errors import ConfigError, SinkError
from streamrnn.events import Block, Origin, OutBlock, Rejected
from streamrnn.pipeline import Pipeline
from streamrnn.registry import Registry
from streamrnn.sinks.socket import SenderSink, SubscribersSink, build
from streamrnn.testing import ListSink, ListSource, quiet_context

if TYPE_CHECKING:
    from streamrnn.events import Column, IntArray

ORIGIN = Origin("socket", "unix:s")


class Answers:
    """A source that keeps what each connection is sent; those in `left` have left."""

    def __init__(self, left: tuple[int, ...] = ()) -> None:
        self.sent: dict[int, bytes] = {}
        self.left = left
        self.calls = 0

    def answer(self, connection: int, data: bytes) -> bool:
        self.calls += 1
        self.sent[connection] = self.sent.get(connection, b"") + data
        return connection not in self.left


def plain(columns: Mapping[str, Column], n: int) -> tuple[bytes, IntArray]:
    lines = [b"refused %d\n" % each["number"] for each in columns["refused"]]
    return b"".join(lines), np.cumsum([len(line) for line in lines], dtype=np.int64)


def fixed_columns(columns: Mapping[str, Column], n: int) -> tuple[bytes, IntArray]:
    raise KeyError("y")


def sender(source: Any, encode: Any = plain) -> SenderSink:
    sink = SenderSink(quiet_context())
    sink.attach(source, encode)
    return sink


def out(connections: list[int], refused: set[int]) -> OutBlock:
    """Records numbered from 10, each answered with its number or refused."""
    n, served = len(connections), [i for i in range(len(connections)) if i not in refused]
    lines = [b"%d\n" % (i + 10) for i in served]
    at = np.arange(n, dtype=np.int64)
    block = Block(b"x" * n, at, at + 1, at, at + 10, ORIGIN, connection=np.array(connections, np.int64))
    rejected = tuple(Rejected(ORIGIN, i, i + 10, "bad", b"x", i) for i in sorted(refused))
    ends = np.cumsum([len(line) for line in lines], dtype=np.int64)
    return OutBlock(b"".join(lines), ends, ["k"] * len(served), np.array(served, np.int64), block, rejected)


@pytest.mark.parametrize(
    ("connections", "refused", "expected"),
    [
        ([7, 7, 7], set(), {7: b"10\n11\n12\n"}),
        ([7, 7, 7], {1}, {7: b"10\nrefused 11\n12\n"}),
        ([7, 8, 7, 8], set(), {7: b"10\n12\n", 8: b"11\n13\n"}),
        ([7, 8, 7, 8], {0, 3}, {7: b"refused 10\n12\n", 8: b"11\nrefused 13\n"}),
        ([7, 8], {0, 1}, {7: b"refused 10\n", 8: b"refused 11\n"}),
        ([7], {0}, {7: b"refused 10\n"}),
        ([], set(), {}),
    ],
)
def test_each_client_gets_its_answers_in_the_order_of_its_events(
    connections: list[int], refused: set[int], expected: dict[int, bytes]
) -> None:
    source = Answers()
    sender(source).write(out(connections, refused))
    assert source.sent == expected
    assert source.calls == len(expected), "one call for each client"


@pytest.mark.parametrize("seed", range(5))
def test_answers_of_many_clients(seed: int) -> None:
    rng = random.Random(seed)
    connections = [rng.randrange(20) for _ in range(500)]
    refused = {i for i in range(500) if rng.random() < 0.2}
    expected: dict[int, bytes] = {}
    for i, connection in enumerate(connections):
        line = b"refused %d\n" % (i + 10) if i in refused else b"%d\n" % (i + 10)
        expected[connection] = expected.get(connection, b"") + line
    source = Answers()
    sender(source).write(out(connections, refused))
    assert source.sent == expected


def test_a_codec_that_cannot_refuse_leaves_it_to_json() -> None:
    source = Answers()
    sender(source, fixed_columns).write(out([7, 7], {1}))
    assert source.sent == {7: b'10\n{"refused":{"number":11,"reason":"bad"}}\n'}


def test_answers_to_those_who_left_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    sink = SenderSink(Context())
    sink.attach(Answers(left=(8,)), plain)  # type: ignore[arg-type]
    sink.write(out([7, 8, 8, 8], {2}))
    assert sink.late == 3
    sink.flush()
    sink.close()
    sink.close()
    assert caplog.messages == ["3 answers were for clients that had left"]


SOURCE = '{type: socket, listen: "unix:in", stall_s: 30, max_pending_bytes: 1000}'
PIPELINE = (
    f"source: {SOURCE}"
    + """
decode: {type: jsonl}
event: {key: k, inputs: {x: [{field: x}]}}
model: {type: formula, state: {H: 0}, update: {H: "H + x"}, output: {y: H}}
encode: {type: jsonl, include: [pad]}
sink: {type: socket, to: sender}
limits: {max_batch_events: 8}
"""
)


def built(folder: Path, text: str = PIPELINE, clock: ManualClock | None = None, **ends: Any) -> Pipeline:
    registry, context = Registry([]), Context(base_dir=folder, clock=clock or ManualClock())
    return build_pipeline(load_pipeline(text, "p.yaml", registry, context, {}), registry, context, **ends)


def connect(path: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(10)
    client.connect(str(path))
    return client


def test_a_sink_that_answers_needs_connections(tmp_path: Path) -> None:
    text = PIPELINE.replace(SOURCE, "{type: stdin}")
    with pytest.raises(ConfigError, match=r"sink\.to: expected a source with connections .* to: subscribers"):
        built(tmp_path, text)
    with pytest.raises(ConfigError, match=r"found ListSource"):
        built(tmp_path, source=ListSource([]))
    built(tmp_path, source=ListSource([]), sink=ListSink()).close()


EVENT = json.dumps({"k": "a", "x": 1, "pad": "x" * 1000}).encode() + b"\n"


def flood(client: socket.socket, pipeline: Pipeline) -> int:
    """Send events and read no answers until nothing goes on; how many events were served."""
    client.setblocking(False)
    rest, blocked, events = b"", 0, 0
    while blocked < 20:
        rest = rest or EVENT * 100
        blocked += 1
        with suppress(BlockingIOError):
            rest, blocked = rest[client.send(rest) :], 0
        if served := turn(pipeline):
            events, blocked = events + served, 0
    return events


def turn(pipeline: Pipeline) -> int:
    report = pipeline.run_once(0)
    assert report is not None
    return report.events


def connections(pipeline: Pipeline) -> list[Any]:
    return list(pipeline.parts.source._server.connections.values())  # type: ignore[attr-defined]


def ys(received: bytes | bytearray) -> list[float]:
    return [json.loads(line)["y"] for line in received.splitlines()]


def test_a_client_that_does_not_read_is_not_read_from(tmp_path: Path) -> None:
    with (
        closing(built(tmp_path)) as pipeline,
        closing(connect(tmp_path / "in")) as deaf,
        closing(connect(tmp_path / "in")) as good,
    ):
        events = flood(deaf, pipeline)
        waiting = connections(pipeline)[0]
        assert waiting.is_paused
        assert 1000 < len(waiting.pending) < 20_000, "no more than the answers to one batch"
        good.sendall(b'{"k": "b", "x": 1}\n')
        while not turn(pipeline):
            pass
        assert json.loads(good.recv(1000)) == {"pad": None, "y": 1}
        received = b""
        for _ in range(2 * events):  # once it reads, it gets all
            with suppress(BlockingIOError):
                received += deaf.recv(1 << 16)
            events += turn(pipeline)
        assert ys(received) == list(range(1, events + 1))


def test_a_client_that_never_reads_is_closed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()
    with closing(built(tmp_path, clock=clock)) as pipeline, closing(connect(tmp_path / "in")) as deaf:
        flood(deaf, pipeline)
        for seconds in (29, 0, 0):
            clock.advance(seconds)
            turn(pipeline)
        assert len(connections(pipeline)) == 1
        clock.advance(2)
        for _ in range(10):
            turn(pipeline)
        assert connections(pipeline) == []
        assert caplog.messages[0] == "unix:in: connection 1 closed: it took none of its answers for 30 s"


def test_what_waits_is_sent_at_the_end(tmp_path: Path) -> None:
    pipeline, received = built(tmp_path), bytearray()
    client = connect(tmp_path / "in")
    events = flood(client, pipeline)

    def read() -> None:
        client.sendall(EVENT * 500)  # it reads once it has written, so somebody must take that
        while data := client.recv(1 << 16):
            received.extend(data)
        client.close()

    client.settimeout(10)
    thread = threading.Thread(target=read)
    thread.start()
    pipeline.close()
    thread.join()
    assert ys(received) == list(range(1, events + 1))


@pytest.fixture
def subscribers(tmp_path: Path) -> Iterator[SubscribersSink]:
    config = SocketSinkConfig(to="subscribers", listen="unix:out", max_connections=3, max_pending_bytes=1000)
    sink = build(config, Context(base_dir=tmp_path, clock=ManualClock()))
    assert isinstance(sink, SubscribersSink)
    yield sink
    sink.close()


def some(text: bytes) -> OutBlock:
    block = out([1], set())
    block.buffer = text
    return block


def test_every_subscriber_gets_every_output(subscribers: SubscribersSink, tmp_path: Path) -> None:
    first = connect(tmp_path / "out")
    subscribers.write(some(b"1\n"))
    second = connect(tmp_path / "out")
    second.sendall(b"nobody looks at this")
    for text in (b"2\n", b"", b"3\n"):
        subscribers.write(some(text))
    subscribers.flush()
    assert (first.recv(100), second.recv(100)) == (b"1\n2\n3\n", b"2\n3\n")
    first.close()
    subscribers.write(some(b"4\n"))
    assert second.recv(100) == b"4\n"
    subscribers.close()
    subscribers.close()
    assert second.recv(100) == b""
    second.close()
    assert not (tmp_path / "out").exists()


def test_a_subscriber_that_does_not_read_is_dropped(
    subscribers: SubscribersSink, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    deaf, good = connect(tmp_path / "out"), connect(tmp_path / "out")
    text, writes = b"x" * 500 + b"\n", 0
    while not caplog.messages:
        subscribers.write(some(text))
        writes += 1
        assert good.recv(1000) == text
    assert caplog.messages == ["unix:out: connection 1 closed: more than 1000 bytes waited for it to read"]
    assert writes < 10_000
    deaf.close()
    good.close()


def test_places_of_those_who_left_are_free_again(subscribers: SubscribersSink, tmp_path: Path) -> None:
    for _ in range(10):
        with closing(connect(tmp_path / "out")) as client:
            subscribers.idle()
            subscribers.write(some(b"1\n"))
            assert client.recv(100) == b"1\n"
        subscribers.idle()


def test_a_pipeline_without_events_sends_what_waits(tmp_path: Path) -> None:
    text = PIPELINE.replace("to: sender", 'to: subscribers, listen: "unix:out"')
    with (
        closing(built(tmp_path, text)) as pipeline,
        closing(connect(tmp_path / "out")) as reader,
        closing(connect(tmp_path / "in")) as writer,
    ):
        sent = 0
        while sent < 600:
            writer.sendall(EVENT)
            sent += 1
            pipeline.run_once(10)
        reader.setblocking(False)
        received = b""
        for _ in range(2000):
            try:
                received += reader.recv(1 << 16)
            except BlockingIOError:
                pipeline.run_once(0)
        assert len(received.splitlines()) == sent


def test_a_sink_that_cannot_listen(tmp_path: Path) -> None:
    config = SocketSinkConfig(to="subscribers", listen="unix:no/such")
    with pytest.raises(SinkError, match="unix:no/such: cannot listen: No such file"):
        build(config, Context(base_dir=tmp_path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "Field required"),
        ({"to": "all"}, "'sender', 'subscribers' or 'consumers'"),
        ({"to": "subscribers"}, "to: subscribers needs listen"),
        ({"to": "sender", "listen": "unix:s"}, "takes no listen; remove it here"),
        (
            {"to": "sender", "max_connections": 5, "allow_remote": True},
            "no allow_remote, max_connections",
        ),
        ({"to": "subscribers", "listen": "tcp://10.0.0.1:1"}, "write allow_remote: true"),
        ({"to": "subscribers", "listen": "10.0.0.1:1"}, "expected tcp://host:port"),
    ],
)
def test_options_that_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message) as caught:
        SocketSinkConfig.model_validate(options)
    assert caught.value.error_count() == 1
