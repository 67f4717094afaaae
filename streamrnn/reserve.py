"""Reading stops before a disk is full, so that what was read can be committed, and goes on by itself."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streamrnn.context import Context

_EVERY_S = 0.1
"""How often the disks are looked at while there is room."""


class Reserve:
    """Whether every disk that a pipeline writes to has so many bytes left; told when that changes.

    It takes an eighth more than `bytes` to go on, lest it stop and go all the time.
    """

    def __init__(self, paths: Sequence[Path], least_bytes: int, context: Context) -> None:
        self._paths, self._least_bytes, self._context = paths, least_bytes, context
        self._looked_s: float | None = None
        self.waiting = False
        """Whether there is too little room."""

    def is_short(self) -> bool:
        """Whether to read nothing for now."""
        now_s = self._context.clock.monotonic()
        if self.waiting or self._looked_s is None or now_s - self._looked_s >= _EVERY_S:
            self._looked_s = now_s
            self._look()
        return self.waiting

    def wait(self, wait_ms: int) -> None:
        """Give whoever makes room some time."""
        self._context.clock.sleep(wait_ms / 1000)

    def _look(self) -> None:
        wanted = self._least_bytes + self.waiting * self._least_bytes // 8
        left = {path: self._context.fs.free_bytes(path) for path in self._paths if self._takes_room(path)}
        short = [path for path, free in left.items() if free < wanted]
        if bool(short) == self.waiting:
            return
        self.waiting = bool(short)
        if short:
            self._context.log.warning(
                "limits.disk_reserve_bytes: %d bytes are left at %s, fewer than %d; nothing is read until "
                "there is room, and what was read is committed",
                left[short[0]],
                short[0],
                self._least_bytes,
            )
        else:
            self._context.log.warning("limits.disk_reserve_bytes: there is room again; reading goes on")

    def _takes_room(self, path: Path) -> bool:
        """Not so what is neither file nor folder, such as a pipe or /dev/null."""
        found = self._context.fs.status(path)
        return found is None or stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)
