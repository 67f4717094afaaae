"""The names in the folder of a log, and what can be learnt of a partition without reading its records."""

from __future__ import annotations

import json
import re
import stat
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from streamrnn.context import FileSystem

LOCK = "LOCK"
_COMMITTED = "committed"
_SEGMENT = re.compile(r"(\d{20})\.jsonl")
_PARTITION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_COUNTED_BYTES = 1 << 22


class LogError(Exception):
    """A log does not hold what it should; the message begins with the file or the folder."""


def segment_path(folder: Path, first: int) -> Path:
    """The file of the segment whose first record has this offset."""
    return folder / f"{first:020d}.jsonl"


def segments(fs: FileSystem, folder: Path) -> list[int]:
    """The offset of the first record of each segment of a partition, in order."""
    return [int(found[1]) for name in fs.names(folder) if (found := _SEGMENT.fullmatch(name))]


def is_partition(name: str) -> bool:
    """Whether a partition can have this name: letters, digits, `_`, `-` and `.`, but no `.` or `-` first."""
    return _PARTITION.fullmatch(name) is not None


def partitions(fs: FileSystem, folder: Path) -> list[str]:
    """The names of the partitions of a log, numbers first and by their value."""
    found = [name for name in fs.names(folder) if is_partition(name) and _is_folder(fs, folder / name)]
    return sorted(found, key=in_order)


def in_order(name: str) -> tuple[bool, int, str]:
    """What partitions are sorted by."""
    return (not name.isdecimal(), int(name) if name.isdecimal() else 0, name)


def _is_folder(fs: FileSystem, path: Path) -> bool:
    status = fs.status(path)
    return status is not None and stat.S_ISDIR(status.st_mode)


def lines_before(fs: FileSystem, file: BinaryIO, size: int | None = None) -> int:
    """How many lines end in the first `size` bytes of a file, in all of it if None."""
    return sum(data.count(b"\n") for data in _pieces(fs, file, size))


def byte_of_line(fs: FileSystem, file: BinaryIO, line: int) -> int | None:
    """Where the line begins that has `line` others before it; None if fewer lines have ended."""
    at = 0
    for data in _pieces(fs, file, None) if line else ():
        ended = data.count(b"\n")
        if ended >= line:
            return at + int(np.flatnonzero(np.frombuffer(data, np.uint8) == 10)[line - 1]) + 1
        line -= ended
        at += len(data)
    return None if line else 0


def _pieces(fs: FileSystem, file: BinaryIO, size: int | None) -> Iterator[bytes]:
    at = 0
    while data := fs.read_at(file, at, _COUNTED_BYTES if size is None else min(_COUNTED_BYTES, size - at)):
        yield data
        at += len(data)


def end_of(fs: FileSystem, folder: Path) -> int:
    """The offset that the next record of a partition will have."""
    found = segments(fs, folder)
    if not found:
        return 0
    with closing(fs.open_read(segment_path(folder, found[-1]))) as file:
        return found[-1] + lines_before(fs, file)


def offset_at(fs: FileSystem, folder: Path, time_us: int) -> int:
    """The first offset of the first segment that was written to at this time or later, else the end."""
    for first in segments(fs, folder):
        status = fs.status(segment_path(folder, first))
        if status is not None and status.st_mtime * 1_000_000 >= time_us:
            return first
    return end_of(fs, folder)


def committed_ends(fs: FileSystem, log: Path) -> dict[str, int] | None:
    """By partition the offset from which on nothing is to be read yet; None if the writer publishes none."""
    path = log / _COMMITTED
    if fs.status(path) is None:
        return None
    data = fs.read_bytes(path)
    try:
        ends = json.loads(data)
        if not all(type(end) is int for end in ends.values()):
            raise ValueError
    except (ValueError, AttributeError):
        text = f'{path}: expected {{"0": 12, ...}}, the end of each partition, found {data[:60]!r}'
        raise LogError(text) from None
    return dict(ends)


def publish_ends(fs: FileSystem, log: Path, ends: dict[str, int]) -> None:
    """Let readers read up to these offsets; a reader sees these ends or those before."""
    unfinished = log / f"{_COMMITTED}.tmp"
    with closing(fs.open_write(unfinished, append=False)) as file:
        fs.write(file, json.dumps(ends).encode() + b"\n")
        fs.sync(file)
    fs.replace(unfinished, log / _COMMITTED)
    fs.sync_folder(log)


def publish_none(fs: FileSystem, log: Path) -> None:
    """Let readers read everything."""
    if fs.status(log / _COMMITTED) is not None:
        fs.remove(log / _COMMITTED)
        fs.sync_folder(log)
