"""A segment of state as it was at one moment, taken piece by piece while the stream goes on.

Nothing is copied when the moment comes. A row that is about to change is taken before it does; the others
are taken a few at a time between batches, so that neither the stream stands still nor a second copy of all
state is in memory at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from streamrnn.core.segment import Chunks, encode, packed_objects

if TYPE_CHECKING:
    from streamrnn.core.key_names import Packed
    from streamrnn.core.store import Store
    from streamrnn.events import Array, BoolArray, IntArray


@dataclass(frozen=True, slots=True)
class Piece:
    """Copies of some rows: whether each holds a key, the keys, columns [n] and state tensors [n, *shape]."""

    rows: IntArray
    live: BoolArray
    keys: Packed
    columns: Mapping[str, Array]
    state: Mapping[str, Array]

    @property
    def bytes(self) -> int:
        """The size of the copies, but for what objects hold."""
        arrays: list[Array] = [self.rows, self.keys.data, *self.columns.values(), *self.state.values()]
        return sum(array.nbytes for array in arrays)


class Frozen:
    """The segment of the rows that `waits`, bool [rows in use], names; it is changed from here on.

    It comes in parts, each of which can be made on any thread.
    """

    def __init__(self, store: Store, waits: BoolArray, header: Mapping[str, Any]) -> None:
        self._store, self._waits, self._header = store, waits, header
        self._gone: Callable[[], tuple[Array, Array]] | None = store.keys.gone.frozen()
        self._next = self._parts = 0
        self._pieces: list[Piece] = []
        self.bytes = 0
        """Of copies that wait for their part."""

    @property
    def taken(self) -> bool:
        """Whether every row has been copied, so that the stream may change what it likes."""
        return self._next >= len(self._waits)

    def before(self, rows: IntArray) -> None:
        """These rows, distinct ones, are about to change."""
        rows = rows[rows < len(self._waits)]
        self._copy(rows[self._waits[rows]])

    def take(self, count: int) -> None:
        """Go through so many more rows and copy those that wait."""
        rows = np.flatnonzero(self._waits[self._next : self._next + count]) + self._next
        self._next += count
        self._copy(rows)

    def take_all(self) -> None:
        """Copy all that wait."""
        self.take(max(0, len(self._waits) - self._next))

    def part(self) -> Callable[[], Chunks]:
        """The rows copied since the last part, as a function that makes a file of them."""
        pieces, self._pieces, self.bytes = self._pieces or [self._piece(np.zeros(0, np.int64))], [], 0
        header = {**self._header, "part": self._parts}
        gone, self._gone = self._gone, None
        self._parts += 1
        return partial(encode_pieces, header, pieces, gone)

    def _copy(self, rows: IntArray) -> None:
        if len(rows):
            self._waits[rows] = False
            self._pieces.append(self._piece(rows))
            self.bytes += self._pieces[-1].bytes

    def _piece(self, rows: IntArray) -> Piece:
        names, columns = self._store.keys.names, self._store.columns
        records = columns.take(rows)
        return Piece(
            rows,
            names.holds(rows),
            names.packed(rows),
            {name: records[name] for name in columns.arrays},
            self._store.slab.read(rows),
        )


def encode_pieces(
    header: Mapping[str, Any],
    pieces: Sequence[Piece],
    gone: Callable[[], tuple[Array, Array]] | None,
) -> Chunks:
    """A part of a segment, of at least one piece; `gone`, hashes and causes, stands in the first part."""
    lengths = np.concatenate([piece.keys.lengths for piece in pieces])
    tensors: dict[str, Sequence[Array]] = {
        "rows": [piece.rows for piece in pieces],
        "live": [piece.live for piece in pieces],
        "key.bytes": [piece.keys.data for piece in pieces],
        "key.offsets": [np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])],
    }
    if gone is not None:
        names, causes = gone()
        tensors |= {"gone.hash": [names], "gone.cause": [causes]}
    for name, column in pieces[0].columns.items():
        columns = [piece.columns[name] for piece in pieces]
        if column.dtype == object:
            data, offsets = packed_objects(columns)
            tensors |= {f"{name}.bytes": [data], f"{name}.offsets": [offsets]}
        else:
            tensors[f"column.{name}"] = columns
    for name in pieces[0].state:
        tensors[f"state.{name}"] = [piece.state[name] for piece in pieces]
    return encode(header, tensors)
