"""The key of each row, as bytes one after the other: a third of what as many `str` objects take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamrnn.events import Array, BoolArray, IntArray

_FREE = -1
_FEW_BYTES = 1 << 16


@dataclass(slots=True)
class Packed:
    """Keys as UTF-8: one uint8 array, and where each begins and ends in it, int64 [n] each."""

    data: NDArray[np.uint8]
    starts: IntArray
    ends: IntArray

    @classmethod
    def of(cls, keys: Sequence[str]) -> Packed:
        """Pack keys."""
        text = "".join(keys)
        if text.isascii():
            lengths = np.fromiter(map(len, keys), np.int64, len(keys))
            return cls.cut(np.frombuffer(text.encode(), np.uint8), lengths)
        encoded = [key.encode() for key in keys]
        lengths = np.fromiter(map(len, encoded), np.int64, len(keys))
        return cls.cut(np.frombuffer(b"".join(encoded), np.uint8), lengths)

    @classmethod
    def cut(cls, data: NDArray[np.uint8], lengths: IntArray) -> Packed:
        """Bytes that hold keys of these lengths."""
        ends = np.cumsum(lengths)
        return cls(data, ends - lengths, ends)

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def lengths(self) -> IntArray:
        """Bytes of each key, int64 [n]."""
        return self.ends - self.starts

    @property
    def offsets(self) -> IntArray:
        """Where each key begins, and where the last ends, int64 [n + 1]."""
        return np.concatenate([np.zeros(1, np.int64), self.ends])

    @property
    def places(self) -> IntArray:
        """The place of every byte in its key, int64 [len(data)]."""
        return np.arange(len(self.data)) - np.repeat(self.starts, self.lengths)

    def where(self, wanted: BoolArray) -> Packed:
        """Those keys of which `wanted`, bool [n], says so."""
        return Packed.cut(self.data[np.repeat(wanted, self.lengths)], self.lengths[wanted])

    def each(self) -> list[bytes]:
        """All of them, one by one."""
        data = self.data.tobytes()
        return [data[a:b] for a, b in zip(self.starts.tolist(), self.ends.tolist(), strict=True)]

    def key(self, i: int) -> bytes:
        """One key."""
        return self.data[self.starts[i] : self.ends[i]].tobytes()


class KeyNames:
    """Keys by row. Bytes of rows that were freed stay until they are more than the rest."""

    def __init__(self) -> None:
        self._data = np.zeros(_FEW_BYTES, np.uint8)
        self._start = np.zeros(0, np.int64)
        self._length = np.zeros(0, np.int32)
        self._rows = self._used = self._dead = 0

    def __len__(self) -> int:
        """Rows that were ever in use, free ones among them."""
        return self._rows

    def extend(self, rows: int) -> None:
        """So many more free rows behind the last."""
        self._rows += rows
        if self._rows > len(self._start):
            capacity = max(self._rows, 2 * len(self._start))
            self._start = _grown(self._start, capacity, 0)
            self._length = _grown(self._length, capacity, _FREE)

    def free(self) -> IntArray:
        """The rows that hold no key."""
        return np.flatnonzero(self._length[: self._rows] == _FREE)

    def held(self) -> IntArray:
        """The rows that hold one, ascending."""
        return np.flatnonzero(self._length[: self._rows] != _FREE)

    def key(self, row: int) -> str | None:
        """The key of a row, None if it is free."""
        found = self.encoded(row)
        return None if found is None else found.decode()

    def encoded(self, row: int) -> bytes | None:
        """The key of a row as it is kept."""
        length = int(self._length[row])
        start = int(self._start[row])
        return None if length == _FREE else self._data[start : start + length].tobytes()

    def put(self, rows: IntArray, keys: Packed) -> None:
        """Give free rows their keys."""
        need = self._used + len(keys.data)
        if need > len(self._data):
            self._data = _grown(self._data, max(need, 2 * len(self._data)), 0)
        self._data[self._used : need] = keys.data
        self._start[rows] = self._used + keys.starts
        self._length[rows] = keys.lengths
        self._used = need

    def clear(self, rows: IntArray) -> None:
        """Free rows, if they are not free."""
        self._dead += int(np.maximum(self._length[rows], 0).sum())
        self._length[rows] = _FREE
        if self._dead > _FEW_BYTES and 2 * self._dead > self._used:
            held = self.held()
            kept = self.packed(held)
            self._used = self._dead = 0
            self.put(held, kept)

    def holds(self, rows: IntArray) -> BoolArray:
        """Whether each row has a key, bool [n]."""
        held: BoolArray = self._length[rows] != _FREE
        return held

    def packed(self, rows: IntArray) -> Packed:
        """The keys of rows; those of free ones are empty."""
        lengths = np.maximum(self._length[rows], 0).astype(np.int64)
        packed = Packed.cut(self._data[:0], lengths)
        packed.data = self._data[self._at(rows, packed.starts, lengths)]
        return packed

    def equal(self, rows: IntArray, keys: Packed) -> BoolArray:
        """Whether each of the rows holds the key beside it, bool [n]."""
        same: BoolArray = self._length[rows] == keys.lengths
        if not same.all():
            some = np.flatnonzero(same)
            same[some] = [self.encoded(int(rows[i])) == keys.key(int(i)) for i in some]
            return same
        differs = self._data[self._at(rows, keys.starts, keys.lengths)] != keys.data
        if differs.any():
            same[np.searchsorted(keys.ends, np.flatnonzero(differs), side="right")] = False
        return same

    def _at(self, rows: IntArray, starts: IntArray, lengths: IntArray) -> IntArray:
        """Where the bytes of the rows' keys lie, one key after the other."""
        return np.repeat(self._start[rows] - starts, lengths) + np.arange(int(lengths.sum()))


def _grown(old: Array, size: int, fill: int) -> Array:
    new = np.full(size, fill, old.dtype)
    new[: len(old)] = old
    return new
