"""What the service manager is told: systemd's protocol of datagrams, which others speak, too."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streamrnn.context import Context


class Notify:
    """Messages to the socket in NOTIFY_SOCKET; without one, nothing is sent.

    `watchdog_s` is how long the manager waits for a sign of life, None if it does not.
    """

    def __init__(self, context: Context, env: Mapping[str, str], pid: int | None = None) -> None:
        self._context = context
        self._address = env.get("NOTIFY_SOCKET", "")
        self.watchdog_s: float | None = None
        own = str(os.getpid() if pid is None else pid)
        if self._address and env.get("WATCHDOG_USEC", "").isdecimal() and env.get("WATCHDOG_PID", own) == own:
            self.watchdog_s = int(env["WATCHDOG_USEC"]) / 1e6
        self._alive_s = float("-inf")

    def ready(self, status: str) -> None:
        """All is up; `status` is shown to people."""
        self._send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """Files are read again; `ready` follows."""
        now_us = int(self._context.clock.monotonic() * 1e6)
        self._send("RELOADING=1", f"MONOTONIC_USEC={now_us}")

    def stopping(self) -> None:
        """The end has begun."""
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """What is shown to people."""
        self._send(f"STATUS={text}")

    def alive(self) -> None:
        """A sign of life, as often as the manager needs it."""
        if self.watchdog_s is None:
            return
        now_s = self._context.clock.monotonic()
        if now_s - self._alive_s >= self.watchdog_s / 4:
            self._alive_s = now_s
            self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        text = "\n".join(line.replace("\n", " ") for line in lines)
        try:
            self._context.net.send_datagram(self._address, text.encode())
        except OSError as error:  # a manager that is gone is no reason to stop
            self._context.log.warning("NOTIFY_SOCKET: cannot send: %s", error.strerror or error)
            self._address = ""
