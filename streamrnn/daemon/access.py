"""Who may ask the daemon something, and where it listens for that."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamrnn.builtins.sockets import Tls
from streamrnn.errors import OptionError
from streamrnn.net.address import Address, parse

if TYPE_CHECKING:
    from streamrnn.context import Context

TOKEN_VARIABLE = "STREAMRNN_ADMIN_TOKEN"
ADDRESS_VARIABLE = "STREAMRNN_ADMIN"
_SHORTEST = 16

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


@dataclass(frozen=True)
class AdminOptions:
    """Where to listen and what to ask for; `token` is never shown."""

    address: Address
    token: str | None = None
    tls: Tls | None = None

    def __repr__(self) -> str:
        return f"AdminOptions({self.address}, token={'***' if self.token else None}, tls={self.tls})"


def default_address(env: Mapping[str, str]) -> str:
    """In the folder that the service manager or the session made for this user alone."""
    if given := env.get(ADDRESS_VARIABLE):
        return given
    if folder := env.get("RUNTIME_DIRECTORY", "").split(":")[0]:
        return f"unix:{folder}/admin.sock"
    if session := env.get("XDG_RUNTIME_DIR"):
        return f"unix:{session}/streamrnn/admin.sock"
    return f"unix:{Path.home()}/.streamrnn/admin.sock"


def admin_options(
    address: str,
    token_file: str | None,
    tls: Tls | None,
    insecure: bool,
    env: Mapping[str, str],
    context: Context,
) -> AdminOptions:
    """What was asked for on the command line. Raises `OptionError` for what would let in anybody."""
    try:
        where = parse(address)
    except ValueError as error:
        raise OptionError((("--admin",), str(error))) from error
    if where.path:
        return AdminOptions(where)
    token = read_token(token_file, env, context)
    if token is None and (tls is None or tls.client_ca is None):
        text = (
            f"{where} asks for a token: name a file with --admin-token-file, or set {TOKEN_VARIABLE}; or for "
            "certificates of its clients: --admin-client-ca"
        )
        raise OptionError((("--admin",), text))
    if tls is None and not where.is_local and not insecure:
        text = (
            f"{where} can be reached from elsewhere: expected --admin-cert and --admin-key, or "
            "--admin-insecure"
        )
        raise OptionError((("--admin",), text))
    return AdminOptions(where, token, tls)


def read_token(token_file: str | None, env: Mapping[str, str], context: Context) -> str | None:
    """The token in a file, or else in the environment. Raises `OptionError` for one that can be guessed."""
    token = env.get(TOKEN_VARIABLE)
    if token_file is not None:
        try:
            token = context.fs.read_bytes(Path(token_file)).decode().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise OptionError((("--admin-token-file",), f"{token_file}: cannot be read: {error}")) from error
    if token is not None and (len(token) < _SHORTEST or not token.isascii() or not token.isprintable()):
        where = token_file or TOKEN_VARIABLE
        text = f"{where}: expected a token of at least {_SHORTEST} printable ASCII characters"
        raise OptionError((("--admin-token-file",), text))
    return token


class Access:
    """Lets a request through to `app` if it bears the token, or asks for one of the `open_paths`.

    All else is refused before anything is looked at, also what has no route. Without a token, whoever can
    connect may ask: that is this user, over a UNIX socket, or a client with a certificate.
    """

    def __init__(self, app: App, token: str | None, open_paths: Collection[str]) -> None:
        self._app, self._open = app, frozenset(open_paths)
        self._digest = None if token is None else sha256(token.encode()).digest()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection's request."""
        if scope["type"] != "http":
            return  # nothing else is served; the server answers for us
        if scope["path"] in self._open or self._is_known(scope):
            await self._app(scope, receive, send)
            return
        headers = [(b"content-type", b"application/json"), (b"www-authenticate", b'Bearer realm="streamrnn"')]
        await send({"type": "http.response.start", "status": 401, "headers": headers})
        body = b'{"error":"expected the header Authorization: Bearer TOKEN"}'
        await send({"type": "http.response.body", "body": body})

    def _is_known(self, scope: Scope) -> bool:
        if self._digest is None:
            return True
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        if len(given) != 1:
            return False
        kind, _, token = given[0].partition(b" ")
        # Digests have the same length, so that the time says nothing about that of the token either.
        found = sha256(token.strip()).digest()
        return kind.lower() == b"bearer" and hmac.compare_digest(found, self._digest)
