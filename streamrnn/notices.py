"""Warnings at a rate that whoever causes them cannot raise."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streamrnn.context import Context

_AT_ONCE = 10
_PER_S = 1.0


class Notices:
    """The first few warnings, then about one a second with the number of those in between.

    `unshown` is logged at the end with the number of those that were not, as its %d.
    """

    def __init__(self, context: Context, unshown: str) -> None:
        self._log, self._clock, self._unshown = context.log, context.clock, unshown
        self._allowance, self._last_s, self._silent = float(_AT_ONCE), context.clock.monotonic(), 0

    def warn(self, text: str, *values: object) -> None:
        """Log a text, its values put in as logging does, or count it."""
        now_s = self._clock.monotonic()
        self._allowance = min(_AT_ONCE, self._allowance + (now_s - self._last_s) * _PER_S)
        self._last_s = now_s
        if self._allowance < 1:
            self._silent += 1
            return
        self._allowance -= 1
        more = f" ({self._silent} more since the last one shown)" if self._silent else ""
        self._silent = 0
        self._log.warning(f"{text}%s", *values, more)

    def close(self) -> None:
        """Tell how many were not shown."""
        if self._silent:
            self._log.warning(self._unshown, self._silent)
            self._silent = 0
