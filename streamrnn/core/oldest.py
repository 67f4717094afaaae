"""Whose last event lies furthest back, without sorting all rows for every batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from streamrnn.events import BoolArray, IntArray

_LEAST = 4096


class Oldest:
    """A list of the oldest rows, looked up now and then; a row counts as long as it had no event since.

    Every event makes its row younger than all that are on the list, so what is left of it stays the oldest.
    """

    def __init__(self) -> None:
        self._rows = self._stamps = np.zeros(0, np.int64)

    def find(self, sequence: IntArray, count: int, without: IntArray) -> IntArray:
        """The `count` oldest rows, int64, oldest first, or all if there are fewer; but for some, sorted.

        `sequence` int64 [capacity] is the number of each row's last event, 0 for none.
        """
        for _ in range(2):
            looked, found = 0, self._rows[:0]
            while looked < len(self._rows) and len(found) < count:
                looked = min(len(self._rows), 2 * max(looked, count))
                found = self._valid(sequence, looked, without)
            if len(found) >= count:
                return found[:count]
            if not self._look(sequence, count + len(without)):
                break
        return self._valid(sequence, len(self._rows), without)[:count]

    def forget(self) -> None:
        """The rows became others."""
        self._rows = self._stamps = np.zeros(0, np.int64)

    def _valid(self, sequence: IntArray, looked: int, without: IntArray) -> IntArray:
        rows = self._rows[:looked]
        there = sequence[rows] == self._stamps[:looked]
        gone = int(there.argmax()) if there.any() else looked
        held: IntArray = rows[there & ~_among(rows, without)]
        self._rows, self._stamps = self._rows[gone:], self._stamps[gone:]
        return held

    def _look(self, sequence: IntArray, count: int) -> bool:
        """List the oldest of all rows anew."""
        live = np.flatnonzero(sequence > 0)
        size = max(_LEAST, 2 * count, len(live) // 16)
        if len(live) > size:
            live = live[np.argpartition(sequence[live], size)[:size]]
        self._rows = live[np.argsort(sequence[live])]
        self._stamps = sequence[self._rows]
        return len(live) > 0


def _among(rows: IntArray, some: IntArray) -> BoolArray:
    """Whether each row is one of some, which are sorted."""
    if not len(some):
        return np.zeros(len(rows), np.bool_)
    at = np.minimum(np.searchsorted(some, rows), len(some) - 1)
    among: BoolArray = some[at] == rows
    return among
