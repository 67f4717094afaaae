from __future__ import annotations

import logging
import os
import resource
import socket
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from streamrnn.builtins.sockets import SocketSourceConfig
from streamrnn.codecs.lines import LineFramer
from streamrnn.context import Context, ManualClock, Net
from streamrnn.errors import SourceError
from streamrnn.events import Block
from streamrnn.ports import EndOfStream, Framer
from streamrnn.sources.socket import SocketSource, build
from streamrnn.testing import quiet_context

CUT_OFF = "the connection closed in the midst of a line"
Open = Callable[..., SocketSource]
Connect = Callable[..., socket.socket]


def new_framer(position: int = 0) -> Framer:
    return LineFramer(100, position)


@pytest.fixture
def open_source(tmp_path: Path) -> Iterator[Open]:
    opened = []

    def open_one(context: Context | None = None, **options: Any) -> SocketSource:
        config = SocketSourceConfig(**{"listen": "unix:s"} | options)
        source = build(config, context or quiet_context(base_dir=tmp_path), new_framer)
        opened.append(source)
        return source

    yield open_one
    for source in opened:
        source.close()


@pytest.fixture
def connect(tmp_path: Path) -> Iterator[Connect]:
    opened = []

    def connect_one(address: str = "unix:s", sends: bytes = b"") -> socket.socket:
        scheme, _, where = address.partition(":")
        if scheme == "unix":
            client = socket.socket(socket.AF_UNIX)
            client.connect(os.path.join(tmp_path, where))
        else:
            host, _, port = where.removeprefix("//").rpartition(":")
            client = socket.create_connection((host.strip("[]"), int(port)))
        client.settimeout(10)
        client.sendall(sends)
        opened.append(client)
        return client

    yield connect_one
    for client in opened:
        client.close()


def rounds(source: SocketSource, count: int = 4, limit: int = 100) -> list[Block]:
    """The blocks of some rounds; what was sent over loopback before is there by then."""
    blocks = [source.read(limit, 5) for _ in range(count)]
    return [block for block in blocks if block is not None]


def until_end(source: SocketSource) -> Iterator[Block]:
    try:
        while True:
            yield from rounds(source, count=1)
    except EndOfStream:
        return


def seen(blocks: Iterable[Block]) -> list[tuple[int, int, bytes | str]]:
    """Connection, number, and the record or why it was refused."""
    return [
        (int(block.connection[i]), int(block.numbers[i]), block.refused.get(i, block.record(i)))
        for block in blocks
        if block.connection is not None
        for i in range(len(block))
    ]


def test_connections_share_a_block(open_source: Open, connect: Connect) -> None:
    source = open_source()
    connect(sends=b"a1\n\na3\na4\n")
    connect(sends=b"b1\r\nb2\nb")
    source.read(100, 50)  # takes the clients
    (block,) = rounds(source)
    assert seen([block]) == [(1, 1, b"a1"), (1, 3, b"a3"), (1, 4, b"a4"), (2, 1, b"b1"), (2, 2, b"b2")]
    assert block.positions.tolist() == [0, 4, 7, 0, 4]
    assert (block.origin.source, block.origin.partition) == ("socket", "unix:s")
    assert source.position() == {}


def test_a_client_that_floods_leaves_room_for_others(open_source: Open, connect: Connect) -> None:
    source = open_source()
    connect(sends=b"x\n" * 60_000)
    source.read(8, 50)
    for i in range(3):
        connect(sends=b"%d\n" % i)
    found = seen(rounds(source, count=4, limit=8))
    assert {connection for connection, *_ in found} == {1, 2, 3, 4}
    numbers = [number for connection, number, _ in found if connection == 1]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(found) <= 32
    assert source._streams[1].fed <= 1 << 16, "what has not been read waits with the client"


def test_blocks_are_bounded_and_of_one_address(open_source: Open, connect: Connect) -> None:
    source = open_source(listen=["unix:s", "tcp://127.0.0.1:0", "tcp://[::1]:0"])
    for address in source.addresses:
        connect(address, sends=b"x\n" * 5)
    source.read(100, 50)
    blocks = rounds(source, count=10, limit=3)
    assert [len(block) for block in blocks] == [3, 3, 3, 2, 2, 2]
    assert [block.origin.partition for block in blocks] == source.addresses * 2


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"one\ntw", [b"one", CUT_OFF]),
        (b"one\n", [b"one"]),
        (b"one\n  \t", [b"one"]),
        (b"", []),
        (b"x" * 150, ["line of more than 100 bytes"]),
        (b"x" * 150 + b"\ny", ["line of more than 100 bytes", CUT_OFF]),
        (b"x" * 70_000 + b"tail\ntwo\n", ["line of more than 100 bytes", b"two"]),
    ],
)
@pytest.mark.parametrize("leave", [lambda c: c.shutdown(socket.SHUT_WR), lambda c: c.close()])
def test_half_a_line_is_never_an_event(
    open_source: Open, connect: Connect, sent: bytes, expected: list[bytes | str], leave: Any
) -> None:
    source = open_source(until="last_connection_closed")
    leave(connect(sends=sent))
    assert [what for *_, what in seen(until_end(source))] == expected


def test_what_came_before_a_reset_connection_is_served(open_source: Open, connect: Connect) -> None:
    source = open_source(listen="tcp://127.0.0.1:0", until="last_connection_closed")
    client = connect(source.addresses[0], sends=b"one\ntwo\nthr")
    source.read(1, 50)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()  # with a reset, as a process that is killed with answers unread
    assert [what for *_, what in seen(until_end(source))] == [b"one", b"two", CUT_OFF]


def test_numbers_of_connections_are_not_used_again(open_source: Open, connect: Connect) -> None:
    source = open_source()
    for number in (1, 2, 3):
        connect(sends=b"x\n").close()
        assert seen(rounds(source)) == [(number, 1, b"x")]


def test_it_ends_with_the_last_client_if_told_so(open_source: Open, connect: Connect) -> None:
    source = open_source(until="last_connection_closed")
    assert rounds(source) == []
    first, second = connect(), connect()
    first.close()
    assert rounds(source) == []
    second.close()
    for _ in range(2):
        with pytest.raises(EndOfStream):
            rounds(source)


@pytest.fixture
def timed(tmp_path: Path) -> Context:
    return quiet_context(base_dir=tmp_path, clock=ManualClock())


def advance(context: Context, source: SocketSource, seconds: float) -> list[tuple[int, int, bytes | str]]:
    assert isinstance(context.clock, ManualClock)
    context.clock.advance(seconds)
    return seen(rounds(source))


def test_a_line_that_drips_is_closed(open_source: Open, connect: Connect, timed: Context) -> None:
    source = open_source(timed, line_s=10, idle_s=None)
    drips, whole = connect(sends=b"a\nx"), connect(sends=b"b\n")
    assert seen(rounds(source)) == [(1, 1, b"a"), (2, 1, b"b")]
    for _ in range(9):
        drips.sendall(b"x")
        assert advance(timed, source, 1) == []
    drips.sendall(b"x")
    assert advance(timed, source, 2) == [(1, 2, "the line was not complete within 10 s")]
    rounds(source)
    assert drips.recv(10) == b""
    whole.sendall(b"c\n")
    assert advance(timed, source, 100) == [(2, 2, b"c")]


def test_a_line_that_ends_begins_the_time_anew(open_source: Open, connect: Connect, timed: Context) -> None:
    source = open_source(timed, line_s=10, idle_s=None)
    client = connect(sends=b"x")
    for number in range(1, 6):
        rounds(source)
        advance(timed, source, 8)
        client.sendall(b"\nx")
        assert advance(timed, source, 1) == [(1, number, b"x")]


@pytest.mark.parametrize(("idle_s", "stays"), [(60, False), (None, True)])
def test_a_client_that_sends_nothing(
    open_source: Open, connect: Connect, timed: Context, idle_s: float | None, stays: bool
) -> None:
    source = open_source(timed, idle_s=idle_s)
    silent, busy = connect(), connect()
    for _ in range(10):
        busy.sendall(b"x\n")
        assert len(advance(timed, source, 10)) == 1
    silent.setblocking(False)
    if stays:
        with pytest.raises(BlockingIOError):
            silent.recv(1)
    else:
        assert silent.recv(1) == b""


def test_no_more_clients_than_allowed(
    open_source: Open, connect: Connect, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    source = open_source(Context(base_dir=tmp_path), max_connections=2)
    first, _, third = connect(), connect(), connect()
    rounds(source)
    assert third.recv(1) == b""
    assert [r.getMessage() for r in caplog.records] == [
        "unix:s: a client was turned away: 2 are connected already"
    ]
    first.close()
    rounds(source)
    connect(sends=b"x\n")
    assert seen(rounds(source)) == [(3, 1, b"x")]


def test_warnings_come_at_a_bounded_rate(
    open_source: Open, connect: Connect, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    log, clock = logging.getLogger("streamrnn"), ManualClock()
    source = open_source(Context(base_dir=tmp_path, log=log, clock=clock), max_connections=1)
    for _ in range(50):
        connect()
    rounds(source)
    assert len(caplog.records) == 10
    clock.advance(1)
    connect()
    rounds(source)
    assert caplog.messages[-1].endswith("(39 more since the last one shown)")


def test_without_descriptors_clients_wait(
    open_source: Open, connect: Connect, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    clock = ManualClock()
    source = open_source(Context(base_dir=tmp_path, clock=clock))
    clients = [connect(sends=b"x\n") for _ in range(3)]
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
        for _ in range(3):
            assert rounds(source) == []
            clock.advance(2)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert len(seen(rounds(source))) == len(clients)
    assert caplog.messages == ["unix:s: no more clients can be taken for now: Too many open files"]


def test_the_file_of_a_socket(open_source: Open, connect: Connect, tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    source = open_source()
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(SourceError, match="unix:s: cannot listen: Address already in use"):
        open_source()
    connect(sends=b"x\n")
    assert seen(rounds(source)) == [(2, 1, b"x")]  # the first was to see whether somebody listens
    source.close()
    assert not path.exists()
    path.write_text("mine")
    with pytest.raises(SourceError, match="unix:s: cannot listen: Address already in use"):
        open_source()
    assert path.read_text() == "mine"


def test_a_file_that_took_the_place_of_ours_stays(open_source: Open, tmp_path: Path) -> None:
    source = open_source()
    (tmp_path / "s").unlink()
    (tmp_path / "s").write_text("mine")
    source.close()
    source.close()
    assert (tmp_path / "s").read_text() == "mine"


@pytest.mark.parametrize(
    ("listen", "message"),
    [
        ("unix:no/such", "unix:no/such: cannot listen: No such file"),
        ("unix:" + "x" * 200, "cannot listen: AF_UNIX path too long"),
        (["unix:ok", "unix:no/such"], "unix:no/such: cannot listen"),
    ],
)
def test_an_address_that_cannot_be_listened_at(
    open_source: Open, tmp_path: Path, listen: Any, message: str
) -> None:
    with pytest.raises(SourceError, match=message):
        open_source(listen=listen)
    assert list(tmp_path.iterdir()) == []


def test_two_of_one_port(open_source: Open) -> None:
    (address,) = open_source(listen="tcp://127.0.0.1:0").addresses
    with pytest.raises(SourceError, match=f"{address}: cannot listen: Address already in use"):
        open_source(listen=address)


class Elsewhere(Net):
    """Listens at a path of its own, whatever is asked."""

    def __init__(self, path: Path) -> None:
        self.path, self.asked = path, list[tuple[str, int]]()

    def listen_tcp(self, host: str, port: int) -> socket.socket:
        self.asked.append((host, port))
        return self.listen_unix(self.path)


def test_sockets_come_from_the_context(open_source: Open, connect: Connect, tmp_path: Path) -> None:
    net = Elsewhere(tmp_path / "other")
    source = open_source(quiet_context(base_dir=tmp_path, net=net), listen="tcp://127.0.0.1:9000")
    connect("unix:other", sends=b"x\n")
    assert seen(rounds(source)) == [(1, 1, b"x")]
    assert net.asked == [("127.0.0.1", 9000)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"listen": "127.0.0.1:9000"}, "expected tcp://host:port"),
        ({"listen": "tcp://127.0.0.1:70000"}, "expected tcp://host:port"),
        ({"listen": "tcp://::1:9000"}, "expected tcp://host:port"),
        ({"listen": "unix:"}, "expected tcp://host:port"),
        ({"listen": "unix://x.sock"}, "or unix:path, found 'unix://x.sock'"),
        ({"listen": []}, "at least 1 item"),
        ({}, "Field required"),
        ({"listen": "tcp://0.0.0.0:9000"}, "write allow_remote: true, or listen at tcp://127.0.0.1:9000"),
        ({"listen": ["unix:s", "tcp://[::]:1"]}, r"tcp://\[::\]:1 can be reached from other machines"),
        ({"listen": "tcp://example.org:1", "allow_remote": False}, "write allow_remote: true"),
        ({"listen": "unix:s", "max_connections": 0}, "greater than or equal to 1"),
        ({"listen": "unix:s", "line_s": 0}, "greater than 0"),
        ({"listen": "unix:s", "idle": 3}, "Extra inputs"),
    ],
)
def test_options_that_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message) as caught:
        SocketSourceConfig.model_validate(options)
    assert caught.value.error_count() == 1


@pytest.mark.parametrize(
    ("listen", "remote"),
    [
        ("tcp://localhost:1", False),
        ("tcp://127.0.0.3:1", False),
        ("tcp://[::1]:1", False),
        ("unix:///tmp/x.sock", False),
        ("unix:/tmp/x.sock", False),
        ("unix:x.sock", False),
        ("tcp://0.0.0.0:1", True),
    ],
)
def test_addresses_that_are_accepted(listen: str, remote: bool) -> None:
    config = SocketSourceConfig(listen=listen, allow_remote=remote)
    assert str(config.addresses()[0]) == listen.replace("///", "/")
