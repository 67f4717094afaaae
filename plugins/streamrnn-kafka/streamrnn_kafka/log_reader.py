"""Reads one partition of a log, from file to file, in the order of offsets."""

from __future__ import annotations

from collections import deque
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from streamrnn.errors import SourceError
from streamrnn_kafka.records import (
    ALL,
    HEADER_BYTES,
    NOT_WHOLE,
    FormatError,
    Head,
    Records,
    Wanted,
    decode,
    is_commit,
    is_whole,
    joined,
)
from streamrnn_kafka.segments import (
    BrokenLogError,
    Segment,
    Window,
    blamed,
    head_at,
    hint_for_offset,
    hint_for_time,
    segments,
    walk,
)

if TYPE_CHECKING:
    from streamrnn.context import FileSystem
    from streamrnn.ports import Place


@dataclass(slots=True, eq=False)
class _Batch:
    """A batch that was found and not yet read. `verdict` None: its transaction has not ended yet."""

    segment: Segment
    at: int
    head: Head
    verdict: bool | None
    checked: bool = False


class PartitionReader:
    """The records of a partition from an offset on; `name` is that of its folder, `topic-number`.

    With `committed`, records of aborted transactions are left out and those of open ones waited for, as are
    all behind them. In a log that is not `compacted`, a gap between offsets is an error.
    """

    def __init__(self, fs: FileSystem, folder: Path, committed: bool = True, compacted: bool = False) -> None:
        self._fs, self.folder, self.name = fs, folder, folder.name
        self._committed, self._compacted = committed, compacted
        self.wanted = ALL
        """What is made of a record beside its value."""
        self.next_offset = 0
        self.end: int | None = None
        """Where reading ends, if it does."""
        self._segment: Segment | None = None
        self._heads: Window | None = None
        """The segment in which batches are looked for; those read from may lie behind it."""
        self._at = 0
        self._before: tuple[int, Head] | None = None
        """The batch that was found last in this segment, and where."""
        self._expected: int | None = None
        """The base offset that the next batch must have."""
        self._found: deque[_Batch] = deque()
        self._open: dict[int, list[_Batch]] = {}
        """Batches without a verdict, by producer."""
        self._bodies: tuple[Segment, Window] | None = None
        self._pieces: deque[Records] = deque()
        """Records at hand, `_count` of them."""
        self._count = 0
        self._passed = 0
        """The offset behind the last batch whose records are at hand, or that had none to give."""
        self._last: tuple[int, int] | None = None
        """Base offset and checksum of the batch that was read last."""

    def seek(self, offset: int) -> None:
        """Let reading begin at an offset that is between the log's start and its end."""
        self.close()
        self._found.clear()
        self._open.clear()
        self._pieces.clear()
        self._count, self._last = 0, None
        self.next_offset = self._passed = offset
        self._expected = self._before = None
        found = segments(self._fs, self.folder)
        before = [segment for segment in found if segment.base <= offset]
        self._segment = before[-1] if before else found[0] if found else None
        if self._segment is not None:
            self._heads = Window(self._fs, self._segment.path)
            self._at = hint_for_offset(self._fs, self._segment, offset)
            self._expected = self._segment.base if self._at == 0 else None

    def take(self, limit: int) -> Records | None:
        """At most `limit` records; None if there is none by now, or the end is reached."""
        while self._count < limit and self._read_batch():
            pass
        chosen, room = list[Records](), limit
        while self._pieces and room:
            piece = self._pieces.popleft()
            if len(piece) > room:
                self._pieces.appendleft(piece.cut(room, len(piece)))
                piece = piece.cut(0, room)
            chosen.append(piece)
            room -= len(piece)
        self._count -= limit - room
        if self._pieces:
            self.next_offset = int(chosen[-1].offsets[-1]) + 1
        else:
            self.next_offset = self._passed
        return joined(chosen) if chosen else None

    @property
    def has_ended(self) -> bool:
        """Whether all up to `end` was taken."""
        return self.end is not None and self.next_offset >= self.end

    @property
    def is_blocked(self) -> bool:
        """Whether what comes next belongs to a transaction that has not ended."""
        return bool(self._found) and self._found[0].verdict is None

    def place(self) -> Place:
        """Where it goes on, and what tells that the log before it is still the same."""
        return {"offset": self.next_offset, "before": self._last, "end": self.end}

    def resume(self, place: Place) -> None:
        """Go on from a place. Raises `SourceError` if the log is another one, or lacks what comes next."""
        offset, start, end = place["offset"], self.log_start(), self.log_end()
        if offset > end:
            raise SourceError(f"{self.name}: expected records up to {offset}, found none from {end} on: cut")
        if offset < start:
            lost = f"records {offset} to {start - 1} were deleted before they were read"
            raise SourceError(f"{self.name}: {lost}")
        self.seek(offset)
        if place["before"] is not None:
            self._compare(*place["before"])
        self._last = place["before"]
        self.end = place["end"]

    def log_start(self) -> int:
        """The offset of the first record."""
        found = segments(self._fs, self.folder)
        return found[0].base if found else 0

    def log_end(self) -> int:
        """The offset that the next record will have."""
        found = segments(self._fs, self.folder)
        if not found:
            return 0
        last, end = found[-1], found[-1].base
        with closing(Window(self._fs, last.path)) as window:
            for _, head in walk(window, last.path, hint_for_offset(self._fs, last, 2**62)):
                end = head.next_offset
        return end

    def torn(self) -> str | None:
        """What is left behind the last whole batch of the log, for a person."""
        found = segments(self._fs, self.folder)
        if not found:
            return None
        path, at = found[-1].path, 0
        with closing(Window(self._fs, path)) as window:
            for start, head in walk(window, path, hint_for_offset(self._fs, found[-1], 2**62)):
                at = start + head.size
            left = window.get(at, window.file_size() - at).rstrip(b"\0")
        return f"{path}: the last batch, from byte {at} on, was not written whole; left out" if left else None

    def offset_at(self, timestamp: int) -> int:
        """The first offset whose record is not earlier than `timestamp` in milliseconds; the end if none."""
        for segment in segments(self._fs, self.folder):
            hint = hint_for_time(self._fs, segment, timestamp)
            at = hint_for_offset(self._fs, segment, hint)
            with closing(Window(self._fs, segment.path)) as window:
                for start, head in walk(window, segment.path, at):
                    if head.max_timestamp < timestamp or head.is_control:
                        continue
                    records = _decoded(segment.path, start, window.get(start, head.size), ("timestamp",))
                    late = np.flatnonzero(np.array(records.times) >= timestamp)
                    if len(late):
                        return int(records.offsets[late[0]])
        return self.log_end()

    def close(self) -> None:
        """Close its files; twice is fine."""
        for window in (self._heads, self._bodies[1] if self._bodies else None):
            if window is not None:
                window.close()
        self._heads = self._bodies = None

    def _read_batch(self) -> bool:
        """Add the records of one more batch to those at hand; False if there is none to read by now."""
        while not self._found or self._found[0].verdict is None:
            if not self._find():
                return False
        batch = self._found.popleft()
        if batch.verdict:
            data = self._body(batch)
            records = _decoded(batch.segment.path, batch.at, data, self.wanted, not batch.checked)
            if batch.head.base_offset < self._passed:
                records = records.cut(int(np.searchsorted(records.offsets, self._passed)), len(records))
            self._last = batch.head.base_offset, batch.head.crc
            if len(records):
                self._pieces.append(records)
                self._count += len(records)
        self._passed = batch.head.next_offset
        return True

    def _find(self) -> bool:
        """Look at the next batch of the log; False if there is none by now."""
        if self._segment is None:
            self.seek(self._passed)
        if self._segment is None or self._heads is None:
            return False
        if self.end is not None and self._expected is not None and self._expected >= self.end:
            return False
        path = self._segment.path
        try:
            head = head_at(self._heads, path, self._at)
            if head is not None:
                self._check_order(head)
        except BrokenLogError as error:
            raise blamed(error, self._heads, path, self._before) from error
        if head is None:
            return self._roll()
        self._before = self._at, head
        batch = _Batch(self._segment, self._at, head, True)
        self._at += head.size
        self._expected = head.next_offset
        if head.next_offset > self._passed:
            self._judge(batch)
            self._found.append(batch)
        return True

    def _roll(self) -> bool:
        """Go on in the next segment, if there is one."""
        segment, heads = self._segment, self._heads
        assert segment is not None
        assert heads is not None
        later = [s for s in segments(self._fs, self.folder) if s.base > segment.base]
        if not later:
            return False
        if head_at(heads, segment.path, self._at) is not None:
            return True
        if heads.get(self._at, 1) and heads.get(self._at, heads.file_size()).strip(b"\0"):
            why = "the batch here was not written whole, and the log goes on in another file"
            raise BrokenLogError(segment.path, self._at, why)
        heads.close()
        self._segment, self._at = later[0], 0
        self._heads, self._before = Window(self._fs, later[0].path), None
        return True

    def _check_order(self, head: Head) -> None:
        segment, expected = self._segment, self._expected
        assert segment is not None
        if head.base_offset < segment.base or head.next_offset - segment.base > 2**31:
            why = f"offset {head.base_offset} cannot stand in the segment that begins at {segment.base}"
            raise BrokenLogError(segment.path, self._at, why)
        if expected is None:
            return
        if head.base_offset < expected:
            why = f"offset {head.base_offset} follows offset {expected - 1}"
            raise BrokenLogError(segment.path, self._at, why)
        if head.base_offset > expected and not self._compacted:
            raise BrokenLogError(segment.path, self._at, _gap(expected, head.base_offset))

    def _judge(self, batch: _Batch) -> None:
        """Say whether a batch is to be read, or who will say so."""
        head, path = batch.head, batch.segment.path
        beyond = self.end is not None and head.next_offset > self.end
        if not (head.is_control or head.is_transactional or beyond):
            return
        data = self._heads.get(batch.at, head.size) if self._heads else b""
        if not is_whole(data):
            raise BrokenLogError(path, batch.at, NOT_WHOLE)
        batch.checked = True
        if head.is_control:
            batch.verdict = False
            try:
                committed = is_commit(data)
            except FormatError as error:
                raise BrokenLogError(path, batch.at, error) from error
            for waiting in self._open.pop(head.producer, ()):
                waiting.verdict = committed
        elif self._committed and head.is_transactional:
            batch.verdict = None
            self._open.setdefault(head.producer, []).append(batch)

    def _body(self, batch: _Batch) -> bytes:
        ahead = self._heads if batch.segment is self._segment else None
        if ahead is not None and ahead.holds(batch.at, batch.head.size):
            return ahead.get(batch.at, batch.head.size)
        if self._bodies is None or self._bodies[0] != batch.segment:
            if self._bodies is not None:
                self._bodies[1].close()
            self._bodies = batch.segment, Window(self._fs, batch.segment.path)
        return self._bodies[1].get(batch.at, batch.head.size)

    def _compare(self, base: int, crc: int) -> None:
        """Raise `SourceError` unless the batch that was read last is still in the log, or was deleted."""
        for segment in reversed(segments(self._fs, self.folder)):
            if segment.base > base:
                continue
            with closing(Window(self._fs, segment.path, HEADER_BYTES)) as window:
                for _, head in walk(window, segment.path, hint_for_offset(self._fs, segment, base)):
                    if head.base_offset >= base:
                        if (head.base_offset, head.crc) != (base, crc) and not self._compacted:
                            break
                        return
            raise SourceError(f"{self.name}: record {base} is not that of the last commit: it was replaced")


def _decoded(path: Path, at: int, data: bytes, wanted: Wanted, check: bool = True) -> Records:
    try:
        return decode(data, wanted, check)
    except FormatError as error:
        raise BrokenLogError(path, at, error) from error


def _gap(expected: int, found: int) -> str:
    return (
        f"offsets {expected} to {found - 1} are missing before offset {found}; "
        "if the topic is compacted, set compacted to true"
    )
