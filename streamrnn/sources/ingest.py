"""Events from the clients of a socket, by way of a log: acknowledged once they are on the disk."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from streamrnn.log.ingest import IngestLog, Producer
from streamrnn.net.protocol import ProducerHello, Refusal, error, hello_of_producer, message
from streamrnn.net.server import Room, Server
from streamrnn.ports import EndOfStream
from streamrnn.sources.logged import LoggedSource
from streamrnn.sources.socket import Stream, overdue

if TYPE_CHECKING:
    from streamrnn.builtins.sockets import SocketSourceConfig
    from streamrnn.context import Context
    from streamrnn.events import Block, Frames
    from streamrnn.net.connection import Connection
    from streamrnn.net.listening import Listener
    from streamrnn.ports import Framer
    from streamrnn.sources.logged import Logged

_READ_BYTES = 1 << 16


class _Client:
    """A connection of a producer, once it has said whose it is."""

    __slots__ = ("conflicts", "epoch", "has_sent", "name", "skips", "stream", "welcome")

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.name, self.epoch = "", 0
        self.skips = 0
        """Records it sends again, which the log has."""
        self.conflicts: list[int] = []
        """Numbers of records it sends again, which are not those that the log has."""
        self.has_sent = False
        """Whether it is to hear what the log has of it by now."""
        self.welcome: bytes = b""
        """What it is told first, once that is on the disk."""


class IngestSource(LoggedSource):
    """The `socket` source with `durability: log`.

    A round appends what all clients have sent, syncs once, acknowledges, and gives records that are in the
    log. docs/protocol.md says what clients and it tell each other.
    """

    def __init__(
        self,
        config: SocketSourceConfig,
        context: Context,
        new_framer: Callable[..., Framer],
        listeners: list[Listener],
        logged: Logged,
    ) -> None:
        super().__init__(logged)
        self._config, self._new_framer, self._log = config, new_framer, logged.log
        self._server = Server(listeners, Room(config.max_connections, config.max_pending_bytes), context)
        self.addresses = [listener.address for listener in listeners]
        """Where it listens, in the order of the options, with the ports it got."""
        self._clients: dict[int, _Client] = {}
        self._owners: dict[str, _Client] = {}
        """The one connection of each producer."""
        self._owed: dict[_Client, None] = {}
        """Those that are to hear something once it is on the disk."""
        self._leaving: list[_Client] = []
        """Those of which no more will come, and that may still have to hear what the log has of them."""
        self._has_ended = False
        self._checked_s = self._server.now_s

    def read(self, limit: int, wait_ms: int) -> Block | None:
        """See `Source.read`; None also where something happened that gave no record."""
        if self._has_ended:
            raise EndOfStream
        self._logged.recover()
        backlog = self._logged.backlog
        if backlog < self._config.max_backlog:
            with self._logged.telling():
                self._listen(0 if backlog or self._is_over() else wait_ms / 1000)
        block = self._logged.next_block(limit)
        self._check()
        if block is None and self._is_over() and not self._logged.backlog:
            self._has_ended = True
            raise EndOfStream
        return block

    def close(self) -> None:
        """See `Source.close`."""
        self._has_ended = True
        self._server.close()
        self._logged.close()

    def _is_over(self) -> bool:
        ends = self._config.until == "last_connection_closed"
        return ends and self._server.is_deserted

    def _listen(self, wait_s: float) -> None:
        """Take what has come, and acknowledge it."""
        for connection in self._server.round(wait_s):
            self._receive(self._client(connection))
        self._log.sync()
        self._acknowledge()
        leaving, self._leaving = self._leaving, []
        for client in leaving:
            if client.stream.connection.pending:
                self._leaving.append(client)
            else:
                self._forget(client)

    def _client(self, connection: Connection) -> _Client:
        client = self._clients.get(connection.number)
        if client is None:
            client = self._clients[connection.number] = _Client(Stream(connection, self._new_framer()))
        return client

    def _receive(self, client: _Client) -> None:
        stream = client.stream
        data = self._server.receive(stream.connection, _READ_BYTES)
        if data:
            stream.feed(data)
        try:
            while frames := stream.framer.take(1 if client.epoch == 0 else 1 << 16):
                if client.epoch == 0:
                    self._greet(client, frames)
                else:
                    self._append(client, frames)
        except Refusal as refusal:
            self._turn_away(client, refusal)
        if not stream.connection.has_ended:
            stream.settle(self._server.now_s)
        elif client not in self._leaving:  # half a line is sent again by whoever wants it to count
            self._leaving.append(client)

    def _greet(self, client: _Client, first: Frames) -> None:
        """The first line says whose records these are, and perhaps where they begin."""
        hello = hello_of_producer(first.buffer)
        known, epoch, skips = admitted(self._log, hello, self._config.max_producers)
        if before := self._owners.get(hello.producer):
            code = "fenced" if epoch > known.epoch else "replaced"
            self._turn_away(before, Refusal(code, f"{hello.producer} has another connection"))
        if epoch > known.epoch:
            self._log.begin(hello.producer, epoch)
        client.name, client.epoch, client.skips = hello.producer, epoch, skips
        self._owners[client.name] = client
        self._owed[client] = None
        client.welcome = message(welcome={"producer": client.name, "epoch": epoch, "next": known.next})

    def _append(self, client: _Client, frames: Frames) -> None:
        again = min(client.skips, len(frames))
        if again:
            seq = self._known(client).next - client.skips
            client.conflicts += self._log.check_again(client.name, seq, frames, again)
        client.skips -= again
        if again < len(frames):
            self._log.append(client.name, after(frames, again))
        client.has_sent = True
        self._owed[client] = None

    def _acknowledge(self) -> None:
        owed, self._owed = self._owed, {}
        for client in owed:
            if self._owners.get(client.name) is not client:
                continue  # turned away in the meantime
            number = client.stream.connection.number
            if client.welcome:
                self._server.send(number, client.welcome)
                client.welcome = b""
            if client.has_sent:
                client.has_sent = False
                conflicts, client.conflicts = client.conflicts, []
                told = {"seq_conflict": conflicts} if conflicts else {}
                self._server.send(number, message(ack=self._known(client).next, **told))

    def _known(self, client: _Client) -> Producer:
        return self._log.producers[client.name]

    def _turn_away(self, client: _Client, refusal: Refusal) -> None:
        connection = client.stream.connection
        self._server.send(connection.number, error(refusal))
        self._server.end(connection, str(refusal))
        self._forget(client)

    def _forget(self, client: _Client) -> None:
        connection = client.stream.connection
        if self._owners.get(client.name) is client:
            del self._owners[client.name]
        self._clients.pop(connection.number, None)
        self._server.drop(connection)

    def _check(self) -> None:
        """Close clients that take too long, now and then."""
        now_s, config = self._server.now_s, self._config
        if now_s < self._checked_s + min(1.0, config.line_s / 4, config.stall_s / 4):
            return
        self._checked_s = now_s
        for connection in self._server.stalled(config.stall_s):
            self._end(connection, f"it took none of its answers for {config.stall_s:g} s")
        for connection in list(self._server.connections.values()):
            client = self._client(connection)
            if why := overdue(client.stream, config, now_s):
                self._end(client.stream.connection, why)

    def _end(self, connection: Connection, why: str) -> None:
        self._server.give_up(connection, why)
        if client := self._clients.get(connection.number):
            self._forget(client)


def admitted(log: IngestLog, hello: ProducerHello, most: int) -> tuple[Producer, int, int]:
    """What the log knows of a producer, the epoch of its hello, and how many records it sends again.

    Raises `Refusal` if it cannot go on there.
    """
    known = log.producer(hello.producer)
    if known is None:
        raise Refusal("full", f"{most} producers are known already")
    epoch = known.epoch + 1 if hello.epoch is None else hello.epoch
    if epoch < known.epoch:
        raise Refusal("fenced", f"epoch {known.epoch} of {hello.producer} has begun")
    seq = known.next if hello.seq is None else hello.seq
    if seq > known.next:
        raise Refusal("gap", f"the next record of {hello.producer} is {known.next}", next=known.next)
    return known, epoch, known.next - seq


def after(frames: Frames, count: int) -> Frames:
    """All but the first `count` records."""
    if count:
        frames.refused = {i - count: why for i, why in frames.refused.items() if i >= count}
        frames.starts, frames.ends = frames.starts[count:], frames.ends[count:]
        begin = int(frames.starts[0])
        frames.buffer = frames.buffer[begin:]
        frames.starts, frames.ends = frames.starts - begin, frames.ends - begin
    return frames
