"""One file that is still being written, read as it grows."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, BinaryIO

from streamrnn.sources.framers import place_of, resumed
from streamrnn.sources.identity import FIRST_BYTES, LAST_BYTES, identity

if TYPE_CHECKING:
    from streamrnn.context import Context
    from streamrnn.events import Frames
    from streamrnn.ports import Framer, Place

_READ_BYTES = 1 << 20
_SETTLED_S = 2.0
"""The coarsest clock that file systems stamp changes with: a later change within it may not show."""


class Tail:
    """An open file that may grow, be renamed, removed, cut or rewritten while it is read.

    Where its size or times changed, the first `FIRST_BYTES` and the last `LAST_BYTES` of what was consumed
    are compared with the file once more. If they differ, other records lie there now and reading begins anew
    at 0; if they differ in the unfinished record at the end alone, it goes on behind the last whole one. So a
    rewrite goes unnoticed only if both of these parts are the same in the new content, byte for byte and in
    the same places; what follows them is then read as if it had been appended.
    """

    def __init__(
        self,
        context: Context,
        name: str,
        file: BinaryIO,
        new_framer: Callable[..., Framer],
        from_end: bool,
        place: Place | None = None,
    ) -> None:
        self.name = name
        self.grew = False
        """Whether anything was read in this turn."""
        self.unlinked = False
        """Whether the file has no name left, as the last `begin` saw it."""
        self.replaced: Place | None = None
        """Where it was left before other records took the place of those that were consumed."""
        self._fs, self._log, self._file = context.fs, context.log, file
        self._new_framer = new_framer
        self._stamps: tuple[int, ...] = ()
        self._changed_s = 0.0
        self._settled = True
        self._due = False
        self._goal = 0
        if place is None:
            self._stand(self._last_line() if from_end else 0)
        else:
            self._stand(place["position"])
            self.framer = resumed(new_framer(), place)

    def identity(self) -> Place:
        """What tells the file by what was consumed of it, be it rewritten meanwhile or not."""
        position = self.framer.position
        return identity(self._first[:position], self._before(position), position)

    def has(self, wanted: Place) -> bool:
        """Whether the file, as it is now, begins as an identity says. Raises `OSError`."""
        length, last_bytes = wanted["bytes"], wanted["last_bytes"]
        first = self._fs.read_at(self._file, 0, min(length, FIRST_BYTES))
        last = self._fs.read_at(self._file, length - last_bytes, last_bytes)
        return identity(first, last, length) == wanted

    @property
    def position(self) -> int:
        """Bytes of the file before the next record."""
        return self.framer.position

    def lag_bytes(self) -> int:
        """Bytes behind the last record that was given. Raises `OSError`, `ValueError` once it is closed."""
        return max(0, self._fs.status_of(self._file).st_size - self.framer.position)

    def begin(self, now_s: float) -> None:
        """Begin a turn, which ends where the file ends now. Raises `OSError`."""
        found = self._fs.status_of(self._file)
        stamps = found.st_size, found.st_mtime_ns, found.st_ctime_ns
        self._due = stamps != self._stamps or not self._settled
        if stamps != self._stamps:
            self._stamps, self._changed_s = stamps, now_s
        self._settled = now_s - self._changed_s >= _SETTLED_S
        self._goal, self.grew, self.unlinked = found.st_size, False, found.st_nlink == 0

    def take(self, limit: int) -> Frames:
        """See `Framer.take`."""
        return self.framer.take(limit)

    def advance(self) -> bool:
        """Read on, once `take` has nothing; False where the turn ends. Raises `OSError`."""
        self._settle_records()
        if not self._due:
            return False
        data = self._fs.read_at(self._file, self._offset - len(self._last), len(self._last) + _READ_BYTES)
        # The first bytes are compared after the read: had the file been rewritten before it, they show it.
        if not data.startswith(self._last) or not self._begins_with(self._first):
            self._go_back()
            return True
        new = data[len(self._last) :]
        self._due = bool(new) and self._offset + len(new) < self._goal
        if new:
            self._consume(new, data)
        return bool(new)

    def modified_ns(self) -> int:
        """When the file was last changed."""
        return self._fs.status_of(self._file).st_mtime_ns

    def finish(self) -> None:
        """The file will not grow any more: what is left is a record too."""
        self.framer.finish()

    def close(self) -> None:
        """Give the file back; twice is fine."""
        self._file.close()

    def _consume(self, new: bytes, data: bytes) -> None:
        self.framer.feed(new)
        self._offset += len(new)
        self._first += new[: FIRST_BYTES - len(self._first)]
        self._last = data
        self.grew = True

    def _settle_records(self) -> None:
        """Once all whole records were taken: remember the end of them, and only the last of what was read."""
        self._records = self._before(self.framer.position)
        self._last = self._last[-LAST_BYTES:]

    def _before(self, position: int) -> bytes:
        """The last bytes before the next record, as they were consumed."""
        end = len(self._last) - (self._offset - position)
        return self._last[max(end - LAST_BYTES, 0) : end] if end > 0 else self._records

    def _begins_with(self, first: bytes) -> bool:
        return self._fs.read_at(self._file, 0, len(first)) == first

    def _go_back(self) -> None:
        """Find out how much of what was consumed is gone."""
        end, known = self.framer.position, self._records
        found = self._fs.read_at(self._file, end - len(known), len(known))
        stand = end > 0 and found == known and self._begins_with(self._first[:end])
        if open_bytes := self._offset - end:
            text = "%s: was cut or rewritten; %d bytes of an unfinished record at byte %d are discarded"
            self._log.warning(text, self.name, open_bytes, end)
        if not stand:
            self.replaced = {"framer": place_of(self.framer), "is": self.identity()}
            self._log.info("%s: was cut or rewritten; reading it from its start", self.name)
        self._stand(end if stand else 0)
        self._due = self.grew = True
        self._stamps = ()
        self._goal = self._fs.status_of(self._file).st_size

    def _stand(self, position: int) -> None:
        """Go on at `position` with a new framer; what is before it counts as consumed."""
        self.framer = self._new_framer(position)
        self._offset = position
        low = max(position - LAST_BYTES, 0)
        self._first = self._fs.read_at(self._file, 0, min(position, FIRST_BYTES))
        self._last = self._records = self._fs.read_at(self._file, low, position - low)

    def _last_line(self) -> int:
        """Where the line begins in which the file ends: its size, if that is behind a line break."""
        high = self._fs.status_of(self._file).st_size
        while high:
            low = max(high - LAST_BYTES, 0)
            found = self._fs.read_at(self._file, low, high - low).rfind(b"\n") + 1
            if found:
                return low + found
            high = low
        return 0
