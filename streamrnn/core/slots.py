"""An open-addressing table over arrays, asked for many hashes at once: a gather waits for many at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamrnn.events import IntArray

_EMPTY, _REMOVED = -1, -2
_ROW_BITS = 32
_ROW = (1 << _ROW_BITS) - 1
_TAG = (1 << 31) - 1
_FIRST_BITS = 16
_CHUNK = 1 << 15
_PART_BITS = 4


class Slots:
    """Rows by a hash of 64 bits, probed one slot after the other. An entry is 31 bits of it, then the row.

    Whoever asks looks whether the row is the one meant: another may share those 31 bits.
    """

    def __init__(self) -> None:
        self._hash = np.zeros(0, np.uint64)
        self._live = self._filled = 0
        self._make(_FIRST_BITS)

    def __len__(self) -> int:
        return self._live

    def find(self, hashes: NDArray[np.uint64]) -> IntArray:
        """The first row that may be meant by each hash, int64 [n]; -1 where there is none."""
        slots, tags = self._home(hashes), (hashes & np.uint64(_TAG)).view(np.int64)
        entries = self._table.take(slots)
        rows = entries & _ROW  # for most of them that is all
        open_ = np.flatnonzero(entries >> _ROW_BITS != tags)
        entries = entries[open_]
        while len(open_):
            empty = entries == _EMPTY
            rows[open_[empty]] = -1
            open_ = open_[~empty]
            slots[open_] = (slots[open_] + 1) & self._mask
            entries = self._table[slots[open_]]
            rows[open_] = entries & _ROW
            other = entries >> _ROW_BITS != tags[open_]
            open_, entries = open_[other], entries[other]
        return rows

    def walk(self, hashed: int) -> Iterator[int]:
        """Every row that may be meant by one hash."""
        slot, tag = hashed >> self._shift, hashed & _TAG
        while (entry := int(self._table[slot])) != _EMPTY:
            if entry >> _ROW_BITS == tag:
                yield entry & _ROW
            slot = (slot + 1) & self._mask

    def fill(self, rows: IntArray, hashes: NDArray[np.uint64]) -> None:
        """Hold these rows and nothing else."""
        self._keep(rows, hashes)
        self._lay(rows, 0)
        self._live = len(rows)

    def add(self, rows: IntArray, hashes: NDArray[np.uint64]) -> None:
        """Hold more rows."""
        self._keep(rows, hashes)
        # Slots of rows that went come back only with a new table: more than half may be filled until then.
        if 8 * (self._filled + len(rows)) > 5 * (self._mask + 1):
            self._lay(self._table[self._table >= 0] & _ROW, len(rows))
        self._insert(rows)
        self._live += len(rows)

    def remove(self, rows: IntArray) -> None:
        """Hold these rows no longer."""
        slots, entries = self._home(self._hash[rows]), self._entries(rows)
        self._live -= len(rows)
        while len(slots):
            there = self._table[slots] == entries
            self._table[slots[there]] = _REMOVED
            slots, entries = (slots[~there] + 1) & self._mask, entries[~there]

    def _make(self, bits: int) -> None:
        self._shift, self._mask = 64 - bits, (1 << bits) - 1
        self._table = np.full(1 << bits, _EMPTY, np.int64)

    def _keep(self, rows: IntArray, hashes: NDArray[np.uint64]) -> None:
        if int(rows.max(initial=-1)) >= len(self._hash):
            grown = np.zeros(max(int(rows.max()) + 1, 2 * len(self._hash)), np.uint64)
            grown[: len(self._hash)] = self._hash
            self._hash = grown
        self._hash[rows] = hashes

    def _lay(self, rows: IntArray, more: int) -> None:
        """A new table of these rows, at least half of it empty when `more` have come."""
        bits = max(_FIRST_BITS, (2 * (len(rows) + more)).bit_length())
        self._make(bits)
        self._filled = free = 0
        beyond = rows[:0]
        for part in self._in_order(rows):
            # In the order of their homes nobody is in another's way, but for those that wrap around.
            home = self._home(self._hash[part])
            order = np.argsort(home, kind="stable")
            part, count = part[order], np.arange(len(order))
            slots = np.maximum.accumulate(np.maximum(home[order], free) - count) + count
            inside = slots <= self._mask
            self._table[slots[inside]] = self._entries(part[inside])
            self._filled += int(inside.sum())
            beyond, free = np.concatenate([beyond, part[~inside]]), int(slots.max(initial=free - 1)) + 1
        self._insert(beyond)

    def _in_order(self, rows: IntArray) -> Iterator[IntArray]:
        """Some rows at a time, of ever higher homes: sorting all takes twice the memory of the table."""
        if len(rows) <= _CHUNK:
            yield rows
            return
        part = np.empty(len(rows), np.uint8)
        for start in range(0, len(rows), _CHUNK):
            hashes = self._hash[rows[start : start + _CHUNK]]
            part[start : start + _CHUNK] = hashes >> np.uint64(64 - _PART_BITS)
        for i in range(1 << _PART_BITS):
            yield rows[part == i]

    def _insert(self, rows: IntArray) -> None:
        """Put rows at the first slot from their home on that is free, whoever comes first."""
        slots = self._home(self._hash[rows])
        while len(rows):
            there = self._table[slots]
            free = np.flatnonzero(there < 0)
            taken, first = np.unique(slots[free], return_index=True)
            at = free[first]
            self._filled += int((there[at] == _EMPTY).sum())
            self._table[taken] = self._entries(rows[at])
            left = np.ones(len(rows), np.bool_)
            left[at] = False
            rows, slots = rows[left], (slots[left] + 1) & self._mask

    def _entries(self, rows: IntArray) -> IntArray:
        return (self._hash[rows] & np.uint64(_TAG)).astype(np.int64) << _ROW_BITS | rows

    def _home(self, hashes: NDArray[np.uint64]) -> IntArray:
        return (hashes >> np.uint64(self._shift)).view(np.int64)
