"""The end of one partition: lines are appended, segments begun, and removed when they are old."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from streamrnn.log.layout import LogError, lines_before, segment_path, segments
from streamrnn.prefix import prefix_of, unlike

if TYPE_CHECKING:
    from streamrnn.context import Clock, FileSystem
    from streamrnn.events import IntArray
    from streamrnn.log.rolling import Rolling
    from streamrnn.ports import Place


class PartitionWriter:
    """Appends to a partition that nobody else writes to. Raises `LogError` and `OSError`.

    `end` is the offset of the next record. A last line without an end, left by a writer that died, was
    never a record and is cut when the partition is opened.
    """

    def __init__(self, fs: FileSystem, clock: Clock, folder: Path, rolling: Rolling) -> None:
        self._fs, self._clock, self._folder, self._rolling = fs, clock, folder, rolling
        fs.make_folder(folder)
        self._again: _Again | None = None
        self._file: BinaryIO | None = None
        self._first = self.end = self._bytes = 0
        """The open segment's first offset, and its size; without a file, the next segment's."""
        self._begun_s = clock.monotonic()
        self._named = -1
        """The newest segment whose name is on the disk as well as what it holds."""
        self._noted: tuple[object, Place] | None = None
        """The last place that was asked for, so that nothing is synced for a partition that rests."""
        if found := segments(fs, folder):
            self._open(found[-1])

    @property
    def comparing(self) -> bool:
        """Whether there are still records ahead that an earlier run wrote, to be made again."""
        again = self._again
        if again is None:
            return False
        paths = {first: segment_path(self._folder, first) for first in segments(self._fs, self._folder)}
        statuses = {first: self._fs.status(path) for first, path in paths.items() if first >= again.first}
        sizes = {first: status.st_size for first, status in statuses.items() if status is not None}
        return sizes.get(again.first, 0) > again.at or any(sizes[f] for f in sizes if f > again.first)

    def append(self, data: bytes | memoryview, ends: IntArray) -> None:
        """Whole lines, of which each ends where `ends` says."""
        if self._again is not None:
            data, ends = self._compare(self._again, memoryview(data), ends)
        view, begin, total = memoryview(data), 0, len(data)
        if self._bytes and self._is_old():
            self._roll()
        while begin < total:
            last = int(ends.searchsorted(begin + self._rolling.segment_bytes - self._bytes, side="right")) - 1
            stop = int(ends[last]) if last >= 0 else 0
            if stop <= begin and self._bytes:
                self._roll()
                continue
            if stop <= begin:  # an empty segment takes one record of any length
                stop = int(ends[ends.searchsorted(begin, side="right")])
            self._write(view[begin:stop], int(((ends > begin) & (ends <= stop)).sum()))
            begin = stop

    def sync(self) -> None:
        """Return when all records, and the names of their files, would survive a loss of power."""
        if self._file is not None:
            self._fs.sync(self._file)
            self._name(self._first)

    def placing(self) -> Callable[[], Place]:
        """See `Resumable`."""
        first = None if self._file is None else self._first
        return partial(self._durable, self.end, first, self._bytes)

    def _durable(self, offset: int, first: int | None, size: int) -> Place:
        """A place, once all before it is on the disk; full segments are already. On any thread."""
        if first is None:
            return {"offset": offset}
        if self._noted is not None and self._noted[0] == (offset, first, size):
            return self._noted[1]
        path = segment_path(self._folder, first)
        with closing(self._fs.open_read(path)) as file:
            self._fs.sync(file)
        self._name(first)
        place: Place = {"offset": offset, "segment": first, "before": prefix_of(self._fs, path, size)}
        self._noted = (offset, first, size), place
        return place

    def _name(self, first: int) -> None:
        if first > self._named:
            self._fs.sync_folder(self._folder)
            self._named = first

    def cut(self, place: Place | None) -> None:
        """Remove what an earlier run wrote behind its last commit; everything if it knew of nothing here."""
        self.close()
        for first in reversed(segments(self._fs, self._folder)):
            if place is None or "segment" not in place or first > place["segment"]:
                self._fs.remove(segment_path(self._folder, first))
        self._fs.sync_folder(self._folder)
        if place is None or "segment" not in place:
            self._first = self.end = 0 if place is None else place["offset"]
            return
        path = self._checked(place)
        with closing(self._fs.open_write(path, append=True)) as file:
            self._fs.truncate(file, place["before"]["bytes"])
        self._open(place["segment"])

    def compare(self, place: Place | None) -> None:
        """Keep what is behind a place, and compare it with what comes."""
        self.sync()
        place = place or {"offset": 0}
        found = segments(self._fs, self._folder)
        if "segment" in place and place["segment"] in found:
            self._checked(place)
            self._again = _Again(place["segment"], place["before"]["bytes"])
        elif found and self.end > place["offset"]:
            # What retention has removed was published: it is not asked for any more.
            self._again = _Again(found[0], 0, skip=max(0, found[0] - place["offset"]))
        self.end = place["offset"]

    def close(self) -> None:
        """Give the file back; twice is fine."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self._bytes = 0

    def _checked(self, place: Place) -> Path:
        path = segment_path(self._folder, place["segment"])
        if why := unlike(self._fs, path, place["before"]):
            raise LogError(f"{path}: {why}")
        return path

    def _open(self, first: int) -> None:
        path = segment_path(self._folder, first)
        with closing(self._fs.open_read(path)) as file:
            lines, size = lines_before(self._fs, file), self._fs.status_of(file).st_size
            torn = size - _last_end(self._fs, file, size)
        self._file = self._fs.open_write(path, append=True)
        if torn:
            self._fs.truncate(self._file, size - torn)
        self._first, self.end, self._bytes = first, first + lines, size - torn
        self._begun_s = self._clock.monotonic()

    def _write(self, data: memoryview, lines: int) -> None:
        if self._file is None:
            self._first = self.end
            self._file = self._fs.open_write(segment_path(self._folder, self._first), append=True)
        if not self._bytes:
            self._begun_s = self._clock.monotonic()
        self._fs.write(self._file, data)
        self._bytes += len(data)
        self.end += lines

    def _is_old(self) -> bool:
        most_s = self._rolling.segment_s
        return most_s is not None and self._clock.monotonic() - self._begun_s >= most_s

    def _roll(self) -> None:
        """The segment is complete: it is on the disk before the next one begins."""
        self.sync()
        self.close()

    def _compare(self, again: _Again, data: memoryview, ends: IntArray) -> tuple[memoryview, IntArray]:
        """What of `data` goes beyond the records that are there, which must be the same."""
        skipped = min(again.skip, len(ends))
        at = int(ends[skipped - 1]) if skipped else 0
        again.skip -= skipped
        while at < len(data):
            path = segment_path(self._folder, again.first)
            with closing(self._fs.open_read(path)) as file:
                known = self._fs.read_at(file, again.at, len(data) - at)
            if known != data[at : at + len(known)]:
                raise LogError(
                    f"{path}: the records from byte {again.at} on are not what the events give that were "
                    "served again after a commit was found broken, and somebody may have read them; move the "
                    "log away"
                )
            at, again.at = at + len(known), again.at + len(known)
            if not known and not again.next(segments(self._fs, self._folder)):
                self._again = None
                break
        done = int(ends.searchsorted(at, side="right"))
        self.end += done
        return data[at:], ends[done:] - at


@dataclass
class _Again:
    """Where the records are that are to be made again; `skip` more are not there any more."""

    first: int
    at: int
    skip: int = 0

    def next(self, found: list[int]) -> bool:
        """Turn to the segment behind this one, if there is one."""
        later = [first for first in found if first > self.first]
        if later:
            self.first, self.at = later[0], 0
        return bool(later)


def remove_old(fs: FileSystem, clock: Clock, folder: Path, rolling: Rolling, below: int) -> None:
    """Remove the oldest segments that are beyond what is kept; none with a record from `below` on."""
    if rolling.keep_bytes is None and rolling.keep_s is None:
        return
    found = segments(fs, folder)
    statuses = [fs.status(segment_path(folder, first)) for first in found]
    total = sum(status.st_size for status in statuses if status)
    for first, after, status in zip(found, found[1:], statuses, strict=False):
        if status is None or after > below:
            return
        age_s = clock.wall_us() / 1e6 - status.st_mtime
        too_much = rolling.keep_bytes is not None and total > rolling.keep_bytes
        if not too_much and (rolling.keep_s is None or age_s <= rolling.keep_s):
            return
        fs.remove(segment_path(folder, first))
        fs.sync_folder(folder)  # one by one: a gap would be left if only some names came back
        total -= status.st_size


def _last_end(fs: FileSystem, file: BinaryIO, size: int) -> int:
    """Where the last line ends that has an end."""
    while size:
        low = max(0, size - (1 << 16))
        if found := fs.read_at(file, low, size - low).rfind(b"\n") + 1:
            return low + found
        size = low
    return 0
