"""Outputs to consumers that say from where they want to go on, by way of a log."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from streamrnn.codecs.lines import LineFramer
from streamrnn.errors import SinkError
from streamrnn.log import layout
from streamrnn.log.layout import LogError
from streamrnn.log.reading import PartitionReader
from streamrnn.net.protocol import Refusal, error, hello_of_consumer, message
from streamrnn.net.server import Room, Server
from streamrnn.sinks.log import LogSink

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from streamrnn.builtins.sockets import SocketSinkConfig
    from streamrnn.context import Context
    from streamrnn.events import OutBlock
    from streamrnn.net.connection import Connection
    from streamrnn.net.listening import Listener
    from streamrnn.ports import Place, Source

_AT_ONCE = 1024
_CHUNKS = 16
"""How many times as many a consumer is sent before it is the stream's turn again."""
_LONGEST_HELLO_BYTES = 1024
_LONGEST_OUTPUT_BYTES = 1 << 31


class _Consumer:
    """A connection, and what it is to be sent next."""

    __slots__ = ("connection", "framer", "partition", "reader")

    def __init__(self, connection: Connection) -> None:
        self.connection, self.framer = connection, LineFramer(_LONGEST_HELLO_BYTES)
        self.partition = ""
        self.reader: PartitionReader | None = None


class ConsumersSink:
    """The `socket` sink with `to: consumers`: a log of outputs that is also served to clients.

    A consumer that is slow, or comes back later, is served from the disk; the stream waits for none.
    docs/protocol.md says what they tell each other.
    """

    def __init__(
        self, config: SocketSinkConfig, context: Context, listeners: list[Listener], log: LogSink
    ) -> None:
        self._fs, self.log, self._most = context.fs, log, config.max_pending_bytes
        self._server = Server(listeners, Room(config.max_connections, 2 * self._most), context)
        self.addresses = [listener.address for listener in listeners]
        """Where it listens, in the order of the options, with the ports it got."""
        self._consumers: dict[int, _Consumer] = {}
        self._committed: dict[str, int] | None = {} if config.emit == "committed" else None
        self._closed = False

    def attach(self, source: Source, encode: Callable[..., Any]) -> None:
        """See `Sink`."""
        self.log.attach(source, encode)

    @property
    def comparing(self) -> bool:
        """See `LogSink`."""
        return self.log.comparing

    def write(self, block: OutBlock) -> None:
        """See `Sink.write`."""
        self.log.write(block)
        self.idle()

    def idle(self) -> None:
        """Take new consumers, send what waits, let go of those that have left."""
        for connection in self._server.round(0):
            consumer = self._consumers.setdefault(connection.number, _Consumer(connection))
            self._hear(consumer)
        for consumer in list(self._consumers.values()):
            if consumer.connection.is_deaf or consumer.connection.has_ended:
                self._forget(consumer)
            elif consumer.reader is not None:
                self._serve(consumer, consumer.reader)

    def flush(self) -> None:
        """See `Sink.flush`; it waits for the disk and for no consumer."""
        self.log.flush()
        if not self._closed:
            self.idle()

    def place(self) -> Place:
        """See `Resumable.place`."""
        return self.log.place()

    def placing(self) -> Callable[[], Place]:
        """See `Resumable`."""
        return self.log.placing()

    def resume(self, place: Place) -> None:
        """See `Resumable.resume`."""
        self.log.resume(place)

    def committed(self, place: Place, oldest: Place | None) -> None:
        """See `ports.Committing`."""
        self.log.committed(place, oldest)
        if self._committed is not None:
            self._committed = {name: each["offset"] for name, each in place["partitions"].items()}

    def close(self) -> None:
        """See `Sink.close`. Consumers have a few seconds to take what was sent to them."""
        if not self._closed:
            self._closed = True
            self.idle()  # the last commit may have brought something
        self._server.close()
        for consumer in list(self._consumers.values()):
            self._forget(consumer)
        self.log.close()

    def _hear(self, consumer: _Consumer) -> None:
        """The first line says what is wanted; what follows means nothing."""
        if consumer.reader is not None:
            consumer.connection.discard()
            return
        consumer.framer.feed(self._server.receive(consumer.connection, _LONGEST_HELLO_BYTES))
        if not (first := consumer.framer.take(1)):
            return
        try:
            self._greet(consumer, first.buffer)
        except Refusal as refusal:
            self._turn_away(consumer, refusal)

    def _greet(self, consumer: _Consumer, line: bytes) -> None:
        hello = hello_of_consumer(line)
        if not layout.is_partition(hello.partition):
            raise Refusal("hello", f"no partition can have the name {hello.partition!r}")
        folder = self.log.folder / hello.partition
        if isinstance(hello.start, int):
            start = hello.start
        elif hello.start == "earliest":
            start = next(iter(layout.segments(self._fs, folder)), 0)
        else:
            start = self.log.end(hello.partition)
        consumer.reader = PartitionReader(self._fs, folder, partial(LineFramer, _LONGEST_OUTPUT_BYTES))
        consumer.reader.seek(start)
        consumer.partition = hello.partition
        welcome = message(welcome={"partition": hello.partition, "from": start})
        self._server.send(consumer.connection.number, welcome)

    def _serve(self, consumer: _Consumer, reader: PartitionReader) -> None:
        """What it may have and has room for."""
        known = self._committed
        end = self.log.end(consumer.partition) if known is None else known.get(consumer.partition, 0)
        try:
            for _ in range(_CHUNKS):
                if len(consumer.connection.pending) >= self._most or reader.offset >= end:
                    return
                while not (frames := reader.take(_AT_ONCE)):
                    if not reader.advance(end):
                        return
                chunk = message(outputs=len(frames), **{"from": int(frames.positions[0])})
                self._server.send(consumer.connection.number, chunk + frames.buffer + b"\n")
        except OSError as problem:
            where = problem.filename or self.log.folder
            raise SinkError(f"{where}: cannot read: {problem.strerror}") from problem
        except LogError as problem:
            first = next(iter(layout.segments(self._fs, self.log.folder / consumer.partition)), 0)
            self._turn_away(consumer, Refusal("gone", str(problem), first=first))

    def _turn_away(self, consumer: _Consumer, refusal: Refusal) -> None:
        self._server.send(consumer.connection.number, error(refusal))
        self._server.end(consumer.connection, str(refusal))
        self._forget(consumer)

    def _forget(self, consumer: _Consumer) -> None:
        self._consumers.pop(consumer.connection.number, None)
        if consumer.reader is not None:
            consumer.reader.close()
        self._server.drop(consumer.connection)
