"""From keys to rows: a dict while it fits the caches, then a table that is asked for many keys at once.

With a million keys a dict lookup waits for memory four times, one key after the other; a gather over arrays
waits for many keys at the same time, and the table takes a third of the memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import repeat
from operator import mul
from typing import TYPE_CHECKING

import numpy as np

from streamrnn.core.key_names import KeyNames, Packed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamrnn.events import IntArray

_WIDE_FROM = 32_768
"""Keys from which the table is the faster one; measured by benchmarks/keys.py."""
_FEW = 8
"""Keys that are looked up one by one: below it, the calls for many cost more."""
_EMPTY, _REMOVED = -1, -2
_ROW_BITS = 32
_ROW = (1 << _ROW_BITS) - 1
_TAG = (1 << 31) - 1
_WORD = (1 << 64) - 1
_FIRST_BITS = 16
_CHUNK = 1 << 15
_PART_BITS = 4
_ODD = 0x9E3779B97F4A7C15


class KeyIndex:
    """Rows by key, for the keys that `names` holds."""

    def __init__(self, names: KeyNames) -> None:
        self._names = names
        self._small: dict[str, int] = {}
        self._wide: WideIndex | None = None

    def __len__(self) -> int:
        return len(self._small) if self._wide is None else len(self._wide)

    def find(self, keys: Sequence[str]) -> IntArray:
        """The row of each key, int64 [n]; -1 where it has none."""
        if self._wide is not None and len(keys) >= _FEW:
            return self._wide.find(Packed.of(keys))
        get = self._small.get if self._wide is None else self._wide.get
        return np.fromiter(map(get, keys, repeat(-1)), np.int64, len(keys))

    def get(self, key: str) -> int:
        """The row of a key, or -1."""
        return self._small.get(key, -1) if self._wide is None else self._wide.get(key)

    def add(self, keys: Sequence[str], rows: IntArray) -> None:
        """Distinct keys that have no row get these; `names` holds them already."""
        if self._wide is not None:
            self._wide.add(Packed.of(keys), rows)
            return
        self._small.update(zip(keys, rows.tolist(), strict=True))
        if len(self._small) > _WIDE_FROM:
            self._widen()

    def remove(self, key: str, row: int) -> None:
        """A key no longer has its row."""
        if self._wide is None:
            del self._small[key]
        else:
            self._wide.remove(row)

    def rebuild(self) -> None:
        """Index all that `names` holds."""
        self._small, self._wide = {}, None
        held = self._names.held()
        if len(held) > _WIDE_FROM:
            self._wide = WideIndex(self._names)
            self._wide.fill(held)
        else:
            self._small = {str(self._names.key(row)): row for row in held.tolist()}

    def _widen(self) -> None:
        rows = np.fromiter(self._small.values(), np.int64, len(self._small))
        self._wide, self._small = WideIndex(self._names), {}
        self._wide.fill(rows)


class WideIndex:
    """An open-addressing table, probed one slot after the other. An entry is 31 bits of a hash, then the row.

    The hash is a sum of bytes times secret random weights: whoever chooses keys cannot make them collide
    (Carter and Wegman, 1979). Which rows keys get does not depend on it.
    """

    def __init__(self, names: KeyNames) -> None:
        self._names = names
        self._rng = np.random.default_rng()
        self._weights = np.zeros(0, np.uint64)
        self._weight_list: list[int] = []
        self._hash = np.zeros(0, np.uint64)
        self._live = self._filled = 0
        self._make(_FIRST_BITS)

    def __len__(self) -> int:
        return self._live

    def find(self, keys: Packed) -> IntArray:
        """The row of each key, int64 [n]; -1 where it has none."""
        rows = np.full(len(keys), -1, np.int64)
        hashes = self._hash_all(keys)
        slots, tags = self._home(hashes), (hashes & np.uint64(_TAG)).astype(np.int64)
        open_ = np.arange(len(keys))
        while len(open_):
            entries = self._table[slots]
            hit = (entries >> _ROW_BITS == tags) & (entries >= 0)
            rows[open_[hit]] = entries[hit] & _ROW
            on = ~hit & (entries != _EMPTY)
            open_, slots, tags = open_[on], (slots[on] + 1) & self._mask, tags[on]
        found = np.flatnonzero(rows >= 0)
        if len(found) == len(keys):
            same = self._names.equal(rows, keys)
        else:
            same = np.ones(len(keys), np.bool_)
            same[found] = [self._names.encoded(int(rows[i])) == keys.key(int(i)) for i in found]
        for i in np.flatnonzero(~same).tolist():  # another key with the same 31 bits
            rows[i] = self.get(keys.key(i).decode())
        return rows

    def get(self, key: str, missing: int = -1) -> int:
        """The row of a key."""
        data = key.encode()
        hashed = self._hash_of(data)
        slot, tag = hashed >> self._shift, hashed & _TAG
        while (entry := int(self._table[slot])) != _EMPTY:
            if entry >> _ROW_BITS == tag and self._names.encoded(entry & _ROW) == data:
                return entry & _ROW
            slot = (slot + 1) & self._mask
        return missing

    def fill(self, rows: IntArray) -> None:
        """Index these rows, and nothing else, by the keys they hold."""
        for start in range(0, len(rows), _CHUNK):  # what is in between stays in the caches
            chunk = rows[start : start + _CHUNK]
            self._set_hashes(chunk, self._names.packed(chunk))
        self._lay(rows, 0)
        self._live = len(rows)

    def add(self, keys: Packed, rows: IntArray) -> None:
        """Distinct keys that have no row get these."""
        self._set_hashes(rows, keys)
        if 2 * (self._filled + len(rows)) > self._mask + 1:
            self._lay(self._table[self._table >= 0] & _ROW, len(rows))
        self._insert(rows)
        self._live += len(rows)

    def remove(self, row: int) -> None:
        """The key of this row no longer has it."""
        hashed = int(self._hash[row])
        slot, entry = hashed >> self._shift, (hashed & _TAG) << _ROW_BITS | row
        while self._table[slot] != entry:
            slot = (slot + 1) & self._mask
        self._table[slot] = _REMOVED
        self._live -= 1

    def _make(self, bits: int) -> None:
        self._shift, self._mask = 64 - bits, (1 << bits) - 1
        self._table = np.full(1 << bits, _EMPTY, np.int64)

    def _set_hashes(self, rows: IntArray, keys: Packed) -> None:
        if int(rows.max(initial=-1)) >= len(self._hash):
            hashes = np.zeros(max(int(rows.max()) + 1, 2 * len(self._hash)), np.uint64)
            hashes[: len(self._hash)] = self._hash
            self._hash = hashes
        self._hash[rows] = self._hash_all(keys)

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
        return (hashes >> np.uint64(self._shift)).astype(np.int64)

    def _hash_all(self, keys: Packed) -> NDArray[np.uint64]:
        lengths = keys.lengths
        self._weigh(int(lengths.max(initial=0)))
        terms = np.zeros(len(keys.data) + 1, np.uint64)
        np.multiply(keys.data.astype(np.uint64) + np.uint64(1), self._weights[keys.places], out=terms[1:])
        sums = np.cumsum(terms, out=terms)
        return _mixed(sums[keys.ends] - sums[keys.starts])

    def _hash_of(self, key: bytes) -> int:
        self._weigh(len(key))
        weights = self._weight_list
        hashed: int = (sum(map(mul, key, weights)) + sum(weights[: len(key)])) & _WORD
        hashed = ((hashed ^ hashed >> 32) * _ODD) & _WORD
        return hashed ^ hashed >> 29

    def _weigh(self, length: int) -> None:
        """Weights for keys of so many bytes."""
        if length > len(self._weights):
            more = self._rng.integers(
                0, _WORD, 2 * length + 64 - len(self._weights), np.uint64, endpoint=True
            )
            self._weights = np.concatenate([self._weights, more | np.uint64(1)])
            self._weight_list = self._weights.tolist()


def _mixed(hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Spread what the upper bits say over all of them; `_hash_of` does the same for one."""
    hashes = (hashes ^ hashes >> np.uint64(32)) * np.uint64(_ODD)
    mixed: NDArray[np.uint64] = hashes ^ hashes >> np.uint64(29)
    return mixed
