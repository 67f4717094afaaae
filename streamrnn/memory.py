"""How much memory keys take at their ceiling, and how much there is: asked before the first event."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streamrnn.context import FileSystem

_CGROUP = Path("/sys/fs/cgroup")


def available_bytes(fs: FileSystem) -> int | None:
    """What this machine has, or what the process's control groups leave it of that; None if nobody says."""
    limits = [*_of_the_machine(fs), *_of_groups(fs)]
    return min(limits, default=None)


def in_words(count: int) -> str:
    """`1.5 GB`."""
    for unit, size in (("GB", 10**9), ("MB", 10**6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:,} bytes"


def _of_the_machine(fs: FileSystem) -> Iterator[int]:
    for line in _lines(fs, Path("/proc/meminfo")):
        if line.startswith("MemTotal:"):
            yield int(line.split()[1]) * 1024


def _of_groups(fs: FileSystem) -> Iterator[int]:
    """Of every group from the process's own upwards, in either version of control groups."""
    for line in _lines(fs, Path("/proc/self/cgroup")):
        number, controllers, name = line.split(":", 2)
        if number == "0":
            top, file = _CGROUP, "memory.max"
        elif "memory" in controllers.split(","):
            top, file = _CGROUP / "memory", "memory.limit_in_bytes"
        else:
            continue
        group = Path(name.strip("/"))
        for folder in (group, *group.parents):
            for limit in _lines(fs, top / folder / file):
                if limit.isdecimal():
                    yield int(limit)


def _lines(fs: FileSystem, path: Path) -> list[str]:
    try:
        return fs.read_bytes(path).decode().splitlines()
    except OSError:
        return []
