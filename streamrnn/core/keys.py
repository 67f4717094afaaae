"""Which row of the slab belongs to which key: assignment, eviction, expiry."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from streamrnn.core.gone import Change, Gone, hashes_of
from streamrnn.core.key_index import KeyIndex
from streamrnn.core.key_names import KeyNames, Packed
from streamrnn.core.oldest import Oldest
from streamrnn.limits import NEW, UNKNOWN

if TYPE_CHECKING:
    from streamrnn.core.gone import Hashes
    from streamrnn.events import BoolArray, IntArray


@dataclass(slots=True)
class Placing:
    """Where the keys of a batch lie once it is accepted; nothing is changed until then.

    `rows` int64 [n], `first` int64 [n] the cause bit where a key begins, else 0. `taken` int64 are rows that
    change hands, `keys` whose they become, and `freed` int64 those of them that have a key now.
    """

    rows: IntArray
    first: IntArray
    keys: Sequence[str] = ()
    taken: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))
    freed: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))
    change: Change | None = None


class KeyTable:
    """Keys and their rows."""

    def __init__(self, max_keys: int, remember: int) -> None:
        self.max_keys = max_keys
        self.names = KeyNames()
        self.index = KeyIndex(self.names)
        self.gone = Gone(remember)
        self.evicted = self.expired = 0
        """Keys that were forgotten since this table was made."""
        self.elsewhere: Sized = ()
        """Keys that count and have no row."""
        self._oldest = Oldest()
        self._free: list[int] = []

    def __len__(self) -> int:
        return len(self.index) + len(self.elsewhere)

    def place(self, keys: Sequence[str], sequence: IntArray) -> Placing:
        """Where the keys of a batch are to lie.

        A key that has no row gets a free one, at the ceiling that of the key whose last event is oldest.
        `sequence` int64 [capacity] is the number of each row's last accepted event, 0 for none.
        """
        rows = self.index.find(keys)
        first = np.zeros(len(keys), np.int64)
        missing = np.flatnonzero(rows < 0).tolist()
        if not missing:
            return Placing(rows, first)
        where = dict(zip([keys[i] for i in reversed(missing)], reversed(missing), strict=True))
        begins = np.sort(np.fromiter(where.values(), np.int64, len(where)))
        room = max(0, self.max_keys - len(self))
        victims = self._victims(rows, begins, room, sequence)
        if victims is None:
            return self._one_by_one(keys, sequence, rows, first, room)
        begun = [keys[i] for i in begins.tolist()]
        taken = np.concatenate([self._free_rows(min(room, len(begun))), victims])
        rows[begins] = taken
        rows[missing] = rows[[where[keys[i]] for i in missing]]
        first[begins], change = self._foresee(begun, self.names.packed(victims).each())
        return Placing(rows, first, begun, taken, victims, change)

    def without_room(self, keys: Sequence[str]) -> IntArray:
        """Which events, int64, are of keys that find no free row, if none is taken from others."""
        missing = np.flatnonzero(self.index.find(keys) < 0).tolist()
        new = dict.fromkeys(keys[i] for i in missing)
        late = set(list(new)[max(0, self.max_keys - len(self)) :])
        return np.array([i for i in missing if keys[i] in late], np.int64)

    def accept(self, placing: Placing) -> None:
        """The batch is accepted. Whoever wants to know what rows held before has been told."""
        if not len(placing.taken):
            return
        self._remove(placing.freed)
        self._take(placing.keys, placing.taken, len(placing.taken) - len(placing.freed))
        if placing.change is not None:
            self.evicted += len(placing.change.added)
            self.gone.apply(placing.change)

    def release(
        self, rows: IntArray, cause: int, with_others: Callable[[Hashes], Hashes] = lambda own: own
    ) -> None:
        """Free rows for good and remember their keys with a cause bit, in this order.

        `with_others` puts their hashes in order with those of keys that had no row.
        """
        hashes = with_others(hashes_of(self.names.packed(rows).each()))
        self.expired += len(hashes)
        self.gone.release(hashes, cause)
        self.vacate(rows)

    def vacate(self, rows: IntArray) -> None:
        """Free rows whose keys are elsewhere from now on."""
        self._remove(rows)
        self._free += rows.tolist()

    def occupy(self, keys: Sequence[str]) -> IntArray:
        """Free rows for keys that were elsewhere until now."""
        rows = self._free_rows(len(keys))
        self._take(keys, rows, len(rows))
        return rows

    def look_again(self) -> None:
        """Whose last event is oldest is not what it seemed: keys came from elsewhere."""
        self._oldest.forget()

    def bind(self, rows: IntArray, live: BoolArray, keys: Packed) -> None:
        """Set what rows hold, when state is restored; those not `live` are free. `rebuild` follows."""
        self.names.extend(max(0, int(rows.max(initial=-1)) + 1 - len(self.names)))
        self.names.clear(rows)
        every = bool(live.all())
        self.names.put(rows if every else rows[live], keys if every else keys.where(live))

    def rebuild(self) -> None:
        """Derive the rest after all rows are bound."""
        self.index.rebuild()
        self._free = self.names.free()[::-1].tolist()
        self._oldest.forget()

    def _take(self, keys: Sequence[str], rows: IntArray, free: int) -> None:
        """Keys get rows, of which so many are those that `_free_rows` gives."""
        new = int(rows.max()) + 1 - len(self.names)
        if new > 0:
            held = len(self.names)
            self.names.extend(new)
            self._free[:0] = range(held + new - 1, held - 1, -1)
        del self._free[len(self._free) - free :]
        self.names.put(rows, Packed.of(keys))
        self.index.add(keys, rows)

    def _remove(self, rows: IntArray) -> None:
        self.index.remove(rows)
        self.names.clear(rows)

    def _free_rows(self, count: int) -> IntArray:
        """The rows that so many newcomers get: those freed last, then new ones."""
        free = self._free[: -count - 1 : -1] if count else []
        more = range(len(self.names), len(self.names) + count - len(free))
        return np.array([*free, *more], np.int64)

    def _victims(self, rows: IntArray, begins: IntArray, room: int, sequence: IntArray) -> IntArray | None:
        """The rows of the keys that make room, in order; None if that has to be found event by event.

        Those are the oldest rows that the batch does not touch, if there are enough of them, and if no row
        that is older than one of them is touched only after its turn would have come.
        """
        wanted = len(begins) - room
        if wanted <= 0:
            return np.zeros(0, np.int64)
        held = np.flatnonzero(rows >= 0)
        touched, at = np.unique(rows[held], return_index=True)
        victims = self._oldest.find(sequence, wanted, touched)
        if len(victims) < wanted:
            return None
        turn = np.searchsorted(sequence[victims], sequence[touched])
        due = np.flatnonzero(turn < wanted)
        late = held[at[due]] > begins[room:][turn[due]]
        return None if late.any() else victims

    def _one_by_one(
        self, keys: Sequence[str], sequence: IntArray, rows: IntArray, first: IntArray, room: int
    ) -> Placing:
        """Event by event: keys of the batch lose their rows before they come, or to each other."""
        place = dict(zip(keys, rows.tolist(), strict=True))
        free = iter(self._free_rows(min(room, len(keys))).tolist())
        oldest = iter(self._oldest.find(sequence, 2 * len(keys), rows[:0]).tolist())
        touched: OrderedDict[int, None] = OrderedDict()
        owner: dict[int, str] = {}
        begins, left = [], []
        for i, key in enumerate(keys):
            row = place[key]
            if row < 0:
                row = next(free, -1)
                if row < 0:
                    row = next((each for each in oldest if each not in touched), -1)
                    # If there is none, every key left has been served in this batch.
                    row = next(iter(touched)) if row < 0 else row
                    victim = owner.get(row) or str(self.names.key(row))
                    place[victim] = -1
                    left.append(victim)
                begins.append(i)
                owner[row], place[key] = key, row
            rows[i] = row
            touched[row] = None
            touched.move_to_end(row)
        taken = np.fromiter(owner, np.int64, len(owner))
        first[begins], change = self._foresee([keys[i] for i in begins], [key.encode() for key in left])
        inside = taken[taken < len(self.names)]
        return Placing(rows, first, list(owner.values()), taken, inside[self.names.holds(inside)], change)

    def _foresee(self, begun: Sequence[str], left: Sequence[bytes]) -> tuple[IntArray, Change | None]:
        if not left and not self.gone:
            return np.full(len(begun), UNKNOWN if self.gone.forgot else NEW), None
        return self.gone.foresee(hashes_of(key.encode() for key in begun), hashes_of(left))
