"""Keys in two tiers: rows for those heard lately, a `ColdStore` for the rest. Answers do not depend on it.

Every key has a number, by which segments know it wherever it is: a row's number goes with its key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np

from streamrnn.cold import Cold, ColdStore, Snapshot
from streamrnn.core.columns import ADDED
from streamrnn.core.gone import hashes_of
from streamrnn.core.key_names import Packed
from streamrnn.core.oldest import Oldest
from streamrnn.core.packing import Packing, Packs
from streamrnn.values import from_bytes, unpack

if TYPE_CHECKING:
    from collections.abc import Mapping

    from streamrnn.core.store import Store
    from streamrnn.events import Array, BoolArray, IntArray

_NONE = -1
_SOME = 4096
_SPARE = 65_536
"""Entries beyond twice what can be meant before those that mean nothing any more are left out."""


class Tiers:
    """Moves keys of a store between its rows, at most `hot` of them, and a cold store.

    A batch of at most `most_events` finds all its keys in rows, and those that it may evict.
    """

    def __init__(self, store: Store, cold: ColdStore, hot: int) -> None:
        self._store, self.cold, self.hot = store, cold, hot
        self.most_events = max(1, hot // 4)
        self.numbers = np.zeros(0, np.int64)
        """By row, the number of its key; -1 where it has none."""
        self.count = 0
        """Numbers that were ever in use."""
        self._free: list[int] = []
        self._freed, self._owed = Noted(), Noted()
        """Since the last segment: numbers that became free, and changed keys that went cold."""
        self._is_saved = False
        """Whether there ever was a segment: else nobody will ask for what changed since."""
        self._oldest = Oldest()
        self._packing = Packing(store.columns.arrays, store.slab.read(self.numbers))
        self._where: IntArray | None = None
        """While state is restored, the last event of each number's key; 0 for none."""

    def grow(self, capacity: int) -> None:
        """Room for more rows."""
        grown = np.full(capacity, _NONE)
        grown[: len(self.numbers)] = self.numbers
        self.numbers = grown

    def warm(self, keys: Sequence[str]) -> None:
        """Bring the keys of a batch into rows, and those it may evict, and let others go cold for them."""
        table = self._store.keys
        rows = table.index.find(keys)
        missing = list(dict.fromkeys(keys[i] for i in np.flatnonzero(rows < 0).tolist()))
        if not missing:
            return
        found = self.cold.pop([_digest(key.encode()) for key in missing]) if len(self.cold) else []
        limits = self._store.limits
        full = len(table) + len(missing) > limits.max_keys and not limits.refuse_new
        needed = len(missing) + full * len(keys) - (self.hot - len(table.index))
        if needed > 0:
            self._cool(max(needed, self.hot // 16), np.unique(rows[rows >= 0]))
        if full:  # whoever is evicted has been silent for longest, in either tier
            found += self.cold.pop_at(self.cold.ends(len(keys)))
            table.look_again()
        self._lay(found)

    def each_key(self) -> Iterator[str]:
        """The keys that are cold."""
        snapshot = self.cold.snapshot()
        for values in snapshot.each(None, _SOME):
            for key in self._packing.unpack(values).keys:
                yield key.decode()
        snapshot.close()

    def number(self, taken: IntArray) -> None:
        """Rows that were taken by new keys get numbers; one that was taken from another key keeps its."""
        rows = taken[self.numbers[taken] == _NONE]
        reused = self._free[len(self._free) - min(len(rows), len(self._free)) :]
        del self._free[len(self._free) - len(reused) :]
        new = len(rows) - len(reused)
        self.numbers[rows] = [*reused, *range(self.count, self.count + new)]
        self.count += new

    def release(self, rows: IntArray) -> None:
        """The keys of rows are forgotten."""
        self._forget(self.numbers[rows])
        self.numbers[rows] = _NONE

    def pop_idle(self, time: int) -> tuple[IntArray, Array]:
        """Forget cold keys whose time lies before `time`: their last events and the hashes of their keys."""
        sequences, hashes = [np.zeros(0, np.int64)], [np.zeros(0, np.uint64)]
        idle = self.cold.before(time)
        for start in range(0, len(idle), _SOME):
            packs = self._packing.unpack(self.cold.pop_at(idle[start : start + _SOME]))
            self._forget(packs.numbers)
            sequences.append(packs.columns["sequence"])
            hashes.append(hashes_of(packs.keys))
        return np.concatenate(sequences), np.concatenate(hashes)

    def freeze(self, base: bool) -> Changes:
        """What a segment of this moment holds beside rows; what changes from now on is owed to the next."""
        owed = None if base else self._owed.all().tolist()
        freed = self._freed.all()[:0] if base else self._still_free(self._freed.all())
        self._owed, self._freed, self._is_saved = Noted(), Noted(), True
        return Changes(self.cold.snapshot(), owed, freed, self._packing.unpack)

    def restore(self, numbers: IntArray, live: BoolArray, tensors: Mapping[str, Array]) -> None:
        """Lay a part of a segment over what is there. `settle` follows once all are laid."""
        where = np.zeros(0, np.int64) if self._where is None else self._where
        if int(numbers.max(initial=-1)) >= len(where):
            where = np.concatenate([where, np.zeros(int(numbers.max()) + 1 - len(where), np.int64)])
        self._where, before = where, where[numbers]
        self.cold.pop_at(before[before > 0].tolist())
        columns = {
            name: _column(name, column, tensors, live) for name, column in self._store.columns.arrays.items()
        }
        keys = Packed.cut(tensors["key.bytes"], np.diff(tensors["key.offsets"])).where(live).each()
        # A key that went and came back has another number; the part that frees the former may come later.
        moved = self.cold.pop([_digest(key) for key in keys])
        where[self._packing.unpack(moved).numbers] = 0
        state = {name[6:]: array[live] for name, array in tensors.items() if name.startswith("state.")}
        where[numbers] = 0
        where[numbers[live]] = columns["sequence"]
        self._put(Packs(numbers[live], keys, columns, state))

    def settle(self) -> None:
        """All is restored: half of the rows take those heard last."""
        where = np.zeros(0, np.int64) if self._where is None else self._where
        self.count, self._free, self._where = len(where), np.flatnonzero(where == 0).tolist(), None
        newest = self.cold.ends(self.hot // 2, newest=True)
        for start in range(0, len(newest), _SOME):
            self._lay(self.cold.pop_at(newest[start : start + _SOME]))
        self._freed, self._owed, self._is_saved = Noted(), Noted(), True

    def _cool(self, count: int, but: IntArray) -> None:
        """The keys heard longest ago go cold, except those of some rows, sorted."""
        store = self._store
        rows = self._oldest.find(store.columns["sequence"], count, but)
        store.copy_before(rows)
        if self._is_saved:
            changed = rows[store.dirty.touched(rows)]
            self._owed.add(store.columns["sequence"][changed])
        for start in range(0, len(rows), _SOME):  # what a transaction changes stays in memory until its end
            self._put(self._packs(rows[start : start + _SOME]))
        self._owed.keep_within(2 * len(self.cold) + _SPARE, self.cold.kept)
        store.keys.vacate(rows)
        store.columns.clear(rows)
        self.numbers[rows] = _NONE

    def _packs(self, rows: IntArray) -> Packs:
        store = self._store
        records = store.columns.take(rows)
        columns = {name: records[name] for name in store.columns.arrays}
        keys = store.keys.names.packed(rows).each()
        return Packs(self.numbers[rows], keys, columns, store.slab.read(rows))

    def _lay(self, values: Sequence[bytes]) -> None:
        """Put cold keys into free rows."""
        if not values:
            return
        store, packs = self._store, self._packing.unpack(values)
        rows = store.keys.occupy([key.decode() for key in packs.keys])
        store.grow(int(rows.max()) + 1)
        store.before(rows)
        self.numbers[rows] = packs.numbers
        for name, column in store.columns.arrays.items():
            column[rows] = packs.columns[name]
        store.slab.write(rows, packs.state)

    def _put(self, packs: Packs) -> None:
        sequences, times = packs.columns["sequence"].tolist(), packs.columns["last_time"].tolist()
        digests = map(_digest, packs.keys)
        self.cold.put(list(map(Cold, digests, sequences, times, self._packing.pack(packs))))

    def _forget(self, numbers: IntArray) -> None:
        self._free += numbers.tolist()
        if self._is_saved:
            self._freed.add(numbers.copy())
            self._freed.keep_within(2 * self.count + _SPARE, self._still_free)

    def _still_free(self, numbers: IntArray) -> IntArray:
        return np.intersect1d(numbers, np.array(self._free, np.int64))


class Noted:
    """Numbers that were noted one time after the other, some of them more than once."""

    def __init__(self) -> None:
        self._parts: list[IntArray] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, numbers: IntArray) -> None:
        """Note more."""
        self._parts.append(numbers)
        self._count += len(numbers)

    def all(self) -> IntArray:
        """What was noted, each number once, sorted."""
        return np.unique(np.concatenate([*self._parts, np.zeros(0, np.int64)]))

    def keep_within(self, most: int, still: Callable[[IntArray], IntArray]) -> None:
        """With more entries than `most`, forget those that `still` leaves out."""
        if self._count > most:
            self._parts = [still(self.all())]
            self._count = len(self._parts[0])


class Changes:
    """What belongs to a segment beside rows: changed cold keys, or all, and numbers that became free."""

    def __init__(
        self,
        snapshot: Snapshot,
        owed: Sequence[int] | None,
        freed: IntArray,
        unpack: Callable[[Sequence[bytes]], Packs],
    ) -> None:
        self._snapshot, self._owed, self._unpack, self.freed = snapshot, owed, unpack, freed

    def packs(self, count: int) -> Iterator[Packs]:
        """The cold keys, at most so many at a time."""
        for values in self._snapshot.each(self._owed, count):
            yield self._unpack(values)
        self._snapshot.close()


def _digest(key: bytes) -> bytes:
    return blake2b(key, digest_size=16).digest()


def _column(name: str, like: Array, tensors: Mapping[str, Array], live: BoolArray) -> Array:
    if like.dtype == object:
        values = np.empty(len(live), object)
        values[:] = [from_bytes(v) for v in unpack(tensors[f"{name}.bytes"], tensors[f"{name}.offsets"])]
        return values[live]
    if name in ADDED and f"column.{name}" not in tensors:
        return np.zeros(int(live.sum()), like.dtype)
    return tensors[f"column.{name}"][live]
