"""Matrix products whose rows do not depend on the rows around them.

One product over all rows does: OpenBLAS picks its kernels by the number of rows and the place of a row.
Tiles of a fixed number of rows always meet the same kernels.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

Array = NDArray[Any]

COLUMNS_MIN = 8


class TiledMatrix:
    """W [inputs, columns] for products x W, in tiles of `tile_rows` rows."""

    def __init__(self, matrix: Array, tile_rows: int) -> None:
        self._columns = matrix.shape[1]
        if self._columns == 1:
            # A single column goes to a matrix-vector kernel, where the place in the tile can change the bits.
            matrix = np.pad(matrix, ((0, 0), (0, COLUMNS_MIN - 1)))
        self._matrix = np.ascontiguousarray(matrix)
        self._tile_rows = tile_rows

    def __call__(self, x: Array) -> Array:
        """X [n, inputs], C-contiguous, times W: a new array [n, columns], C-contiguous."""
        rows = len(x)
        y = np.matmul(x, self._matrix) if rows == self._tile_rows else self._tiled(x, rows)
        return y if y.shape[1] == self._columns else np.ascontiguousarray(y[:, : self._columns])

    def _tiled(self, x: Array, rows: int) -> Array:
        size, inputs = self._tile_rows, x.shape[1]
        if short := -rows % size:
            x = np.concatenate((x, np.zeros((short, inputs), x.dtype)))
        product: Array = np.matmul(x.reshape(-1, size, inputs), self._matrix)
        return product.reshape(len(x), -1)[:rows]


class BlasLimit:
    """Holds BLAS at one thread while anyone needs it: with more, a product may be split by their number.

    The number of threads belongs to the process, so models that are open at once share one limit.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holders = 0
        self._limiter: Any = None

    def hold(self) -> None:
        """Set the limit, if nobody holds it yet."""
        with self._lock:
            if self._holders == 0:
                self._limiter = threadpool_limits(limits=1, user_api="blas")
            self._holders += 1

    def release(self) -> None:
        """Lift the limit, if nobody else holds it."""
        with self._lock:
            self._holders -= 1
            if self._holders == 0 and self._limiter is not None:
                self._limiter.restore_original_limits()


BLAS_LIMIT = BlasLimit()
