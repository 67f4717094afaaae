"""The HTTP server of the daemon, on a thread of its own."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from threading import Thread
from typing import TYPE_CHECKING

import uvicorn

from streamrnn.daemon.api import Api
from streamrnn.daemon.routes import application
from streamrnn.errors import SourceError
from streamrnn.net.listening import Listener, listen
from streamrnn.net.tls import server_tls

if TYPE_CHECKING:
    from streamrnn.context import Context
    from streamrnn.daemon.access import AdminOptions
    from streamrnn.daemon.daemon import Daemon
    from streamrnn.net.tls import ServerTls

_CONNECTIONS = 100
_HEAD_BYTES = 1 << 16
_KEEP_ALIVE_S = 30
_GRACE_S = 2


class Admin:
    """Listens from the moment it is made; serves between `start` and `close`."""

    def __init__(self, daemon: Daemon, options: AdminOptions, context: Context) -> None:
        """Raises `OptionError` for files of TLS, `SourceError` if it cannot listen."""
        tls = server_tls(options.tls, context)
        self._listener = _open(options, context, tls)
        self.address = self._listener.address
        """Where it can be reached, with the port that it got."""
        self._server = uvicorn.Server(
            uvicorn.Config(
                application(Api(daemon), options.token),
                http="h11",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                limit_concurrency=_CONNECTIONS,
                h11_max_incomplete_event_size=_HEAD_BYTES,
                timeout_keep_alive=_KEEP_ALIVE_S,
                timeout_graceful_shutdown=_GRACE_S,
                ssl_context_factory=None if tls is None else lambda config, default: tls.context,
            )
        )
        self._thread = Thread(target=self._run, name="streamrnn-admin", daemon=True)
        self._ended: Future[None] = Future()

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def close(self) -> None:
        """Answer no more; those who listen to a tap are cut off after a moment."""
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(2 * _GRACE_S)
        self._listener.close()

    def _run(self) -> None:
        asyncio.run(self._server.serve(sockets=[self._listener.socket]))


def _open(options: AdminOptions, context: Context, tls: ServerTls | None) -> Listener:
    try:
        if options.address.path:
            context.fs.make_folder(context.path(options.address.path).parent)
        return listen([options.address], context, tls)[0]
    except OSError as error:
        raise SourceError(f"--admin: {error.filename}: cannot listen: {error.strerror}") from error
