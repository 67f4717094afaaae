"""One client: what it sends, and what waits to be sent to it."""

from __future__ import annotations

import socket

_DISCARDED_BYTES = 1 << 18


class Connection:
    """A client's socket, which never blocks; `number` is never used for another client.

    `has_ended` says that nothing more will come from the client, `is_deaf` that nothing more can reach it:
    each way ends on its own. `sent_s` is when it last took something, `received_s` when it last sent.
    """

    __slots__ = (
        "address",
        "events",
        "has_ended",
        "is_deaf",
        "is_paused",
        "number",
        "pending",
        "received_s",
        "sent_s",
        "socket",
    )

    def __init__(self, number: int, address: str, opened: socket.socket, now_s: float) -> None:
        self.number, self.address, self.socket = number, address, opened
        self.received_s = self.sent_s = now_s
        self.pending = bytearray()
        """What the kernel has not taken yet."""
        self.events = 0
        """What the selector looks for, as its bits."""
        self.has_ended = self.is_deaf = self.is_paused = False

    def receive(self, size: int) -> bytes:
        """At most `size` bytes; b"" if there are none, with `has_ended` set if there never will be."""
        try:
            data = self._receive(size)
        except (BlockingIOError, InterruptedError):
            return b""
        except OSError:  # reset, timed out, unreachable: the client is gone
            self.give_up()
            data = b""
        self.has_ended |= not data
        return data

    def send(self, data: bytes | memoryview, now_s: float) -> None:
        """Give `data` to the kernel as far as it takes it, and keep the rest."""
        if self.is_deaf:
            return
        if self.pending:
            self.pending += data
            return
        taken = self._give(data)
        if not self.is_deaf and taken < len(data):
            self.sent_s = now_s
            self.pending += data[taken:]

    def flush(self, now_s: float) -> None:
        """Give the kernel more of what is kept."""
        if self.pending and (taken := self._give(self.pending)):
            self.sent_s = now_s
            del self.pending[:taken]

    def give_up(self) -> None:
        """Send nothing any more."""
        self.is_deaf = True
        self.pending.clear()

    def end(self) -> bool:
        """Tell the client that nothing more will come; whether it was still sending.

        A socket that is closed with data unread takes back what the client has not read yet.
        """
        try:
            self._say_goodbye()
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.is_deaf = True
        return self.discard()

    def discard(self) -> bool:
        """Read what has come and forget it; whether more may come."""
        left = _DISCARDED_BYTES
        while left > 0 and (data := self.receive(left)):
            left -= len(data)
        return left < _DISCARDED_BYTES and not self.has_ended

    def _receive(self, size: int) -> bytes:
        return self.socket.recv(size)

    def _send(self, data: bytes | bytearray | memoryview) -> int:
        return self.socket.send(data)

    def _say_goodbye(self) -> None:
        """What a protocol below the lines wants said before the sending side is closed."""

    def _give(self, data: bytes | bytearray | memoryview) -> int:
        try:
            return self._send(data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError:  # the client has left; what it sent before may still be read
            self.give_up()
            return 0
