"""The records of one partition, from an offset on, segment after segment."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from streamrnn.log.layout import LogError, byte_of_line, segment_path, segments
from streamrnn.prefix import prefix_in, unlike

if TYPE_CHECKING:
    from streamrnn.codecs.lines import LineFramer
    from streamrnn.context import FileSystem
    from streamrnn.events import Frames
    from streamrnn.ports import Place

_READ_BYTES = 1 << 20
_TAIL_BYTES = 4096


class PartitionReader:
    """Gives whole records with their offsets as positions. Raises `LogError` and `OSError`.

    Between two segments, and before the first, no file is open and `_next` is the offset to go on at. A file
    that is shorter than what was read of it is waited for: its writer has cut what it will write again; what
    then stands before the place is compared.
    """

    def __init__(self, fs: FileSystem, folder: Path, new_framer: Callable[..., LineFramer]) -> None:
        self._fs, self._folder, self._new_framer = fs, folder, new_framer
        self._framer = new_framer()
        self._next = 0
        self._first = 0
        """The offset of the first record of the open segment."""
        self._file: BinaryIO | None = None
        self._at = self._lines = 0
        """How many bytes and how many line ends of the segment were fed."""
        self._tail = b""
        """The last bytes that were fed."""
        self._is_behind = False

    @property
    def offset(self) -> int:
        """That of the next record to give."""
        return self._next if self._file is None else self._first + int(self._framer.place()["lines"])

    @property
    def is_torn(self) -> bool:
        """Whether the last line that was fed has no end."""
        return self._tail[-1:] not in (b"", b"\n")

    def seek(self, offset: int) -> None:
        """Go on at an offset, be it there already or not."""
        self.close()
        self._next = offset

    def take(self, limit: int) -> Frames:
        """See `Framer.take`; positions are offsets, numbers one more."""
        frames = self._framer.take(limit)
        frames.numbers = frames.numbers + self._first
        frames.positions = frames.numbers - 1
        return frames

    def advance(self, end: int | None) -> bool:
        """Feed more, but no record from offset `end` on; False if there was nothing. All must be taken."""
        if self._file is None:
            return (end is None or end > self._next) and self._open()
        later = self._later()  # before the file is found to be at its end: then it is there for good
        data = self._fs.read_at(self._file, self._at, _READ_BYTES)
        if not data:
            if later is not None:
                return self._roll(later)
            self._look_behind()
            return False
        if self._is_behind and not self._is_as_it_was():
            raise LogError(f"{self._path}: its bytes before byte {self._at} are not those that were read")
        self._is_behind = False
        if end is not None:
            data = _first_lines(data, end - self._first - self._lines)
        self._feed(data)
        return bool(data)

    def lag_bytes(self) -> int:
        """Bytes of this segment behind the last record that was given, and of those after it."""
        first = self._next if self._file is None else self._first
        later = [each for each in segments(self._fs, self._folder) if each >= first]
        found = [self._fs.status(segment_path(self._folder, each)) for each in later]
        given = 0 if self._file is None else self._framer.position
        return max(0, sum(status.st_size for status in found if status) - given)

    def place(self) -> Place:
        """See `Resumable.place`."""
        if self._file is None or self._is_behind:
            return {"offset": self.offset}
        inside = self._framer.place()
        before = prefix_in(self._fs, self._file, inside["position"])
        return {"offset": self.offset, "segment": self._first, "framer": inside, "before": before}

    def resume(self, place: Place) -> None:
        """See `Resumable.resume`."""
        self.seek(place["offset"])
        if "segment" not in place:
            return
        path = segment_path(self._folder, place["segment"])
        status = self._fs.status(path)
        if status is None or status.st_size < place["before"]["bytes"]:
            return
        if why := unlike(self._fs, path, place["before"]):
            raise LogError(f"{path}: {why}")
        inside = place["framer"]
        self._begin(place["segment"], inside["position"], inside["lines"] - ("discarding_from" in inside))
        self._framer.resume(inside)

    def close(self) -> None:
        """Give the file back; records that were not taken are forgotten."""
        self._next = self.offset
        if self._file is not None:
            self._file.close()
        self._file, self._framer, self._first, self._tail = None, self._new_framer(), 0, b""
        self._is_behind = False

    @property
    def _path(self) -> Path:
        return segment_path(self._folder, self._first)

    def _later(self) -> int | None:
        """The segment after the open one, if there is one."""
        return next((first for first in segments(self._fs, self._folder) if first > self._first), None)

    def _open(self) -> bool:
        """Open the segment with the next record; False if it is not there yet."""
        found = segments(self._fs, self._folder)
        if not found:
            return False
        if found[0] > self._next:
            raise LogError(
                f"{self._folder}: expected the record at offset {self._next}, found the first one at "
                f"{found[0]}: those before it were removed by retention or by hand; to go on with what is "
                "there, begin anew in another checkpoint dir with start: earliest"
            )
        first = max(first for first in found if first <= self._next)
        with closing(self._fs.open_read(segment_path(self._folder, first))) as file:
            at = byte_of_line(self._fs, file, self._next - first)
        if at is None and first != found[-1]:
            raise LogError(f"{segment_path(self._folder, first)}: has no record at offset {self._next}")
        if at is None:
            return False
        lines = self._next - first
        self._begin(first, at, lines)
        self._framer.resume({"position": at, "lines": lines})
        return True

    def _begin(self, first: int, at: int, lines: int) -> None:
        self._framer = self._new_framer()
        self._file = self._fs.open_read(segment_path(self._folder, first))
        self._first, self._at, self._lines = first, at, lines
        self._tail = self._fs.read_at(self._file, max(0, at - _TAIL_BYTES), min(at, _TAIL_BYTES))

    def _feed(self, data: bytes) -> None:
        self._framer.feed(data)
        self._at += len(data)
        self._lines += data.count(b"\n")
        self._tail = (self._tail + data)[-_TAIL_BYTES:]

    def _roll(self, later: int) -> bool:
        """Leave the segment, which is complete."""
        if self.is_torn or self._first + self._lines != later:
            torn = ", the last of them without an end" if self.is_torn else ""
            raise LogError(
                f"{self._path}: expected {later - self._first} lines, as the next segment begins at offset "
                f"{later}, found {self._lines + self.is_torn}{torn}"
            )
        self.seek(later)
        self._begin(later, 0, 0)
        return True

    def _look_behind(self) -> None:
        """See whether the writer has cut what was read, or begun the segment anew."""
        assert self._file is not None
        now, here = self._fs.status(self._path), self._fs.status_of(self._file)
        if now is None or (now.st_dev, now.st_ino) != (here.st_dev, here.st_ino):
            self.seek(self.offset)
        elif here.st_size < self._at:
            self._is_behind = True

    def _is_as_it_was(self) -> bool:
        assert self._file is not None
        low = self._at - len(self._tail)
        return self._fs.read_at(self._file, low, len(self._tail)) == self._tail


def _first_lines(data: bytes, lines: int) -> bytes:
    """At most so many lines of it; what comes after the last of them is left out too."""
    if lines <= 0:
        return b""
    ends = np.flatnonzero(np.frombuffer(data, np.uint8) == 10)
    return data if len(ends) < lines else data[: int(ends[lines - 1]) + 1]
