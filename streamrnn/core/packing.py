"""All that is known of a key as bytes, and back: what lies on the disk of a key that is not in memory."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from streamrnn.values import from_bytes, to_bytes

if TYPE_CHECKING:
    from streamrnn.events import Array, IntArray

_LENGTH = struct.Struct("<i")


@dataclass(frozen=True, slots=True)
class Packs:
    """Some keys with their numbers as rows int64 [n], columns [n] by name and state tensors [n, *shape]."""

    numbers: IntArray
    keys: list[bytes]
    columns: Mapping[str, Array]
    state: Mapping[str, Array]


class Packing:
    """Numbers of a key one after the other, then its bytes, then fields that are objects."""

    def __init__(self, columns: Mapping[str, Array], state: Mapping[str, Array]) -> None:
        self._objects = [name for name, column in columns.items() if column.dtype == object]
        self._columns = [name for name in columns if name not in self._objects]
        self._state = list(state)
        self._dtype = np.dtype(
            [("number", "i8"), ("key_bytes", "i4")]
            + [(f"column {name}", columns[name].dtype) for name in self._columns]
            + [(f"state {name}", array.dtype, array.shape[1:]) for name, array in state.items()]
        )

    def pack(self, packs: Packs) -> list[bytes]:
        """One value for each key."""
        fixed = np.zeros(len(packs.keys), self._dtype)
        fixed["number"], fixed["key_bytes"] = packs.numbers, [len(key) for key in packs.keys]
        for name in self._columns:
            fixed[f"column {name}"] = packs.columns[name]
        for name in self._state:
            fixed[f"state {name}"] = packs.state[name]
        raw, wide = fixed.tobytes(), self._dtype.itemsize
        values = [raw[i * wide : (i + 1) * wide] + key for i, key in enumerate(packs.keys)]
        for name in self._objects:
            for i, value in enumerate(packs.columns[name]):
                data = to_bytes(value)
                values[i] += _LENGTH.pack(len(data)) + data
        return values

    def unpack(self, values: Sequence[bytes]) -> Packs:
        """The reverse."""
        wide, n = self._dtype.itemsize, len(values)
        fixed = np.frombuffer(b"".join([value[:wide] for value in values]), self._dtype)
        ends = [wide + length for length in fixed["key_bytes"].tolist()]
        keys = [value[wide:end] for value, end in zip(values, ends, strict=True)]
        columns: dict[str, Array] = {name: fixed[f"column {name}"] for name in self._columns}
        for name in self._objects:
            column = np.empty(n, object)
            for i, value in enumerate(values):
                start = ends[i] + _LENGTH.size
                ends[i] = start + _LENGTH.unpack_from(value, ends[i])[0]
                column[i] = from_bytes(value[start : ends[i]])
            columns[name] = column
        return Packs(fixed["number"], keys, columns, {name: fixed[f"state {name}"] for name in self._state})
