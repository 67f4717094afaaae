"""The sockets that clients connect to."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from streamrnn.context import Context, Net
from streamrnn.net.address import Address

if TYPE_CHECKING:
    from streamrnn.net.tls import ServerTls


@dataclass
class Listener:
    """One listening socket; `address` is where it can be reached, with the port that it got.

    With `tls`, clients have to speak it.
    """

    address: str
    socket: socket.socket
    net: Net
    path: Path | None = None
    file_id: tuple[int, int] | None = None
    tls: ServerTls | None = None

    def close(self) -> None:
        """Stop listening; the file goes too, unless another took its place."""
        self.socket.close()
        if self.path and self.file_id and self.net.file_id(self.path) == self.file_id:
            self.net.remove(self.path)
        self.file_id = None


def listen(addresses: Sequence[Address], context: Context, tls: ServerTls | None = None) -> list[Listener]:
    """Listen at all addresses or at none; raises `OSError` with the address in `filename`.

    `tls` is for those of TCP: nobody but this user can connect to the others.
    """
    opened: list[Listener] = []
    for address in addresses:
        try:
            opened.append(_listen(address, context, tls))
        except OSError as error:
            for listener in opened:
                listener.close()
            raise OSError(error.errno, error.strerror or str(error), str(address)) from error
    return opened


def _listen(address: Address, context: Context, tls: ServerTls | None) -> Listener:
    if address.path:
        path = context.path(address.path)
        listening = context.net.listen_unix(path)
        listening.setblocking(False)
        return Listener(str(address), listening, context.net, path, context.net.file_id(path))
    listening = context.net.listen_tcp(address.host, address.port)
    listening.setblocking(False)
    port = listening.getsockname()[1]
    return Listener(str(replace(address, port=port)), listening, context.net, tls=tls)
