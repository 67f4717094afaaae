"""Records that are lines: finds them in a stream that arrives in pieces of any size."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from streamrnn.events import Frames

if TYPE_CHECKING:
    from streamrnn.events import BoolArray, IntArray
    from streamrnn.ports import Place

_BOM = b"\xef\xbb\xbf"
_BLANK = b" \t\r"
_KEPT_BYTES = 256
"""How much of a line that is too long is kept, to show what it was."""
_ZERO = np.zeros(1, np.int64)
_NOT_CUT = np.zeros(1, np.bool_)


@dataclass(slots=True)
class _Window:
    """Lines found and not yet taken, as offsets into `buffer`, which begins at `base` of the stream."""

    buffer: bytes
    base: int
    starts: IntArray
    ends: IntArray
    numbers: IntArray
    cut: BoolArray
    next: int = 0

    def position(self) -> int:
        return self.base + int(self.starts[self.next])


class LineFramer:
    """A `Framer` of lines: `\\n` ends a record, one `\\r` before it is not part of it.

    Lines of nothing but spaces and tabs are no records, yet they count in `numbers`, which are line numbers
    from where this framer began. A byte order mark at the start of the stream is skipped. A line of more than
    `max_record_bytes` is refused whole, however many pieces it comes in: its first 256 bytes (fewer if the
    limit is lower) stand for it. At most `max_record_bytes` and the last piece fed are held, besides what
    was found and not yet taken.
    """

    def __init__(self, max_record_bytes: int, position: int = 0) -> None:
        self._limit = max_record_bytes
        self._kept = min(_KEPT_BYTES, max_record_bytes)
        self._reason = f"line of more than {max_record_bytes} bytes"
        self._windows: deque[_Window] = deque()
        self._rest = bytearray()
        """What was fed and not yet searched for lines."""
        self._has_end = False
        """Whether a line ends somewhere in `_rest`."""
        self._open_bytes = 0
        """Length so far of the line that has not ended."""
        self._base = position
        """Where `_rest` begins in the stream: the start of a line, unless one is being discarded."""
        self._fed = position
        self._lines = 0
        self._discarding_from: int | None = None
        self._head: bytes | None = b"" if position == 0 else None
        """The first bytes of the stream until it is clear whether they are a byte order mark."""

    @property
    def limit(self) -> int:
        """`max_record_bytes`."""
        return self._limit

    def feed(self, data: bytes) -> None:
        """See `Framer.feed`."""
        self._fed += len(data)
        if self._head is not None:
            data = self._without_bom(self._head + data)
        if self._discarding_from is not None:
            data = self._discard(data)
        if data:
            self._append(data)

    def finish(self) -> None:
        """See `Framer.finish`."""
        if self._head:
            self._append(self._head)
        self._head = self._discarding_from = None
        if self._open_bytes:
            self._append(b"\n")

    def take(self, limit: int) -> Frames:
        """See `Framer.take`. The buffer is as long as the records in it, not as what was fed."""
        if self._has_end and not self._windows:
            self._scan()
        if not self._windows:
            nothing = np.empty(0, np.int64)
            return Frames(b"", nothing, nothing, nothing, nothing)
        window = self._windows[0]
        if len(window.starts) == 1:
            return self._take_one(self._windows.popleft())
        chosen = slice(window.next, window.next + limit)
        starts, ends = window.starts[chosen], window.ends[chosen]
        low, high = int(starts[0]), int(ends[-1])
        refused = dict.fromkeys(np.flatnonzero(window.cut[chosen]).tolist(), self._reason)
        window.next += len(starts)
        if window.next == len(window.starts):
            self._windows.popleft()
        return Frames(
            window.buffer[low:high],
            starts - low,
            ends - low,
            starts + window.base,
            window.numbers[chosen],
            refused,
        )

    def _take_one(self, window: _Window) -> Frames:
        low, high = int(window.starts[0]), int(window.ends[0])
        refused = {0: self._reason} if window.cut[0] else {}
        ends, positions = _ZERO + (high - low), window.starts + window.base
        return Frames(window.buffer[low:high], _ZERO.copy(), ends, positions, window.numbers, refused)

    @property
    def position(self) -> int:
        """See `Framer.position`. In the midst of a line that is refused it is where that line begins.

        Whoever goes on from there is told of the line once more, and never takes its rest for a record.
        """
        if self._has_end and not self._windows:
            self._scan()
        if self._windows:
            return self._windows[0].position()
        if self._discarding_from is not None:
            return self._discarding_from
        return min(self._base, self._fed)

    def place(self) -> Place:
        """See `Resumable.place`: `position` is where the stream must be fed from, after `lines` lines."""
        position = self.position
        if self._windows:
            window = self._windows[0]
            return {"position": position, "lines": int(window.numbers[window.next]) - 1}
        if self._discarding_from is None:
            return {"position": position, "lines": self._lines}
        return {"position": self._base, "lines": self._lines, "discarding_from": self._discarding_from}

    def resume(self, place: Place) -> None:
        """See `Resumable.resume`."""
        self._base = self._fed = place["position"]
        self._lines = place["lines"]
        self._discarding_from = place.get("discarding_from")
        self._head = b"" if self._base == 0 else None

    def _without_bom(self, head: bytes) -> bytes:
        """What follows the byte order mark, if there is one; nothing while that is open."""
        if len(head) < len(_BOM) and _BOM.startswith(head):
            self._head = head
            return b""
        self._head = None
        if not head.startswith(_BOM):
            return head
        self._base += len(_BOM)
        return head[len(_BOM) :]

    def _discard(self, data: bytes) -> bytes:
        """What follows the end of the line that is being discarded."""
        end = data.find(b"\n") + 1
        if end == 0:
            self._base += len(data)
            return b""
        self._base += end
        self._discarding_from = None
        return data[end:]

    def _append(self, data: bytes) -> None:
        self._rest += data
        last = data.rfind(b"\n")
        if last < 0:
            self._open_bytes += len(data)
        else:
            self._has_end = True
            self._open_bytes = len(data) - last - 1
        # One byte more may still be the \r before the end.
        if self._open_bytes > self._limit + 1:
            self._refuse_open_line()

    def _refuse_open_line(self) -> None:
        """The line that has not ended is too long already: keep its beginning, discard what is to come."""
        if self._has_end:
            self._scan()
        self._lines += 1
        self._windows.append(
            _Window(
                bytes(self._rest[: self._kept]),
                self._base,
                np.zeros(1, np.int64),
                np.array([self._kept], np.int64),
                np.array([self._lines], np.int64),
                np.ones(1, np.bool_),
            )
        )
        self._discarding_from = self._base
        self._base += self._open_bytes
        self._rest, self._open_bytes = bytearray(), 0

    def _scan(self) -> None:
        """Find the lines that have ended; only the beginning of the next one remains."""
        buffer = bytes(self._rest)
        first = buffer.find(b"\n") + 1
        if first == len(buffer):
            self._take_only(buffer)
            return
        newlines = np.flatnonzero(np.frombuffer(buffer, np.uint8) == 10)
        window, after = _window(buffer, newlines, self._base, self._lines, self._limit, self._kept)
        if len(window.starts):
            self._windows.append(window)
        self._lines += len(newlines)
        self._base += after
        self._rest = bytearray(buffer[after:])
        self._has_end = False

    def _take_only(self, line: bytes) -> None:
        """The same for one line with its end: arrays of one take several times as long."""
        self._lines += 1
        end = len(line) - 1
        if line[max(end - 1, 0)] == 13:
            end -= 1
        is_cut = end > self._limit
        if is_cut or line[:end].strip(_BLANK):
            ends = _ZERO + (self._kept if is_cut else end)
            cut = _NOT_CUT if not is_cut else ~_NOT_CUT
            self._windows.append(_Window(line, self._base, _ZERO, ends, _ZERO + self._lines, cut))
        self._base += len(line)
        self._rest, self._has_end = bytearray(), False


def _window(
    buffer: bytes, newlines: IntArray, base: int, lines: int, limit: int, kept: int
) -> tuple[_Window, int]:
    """The lines that end in `buffer` at `newlines`, and where the last one does; `lines` came before them."""
    view = np.frombuffer(buffer, np.uint8)
    starts = np.empty_like(newlines)
    starts[0], starts[1:] = 0, newlines[:-1] + 1
    ends = newlines - ((view[newlines - 1] == 13) & (newlines > starts))
    cut = ends - starts > limit
    keep = ends > starts
    for index in np.flatnonzero(keep & ~cut & (view[starts] <= 32)).tolist():
        keep[index] = bool(buffer[starts[index] : ends[index]].strip(_BLANK))
    ends = np.where(cut, starts + kept, ends)
    numbers = np.arange(lines + 1, lines + 1 + len(newlines))
    if not keep.all():
        starts, ends, numbers, cut = starts[keep], ends[keep], numbers[keep], cut[keep]
    return _Window(buffer, base, starts, ends, numbers, cut), int(newlines[-1]) + 1
