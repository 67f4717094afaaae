"""What a log knows of its last records, to tell one that is sent again from another of the same number."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from zlib import crc32

WINDOW = 1 << 16
"""So many of the last lines of a log are known; in memory there may be half as many again."""
UNKNOWN = 0
"""The digest of a record that is not there whole; it differs from nothing."""
_MOST = WINDOW // 2


def digest(record: bytes) -> int:
    """Of a record's bytes. Its length and checksum: meant for mistakes, not for attacks."""
    return (len(record) << 32 | crc32(record)) + 1


@dataclass(slots=True)
class _Run:
    """Records of a producer, one behind the other by its numbers and in the log: the first, all digests."""

    name: str
    seq: int
    offset: int
    digests: array[int]

    @property
    def end(self) -> int:
        return self.offset + len(self.digests)


class Window:
    """The digests of a log's last records by producer and number, and what was refused for one of them."""

    def __init__(self) -> None:
        self._runs: deque[_Run] = deque()
        self._of: dict[str, deque[_Run]] = {}
        """The same ones by producer."""
        self._conflicts: dict[tuple[str, int, int], int] = {}
        """The offset of each record that was refused, by producer, number and digest; the oldest first."""

    def add(self, name: str, seq: int, offset: int, digests: Iterable[int]) -> None:
        """Records of a producer from this number on are in the log from this offset on."""
        new = array("Q", digests)
        if excess := max(0, len(new) - WINDOW):
            del new[:excess]
        seq, offset = seq + excess, offset + excess
        last = self._runs[-1] if self._runs else None
        if (
            last is not None
            and (last.name, last.seq + len(last.digests), last.end) == (name, seq, offset)
            and len(last.digests) + len(new) <= _MOST
        ):
            last.digests += new
        else:
            run = _Run(name, seq, offset, new)
            self._runs.append(run)
            self._of.setdefault(name, deque()).append(run)
        self._forget(offset + len(new))

    def add_conflict(self, name: str, seq: int, offset: int, digest: int) -> None:
        """The line at this offset is a record that was refused, since the log has another of this number."""
        self._conflicts[name, seq, digest] = offset
        self._forget(offset + 1)

    def others(self, name: str, seq: int, digests: Sequence[int]) -> list[int]:
        """Indices of those records, from a number on, whose digests are not those that the log has."""
        found, given = list[int](), array("Q", digests)
        for run in self._of.get(name, ()):
            low, high = max(seq, run.seq), min(seq + len(given), run.seq + len(run.digests))
            ours, theirs = run.digests[low - run.seq : high - run.seq], given[low - seq : high - seq]
            if low < high and ours != theirs:
                pairs = enumerate(zip(ours, theirs, strict=True), low - seq)
                found += [i for i, (a, b) in pairs if a != b and UNKNOWN not in (a, b)]
        return found

    def has_conflict(self, name: str, seq: int, digest: int) -> bool:
        """Whether this record was refused already."""
        return (name, seq, digest) in self._conflicts

    def _forget(self, end: int) -> None:
        """Forget what lies so far before the end of the log."""
        while self._runs and self._runs[0].end <= end - WINDOW:
            run = self._runs.popleft()
            mine = self._of[run.name]
            mine.popleft()
            if not mine:
                del self._of[run.name]
        while self._conflicts and next(iter(self._conflicts.values())) < end - WINDOW:
            del self._conflicts[next(iter(self._conflicts))]
