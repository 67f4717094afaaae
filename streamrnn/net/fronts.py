"""Connections on which a client asks and is answered, one request after the other, in whatever protocol."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from streamrnn.net.server import Room, Server

if TYPE_CHECKING:
    from streamrnn.context import Context
    from streamrnn.net.connection import Connection
    from streamrnn.net.listening import Listener

_READ_BYTES = 1 << 16
JSON = "application/json"


class FrontOptions(Protocol):
    """What a front needs to know."""

    @property
    def path(self) -> str: ...  # noqa: D102
    @property
    def allow_origins(self) -> Sequence[str]: ...  # noqa: D102
    @property
    def max_connections(self) -> int: ...  # noqa: D102
    @property
    def max_body_bytes(self) -> int: ...  # noqa: D102
    @property
    def max_pending_bytes(self) -> int: ...  # noqa: D102
    @property
    def idle_s(self) -> float: ...  # noqa: D102
    @property
    def request_s(self) -> float: ...  # noqa: D102
    @property
    def stall_s(self) -> float: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Request:
    """A whole request; `number` is never used for another. Names of headers are in lower case."""

    number: int
    address: str
    headers: Mapping[str, str]
    body: bytes


class Refused(Exception):
    """What a request is answered that is none of ours."""

    def __init__(self, status: int, code: str, reason: str, **headers: str) -> None:
        super().__init__(reason)
        self.status, self.code, self.headers = status, code, headers


class Exchange:
    """A connection, and the request on it that is coming in or waits for its answer."""

    __slots__ = ("body", "connection", "since_s", "waits_for")

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.body = bytearray()
        """What has come of the request's body."""
        self.since_s: float | None = None
        """When the first byte came of a request that is not complete."""
        self.waits_for = 0
        """The number of the request that is to be answered; 0 if there is none."""


E = TypeVar("E", bound=Exchange)


class Front(ABC, Generic[E]):
    """Requests from many connections, and answers to them. Nothing in it waits but `requests`."""

    def __init__(self, options: FrontOptions, listeners: Sequence[Listener], context: Context) -> None:
        self._options = options
        room = Room(options.max_connections, options.max_pending_bytes)
        self.server = Server(listeners, room, context)
        self._exchanges: dict[int, E] = {}
        self._waiting: dict[int, E] = {}
        """Those that wait for an answer, by the number of the request."""
        self._came: list[Request] = []
        self._leaving: list[E] = []
        self._numbers = 0
        self._checked_s = self.server.now_s

    def requests(self, wait_s: float) -> list[Request]:
        """Whole requests that have come, at least one within `wait_s` if there is any."""
        self._release()
        for connection in self.server.round(0 if self._came else wait_s):
            self._receive(self._exchange(connection))
        self._check()
        came, self._came = self._came, []
        return came

    def respond(self, number: int, status: int, body: bytes, kind: str = JSON) -> bool:
        """Answer a request, without waiting for its client; False if it has left."""
        exchange = self._waiting.pop(number, None)
        if exchange is None or exchange.connection.number not in self._exchanges:
            return False
        exchange.waits_for = 0
        is_sent = self._answer(exchange, status, body, kind)
        if exchange.connection.has_ended and not exchange.waits_for:
            self._leave(exchange)
        return is_sent

    def close(self) -> None:
        """Take no more, send what waits for a bounded time, and close."""
        self.server.close()

    @abstractmethod
    def _opened(self, connection: Connection) -> E:
        """A new connection."""

    @abstractmethod
    def _take(self, exchange: E, data: bytes) -> None:
        """Bytes have come, or none any more: go on up to the end of one request."""

    @abstractmethod
    def _answer(self, exchange: E, status: int, body: bytes, kind: str) -> bool:
        """Send an answer and go on with what has come behind the request; False if the client has left."""

    @abstractmethod
    def _fail(self, exchange: E, refused: Refused) -> None:
        """Answer what cannot be taken, and read no more from this client."""

    def _ask(self, exchange: E, headers: Mapping[str, str]) -> None:
        """The request of an exchange is whole: it is to be answered."""
        exchange.since_s = None
        self._numbers += 1
        exchange.waits_for = self._numbers
        self._waiting[self._numbers] = exchange
        self._came.append(Request(self._numbers, exchange.connection.address, headers, bytes(exchange.body)))
        exchange.body.clear()

    def _add(self, exchange: E, data: bytes | bytearray) -> None:
        """More of a body. Raises `Refused`."""
        exchange.body += data
        if len(exchange.body) > self._options.max_body_bytes:
            raise self._too_large()

    def _too_large(self) -> Refused:
        most = self._options.max_body_bytes
        return Refused(413, "too_long", f"a body of more than max_body_bytes = {most}")

    def _check_place(self, target: str, origin: str | None) -> None:
        """Raise `Refused` for what comes from a page that may not, or is meant for another path."""
        if origin is not None and origin not in self._options.allow_origins:
            raise Refused(403, "origin", f"requests of pages from {origin} are not allowed")
        if target.partition("?")[0] != self._options.path:
            raise Refused(404, "path", f"events are sent to {self._options.path}")

    def _write(self, exchange: E, data: bytes | None) -> bool:
        return self.server.send(exchange.connection.number, data or b"")

    def _leave(self, exchange: E) -> None:
        """Read no more; the connection is closed when what waits is sent."""
        exchange.connection.has_ended = True
        self.server.watch(exchange.connection)
        self._leaving.append(exchange)

    def _exchange(self, connection: Connection) -> E:
        if connection.number not in self._exchanges:
            self._exchanges[connection.number] = self._opened(connection)
        return self._exchanges[connection.number]

    def _receive(self, exchange: E) -> None:
        if exchange.waits_for:
            return  # its answer first; what comes behind waits in the kernel, and then in the client
        data = self.server.receive(exchange.connection, _READ_BYTES)
        if data and exchange.since_s is None:
            exchange.since_s = self.server.now_s
        self._take(exchange, data)
        if exchange.connection.has_ended and not exchange.waits_for:
            self._leaving.append(exchange)

    def _release(self) -> None:
        """Let go of those that have their answers, and of those that have gone."""
        leaving, self._leaving = self._leaving, []
        for exchange in leaving:
            if exchange.connection.pending or exchange.waits_for:
                self._leaving.append(exchange)
            else:
                self._exchanges.pop(exchange.connection.number, None)
                self.server.drop(exchange.connection)

    def _check(self) -> None:
        """Close connections that take too long, now and then."""
        now_s, options = self.server.now_s, self._options
        if now_s < self._checked_s + min(1.0, options.request_s / 4, options.stall_s / 4, options.idle_s / 4):
            return
        self._checked_s = now_s
        for connection in self.server.stalled(options.stall_s):
            self._give_up(connection, f"it took none of its answers for {options.stall_s:g} s")
        for connection in list(self.server.connections.values()):
            exchange = self._exchange(connection)
            if exchange.waits_for or connection.pending or connection.has_ended:
                continue
            if exchange.since_s is not None and now_s - exchange.since_s > options.request_s:
                why = f"the request was not complete within {options.request_s:g} s"
                self._fail(exchange, Refused(408, "slow", why))
            elif now_s - max(connection.received_s, connection.sent_s) > options.idle_s:
                self._leave(exchange)

    def _give_up(self, connection: Connection, why: str) -> None:
        exchange = self._exchange(connection)
        self._waiting.pop(exchange.waits_for, None)
        exchange.waits_for = 0
        self.server.give_up(connection, why)
        self._leaving.append(exchange)
