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
_BREAK = ord("\n")
_FEW_BYTES = 1 << 16


@dataclass(slots=True)
class Packed:
    """Keys as UTF-8: one uint8 array, and where each begins and ends in it, int64 [n] each.

    `width` is how many bytes each of them has, where that was found to be the same for all; else 0.
    """

    data: NDArray[np.uint8]
    starts: IntArray
    ends: IntArray
    width: int = 0

    @classmethod
    def of(cls, keys: Sequence[str]) -> Packed:
        """Pack keys."""
        # Breaks tell where keys end in a fraction of the time of asking each for its length.
        lines = np.frombuffer(("\n".join(keys) + "\n").encode(), np.uint8)
        is_break, n = lines == _BREAK, len(keys)
        if np.count_nonzero(is_break) != n:  # a key has one of its own, or there is none
            encoded = [key.encode() for key in keys]
            lengths = np.fromiter(map(len, encoded), np.int64, n)
            return cls.cut(np.frombuffer(b"".join(encoded), np.uint8), lengths)
        step = len(lines) // n
        if step > 1 and len(lines) == n * step and is_break[step - 1 :: step].all():
            return cls.even(lines.reshape(n, step)[:, :-1].ravel(), n)
        return cls.cut(lines[~is_break], np.diff(np.flatnonzero(is_break), prepend=-1) - 1)

    @classmethod
    def even(cls, data: NDArray[np.uint8], n: int) -> Packed:
        """Bytes that hold n keys of the same length, which is not 0."""
        width = len(data) // n
        starts = np.arange(0, len(data), width)
        return cls(data, starts, starts + width, width)

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
        if self.width and (n := int(np.count_nonzero(wanted))):
            return Packed.even(self.data.reshape(-1, self.width)[wanted].ravel(), n)
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
        # Side by side, since whoever looks up a key needs both.
        self._where = np.zeros((0, 2), np.int64)
        self._start, self._length = self._where.T
        self._rows = self._used = self._dead = 0

    def __len__(self) -> int:
        """Rows that were ever in use, free ones among them."""
        return self._rows

    def extend(self, rows: int) -> None:
        """So many more free rows behind the last."""
        self._rows += rows
        if self._rows > len(self._where):
            self._where = _grown(self._where, max(self._rows, 2 * len(self._where)), _FREE)
            self._start, self._length = self._where.T

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
        lengths = np.maximum(self._length[rows], 0)
        packed = Packed.cut(self._data[:0], lengths)
        packed.data = self._data[self._at(rows, packed.starts, lengths)]
        return packed

    def equal(self, rows: IntArray, keys: Packed) -> BoolArray:
        """Whether each of the rows holds the key beside it, bool [n]."""
        starts, lengths = self._where.take(rows, axis=0).T
        same: BoolArray = lengths == (keys.width or keys.lengths)
        if not same.all():
            some = np.flatnonzero(same)
            same[some] = [self.encoded(int(rows[i])) == keys.key(int(i)) for i in some]
            return same
        if keys.width:
            held = self._windows(keys.width)[starts]
            if held.tobytes() != keys.data.tobytes():
                same = held == keys.data.view(held.dtype)
            return same
        differs = self._data[self._at(rows, keys.starts, keys.lengths)] != keys.data
        if differs.any():
            same[np.searchsorted(keys.ends, np.flatnonzero(differs), side="right")] = False
        return same

    def _windows(self, width: int) -> NDArray[np.void]:
        """A view of so many bytes from each on."""
        return np.ndarray((max(0, len(self._data) - width + 1),), f"V{width}", self._data, 0, (1,))

    def _at(self, rows: IntArray, starts: IntArray, lengths: IntArray) -> IntArray:
        """Where the bytes of the rows' keys lie, one key after the other."""
        return np.repeat(self._start[rows] - starts, lengths) + np.arange(int(lengths.sum()))


def _grown(old: Array, size: int, fill: int) -> Array:
    new = np.full((size, *old.shape[1:]), fill, old.dtype)
    new[: len(old)] = old
    return new
