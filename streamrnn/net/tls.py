"""TLS on the connections of a server: the handshakes, and what is different once they are done."""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from dataclasses import dataclass
from selectors import EVENT_READ, EVENT_WRITE, BaseSelector
from typing import TYPE_CHECKING

from streamrnn.errors import OptionError
from streamrnn.net.connection import Connection

if TYPE_CHECKING:
    from streamrnn.builtins.sockets import Tls
    from streamrnn.context import Context
    from streamrnn.notices import Notices

_RECORD_BYTES = 1 << 14
"""The most that one TLS record holds."""
_STEPS_AT_ONCE = 32
"""Steps of handshakes in a round: each may cost a millisecond, for which those who are connected wait."""
_DISCARDED_BYTES = 1 << 16


@dataclass(frozen=True)
class ServerTls:
    """What clients are shown and have to show, and in which time."""

    context: ssl.SSLContext
    handshake_s: float


def server_tls(options: Tls | None, context: Context) -> ServerTls | None:
    """The files read. Raises `OptionError` with all that is wrong with them."""
    if options is None:
        return None
    if problems := [*_problems(options, context)]:
        raise OptionError(*problems)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.minimum_version = ssl.TLSVersion.TLSv1_2
    tls.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET | ssl.OP_CIPHER_SERVER_PREFERENCE
    # A client that only sends would close with the tickets unread; its system then takes back what it sent.
    tls.num_tickets = 0
    cert, key = context.path(options.cert), context.path(options.key)
    try:
        tls.load_cert_chain(cert, key, password=lambda: b"")  # nobody is asked for one
    except (ssl.SSLError, ValueError) as error:
        text = (
            f"expected {key} to be the key, without a password, of the certificate in {cert}: {_why(error)}"
        )
        raise OptionError((("tls", "key"), text)) from error
    if options.client_ca is not None:
        tls.verify_mode = ssl.CERT_REQUIRED
        authorities = context.path(options.client_ca)
        try:
            tls.load_verify_locations(authorities)
        except ssl.SSLError as error:
            text = f"expected certificates in {authorities}: {_why(error)}"
            raise OptionError((("tls", "client_ca"), text)) from error
    return ServerTls(tls, options.handshake_s)


class TlsConnection(Connection):
    """A connection whose handshake is done."""

    __slots__ = ()

    def _receive(self, size: int) -> bytes:
        """Whole records, the last of which may exceed `size`.

        The selector knows nothing of what is left of a record once it is decrypted, so nothing may be left.
        """
        data = more = self._record(size)
        try:
            while more and len(data) < size:
                more = self._record(size - len(data))
                data += more
        except BlockingIOError:
            return data
        except OSError:
            more = b""
        self.has_ended |= not more  # of a goodbye, too, the selector would tell nothing any more
        return data

    def _record(self, size: int) -> bytes:
        try:
            return self.socket.recv(max(size, _RECORD_BYTES))
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise BlockingIOError from None

    def _send(self, data: bytes | bytearray | memoryview) -> int:
        """As many records as the kernel takes; what was not taken has to come first in the next call."""
        taken = 0
        with memoryview(data) as view:
            while taken < len(view):
                try:
                    taken += self.socket.send(view[taken : taken + _RECORD_BYTES])
                except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                    break
        return taken

    def _say_goodbye(self) -> None:
        """Without it, a client would have to take the end for one that an attacker made."""
        with suppress(OSError, ValueError):
            self.socket.unwrap()  # type: ignore[attr-defined]


class Handshake:
    """A client on its way to a connection, or turned away and not gone yet."""

    __slots__ = ("address", "events", "is_refused", "peer", "since_s", "socket", "within_s")

    def __init__(
        self, opened: ssl.SSLSocket, peer: str, address: str, since_s: float, within_s: float
    ) -> None:
        self.socket, self.peer, self.address = opened, peer, address
        self.since_s, self.within_s = since_s, within_s
        self.events, self.is_refused = EVENT_READ, False

    def go_on(self) -> int:
        """What to wait for, as the selector's bits; 0 if it is done. Raises `OSError` if it cannot be."""
        try:
            self.socket.do_handshake()
        except (BlockingIOError, ssl.SSLWantReadError):
            return EVENT_READ
        except ssl.SSLWantWriteError:
            return EVENT_WRITE
        return 0

    def is_gone(self) -> bool:
        """Forget what a client that was turned away still sends; whether it has left."""
        try:
            return not self.socket.recv(_DISCARDED_BYTES)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            return True


class Handshakes:
    """The handshakes of a server, none of which waits or is waited for."""

    def __init__(self, selector: BaseSelector, notices: Notices) -> None:
        self._selector, self._notices = selector, notices
        self._going: dict[Handshake, None] = {}
        """The oldest first."""
        self._steps = 0

    def __len__(self) -> int:
        """How many clients are neither connected nor gone."""
        return len(self._going)

    def begin(self, opened: socket.socket, peer: str, address: str, tls: ServerTls, now_s: float) -> None:
        """Take a new client."""
        try:
            wrapped = tls.context.wrap_socket(opened, server_side=True, do_handshake_on_connect=False)
        except (OSError, ValueError):  # it has left already
            opened.close()
            return
        handshake = Handshake(wrapped, peer, address, now_s, tls.handshake_s)
        self._going[handshake] = None
        self._selector.register(wrapped, EVENT_READ, handshake)

    def go_on(self, handshake: Handshake) -> ssl.SSLSocket | None:
        """Something has come; the socket once the handshake is done, which is then no more of ours."""
        if handshake not in self._going or self._steps >= _STEPS_AT_ONCE:
            return None  # what is ready and has to wait is ready in the next round too
        if handshake.is_refused:
            if handshake.is_gone():
                self._drop(handshake)
            return None
        self._steps += 1
        try:
            events = handshake.go_on()
        except OSError as error:
            self._refuse(handshake, error)
            return None
        if events == 0:
            self._forget(handshake)
            return handshake.socket
        if events != handshake.events:
            self._selector.modify(handshake.socket, events, handshake)
            handshake.events = events
        return None

    def round(self, now_s: float) -> None:
        """A new round begins: close those that have had their time."""
        self._steps = 0
        while self._going:
            oldest = next(iter(self._going))
            if now_s - oldest.since_s <= oldest.within_s:
                return
            if not oldest.is_refused:
                self._tell(oldest, f"its TLS handshake took more than {oldest.within_s:g} s")
            self._drop(oldest)

    def close(self) -> None:
        """Close them all."""
        for handshake in list(self._going):
            self._drop(handshake)

    def _refuse(self, handshake: Handshake, error: OSError) -> None:
        """Tell why, and leave the client time to hear it.

        A socket that is closed with data unread takes back the alert.
        """
        if isinstance(error, ssl.SSLEOFError | ConnectionError):  # it has left
            self._drop(handshake)
            return
        self._tell(handshake, f"no TLS connection: {_why(error)}")
        handshake.is_refused = True
        try:
            handshake.socket.shutdown(socket.SHUT_WR)
        except OSError:
            self._drop(handshake)
            return
        if handshake.events != EVENT_READ:
            self._selector.modify(handshake.socket, EVENT_READ, handshake)

    def _tell(self, handshake: Handshake, why: str) -> None:
        self._notices.warn("%s: a client at %s was turned away: %s", handshake.address, handshake.peer, why)

    def _drop(self, handshake: Handshake) -> None:
        self._forget(handshake)
        handshake.socket.close()

    def _forget(self, handshake: Handshake) -> None:
        del self._going[handshake]
        self._selector.unregister(handshake.socket)


def _problems(options: Tls, context: Context) -> list[tuple[tuple[str, ...], str]]:
    """Files that cannot be read, or are of another kind."""
    found: list[tuple[tuple[str, ...], str]] = []
    for option, name in options.files().items():
        path, kind = context.path(name), "PRIVATE KEY" if option == "key" else "CERTIFICATE"
        try:
            data = context.fs.read_bytes(path)
        except OSError as error:
            found.append((("tls", option), f"cannot read {path}: {error.strerror or error}"))
            continue
        if f"{kind}-----".encode() not in data:
            found.append((("tls", option), f"expected a {kind} in PEM in {path}, found none"))
    return found


def _why(error: Exception) -> str:
    """What the library says, for people."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate refused: {error.verify_message}"
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    return str(error)
