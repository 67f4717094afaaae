"""What is known of each row beside its model state: named columns, as long as the slab."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
RESETS = ("reset_time", "reset_sequence", "reset_position", "reset_cause")
"""Columns that a batch without resets neither reads nor writes."""


class Columns:
    """Arrays by name, grown together. dtype "object" holds canonical field values.

    Numbers of a row lie side by side in one array, those of its last reset in another, so that a batch reads
    and writes few places in memory for each row instead of one for each column; `arrays` holds views of them.
    Objects and `APART` are arrays of their own.
    """

    def __init__(self, dtypes: Mapping[str, str]) -> None:
        self.part_of = {name: _part(name, dtype) for name, dtype in dtypes.items()}
        """By column, the name of the array that it is or that holds it."""
        self.parts = {
            part: np.empty(0, _dtype(part, [(n, d) for n, d in dtypes.items() if self.part_of[n] == part]))
            for part in dict.fromkeys(self.part_of.values())
        }
        self.arrays: dict[str, Array] = {}
        self.capacity = 0
        self.grow(0)

    def __getitem__(self, name: str) -> Array:
        return self.arrays[name]

    @property
    def row_bytes(self) -> int:
        """What a row takes of all arrays, without what objects hold."""
        return sum(part.itemsize for part in self.parts.values())

    def take(self, rows: IntArray) -> Records:
        """The columns of some rows."""
        return Records(self, rows)

    def put(self, records: Records) -> None:
        """Store what was read of `records` or set in them; their rows are distinct."""
        for name, values in records.held.items():
            put_rows(self.parts[name], records.rows, values)

    def grow(self, capacity: int) -> None:
        """Room for more rows; new ones are zero, or None."""
        for name, part in self.parts.items():
            grown = np.full(capacity, None) if part.dtype == object else zeros((capacity,), part.dtype)
            grown[: self.capacity] = part
            self.parts[name] = grown
        self.arrays = {name: _column(self.parts[part], name) for name, part in self.part_of.items()}
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
    """Columns of some rows, to be read and written by name.

    `held` are copies of those arrays in `Columns.parts` that were asked for so far.
    """

    columns: Columns
    rows: IntArray
    held: dict[str, Array] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Array:
        part = self.columns.part_of[name]
        if part not in self.held:
            self.held[part] = self.columns.parts[part].take(self.rows)
        return _column(self.held[part], name)

    def __setitem__(self, name: str, values: Any) -> None:
        if self.columns.part_of[name] == name:  # nothing else is in that array
            self.held[name] = np.empty(len(self.rows), self.columns.parts[name].dtype)
        self[name][...] = values

    def __contains__(self, name: object) -> bool:
        return name in self.columns.part_of


def _part(name: str, dtype: str) -> str:
    if dtype == "object" or name in APART:
        return name
    return "resets" if name in RESETS else "rows"


def _dtype(part: str, columns: Sequence[tuple[str, str]]) -> Any:
    return columns[0][1] if columns[0][0] == part else np.dtype(list(columns), align=True)


def _column(part: Array, name: str) -> Array:
    return part if part.dtype.names is None else part[name]
