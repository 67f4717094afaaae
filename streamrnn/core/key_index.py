"""From keys to rows: a dict while it fits the caches, then a table that is asked for many keys at once.

With a million keys a dict lookup waits for memory four times, one key after the other; a gather over arrays
waits for many keys at the same time, and the table takes a third of the memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat
from operator import mul
from typing import TYPE_CHECKING

import numpy as np

from streamrnn.core.key_names import KeyNames, Packed
from streamrnn.core.slots import Slots

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamrnn.events import IntArray

_WIDE_FROM = 32_768
"""Keys from which the table is the faster one; measured by benchmarks/keys.py."""
_FEW = 8
"""Keys that are looked up one by one: below it, the calls for many cost more."""
_WORD = (1 << 64) - 1
_CHUNK = 1 << 15
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

    def remove(self, rows: IntArray) -> None:
        """The keys that `names` still holds for these rows have them no longer."""
        if self._wide is not None:
            self._wide.remove(rows)
            return
        for key in self._names.packed(rows).each():
            del self._small[key.decode()]

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
    """A table of rows by hashes of their keys.

    The hash is a sum of bytes times secret random weights: whoever chooses keys cannot make them collide
    (Carter and Wegman, 1979). Which rows keys get does not depend on it.
    """

    def __init__(self, names: KeyNames) -> None:
        self._names = names
        self._rng = np.random.default_rng()
        self._weights = np.zeros(0, np.uint64)
        self._weight_list: list[int] = []
        self._slots = Slots()

    def __len__(self) -> int:
        return len(self._slots)

    def find(self, keys: Packed) -> IntArray:
        """The row of each key, int64 [n]; -1 where it has none."""
        rows = self._slots.find(self._hash_all(keys))
        found = np.flatnonzero(rows >= 0)
        if len(found) == len(keys):
            same = self._names.equal(rows, keys)
        else:
            same = np.ones(len(keys), np.bool_)
            same[found] = self._names.equal(rows[found], keys.where(rows >= 0))
        for i in np.flatnonzero(~same).tolist():  # another key with the same 31 bits
            rows[i] = self.get(keys.key(i).decode())
        return rows

    def get(self, key: str, missing: int = -1) -> int:
        """The row of a key."""
        data = key.encode()
        rows = (row for row in self._slots.walk(self._hash_of(data)) if self._names.encoded(row) == data)
        return next(rows, missing)

    def fill(self, rows: IntArray) -> None:
        """Index these rows, and nothing else, by the keys they hold."""
        hashes = np.zeros(len(rows), np.uint64)
        for start in range(0, len(rows), _CHUNK):  # what is in between stays in the caches
            chunk = slice(start, start + _CHUNK)
            hashes[chunk] = self._hash_all(self._names.packed(rows[chunk]))
        self._slots.fill(rows, hashes)

    def add(self, keys: Packed, rows: IntArray) -> None:
        """Distinct keys that have no row get these."""
        self._slots.add(rows, self._hash_all(keys))

    def remove(self, rows: IntArray) -> None:
        """The keys of these rows no longer have them."""
        self._slots.remove(rows)

    def _hash_all(self, keys: Packed) -> NDArray[np.uint64]:
        if keys.width:
            self._weigh(keys.width)
            weights = self._weights[: keys.width]
            return _mixed(weights @ keys.data.reshape(-1, keys.width).T.astype(np.uint64) + weights.sum())
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
