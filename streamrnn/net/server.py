"""Many connections on one thread: accepts, tells who has sent something, and sends what waits."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from selectors import EVENT_READ, EVENT_WRITE
from typing import TYPE_CHECKING, Any

from streamrnn.net.connection import Connection
from streamrnn.net.tls import Handshake, Handshakes, TlsConnection
from streamrnn.notices import Notices

if TYPE_CHECKING:
    from streamrnn.context import Context
    from streamrnn.net.listening import Listener

_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_NO_ROOM_WAIT_S = 1.0
_ACCEPTED_AT_ONCE = 128
DRAIN_S = 5.0
"""How long `close` waits for clients to take what waits for them."""
_LINGER_S = 1.0
_ROUND_S = 0.1


@dataclass(frozen=True)
class Room:
    """How many clients a server takes and how many bytes it keeps for each."""

    max_connections: int
    max_pending_bytes: int


class Server:
    """Listeners and their connections. Nothing in it waits but `round`, and `close` for a bounded time."""

    def __init__(self, listeners: Sequence[Listener], room: Room, context: Context) -> None:
        self.connections: dict[int, Connection] = {}
        self.accepted = 0
        self.now_s = context.clock.monotonic()
        """The time of the last round."""
        self.notices = Notices(context, "%d more warnings about connections were not shown")
        self._listeners, self._room, self._clock = listeners, room, context.clock
        self._selector = context.net.selector()
        self._handshakes = Handshakes(self._selector, self.notices)
        self._listens = self._is_leaving = self._has_told_no_room = self._closed = False
        self._listens_again_s: float | None = None
        self._listen(True)

    def round(self, wait_s: float) -> list[Connection]:
        """Take new clients and send what waits; those clients that have sent something, or have left.

        Returns as soon as anything happened, at the latest after `wait_s`.
        """
        ready = self._selector.select(wait_s)
        self.now_s = self._clock.monotonic()
        if self._listens_again_s is not None and self.now_s >= self._listens_again_s:
            self._listen(True)
        self._handshakes.round(self.now_s)
        readable = []
        for key, events in ready:
            if isinstance(key.data, Handshake):
                readable += self._admit_encrypted(key.data)
                continue
            if not isinstance(key.data, Connection):
                self._accept(key.data)
                continue
            if events & EVENT_WRITE:
                self._flush(key.data)
            if events & EVENT_READ:
                readable.append(key.data)
        return readable

    @property
    def is_deserted(self) -> bool:
        """Whether clients came, and all of them have left."""
        return self.accepted > 0 and not self.connections and not self._handshakes

    def receive(self, connection: Connection, size: int) -> bytes:
        """See `Connection.receive`."""
        data = connection.receive(size)
        if data:
            connection.received_s = self.now_s
        if connection.has_ended or not data:
            self.watch(connection)
        return data

    def send(self, number: int, data: bytes | memoryview) -> bool:
        """Send to a client as far as it takes it now, the rest in later rounds; False if it has left."""
        connection = self.connections.get(number)
        if connection is None:
            return False
        connection.send(data, self.now_s)
        if connection.pending or connection.is_deaf:
            self.watch(connection)
        return not connection.is_deaf

    def watch(self, connection: Connection) -> None:
        """Have the selector look for what can be done now.

        From a client for which too much is waiting, nothing is read until it has taken half of it.
        """
        pending, most = len(connection.pending), self._room.max_pending_bytes
        limit = most // 2 if connection.is_paused else most
        connection.is_paused = pending > limit and not self._is_leaving
        reads = not (connection.has_ended or connection.is_paused)
        events = EVENT_READ * reads | EVENT_WRITE * (pending > 0)
        if events == connection.events:
            return
        if not connection.events:
            self._selector.register(connection.socket, events, connection)
        elif not events:
            self._selector.unregister(connection.socket)
        else:
            self._selector.modify(connection.socket, events, connection)
        connection.events = events

    def stalled(self, stall_s: float) -> list[Connection]:
        """Clients for which something waits and that have taken nothing for so long."""
        each = self.connections.values()
        return [c for c in each if c.pending and self.now_s - c.sent_s > stall_s]

    def give_up(self, connection: Connection, why: str) -> None:
        """Neither read from this client nor send to it any more, and tell so."""
        connection.give_up()
        self.end(connection, why)

    def end(self, connection: Connection, why: str) -> None:
        """Read no more from this client, and tell so."""
        connection.has_ended = True
        self.watch(connection)
        self.notices.warn("%s: connection %d closed: %s", connection.address, connection.number, why)

    def drop(self, connection: Connection) -> None:
        """Close a connection; what waits for it is lost."""
        if self.connections.pop(connection.number, None) is not None:
            if connection.events:
                self._selector.unregister(connection.socket)
            connection.end()
            connection.socket.close()

    def drain(self) -> None:
        """Send what waits, for at most `DRAIN_S`; what clients send from now on is thrown away."""
        self._is_leaving = True  # also from those that were paused: they may read once they have written
        for connection in self.connections.values():
            self.watch(connection)
        self._rounds(DRAIN_S, lambda: any(c.pending for c in self.connections.values()))

    def close(self) -> None:
        """Take no more clients, send what waits, and close; twice is fine."""
        if self._closed:
            return
        self._closed = True
        self._listen(False)
        for listener in self._listeners:
            listener.close()
        self._handshakes.close()
        self.drain()
        sending = [c for c in self.connections.values() if c.end()]
        self._rounds(_LINGER_S, lambda: not all(c.has_ended for c in sending))
        for connection in list(self.connections.values()):
            self.drop(connection)
        self._selector.close()
        self.notices.close()

    def _rounds(self, most_s: float, goes_on: Callable[[], bool]) -> None:
        """Rounds for a bounded time, also by a clock that stands still."""
        until_s, idle = self._clock.monotonic() + most_s, 0
        while goes_on() and self._clock.monotonic() < until_s and idle * _ROUND_S < most_s:
            waiting = sum(len(c.pending) for c in self.connections.values())
            readable = self.round(_ROUND_S)
            for connection in readable:
                connection.discard()
                self.watch(connection)
            taken = waiting - sum(len(c.pending) for c in self.connections.values())
            idle += not (taken or readable)

    def _flush(self, connection: Connection) -> None:
        connection.flush(self.now_s)
        self.watch(connection)

    def _accept(self, listener: Listener) -> None:
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                opened, peer = listener.socket.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _NO_ROOM:
                    return self._pause(listener, error)
                continue  # that client left before it was taken
            self._has_told_no_room = False
            self._take(opened, peer, listener)

    def _take(self, opened: socket.socket, peer: Any, listener: Listener) -> None:
        most = self._room.max_connections
        if len(self.connections) + len(self._handshakes) >= most:
            opened.close()
            self.notices.warn(
                "%s: a client was turned away: %d are connected already", listener.address, most
            )
            return
        opened.setblocking(False)
        if opened.family != socket.AF_UNIX:
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if listener.tls is not None:
            self._handshakes.begin(opened, str(peer[0]), listener.address, listener.tls, self.now_s)
            return
        self.accepted += 1
        self._admit(Connection(self.accepted, listener.address, opened, self.now_s))

    def _admit(self, connection: Connection) -> None:
        self.connections[connection.number] = connection
        self.watch(connection)

    def _admit_encrypted(self, handshake: Handshake) -> list[Connection]:
        """Go on with a handshake; the connection, once there is one."""
        if (opened := self._handshakes.go_on(handshake)) is None:
            return []
        self.accepted += 1
        connection = TlsConnection(self.accepted, handshake.address, opened, self.now_s)
        self._admit(connection)
        return [connection]

    def _pause(self, listener: Listener, error: OSError) -> None:
        """Take no clients for a while: without file descriptors, every round would try in vain."""
        self._listen(False)
        self._listens_again_s = self.now_s + _NO_ROOM_WAIT_S
        if not self._has_told_no_room:
            self._has_told_no_room = True
            self.notices.warn(
                "%s: no more clients can be taken for now: %s", listener.address, error.strerror
            )

    def _listen(self, listens: bool) -> None:
        if listens == self._listens:
            return
        self._listens, self._listens_again_s = listens, None
        for listener in self._listeners:
            if listens:
                self._selector.register(listener.socket, EVENT_READ, listener)
            else:
                self._selector.unregister(listener.socket)
