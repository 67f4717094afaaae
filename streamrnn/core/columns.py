"""What is known of each row beside its model state: named columns, as long as the slab."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from streamrnn.limits import INITIAL

if TYPE_CHECKING:
    from streamrnn.events import Array, IntArray

BUILT_IN = {
    "sequence": "int64",  # number of the last accepted event; 0 marks a free row
    "last_time": "int64",  # the largest time of the key
    "steps": "int64",  # events since the last reset
    "reset_time": "int64",  # when that reset was, if `reset_known`
    "reset_known": "bool",  # false after a mark, which has no time
    "reset_sequence": "int64",  # the first event after the last reset
    "reset_position": "int64",  # and its position
    "reset_cause": "int64",  # cause bits of that reset; 0 in a segment that does not know the column
    "position": "int64",  # position of the last accepted event
    "epoch": "int64",  # the last reset of all keys that this row has seen
    "pending": "int64",  # cause bits of a reset that the next event finds done
    "fresh": "int8",  # how that reset leaves the state: 1 initial, 2 zeros
}
ADDED = {"reset_cause"}
"""Columns that came after the first segments were written: where one lacks them they stay 0."""


class Columns:
    """Arrays by name, grown together. dtype "object" holds canonical field values."""

    def __init__(self, dtypes: Mapping[str, str]) -> None:
        self.arrays: dict[str, Array] = {name: np.empty(0, dtype) for name, dtype in dtypes.items()}
        self.capacity = 0

    def __getitem__(self, name: str) -> Array:
        return self.arrays[name]

    def grow(self, capacity: int) -> None:
        """Room for more rows; new ones are zero, or None."""
        for name, array in self.arrays.items():
            grown = np.full(capacity, None) if array.dtype == object else np.zeros(capacity, array.dtype)
            grown[: self.capacity] = array
            self.arrays[name] = grown
        self.capacity = capacity

    def clear(self, rows: IntArray) -> None:
        """As if no event had ever reached these rows."""
        for array in self.arrays.values():
            array[rows] = None if array.dtype == object else 0


def catch_up(columns: Mapping[str, Array], epochs: Mapping[int, int]) -> None:
    """Apply to rows, in place, the resets of all keys since the last event of each; but not to their state.

    `epochs` is the last such reset by its cause bits.
    """
    for bits, epoch in epochs.items():
        stale = columns["epoch"] < epoch
        columns["pending"][stale] |= bits
        columns["fresh"][stale] = INITIAL
        columns["reset_known"][stale] = False
        columns["steps"][stale] = 0


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
