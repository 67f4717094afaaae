"""The files of one partition: segments of record batches, and the sparse indexes beside them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from streamrnn.errors import SourceError
from streamrnn_kafka.records import HEADER_BYTES, NOT_WHOLE, FormatError, Head, head, is_whole

if TYPE_CHECKING:
    from streamrnn.context import FileSystem
    from streamrnn.events import Array

_LOG = re.compile(r"(\d{20})\.log")
_WINDOW_BYTES = 1 << 17
_ZEROS = bytes(HEADER_BYTES)
OFFSET_ENTRY = np.dtype([("offset", ">i4"), ("position", ">i4")])
TIME_ENTRY = np.dtype([("timestamp", ">i8"), ("offset", ">i4")])
"""Entries of `.index` and `.timeindex`; offsets count from the base of the segment."""


@dataclass(frozen=True)
class Segment:
    """One file of a log and the offset of its first record, which is its name."""

    folder: Path
    base: int

    @cached_property
    def path(self) -> Path:
        """The file of the records."""
        return self.folder / f"{self.base:020d}.log"

    @property
    def index(self) -> Path:
        """The file that says where offsets lie."""
        return self.path.with_suffix(".index")

    @property
    def time_index(self) -> Path:
        """The file that says at which offsets times lie."""
        return self.path.with_suffix(".timeindex")


def segments(fs: FileSystem, folder: Path) -> list[Segment]:
    """The segments of a partition, oldest first; files that are being deleted or cleaned are none."""
    found = map(_LOG.fullmatch, fs.names(folder))
    return sorted((Segment(folder, int(name[1])) for name in found if name), key=lambda s: s.base)


class Window:
    """An open segment, read in pieces of `size` bytes."""

    def __init__(self, fs: FileSystem, path: Path, size: int = _WINDOW_BYTES) -> None:
        self._fs, self._size = fs, size
        self._file: BinaryIO = fs.open_read(path)
        self._at, self._held = 0, b""

    def get(self, at: int, count: int) -> bytes:
        """Bytes from `at` on; fewer than `count` only at the end of the file."""
        if not self.holds(at, count):
            self._at, self._held = at, self._fs.read_at(self._file, at, max(count, self._size))
        start = at - self._at
        return self._held[start : start + count]

    def holds(self, at: int, count: int) -> bool:
        """Whether so many bytes are at hand."""
        return self._at <= at and at + count <= self._at + len(self._held)

    def file_size(self) -> int:
        """Bytes in the file by now."""
        return self._fs.status_of(self._file).st_size

    def close(self) -> None:
        """Close the file; twice is fine."""
        self._file.close()


class BrokenLogError(SourceError):
    """A log is not what was written; says in which file, from which byte on."""

    def __init__(self, path: Path, position: int, why: object) -> None:
        super().__init__(f"{path}: byte {position}: {why}")


def head_at(window: Window, path: Path, at: int) -> Head | None:
    """The head of the batch at a position; None if there is no whole one, or zeros."""
    data = window.get(at, HEADER_BYTES)
    if len(data) < HEADER_BYTES or (data == _ZEROS and not window.get(at, _WINDOW_BYTES).strip(b"\0")):
        return None
    try:
        found = head(data)
    except FormatError as error:
        raise BrokenLogError(path, at, error) from error
    if window.holds(at, found.size) or at + found.size <= (file_size := window.file_size()):
        return found
    _refuse_hidden(window, path, at, found, file_size - at)
    return None


def _refuse_hidden(window: Window, path: Path, at: int, found: Head, left: int) -> None:
    """A batch that ends behind the end of its file was not written whole, or its length is not true.

    In the second case whole batches lie in what it claims: those that go on where it ends.
    """
    rest = window.get(at, left)
    if is_whole(rest):
        raise BrokenLogError(path, at, f"this batch claims {found.size} bytes, but is whole with {left}")
    start = HEADER_BYTES
    following = found.next_offset.to_bytes(8, "big")
    while (start := rest.find(following, start)) >= 0:
        try:
            inner = head(rest[start : start + HEADER_BYTES]) if left - start >= HEADER_BYTES else None
        except FormatError:
            inner = None
        if inner is not None and inner.size <= left - start and is_whole(rest[start : start + inner.size]):
            why = f"this batch claims {found.size} bytes, but the next one begins at byte {at + start}"
            raise BrokenLogError(path, at, why)
        start += 1


def walk(window: Window, path: Path, at: int = 0) -> Iterator[tuple[int, Head]]:
    """Where the whole batches of a segment begin, from a position where one begins, and their heads."""
    before: tuple[int, Head] | None = None
    while True:
        try:
            found = head_at(window, path, at)
        except BrokenLogError as error:
            raise blamed(error, window, path, before) from error
        if found is None:
            return
        yield at, found
        before = at, found
        at += found.size


def blamed(
    error: BrokenLogError, window: Window, path: Path, before: tuple[int, Head] | None
) -> BrokenLogError:
    """What is wrong at a batch may be the length of the one before it: then that is named."""
    if before is None or is_whole(window.get(before[0], before[1].size)):
        return error
    return BrokenLogError(path, before[0], NOT_WHOLE)


def hint_for_offset(fs: FileSystem, segment: Segment, offset: int) -> int:
    """A position in a segment from which the batch that holds `offset` is found by walking on.

    An index can be missing, be behind, or be damaged; where it leads nowhere, the answer is the start.
    """
    entries = _entries(fs, segment.index, OFFSET_ENTRY, "position")
    at = int(np.searchsorted(entries["offset"], offset - segment.base, "right")) - 1
    return _checked(fs, segment, entries, at, offset) if at >= 0 else 0


def hint_for_time(fs: FileSystem, segment: Segment, timestamp: int) -> int:
    """An offset of a segment before which all records are earlier than `timestamp`, in milliseconds."""
    entries = _entries(fs, segment.time_index, TIME_ENTRY, "timestamp")
    at = int(np.searchsorted(entries["timestamp"], timestamp, "left")) - 1
    return segment.base + int(entries["offset"][at]) if at >= 0 else segment.base


def _entries(fs: FileSystem, path: Path, kind: np.dtype[np.void], growing: str) -> Array:
    """The entries of an index up to where they cease to grow: a live one is filled up with zeros."""
    if fs.status(path) is None:
        return np.zeros(0, kind)
    data = fs.read_bytes(path)
    entries = np.frombuffer(data, kind, len(data) // kind.itemsize)
    grows = np.ones(len(entries), np.bool_)
    for name in ("offset", growing):
        grows[1:] &= entries[name][1:] > entries[name][:-1]
    if len(entries) and not entries[0]["offset"] and not entries[0][growing]:
        grows[0] = False
    return entries[: len(grows) if grows.all() else int(np.argmin(grows))]


def _checked(fs: FileSystem, segment: Segment, entries: Array, at: int, offset: int) -> int:
    position = int(entries["position"][at])
    with closing(Window(fs, segment.path, HEADER_BYTES)) as window:
        try:
            data = window.get(position, HEADER_BYTES)
            found = head(data) if len(data) == HEADER_BYTES else None
            batch = window.get(position, found.size) if found and found.base_offset <= offset else b""
        except FormatError:
            return 0
        return position if found and len(batch) == found.size and is_whole(batch) else 0
