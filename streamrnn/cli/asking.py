"""Asking a daemon that runs, over its admin address."""

from __future__ import annotations

import http.client
import json
import os
import socket
import ssl
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import click

from streamrnn.errors import OptionError, SourceError, StreamrnnError

_F = TypeVar("_F", bound=Callable[..., Any])
_PATIENCE_S = 60.0


class AnswerError(StreamrnnError):
    """The daemon did not do what it was asked; its message says why."""


def asks(function: _F) -> _F:
    """The options that say which daemon to ask; a command gets them as one `client`."""
    made = [
        click.option("--admin", "address", metavar="ADDRESS",
                     help="The daemon's: unix:PATH, tcp://HOST:PORT or tls://HOST:PORT; else "
                     "$STREAMRNN_ADMIN, or this user's own socket."),
        click.option("--admin-token-file", type=click.Path(), metavar="FILE",
                     help="Holds its token; else $STREAMRNN_ADMIN_TOKEN."),
        click.option("--admin-ca", type=click.Path(exists=True), metavar="FILE",
                     help="For tls: who signed its certificate, if not one whom this machine trusts."),
    ]  # fmt: skip
    for option in reversed(made):
        function = option(function)
    return function


def client(address: str | None, admin_token_file: str | None, admin_ca: str | None) -> Client:
    """Whom the options mean. Raises `OptionError`."""
    from streamrnn.context import Context
    from streamrnn.daemon.access import default_address, read_token

    token = read_token(admin_token_file, os.environ, Context())
    return Client(address or default_address(os.environ), token, admin_ca)


class _Unix(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_PATIENCE_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(_PATIENCE_S)
        self.sock.connect(self._path)


class Client:
    """Requests to one daemon, each on a connection of its own."""

    def __init__(self, address: str, token: str | None = None, authority: str | None = None) -> None:
        self.address, self._token, self._authority = address, token, authority

    def get(self, *path: str, **query: Any) -> Any:
        """What it answers, decoded. Raises `AnswerError`, or `SourceError` if nobody answers."""
        return self._answer("GET", path, query)

    def post(self, *path: str, **body: Any) -> Any:
        """As `get`, with a body."""
        return self._answer("POST", path, {}, body)

    def lines(self, *path: str, **query: Any) -> Iterator[Any]:
        """Objects as they come, None where the daemon only says that it is still there."""
        with self._response("GET", path, query, None) as response:
            try:
                while line := response.readline():
                    yield json.loads(line) if line.strip() else None
            except (OSError, http.client.HTTPException) as error:
                raise SourceError(f"{self.address}: the daemon has left: {error}") from error

    def _answer(
        self, method: str, path: tuple[str, ...], query: dict[str, Any], body: dict[str, Any] | None = None
    ) -> Any:
        with self._response(method, path, query, body) as response:
            return json.loads(response.read())

    @contextmanager
    def _response(
        self, method: str, path: tuple[str, ...], query: dict[str, Any], body: dict[str, Any] | None
    ) -> Iterator[http.client.HTTPResponse]:
        target = "/" + "/".join(quote(part, safe="") for part in path)
        given = {name: value for name, value in query.items() if value is not None}
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        data = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            data = json.dumps({name: value for name, value in body.items() if value is not None})
        with closing(self._connection()) as connection:
            yield self._sent(
                connection, method, f"{target}?{urlencode(given)}" if given else target, data, headers
            )

    def _sent(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        target: str,
        data: str | None,
        headers: dict[str, str],
    ) -> http.client.HTTPResponse:
        try:
            connection.request(method, target, data, headers)
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            why = getattr(error, "strerror", None) or error
            text = (
                f"{self.address}: no daemon answers ({why}); start one with `streamrnn serve`, or see --admin"
            )
            raise SourceError(text) from error
        if response.status >= 400:
            raise AnswerError(_told(response))
        return response

    def _connection(self) -> http.client.HTTPConnection:
        from streamrnn.net.address import parse

        tls = self.address.startswith("tls://")
        try:
            where = parse("tcp" + self.address[3:] if tls else self.address)
        except ValueError as error:
            raise OptionError((("--admin",), str(error))) from error
        if where.path:
            return _Unix(where.path)
        if tls:
            context = ssl.create_default_context(cafile=self._authority)
            return http.client.HTTPSConnection(where.host, where.port, timeout=_PATIENCE_S, context=context)
        return http.client.HTTPConnection(where.host, where.port, timeout=_PATIENCE_S)


def _told(response: http.client.HTTPResponse) -> str:
    data = response.read()
    try:
        told = json.loads(data)
        return "not all is well" if told.get("ok") is False else str(told["error"])
    except (ValueError, KeyError, TypeError):
        return f"{response.status} {response.reason}"


def shown(text: str) -> str:
    """A text as it may be written to a terminal; to a pipe as it is."""
    from streamrnn.daemon.logs import escaped

    return escaped(text) if sys.stdout.isatty() else text
