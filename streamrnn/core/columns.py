"""What is known of each row beside its model state: named columns, as long as the slab."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from streamrnn.core.rows import put_rows, zeros
from streamrnn.limits import CONTROL, INITIAL

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
    "quarantined": "int64",  # 1 + the resets of all keys until then, if the guard put the key away; 0 if not
    "fresh": "int8",  # how that reset leaves the state: 1 initial, 2 zeros
}
ADDED = {"reset_cause", "quarantined"}
"""Columns that came after the first segments were written: where one lacks them they stay 0."""


APART = ("sequence", "last_time")
"""Columns that are looked through for all rows at a time, to find free, idle or old ones."""


class Columns:
    """Arrays by name, grown together. dtype "object" holds canonical field values.

    Numbers of a row lie side by side, so that a batch reads and writes one place in memory for each row
    instead of one for each column; `arrays` holds views of them. Only objects and `APART` are arrays of their
    own.
    """

    def __init__(self, dtypes: Mapping[str, str]) -> None:
        self._apart = {name: dtype for name, dtype in dtypes.items() if dtype == "object" or name in APART}
        numbers = [(name, dtype) for name, dtype in dtypes.items() if name not in self._apart]
        self._table = np.zeros(0, np.dtype(numbers, align=True))
        self.arrays: dict[str, Array] = {name: np.empty(0, dtype) for name, dtype in dtypes.items()}
        self.capacity = 0

    def __getitem__(self, name: str) -> Array:
        return self.arrays[name]

    def take(self, rows: IntArray) -> Records:
        """A copy of all columns of some rows."""
        return Records(self._table.take(rows), {name: self.arrays[name].take(rows) for name in self._apart})

    def put(self, rows: IntArray, records: Records) -> None:
        """The reverse of `take` for the same number of distinct rows."""
        put_rows(self._table, rows, records.together)
        for name, values in records.apart.items():
            self.arrays[name][rows] = values

    def grow(self, capacity: int) -> None:
        """Room for more rows; new ones are zero, or None."""
        table = zeros((capacity,), self._table.dtype)
        table[: self.capacity] = self._table
        self._table = table
        for name, dtype in self._apart.items():
            grown = np.full(capacity, None) if dtype == "object" else zeros((capacity,), dtype)
            grown[: self.capacity] = self.arrays[name]
            self.arrays[name] = grown
        for name in table.dtype.names or ():
            self.arrays[name] = table[name]
        self.capacity = capacity

    def clear(self, rows: IntArray) -> None:
        """As if no event had ever reached these rows."""
        for array in self.arrays.values():
            array[rows] = None if array.dtype == object else 0


def catch_up(columns: Mapping[str, Array] | Records, epochs: Mapping[int, int]) -> None:
    """Apply to rows, in place, the resets of all keys since the last event of each; but not to their state.

    `epochs` is the last such reset by its cause bits.
    """
    for bits, epoch in epochs.items():
        stale = columns["epoch"] < epoch
        columns["pending"][stale] |= bits
        columns["fresh"][stale] = INITIAL
        columns["reset_known"][stale] = False
        columns["steps"][stale] = 0
        if bits & CONTROL and "quarantined" in columns:
            quarantined = columns["quarantined"]
            quarantined[quarantined <= epoch] = 0


@dataclass(slots=True)
class Records:
    """Columns of some rows, to be read and written by name."""

    together: Array
    apart: dict[str, Array]

    def __getitem__(self, name: str) -> Array:
        return self.apart[name] if name in self.apart else self.together[name]

    def __setitem__(self, name: str, values: Any) -> None:
        self[name][...] = values

    def __contains__(self, name: object) -> bool:
        return name in self.apart or name in (self.together.dtype.names or ())
