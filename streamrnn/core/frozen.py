"""A segment of state as it was at one moment, taken piece by piece while the stream goes on.

Nothing is copied when the moment comes. A row that is about to change is taken before it does; the others
are taken a few at a time between batches, so that neither the stream stands still nor a second copy of all
state is in memory at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from streamrnn.core.key_names import Packed
from streamrnn.core.segment import BESIDE, Chunks, encode, packed_objects

if TYPE_CHECKING:
    from streamrnn.core.store import Store
    from streamrnn.core.tiers import Changes
    from streamrnn.events import Array, BoolArray, IntArray

_PIECE_KEYS = 1024
"""Keys without a row that are taken at a time."""


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

    `changes` belong to it beside rows. It comes in parts, each of which can be made on any thread.
    """

    def __init__(
        self, store: Store, waits: BoolArray, header: Mapping[str, Any], changes: Changes | None = None
    ) -> None:
        self._store, self._waits, self._header = store, waits, header
        gone = store.keys.gone
        known = header["kind"] == "delta" and gone.is_saved
        self._gone: Callable[[], tuple[Array, Array]] | None = None if known else gone.frozen()
        self._beside = store.beside.frozen() if store.beside is not None else None
        self._next = self._parts = 0
        self._pieces: list[Piece] = []
        self._more = None if changes is None else self._outside(changes)
        self.bytes = 0
        """Of copies that wait for their part."""

    @property
    def taken(self) -> bool:
        """Whether every row has been copied, so that the stream may change what it likes."""
        return self._next >= len(self._waits) and self._more is None

    def before(self, rows: IntArray) -> None:
        """These rows, distinct ones, are about to change."""
        rows = rows[rows < len(self._waits)]
        self._copy(rows[self._waits[rows]])

    def take(self, count: int) -> None:
        """Go through so many more rows and copy those that wait; then go on with what is beside rows."""
        if self._next >= len(self._waits) and self._more is not None:
            piece = next(self._more, None)
            if piece is None:
                self._more = None
            else:
                self._hold(piece)
            return
        rows = np.flatnonzero(self._waits[self._next : self._next + count]) + self._next
        self._next += count
        self._copy(rows)

    def take_all(self) -> None:
        """Copy all that wait."""
        while not self.taken:
            self.take(max(0, len(self._waits) - self._next))

    def part(self) -> Callable[[], Chunks]:
        """The rows copied since the last part, as a function that makes a file of them."""
        pieces, self._pieces, self.bytes = self._pieces or [self._piece(np.zeros(0, np.int64))], [], 0
        header = {**self._header, "part": self._parts}
        gone, self._gone = self._gone, None
        beside, self._beside = self._beside, None
        self._parts += 1
        return partial(encode_pieces, header, pieces, gone, beside)

    def _copy(self, rows: IntArray) -> None:
        if len(rows):
            self._waits[rows] = False
            self._hold(self._piece(rows))

    def _hold(self, piece: Piece) -> None:
        self._pieces.append(piece)
        self.bytes += piece.bytes

    def _outside(self, changes: Changes) -> Iterator[Piece]:
        """Keys without a row, then numbers that nobody has any more."""
        for packs in changes.packs(_PIECE_KEYS):
            live = np.ones(len(packs.keys), np.bool_)
            data, lengths = b"".join(packs.keys), np.array([len(key) for key in packs.keys], np.int64)
            keys = Packed.cut(np.frombuffer(data, np.uint8), lengths)
            yield Piece(packs.numbers, live, keys, packs.columns, packs.state)
        arrays = self._store.columns.arrays
        state = self._store.slab.read(np.zeros(0, np.int64))
        for start in range(0, len(changes.freed), _PIECE_KEYS):
            numbers = changes.freed[start : start + _PIECE_KEYS]
            n = len(numbers)
            yield Piece(
                numbers,
                np.zeros(n, np.bool_),
                Packed.cut(np.zeros(0, np.uint8), np.zeros(n, np.int64)),
                {name: np.full(n, None if a.dtype == object else 0, a.dtype) for name, a in arrays.items()},
                {name: np.zeros((n, *array.shape[1:]), array.dtype) for name, array in state.items()},
            )

    def _piece(self, rows: IntArray) -> Piece:
        names, columns = self._store.keys.names, self._store.columns
        records = columns.take(rows)
        tiers = self._store.tiers
        return Piece(
            rows if tiers is None else tiers.numbers[rows],
            names.holds(rows),
            names.packed(rows),
            {name: records[name] for name in columns.arrays},
            self._store.slab.read(rows),
        )


def encode_pieces(
    header: Mapping[str, Any],
    pieces: Sequence[Piece],
    gone: Callable[[], tuple[Array, Array]] | None,
    beside: Callable[[], Mapping[str, Array]] | None = None,
) -> Chunks:
    """A part of a segment, of at least one piece.

    `gone`, hashes and causes, and what is kept `beside` the keys stand in the first part.
    """
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
    if beside is not None:
        tensors |= {f"{BESIDE}{name}": [array] for name, array in beside().items()}
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
