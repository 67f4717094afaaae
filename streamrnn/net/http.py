"""HTTP/1.1: requests that are posted come in whole, one at a time on each connection."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING

import h11
import msgspec

from streamrnn.net.fronts import JSON, Exchange, Front, Refused

if TYPE_CHECKING:
    from streamrnn.net.connection import Connection

_PREFLIGHT_S = 600
"""How long a browser may remember which requests are allowed."""


class _HttpExchange(Exchange):
    """A connection with the head of its request, and what the protocol knows."""

    __slots__ = ("head", "http")

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self.http = h11.Connection(h11.SERVER)
        self.head: h11.Request | None = None


class HttpFront(Front[_HttpExchange]):
    """Requests that are posted to one path. It answers all others itself, and what browsers ask ahead."""

    def _opened(self, connection: Connection) -> _HttpExchange:
        return _HttpExchange(connection)

    def _take(self, exchange: _HttpExchange, data: bytes) -> None:
        if data:
            exchange.http.receive_data(data)
        self._go_on(exchange)

    def _answer(self, exchange: _HttpExchange, status: int, body: bytes, kind: str) -> bool:
        is_sent = self._send(exchange, status, body, {"Content-Type": kind})
        if self._next(exchange):
            self._go_on(exchange)
        return is_sent

    def _fail(self, exchange: _HttpExchange, refused: Refused) -> None:
        if exchange.http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            told = {"error": {"code": refused.code, "reason": str(refused)}}
            headers = {"Content-Type": JSON, "Connection": "close", **refused.headers}
            self._send(exchange, refused.status, msgspec.json.encode(told), headers)
        self._leave(exchange)

    def _go_on(self, exchange: _HttpExchange) -> None:
        """Look at what has come, up to the end of one request that is to be answered."""
        http = exchange.http
        try:
            while not exchange.waits_for:
                event = http.next_event()
                if isinstance(event, h11.Request):
                    exchange.head = event
                    self._check_head(event)
                elif isinstance(event, h11.Data):
                    self._add(exchange, event.data)
                elif isinstance(event, h11.EndOfMessage):
                    if not self._end(exchange):
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
            self._fail(exchange, Refused(error.error_status_hint, "http", str(error)))
        except Refused as refused:
            self._fail(exchange, refused)

    def _check_head(self, head: h11.Request) -> None:
        """Raise `Refused` for a request that is none of ours, before its body comes."""
        headers = _headers(head)
        self._check_place(head.target.decode("ascii", "replace"), headers.get("origin"))
        if head.method not in (b"POST", b"OPTIONS"):
            raise Refused(405, "method", "expected POST", Allow="POST, OPTIONS")
        if headers.get("content-encoding", "identity") != "identity":
            raise Refused(415, "encoding", "expected a body that is not compressed")
        if int(headers.get("content-length", "0")) > self._options.max_body_bytes:
            raise self._too_large()

    def _end(self, exchange: _HttpExchange) -> bool:
        """A request is whole; whether another may follow before anybody answers it."""
        assert exchange.head is not None
        headers = _headers(exchange.head)
        if exchange.head.method != b"OPTIONS":
            self._ask(exchange, headers)
            return False
        allowed = {
            "Access-Control-Allow-Methods": "POST",
            "Access-Control-Allow-Headers": headers.get("access-control-request-headers", "content-type"),
            "Access-Control-Max-Age": str(_PREFLIGHT_S),
        }
        exchange.since_s = None
        self._send(exchange, 204, b"", allowed)
        return self._next(exchange)

    def _send(self, exchange: _HttpExchange, status: int, body: bytes, headers: Mapping[str, str]) -> bool:
        origin = _headers(exchange.head).get("origin") if exchange.head else None
        shared: dict[str, str] = {}
        if origin is not None and origin in self._options.allow_origins:
            # A page that may not post may not read why either.
            shared = {"Access-Control-Allow-Origin": origin, "Vary": "Origin"}
        sized = {} if status == 204 else {"Content-Length": str(len(body))}
        named = {**headers, **shared, **sized}.items()
        told = [(name.encode(), value.encode("latin-1")) for name, value in named]  # as they were read
        http = exchange.http
        data = (
            http.send(h11.Response(status_code=status, headers=told, reason=HTTPStatus(status).phrase)) or b""
        )
        if exchange.head is None or exchange.head.method != b"HEAD":
            data += http.send(h11.Data(data=body)) or b""
        data += http.send(h11.EndOfMessage()) or b""
        return self._write(exchange, data)

    def _next(self, exchange: _HttpExchange) -> bool:
        """A request was answered; whether there is to be another one on this connection."""
        http = exchange.http
        exchange.head = None
        exchange.body.clear()
        if http.our_state is not h11.DONE or http.their_state is not h11.DONE:
            self._leave(exchange)
            return False
        http.start_next_cycle()
        return True


def _headers(head: h11.Request) -> dict[str, str]:
    return {name.decode("ascii"): value.decode("latin-1") for name, value in head.headers}
