"""Matrix products whose rows do not depend on the rows around them.

BLAS picks its kernels by the shape of a product, so one over all rows may give a row other bits than one over
that row alone. Most kernels do not care how many rows there are once they are a multiple of a few: which
multiple that is on this machine, and up to how many rows, is tried out for every shape of matrix.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamrnn.backends.blas import BLAS_LIMIT

Array = NDArray[Any]

COLUMNS_MIN = 8
ROWS_MAX = 256
"""Rows in one product; more gain nothing, and what is tried out stays small."""
ROWS_WORTHWHILE = 64
DIRECT_MAX = 1_000_000
"""As long as rows * inputs * columns are no more than this, OpenBLAS multiplies without packing the matrix
first (its small-matrix kernels for AVX-512); many narrow products may then be faster than a wide one."""
_DIRECT_ROWS = 8
_PADS = (1, 2, 4, 8)
_TIMES = (1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 32, 64, 128, 256)
_NUMBERS_MIN = 1024
"""So many numbers are compared at least: few can agree by chance."""


class Product:
    """W [inputs, columns] for products x W.

    `tile_rows` is the number of rows that are always multiplied together, the last tile filled up; with None
    it is the one that this machine's BLAS lets be joined into wide products, or else 1.
    """

    def __init__(self, matrix: Array, tile_rows: int | None) -> None:
        self._columns = matrix.shape[1]
        if self._columns == 1:
            # A single column goes to a matrix-vector kernel, where the place in the tile can change the bits.
            matrix = np.pad(matrix, ((0, 0), (0, COLUMNS_MIN - 1)))
        self._matrix = np.ascontiguousarray(matrix)
        self._joined = None if tile_rows else joined_tiles(*self._matrix.shape, self._matrix.dtype.str)
        self.tile_rows: int = tile_rows or (self._joined.tile_rows if self._joined else 1)
        direct = self._joined is not None and self._joined.agree(_DIRECT_ROWS)
        self._direct_rows = _DIRECT_ROWS if direct and _DIRECT_ROWS * matrix.size <= DIRECT_MAX else 0
        self._padded = np.zeros((_PADS[-1], matrix.shape[0]), matrix.dtype)
        self._tile = self._padded[: self.tile_rows]

    def __call__(self, x: Array, out: Array | None = None) -> Array:
        """X [n, inputs], C-contiguous, times W: [n, columns], C-contiguous; a new array, or rows of `out`.

        `out` is for products that are used up before the next one: memory that is asked for anew costs more
        than the product. It has `columns` columns, and a multiple of 8 rows, n or more.
        """
        n = len(x)
        if n <= self.tile_rows:
            return self._narrow(x, n)
        if out is None or self._columns != self._matrix.shape[1]:
            out = np.empty((n + -n % _PADS[-1], self._matrix.shape[1]), self._matrix.dtype)
        if self._joined is None:
            self._tiled(x, self.tile_rows, out)
        elif self._direct_rows and n * self._matrix.size > DIRECT_MAX:
            self._tiled(x, self._direct_rows, out)
        else:
            self._wide(x, self._joined, out)
        return self._cut(out[:n])

    def _narrow(self, x: Array, n: int) -> Array:
        """One tile, the way of single events and busy keys."""
        if n == self.tile_rows:
            return self._cut(np.matmul(x, self._matrix))
        self._tile[:n] = x
        return self._cut(np.matmul(self._tile, self._matrix)[:n])

    def _cut(self, y: Array) -> Array:
        return y if y.shape[1] == self._columns else np.ascontiguousarray(y[:, : self._columns])

    def _tiled(self, x: Array, tile_rows: int, out: Array) -> None:
        n, inputs = x.shape
        rows = n + -n % tile_rows
        if rows != n:
            x = self._fill(x, rows)
        tiles = out[:rows].reshape(-1, tile_rows, out.shape[1])
        np.matmul(x.reshape(-1, tile_rows, inputs), self._matrix, out=tiles)

    def _wide(self, x: Array, joined: JoinedTiles, out: Array) -> None:
        """Products of as many rows as are known to keep the bits of their tiles."""
        n, size = len(x), joined.rows_max
        rows = n + -n % self.tile_rows
        if not joined.agree(min(rows, size)) or not joined.agree(rows % size or size):
            self._tiled(x, self.tile_rows, out)
            return
        if rows != n:
            x = self._fill(x, rows)
        for start in range(0, rows, size):
            np.matmul(x[start : start + size], self._matrix, out=out[start : min(start + size, rows)])

    def _fill(self, x: Array, rows: int) -> Array:
        """The same rows, and some more with any numbers."""
        if rows > len(self._padded):
            self._padded = np.zeros((rows, x.shape[1]), x.dtype)
        self._padded[: len(x)] = x
        return self._padded[:rows]


class JoinedTiles:
    """How many tiles of `tile_rows` rows one product may join without changing a bit; for one shape of W.

    What is not known yet is tried out with random numbers when it is first asked for.
    """

    def __init__(self, inputs: int, columns: int, dtype: str, tile_rows: int) -> None:
        rng = np.random.default_rng(0)
        self.tile_rows = tile_rows
        self._x = rng.standard_normal((ROWS_MAX, inputs)).astype(dtype)
        self._w = (rng.standard_normal((inputs, columns)) / np.sqrt(inputs)).astype(dtype)
        self._columns = 1 if columns == COLUMNS_MIN else columns  # the others may be padding
        self._expected = self._tiles(self._x)
        self._known: dict[int, bool] = {}
        self.rows_max = 0
        for times in _TIMES if self._any_place() else ():
            if times * tile_rows > ROWS_MAX or not self.agree(times * tile_rows):
                break
            self.rows_max = times * tile_rows

    def agree(self, rows: int) -> bool:
        """Whether a product of so many rows, a multiple of `tile_rows`, has the bits of its tiles."""
        known = self._known.get(rows)
        if known is None:
            known = self._known[rows] = self._try(rows)
        return known

    def _tiles(self, x: Array) -> Array:
        tiles: Array = np.matmul(x.reshape(-1, self.tile_rows, x.shape[1]), self._w)
        return tiles.reshape(len(x), -1)

    def _any_place(self) -> bool:
        """Whether it does not matter where in a tile a row is."""

        def moved(rows: Array, by: int) -> Array:
            return np.roll(rows, by, axis=0)

        return all(
            np.array_equal(self._tiles(moved(self._x, by)), moved(self._expected, by))
            for by in range(1, self.tile_rows)
        )

    def _try(self, rows: int) -> bool:
        starts = range(0, ROWS_MAX - rows + 1, rows)
        enough = max(2, -(-_NUMBERS_MIN // (rows * self._columns)))
        with BLAS_LIMIT:
            return all(
                np.array_equal(self._x[i : i + rows] @ self._w, self._expected[i : i + rows])
                for i in (*starts[: enough - 1], ROWS_MAX - rows)
            )


@cache
def joined_tiles(inputs: int, columns: int, dtype: str) -> JoinedTiles | None:
    """The smallest tiles that can be joined up to `ROWS_WORTHWHILE` rows or more, if any can."""
    with BLAS_LIMIT:
        for tile_rows in _PADS:
            tried = JoinedTiles(inputs, columns, dtype, tile_rows)
            if tried.rows_max >= ROWS_WORTHWHILE:
                return tried
    return None
