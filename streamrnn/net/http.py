"""HTTP/1.1 on the connections of a server: whole requests come in, answers go out, one at a time on each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol

import h11
import msgspec

from streamrnn.net.server import Room, Server

if TYPE_CHECKING:
    from streamrnn.context import Context
    from streamrnn.net.connection import Connection
    from streamrnn.net.listening import Listener

_READ_BYTES = 1 << 16
_JSON = "application/json"
_PREFLIGHT_S = 600
"""How long a browser may remember which requests are allowed."""


class HttpOptions(Protocol):
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


class _Refused(Exception):
    """What a request is answered that is none of ours."""

    def __init__(self, status: int, code: str, reason: str, **headers: str) -> None:
        super().__init__(reason)
        self.status, self.code, self.headers = status, code, headers


class _Exchange:
    """A connection, and the request on it that is coming in or waits for its answer."""

    __slots__ = ("body", "connection", "head", "http", "since_s", "waits_for")

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.http = h11.Connection(h11.SERVER)
        self.head: h11.Request | None = None
        self.body = bytearray()
        self.since_s: float | None = None
        """When the first byte came of a request that is not complete."""
        self.waits_for = 0
        """The number of the request that is to be answered; 0 if there is none."""


class HttpFront:
    """Requests that are posted to one path. It answers all others itself, and what browsers ask ahead."""

    def __init__(self, options: HttpOptions, listeners: Sequence[Listener], context: Context) -> None:
        self._options = options
        room = Room(options.max_connections, options.max_pending_bytes)
        self.server = Server(listeners, room, context)
        self._exchanges: dict[int, _Exchange] = {}
        self._waiting: dict[int, _Exchange] = {}
        """Those that wait for an answer, by the number of the request."""
        self._came: list[Request] = []
        self._leaving: list[_Exchange] = []
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

    def respond(
        self,
        number: int,
        status: int,
        body: bytes,
        kind: str = _JSON,
        headers: Mapping[str, str] | None = None,
    ) -> bool:
        """Answer a request, without waiting for its client; False if it has left."""
        exchange = self._waiting.pop(number, None)
        if exchange is None or exchange.connection.number not in self._exchanges:
            return False
        exchange.waits_for = 0
        is_sent = self._send(exchange, status, body, {"Content-Type": kind, **(headers or {})})
        if self._next(exchange):
            self._go_on(exchange)
            if exchange.connection.has_ended and not exchange.waits_for:
                self._leave(exchange)
        return is_sent

    def close(self) -> None:
        """Take no more, send what waits for a bounded time, and close."""
        self.server.close()

    def _exchange(self, connection: Connection) -> _Exchange:
        if connection.number not in self._exchanges:
            self._exchanges[connection.number] = _Exchange(connection)
        return self._exchanges[connection.number]

    def _receive(self, exchange: _Exchange) -> None:
        if exchange.waits_for:
            return  # its answer first; what comes behind waits in the kernel, and then in the client
        data = self.server.receive(exchange.connection, _READ_BYTES)
        if data:
            if exchange.since_s is None:
                exchange.since_s = self.server.now_s
            exchange.http.receive_data(data)
        self._go_on(exchange)
        if exchange.connection.has_ended and not exchange.waits_for:
            self._leaving.append(exchange)

    def _go_on(self, exchange: _Exchange) -> None:
        """Look at what has come, up to the end of one request that is to be answered."""
        http = exchange.http
        try:
            while not exchange.waits_for:
                event = http.next_event()
                if isinstance(event, h11.Request):
                    exchange.head = event
                    self._check_head(event)
                elif isinstance(event, h11.Data):
                    exchange.body += event.data
                    if len(exchange.body) > self._options.max_body_bytes:
                        raise self._too_large()
                elif isinstance(event, h11.EndOfMessage):
                    if not self._take(exchange):
                        return
                elif isinstance(event, h11.ConnectionClosed):
                    self._leave(exchange)
                    return
                else:  # more must come first
                    if http.they_are_waiting_for_100_continue:
                        going_on = h11.InformationalResponse(status_code=100, headers=[])
                        self._write(exchange, http.send(going_on))
                    return
        except h11.RemoteProtocolError as error:
            self._fail(exchange, _Refused(error.error_status_hint, "http", str(error)))
        except _Refused as refused:
            self._fail(exchange, refused)

    def _check_head(self, head: h11.Request) -> None:
        """Raise `_Refused` for a request that is none of ours, before its body comes."""
        headers = _headers(head)
        origin, options = headers.get("origin"), self._options
        if origin is not None and origin not in options.allow_origins:
            raise _Refused(403, "origin", f"requests of pages from {origin} are not allowed")
        if head.target.decode("ascii", "replace").partition("?")[0] != options.path:
            raise _Refused(404, "path", f"events are posted to {options.path}")
        if head.method not in (b"POST", b"OPTIONS"):
            raise _Refused(405, "method", "expected POST", Allow="POST, OPTIONS")
        if headers.get("content-encoding", "identity") != "identity":
            raise _Refused(415, "encoding", "expected a body that is not compressed")
        if int(headers.get("content-length", "0")) > options.max_body_bytes:
            raise self._too_large()

    def _too_large(self) -> _Refused:
        most = self._options.max_body_bytes
        return _Refused(413, "too_long", f"a body of more than max_body_bytes = {most}")

    def _take(self, exchange: _Exchange) -> bool:
        """A request is whole; whether another may follow before anybody answers it."""
        assert exchange.head is not None
        exchange.since_s = None
        headers = _headers(exchange.head)
        if exchange.head.method == b"OPTIONS":
            asked = headers.get("access-control-request-headers", "content-type")
            allowed = {
                "Access-Control-Allow-Methods": "POST",
                "Access-Control-Allow-Headers": asked,
                "Access-Control-Max-Age": str(_PREFLIGHT_S),
            }
            self._send(exchange, 204, b"", allowed)
            return self._next(exchange)
        self._numbers += 1
        exchange.waits_for = self._numbers
        self._waiting[self._numbers] = exchange
        self._came.append(Request(self._numbers, exchange.connection.address, headers, bytes(exchange.body)))
        exchange.body.clear()
        return False

    def _send(self, exchange: _Exchange, status: int, body: bytes, headers: Mapping[str, str]) -> bool:
        origin = _headers(exchange.head).get("origin") if exchange.head else None
        # A page that may not post may not read why either.
        is_allowed = origin is not None and origin in self._options.allow_origins
        shared = {"Access-Control-Allow-Origin": origin, "Vary": "Origin"} if is_allowed else {}
        sized = {} if status == 204 else {"Content-Length": str(len(body))}
        told = [(name, str(value)) for name, value in {**headers, **shared, **sized}.items()]
        http = exchange.http
        data = (
            http.send(h11.Response(status_code=status, headers=told, reason=HTTPStatus(status).phrase)) or b""
        )
        if exchange.head is None or exchange.head.method != b"HEAD":
            data += http.send(h11.Data(data=body)) or b""
        data += http.send(h11.EndOfMessage()) or b""
        return self._write(exchange, data)

    def _write(self, exchange: _Exchange, data: bytes | None) -> bool:
        return self.server.send(exchange.connection.number, data or b"")

    def _next(self, exchange: _Exchange) -> bool:
        """A request was answered; whether there is to be another one on this connection."""
        http = exchange.http
        exchange.head = None
        exchange.body.clear()
        if http.our_state is not h11.DONE or http.their_state is not h11.DONE:
            self._leave(exchange)
            return False
        http.start_next_cycle()
        return True

    def _fail(self, exchange: _Exchange, refused: _Refused) -> None:
        """Answer what cannot be taken, and read no more from this client."""
        if exchange.http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            told = {"error": {"code": refused.code, "reason": str(refused)}}
            headers = {"Content-Type": _JSON, "Connection": "close", **refused.headers}
            self._send(exchange, refused.status, msgspec.json.encode(told), headers)
        self._leave(exchange)

    def _leave(self, exchange: _Exchange) -> None:
        """Read no more; the connection is closed when what waits is sent."""
        exchange.connection.has_ended = True
        self.server.watch(exchange.connection)
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
                self._fail(exchange, _Refused(408, "slow", why))
            elif now_s - max(connection.received_s, connection.sent_s) > options.idle_s:
                self._leave(exchange)

    def _give_up(self, connection: Connection, why: str) -> None:
        exchange = self._exchange(connection)
        self._waiting.pop(exchange.waits_for, None)
        exchange.waits_for = 0
        self.server.give_up(connection, why)
        self._leaving.append(exchange)


def _headers(head: h11.Request) -> dict[str, str]:
    return {name.decode("ascii"): value.decode("latin-1") for name, value in head.headers}
