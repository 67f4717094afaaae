"""Rows of arrays, moved and looked over as cheaply as numpy can: these decide what a wide batch costs."""

from __future__ import annotations

import math
import mmap
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from streamrnn.events import Array, IntArray

_WIDE_BYTES, _MANY = 16, 4096
_HUGE_BYTES = 1 << 22


def zeros(shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """np.zeros; a large array on huge pages, where the system has them.

    Rows are reached in any order, and each first touch of a page and each look for it costs the same
    however long it is.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size < _HUGE_BYTES or not hasattr(mmap, "MADV_HUGEPAGE"):
        return np.zeros(shape, dtype)
    memory = mmap.mmap(-1, size)
    with suppress(OSError):  # a system that has none says so
        memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, dtype).reshape(shape)


def put_rows(array: Array, rows: IntArray, values: Array) -> None:
    """array[rows] = values for `values` [len(rows), ...] of the same dtype.

    An assignment copies number by number; seen as opaque items, whole rows are copied at once.
    """
    wide = array.strides[0]
    alike = values.dtype == array.dtype and values.shape == (len(rows), *array.shape[1:])
    plain = array.flags.c_contiguous and not array.dtype.hasobject
    if wide >= _WIDE_BYTES and alike and plain:
        _items(array, wide).put(rows, _items(np.ascontiguousarray(values), wide))
    else:
        array[rows] = values


def picked(array: Array, rows: IntArray) -> Array:
    """A copy of some rows; of consecutive ones, several times as fast."""
    return array[rows[0] : rows[-1] + 1].copy() if _consecutive(rows) else array[rows]


def lay(array: Array, rows: IntArray, values: Array) -> None:
    """The reverse: give some rows their values."""
    if _consecutive(rows):
        array[rows[0] : rows[-1] + 1] = values
    else:
        array[rows] = values


def _consecutive(rows: IntArray) -> bool:
    return len(rows) > 0 and rows[-1] - rows[0] == len(rows) - 1 and bool((rows[1:] > rows[:-1]).all())


def all_finite(array: Array) -> bool:
    """Whether every number is finite."""
    if array.dtype.kind != "f":
        return True
    plain = array.dtype.itemsize >= 4 and array.flags.c_contiguous
    # A sum of squares is finite only if all of them are, and needs no array of its own; this product, unlike
    # others, does not warn.
    if array.size >= _MANY and plain and math.isfinite(np.vdot(array, array)):
        return True
    return bool(np.isfinite(array).all())


def _items(array: Array, wide: int) -> Array:
    return array.reshape(len(array), wide // array.itemsize).view(f"V{wide}")[:, 0]
