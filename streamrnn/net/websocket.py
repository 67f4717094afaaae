"""WebSockets: every message of a client is a request, and is answered by a message."""

from __future__ import annotations

import msgspec
from wsproto import ConnectionType, WSConnection
from wsproto import events as ws
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import ProtocolError

from streamrnn.net.connection import Connection
from streamrnn.net.fronts import JSON, Exchange, Front, Refused

_HEAD_END, _MOST_HEAD_BYTES = b"\r\n\r\n", 1 << 14
_TEXTS = (JSON, "application/x-ndjson")


class _WebSocketExchange(Exchange):
    """A connection, and what the protocol knows."""

    __slots__ = ("headers", "is_open", "socket")

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self.socket = WSConnection(ConnectionType.SERVER)
        self.headers: dict[str, str] = {}
        """Those of the request that asked for a WebSocket."""
        self.is_open = False


class WebSocketFront(Front[_WebSocketExchange]):
    """Messages on connections that were opened at one path."""

    def close(self) -> None:
        """Say goodbye, send what waits for a bounded time, and close."""
        for exchange in self._exchanges.values():
            self._say_goodbye(exchange, CloseReason.GOING_AWAY, "")
        super().close()

    def _opened(self, connection: Connection) -> _WebSocketExchange:
        return _WebSocketExchange(connection)

    def _take(self, exchange: _WebSocketExchange, data: bytes) -> None:
        if exchange.is_open:
            self._feed(exchange, data)
            return
        exchange.body += data  # the library drops what comes behind the request in one piece with it
        head, end, rest = bytes(exchange.body).partition(_HEAD_END)
        if end:
            exchange.body.clear()
            self._feed(exchange, head + end)
            if exchange.is_open and rest:
                self._feed(exchange, rest)
        elif len(exchange.body) > _MOST_HEAD_BYTES:
            self._fail(exchange, Refused(431, "http", f"a head of more than {_MOST_HEAD_BYTES} bytes"))

    def _feed(self, exchange: _WebSocketExchange, data: bytes) -> None:
        try:
            if data:
                exchange.socket.receive_data(data)
        except (ProtocolError, ValueError) as error:  # ValueError: what should be ASCII in a head is not
            hint = getattr(error, "event_hint", None)
            status = hint.status_code if isinstance(hint, ws.RejectConnection) else 400
            self._fail(exchange, Refused(status, "http", str(error)))
            return
        self._go_on(exchange)

    def _answer(self, exchange: _WebSocketExchange, status: int, body: bytes, kind: str) -> bool:
        body = body.removesuffix(b"\n")
        answer = ws.TextMessage(body.decode()) if kind in _TEXTS else ws.BytesMessage(body)
        is_sent = exchange.is_open and self._write(exchange, exchange.socket.send(answer))
        self._go_on(exchange)
        return is_sent

    def _fail(self, exchange: _WebSocketExchange, refused: Refused) -> None:
        if exchange.is_open:
            code = CloseReason.MESSAGE_TOO_BIG if refused.status == 413 else CloseReason.POLICY_VIOLATION
            self._say_goodbye(exchange, code, str(refused))
        else:
            told = msgspec.json.encode({"error": {"code": refused.code, "reason": str(refused)}})
            self._write(exchange, _rejection(exchange.socket, refused.status, told))
        self._leave(exchange)

    def _go_on(self, exchange: _WebSocketExchange) -> None:
        """Look at what has come, up to the end of one message."""
        try:
            for event in exchange.socket.events():
                if isinstance(event, ws.Request):
                    self._accept(exchange, event)
                elif isinstance(event, ws.TextMessage | ws.BytesMessage):
                    data = event.data
                    self._add(exchange, data.encode() if isinstance(data, str) else data)
                    if event.message_finished:
                        self._ask(exchange, exchange.headers)
                        return
                elif isinstance(event, ws.Ping):
                    self._write(exchange, exchange.socket.send(event.response()))
                elif isinstance(event, ws.CloseConnection):
                    if exchange.is_open:
                        exchange.is_open = False
                        self._write(exchange, exchange.socket.send(event.response()))
                    self._leave(exchange)
                    return
            if exchange.is_open:
                exchange.since_s = (exchange.since_s or self.server.now_s) if exchange.body else None
        except (ProtocolError, ValueError) as error:
            self._fail(exchange, Refused(400, "http", str(error)))
        except Refused as refused:
            self._fail(exchange, refused)

    def _accept(self, exchange: _WebSocketExchange, asked: ws.Request) -> None:
        pairs = [
            (name.decode("ascii").lower(), value.decode("latin-1")) for name, value in asked.extra_headers
        ]
        exchange.headers = dict(pairs)
        self._check_place(asked.target, exchange.headers.get("origin"))
        exchange.is_open = True
        self._write(exchange, exchange.socket.send(ws.AcceptConnection()))

    def _say_goodbye(self, exchange: _WebSocketExchange, code: int, reason: str) -> None:
        if exchange.is_open:
            exchange.is_open = False
            self._write(exchange, exchange.socket.send(ws.CloseConnection(code, reason[:120])))


def _rejection(socket: WSConnection, status: int, body: bytes) -> bytes:
    """What a client is told for which no WebSocket is opened."""
    headers = [(b"Content-Type", JSON.encode()), (b"Content-Length", str(len(body)).encode())]
    if status == 426:
        headers.append((b"Sec-WebSocket-Version", b"13"))
    try:
        rejected = ws.RejectConnection(status_code=status, headers=headers, has_body=True)
        return socket.send(rejected) + socket.send(ws.RejectData(data=body))
    except Exception:  # what came was no request at all, so the library has nothing to reject
        head = f"HTTP/1.1 {status} \r\nContent-Type: {JSON}\r\nContent-Length: {len(body)}\r\n"
        return f"{head}Connection: close\r\n\r\n".encode() + body
