"""Events from the clients of a socket."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np

from streamrnn.errors import SourceError
from streamrnn.events import Block, Origin
from streamrnn.net.listening import listen
from streamrnn.net.server import Room, Server
from streamrnn.net.tls import server_tls
from streamrnn.ports import EndOfStream

if TYPE_CHECKING:
    from streamrnn.builtins.sockets import SocketSourceConfig
    from streamrnn.context import Context
    from streamrnn.events import Frames
    from streamrnn.net.connection import Connection
    from streamrnn.net.listening import Listener
    from streamrnn.ports import Framer
    from streamrnn.sources.ingest import IngestSource

_READ_BYTES = 1 << 16
"""What is read from one client in a round; more waits in the kernel."""


class Stream:
    """The records of one connection."""

    __slots__ = ("at_end", "connection", "cut_off", "fed", "framer", "is_queued", "line_at", "line_s")

    def __init__(self, connection: Connection, framer: Framer) -> None:
        self.connection, self.framer = connection, framer
        self.fed = 0
        self.line_at, self.line_s = 0, float("inf")
        """Where the record begins that is not complete, and when it began; infinite if there is none."""
        self.is_queued = self.at_end = False
        self.cut_off = "the connection closed in the midst of a line"
        """Why a record that is not complete at the end is refused."""

    def feed(self, data: bytes) -> None:
        """More bytes from the client."""
        self.fed += len(data)
        self.framer.feed(data)

    def take(self, limit: int) -> Frames:
        """Whole records; after all of them, at the end, the one that was cut off."""
        frames = self.framer.take(limit)
        if not frames and self.connection.has_ended and not self.at_end:
            self.at_end = True
            self.framer.finish()
            frames = self.framer.take(limit)
        if self.at_end:
            frames.refused = dict.fromkeys(range(len(frames)), self.cut_off) | frames.refused
        return frames

    def settle(self, now_s: float) -> None:
        """All whole records are taken: see whether another has begun."""
        begins = self.framer.position
        if begins >= self.fed:
            self.line_s = float("inf")
        elif self.line_s > now_s or begins != self.line_at:
            self.line_at, self.line_s = begins, now_s


class SocketSource:
    """The `socket` source: one round over all connections at each `read`, and of each only so much.

    A partition is an address, numbers and positions count within one connection. Records of several
    connections share a block, each with its `connection`; those of one client stay in order.
    """

    def __init__(
        self,
        config: SocketSourceConfig,
        context: Context,
        new_framer: Callable[..., Framer],
        listeners: list[Listener],
    ) -> None:
        self._config, self._new_framer = config, new_framer
        self._server = Server(listeners, Room(config.max_connections, config.max_pending_bytes), context)
        self.addresses = [listener.address for listener in listeners]
        """Where it listens, in the order of the options, with the ports it got."""
        self._queues: dict[str, deque[Stream]] = {address: deque() for address in self.addresses}
        """Connections that may have whole records, by address; the first is next."""
        self._turns = deque(self.addresses)
        self._streams: dict[int, Stream] = {}
        self._held: list[Stream] = []
        """Those with records whose clients do not read their answers."""
        self._leaving: list[Stream] = []
        """Those of which all records were taken and of which no more will come."""
        self._checked_s = self._server.now_s
        limits_s = (config.line_s, config.stall_s, config.idle_s or 1.0)
        self._check_every_s = min(1.0, *(limit_s / 4 for limit_s in limits_s))
        self._has_ended = self._stopped = False

    def read(self, limit: int, wait_ms: int) -> Block | None:
        """See `Source.read`; None also where something happened that made no record whole."""
        if self._has_ended:
            raise EndOfStream
        self._release()
        if self._stopped:
            return self._rest(limit)
        at_once = any(self._queues.values()) or self._is_over()
        for connection in self._server.round(0 if at_once else wait_ms / 1000):
            self._receive(self._stream(connection))
        block = self._next_block(limit)
        self._check()
        if block is None and self._is_over():
            self._has_ended = True
            raise EndOfStream
        return block

    def stop(self) -> None:
        """See `Source`; clients that do not read their answers are not waited for."""
        self._stopped = True

    def position(self) -> Mapping[str, int]:
        """See `Source.position`: none, for what a connection has brought cannot be read again."""
        return {}

    def close(self) -> None:
        """See `Source.close`. Clients have a few seconds to take the answers that wait for them."""
        self._has_ended = True
        self._server.close()

    def answer(self, connection: int, data: bytes) -> bool:
        """Send to a client, without waiting for it; False if it has left."""
        return self._server.send(connection, data)

    def _rest(self, limit: int) -> Block:
        block = self._next_block(limit)
        if block is None:
            raise EndOfStream
        return block

    def _is_over(self) -> bool:
        ends = self._config.until == "last_connection_closed"
        return ends and self._server.is_deserted

    def _stream(self, connection: Connection) -> Stream:
        if connection.number not in self._streams:
            self._streams[connection.number] = Stream(connection, self._new_framer())
        return self._streams[connection.number]

    def _receive(self, stream: Stream) -> None:
        if stream.is_queued:  # its records first; the rest waits in the kernel, and then in the client
            return
        data = self._server.receive(stream.connection, _READ_BYTES)
        if data:
            stream.feed(data)
        if data or stream.connection.has_ended:
            self._queue(stream)

    def _queue(self, stream: Stream) -> None:
        if not stream.is_queued:
            stream.is_queued = True
            self._queues[stream.connection.address].append(stream)

    def _next_block(self, limit: int) -> Block | None:
        """Of the addresses that have records, the one that has waited longest."""
        for _ in range(len(self._turns)):
            address = self._turns[0]
            self._turns.rotate(-1)
            if parts := self._take(self._queues[address], limit):
                each = [(stream.connection.number, frames) for stream, frames in parts]
                return block_of(each, Origin("socket", address))
        return None

    def _take(self, queue: deque[Stream], limit: int) -> list[tuple[Stream, Frames]]:
        """At most `limit` records, in shares that are equal as far as there are records."""
        parts: list[tuple[Stream, Frames]] = []
        while queue and limit > 0:
            share = max(1, limit // len(queue))
            for _ in range(min(len(queue), limit)):
                stream = queue.popleft()
                if stream.connection.is_paused:
                    self._held.append(stream)
                elif frames := stream.take(share):
                    limit -= len(frames)
                    parts.append((stream, frames))
                    queue.append(stream)
                else:
                    self._settle(stream)
        return parts

    def _settle(self, stream: Stream) -> None:
        stream.is_queued = False
        if stream.connection.has_ended:
            self._leaving.append(stream)
        else:
            stream.settle(self._server.now_s)

    def _release(self) -> None:
        """Go on with clients that have taken their answers, and let go of those that have them all."""
        if self._held:
            held, self._held = self._held, []
            for stream in held:
                paused = stream.connection.is_paused
                (self._held if paused else self._queues[stream.connection.address]).append(stream)
        if self._leaving:
            leaving, self._leaving = self._leaving, []
            for stream in leaving:
                if stream.connection.pending:
                    self._leaving.append(stream)
                else:
                    del self._streams[stream.connection.number]
                    self._server.drop(stream.connection)

    def _check(self) -> None:
        """Close clients that take too long, now and then."""
        now_s, config = self._server.now_s, self._config
        if now_s < self._checked_s + self._check_every_s:
            return
        self._checked_s = now_s
        for connection in self._server.stalled(config.stall_s):
            connection.give_up()
            self._end(self._stream(connection), f"it took none of its answers for {config.stall_s:g} s")
        for connection in self._server.connections.values():
            stream = self._stream(connection)
            if connection.pending:
                if stream.line_s < now_s:  # as long as nothing is read, a line cannot end
                    stream.line_s = now_s
            elif not (connection.has_ended or stream.is_queued) and (
                why := overdue(stream, self._config, now_s)
            ):
                self._end(stream, why)

    def _end(self, stream: Stream, why: str) -> None:
        """Read no more from a client; the records that it sent are served."""
        self._server.end(stream.connection, why)
        if not stream.is_queued and stream not in self._leaving:
            self._queue(stream)


def overdue(stream: Stream, config: SocketSourceConfig, now_s: float) -> str | None:
    """Why a client takes too long to send, if it does; a record that has begun is refused for it."""
    connection = stream.connection
    if now_s - stream.line_s > config.line_s:
        stream.cut_off = f"the line was not complete within {config.line_s:g} s"
        return stream.cut_off
    if config.idle_s and now_s - max(connection.received_s, connection.sent_s) > config.idle_s:
        return f"nothing came for {config.idle_s:g} s"
    return None


def block_of(parts: list[tuple[int, Frames]], origin: Origin) -> Block:
    """The records of all parts, in their order, with the number of the client that each part is from."""
    numbers, frames = [number for number, _ in parts], [each for _, each in parts]
    if len(parts) == 1:
        block = frames[0].block(origin)
        block.connection = np.full(len(block), numbers[0], np.int64)
        return block
    counts = [len(each) for each in frames]
    # What stands between two records is nobody's; a line break keeps lines decodable in one go.
    offsets = np.repeat([0, *accumulate(len(each.buffer) + 1 for each in frames[:-1])], counts)
    firsts = accumulate(counts, initial=0)
    return Block(
        b"\n".join([each.buffer for each in frames]),
        np.concatenate([each.starts for each in frames]) + offsets,
        np.concatenate([each.ends for each in frames]) + offsets,
        np.concatenate([each.positions for each in frames]),
        np.concatenate([each.numbers for each in frames]),
        origin,
        {
            first + i: why
            for first, each in zip(firsts, frames, strict=False)
            for i, why in each.refused.items()
        },
        np.repeat(np.array(numbers, np.int64), counts),
    )


def build(
    config: SocketSourceConfig, context: Context, new_framer: Callable[..., Framer]
) -> SocketSource | IngestSource:
    """The source, listening. Raises `SourceError` if it cannot, `OptionError` for a codec without lines or
    files of `tls` that are not what they should be.
    """
    tls = server_tls(config.tls, context)
    logged = None
    if config.durability == "log":
        from streamrnn.sources.ingest import IngestSource
        from streamrnn.sources.logged import Logged

        logged = Logged("socket", config, context, new_framer(), config.max_producers)
    try:
        listeners = listen(config.addresses(), context, tls)
    except OSError as error:
        if logged is not None:
            logged.close()
        raise SourceError(f"{error.filename}: cannot listen: {error.strerror}") from error
    if logged is not None:
        return IngestSource(config, context, new_framer, listeners, logged)
    return SocketSource(config, context, new_framer, listeners)
