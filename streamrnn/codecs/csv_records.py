"""CSV records (RFC 4180): finds them in a stream that arrives in pieces of any size."""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from streamrnn.events import Frames

if TYPE_CHECKING:
    from streamrnn.events import IntArray
    from streamrnn.ports import Place

_BOM = b"\xef\xbb\xbf"
_KEPT_BYTES = 256
"""How much of a record that is too long is kept, to show what it was."""


@dataclass(slots=True)
class _Found:
    """Records not yet taken, as offsets into `buffer`, which begins at `base` of the stream."""

    buffer: bytes
    base: int
    starts: IntArray
    ends: IntArray
    numbers: IntArray
    refused: dict[int, str]
    next: int = 0


class CsvFramer:
    """A `Framer` of CSV records: a line end outside quotes ends one, and empty lines are none.

    A quote opens a quoted field only where a field begins. `numbers` are those of the lines on which records
    begin, from where this framer began. With `has_header`, the first record of a stream that begins at
    position 0 names the columns: it is not given, but stands before the records in each buffer that is. A
    record of more than `max_record_bytes` is refused whole, up to its own end: a quoted field that is never
    closed takes the rest of the stream with it.
    """

    def __init__(self, max_record_bytes: int, position: int, delimiter: str, has_header: bool) -> None:
        self._limit = max_record_bytes
        self._delimiter = ord(delimiter)
        self._record = _record_pattern(delimiter)
        self._found: deque[_Found] = deque()
        self._rest = bytearray()
        self._searched = False
        """Whether no record ends in `_rest`."""
        self._base, self._lines = position, 0
        self._discarding_from: int | None = None
        self._quotes = 0
        """Quotes in the part of a record that was discarded."""
        self._wants_header = has_header and position == 0
        self._header = b""

    def feed(self, data: bytes) -> None:
        """See `Framer.feed`."""
        if self._discarding_from is not None:
            data = self._discard(data)
        self._rest += data
        self._searched = self._searched and b"\n" not in data
        if len(self._rest) > self._limit:
            self._search()
            # Two bytes more may still be the end of the line.
            if len(self._rest) > self._limit + 2:
                self._refuse_open()

    def finish(self) -> None:
        """See `Framer.finish`."""
        self._searched = False  # a byte order mark may have come since
        self._search()
        if self._rest:
            end = np.array([len(self._rest)])
            self._keep(bytes(self._rest) + b"\n", np.zeros(1, np.int64), end, end + 1)
            self._base += len(self._rest)
            self._rest = bytearray()

    def take(self, limit: int) -> Frames:
        """See `Framer.take`."""
        self._search()
        if not self._found:
            nothing = np.empty(0, np.int64)
            return Frames(b"", nothing, nothing, nothing, nothing)
        found = self._found[0]
        low, high = found.next, min(found.next + limit, len(found.starts))
        starts, ends = found.starts[low:high], found.ends[low:high]
        shift = int(starts[0]) - len(self._header)
        refused = {index - low: reason for index, reason in found.refused.items() if low <= index < high}
        found.next = high
        if high == len(found.starts):
            self._found.popleft()
        buffer = self._header + found.buffer[int(starts[0]) : int(ends[-1])]
        return Frames(
            buffer, starts - shift, ends - shift, starts + found.base, found.numbers[low:high], refused
        )

    @property
    def position(self) -> int:
        """See `Framer.position`; in the midst of a record that is refused it is where that begins."""
        self._search()
        if self._found:
            found = self._found[0]
            return found.base + int(found.starts[found.next])
        return self._base if self._discarding_from is None else self._discarding_from

    def place(self) -> Place:
        """See `Resumable.place`; the header goes along, since it stands at the start of the stream alone."""
        position = self.position
        place: Place = {"position": position, "lines": self._lines, "header": self._header.decode("latin-1")}
        if self._found:
            place["lines"] = int(self._found[0].numbers[self._found[0].next]) - 1
        elif self._discarding_from is not None:
            place |= {"position": self._base, "quotes": self._quotes, "discarding_from": position}
        return place | {"wants_header": self._wants_header}

    def resume(self, place: Place) -> None:
        """See `Resumable.resume`."""
        self._base, self._lines = place["position"], place["lines"]
        self._header, self._wants_header = place["header"].encode("latin-1"), place["wants_header"]
        self._discarding_from, self._quotes = place.get("discarding_from"), place.get("quotes", 0)

    def _search(self) -> None:
        """Find the records that have ended; only the beginning of the next one remains."""
        if self._searched or self._discarding_from is not None:
            return
        self._searched = True
        if self._base == 0 and self._rest.startswith(_BOM):
            self._base, self._rest = len(_BOM), self._rest[len(_BOM) :]
        buffer = bytes(self._rest)
        newlines = self._record_ends(buffer)
        if len(newlines):
            starts = np.concatenate([[0], newlines[:-1] + 1])
            ends = newlines - (np.frombuffer(buffer, np.uint8).take(newlines - 1, mode="clip") == ord("\r"))
            self._keep(buffer, starts, np.maximum(ends, starts), newlines)
            after = int(newlines[-1]) + 1
            self._base += after
            self._rest = bytearray(buffer[after:])

    def _record_ends(self, buffer: bytes) -> IntArray:
        """Where the line feeds are that end a record."""
        view = np.frombuffer(buffer, np.uint8)
        newlines = np.flatnonzero(view == ord("\n"))
        quotes = np.flatnonzero(view == ord('"'))
        if not len(quotes) or not len(newlines):
            return newlines
        opening = quotes[::2]
        before = view[opening[opening > 0] - 1]
        # Where each odd quote begins a field, or is the second of a pair, quotes need only be counted.
        if ((before == self._delimiter) | (before == ord("\n")) | (before == ord('"'))).all():
            ends: IntArray = newlines[np.searchsorted(quotes, newlines) % 2 == 0]
            return ends
        found, at = [], 0
        while match := self._record.match(buffer, at):
            at = match.end()
            found.append(at - 1)
        return np.array(found, np.int64)

    def _keep(self, buffer: bytes, starts: IntArray, ends: IntArray, newlines: IntArray) -> None:
        """Put records that have ended where `take` finds them, but the header aside."""
        lines = np.flatnonzero(np.frombuffer(buffer, np.uint8)[: int(newlines[-1]) + 1] == ord("\n"))
        keep = ends > starts
        starts, ends = starts[keep], ends[keep]
        numbers = np.searchsorted(lines, starts) + self._lines + 1
        self._lines += len(lines)
        if self._wants_header and len(starts):
            self._wants_header = False
            self._header = buffer[int(starts[0]) : int(ends[0])] + b"\n"
            starts, ends, numbers = starts[1:], ends[1:], numbers[1:]
        long = np.flatnonzero(ends - starts > self._limit)
        if len(long):
            cut = bytearray(buffer)
            for index in long.tolist():  # what is left out must not be taken for a header
                low, high = int(starts[index]) + min(_KEPT_BYTES, self._limit), int(ends[index])
                cut[low:high] = b"\n" * (high - low)
                ends[index] = low
            buffer = bytes(cut)
        if len(starts):
            refused = dict.fromkeys(long.tolist(), self._reason())
            self._found.append(_Found(buffer, self._base, starts, ends, numbers, refused))

    def _reason(self) -> str:
        return f"record of more than {self._limit} bytes"

    def _refuse_open(self) -> None:
        """The record that has not ended is too long already: keep its beginning, discard what is to come."""
        head = bytes(self._rest[: min(_KEPT_BYTES, self._limit)])
        start, end = np.zeros(1, np.int64), np.array([len(head)])
        if self._wants_header:
            self._wants_header = False
        else:
            number = np.array([self._lines + 1])
            self._found.append(_Found(head, self._base, start, end, number, {0: self._reason()}))
        self._discarding_from, self._quotes = self._base, 0
        rest, self._rest = bytes(self._rest), bytearray()
        self._rest += self._discard(rest)

    def _discard(self, data: bytes) -> bytes:
        """What follows the end of the record that is being discarded."""
        at = 0
        while (end := data.find(b"\n", at)) >= 0:
            self._quotes += data.count(b'"', at, end)
            self._lines += 1
            at = end + 1
            if self._quotes % 2 == 0:
                self._discarding_from, self._searched = None, False
                break
        else:
            self._quotes += data.count(b'"', at)
            at = len(data)
        self._base += at
        return data[at:]


def _record_pattern(delimiter: str) -> re.Pattern[bytes]:
    plain = rf"[^{re.escape(delimiter)}\n]*+"
    field = rf'(?:"(?:[^"]++|"")*+"{plain}|(?!"){plain})'
    return re.compile(rf"(?:{field}{re.escape(delimiter)})*+{field}\n".encode())
