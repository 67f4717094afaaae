"""Which row of the slab belongs to which key: assignment, eviction, expiry."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from streamrnn.core.gone import Gone, Undo
from streamrnn.core.key_index import KeyIndex
from streamrnn.core.key_names import KeyNames, Packed
from streamrnn.limits import EVICTED, NEW, UNKNOWN, key_hash

if TYPE_CHECKING:
    from streamrnn.events import BoolArray, IntArray

_VICTIMS_AHEAD = 4096


class KeyTable:
    """Keys and their rows. The last assignment can be undone until the next one.

    `changing` is told rows, int64 [n], before another key takes them or the one they have goes.
    """

    def __init__(self, max_keys: int, remember: int) -> None:
        self.max_keys = max_keys
        self.names = KeyNames()
        self.index = KeyIndex(self.names)
        self.changing: Callable[[IntArray], None] | None = None
        self.gone = Gone(remember)
        self._free: list[int] = []
        self._undo: Undo = []
        self._victims: list[tuple[int, int]] = []
        self._next_victim = 0

    def __len__(self) -> int:
        return len(self.index)

    def assign(self, keys: Sequence[str], sequence: IntArray) -> tuple[IntArray, IntArray]:
        """Rows int64 [n] of a batch, and int64 [n] the cause bit where a key begins, else 0.

        A key that has no row gets a free one, at the ceiling that of the key whose last event is oldest.
        `sequence` int64 [capacity] is the number of each row's last accepted event, 0 for none.
        """
        self._undo = []
        rows = self.index.find(keys)
        first = np.zeros(len(keys), np.int64)
        missing = np.flatnonzero(rows < 0).tolist()
        if not missing:
            return rows, first
        where = dict(zip([keys[i] for i in reversed(missing)], reversed(missing), strict=True))
        if len(self) + len(where) <= self.max_keys:
            begins = sorted(where.values())
            rows[begins], first[begins] = self._place_all([keys[i] for i in begins])
            rows[missing] = rows[[where[keys[i]] for i in missing]]
        else:
            self._assign_at_ceiling(keys, sequence, rows, first)
        return rows, first

    def undo(self) -> None:
        """Take the last assignment back."""
        while self._undo:
            self._undo.pop()()

    def release(self, row: int, cause: int) -> None:
        """Free a row for good and remember its key with a cause bit."""
        self._undo = []
        self.gone.add(key_hash(self._remove(row)), cause, self._undo)
        self.gone.compact()

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
        self._victims, self._next_victim, self._undo = [], 0, []

    def _place_all(self, keys: list[str]) -> tuple[IntArray, list[int]]:
        """Rows for distinct keys that have none, and the keys' cause bits. There must be room."""
        causes = [self._first_cause] * len(keys)
        if self.gone:
            causes = [self.gone.recall(key_hash(key), self._undo) for key in keys]
        new_rows = len(keys) - len(self._free)
        if new_rows > 0:
            held = len(self.names)
            self.names.extend(new_rows)
            self._free[:0] = range(held + new_rows - 1, held - 1, -1)
        rows = np.array(self._free[: -len(keys) - 1 : -1], np.int64)
        del self._free[-len(keys) :]
        self._hold(keys, rows)
        self._undo.append(lambda: [self._remove(row) for row in reversed(rows.tolist())])
        return rows, causes

    def _hold(self, keys: Sequence[str], rows: IntArray) -> None:
        if self.changing is not None:
            self.changing(rows)
        self.names.put(rows, Packed.of(keys))
        self.index.add(keys, rows)

    def _place(self, key: str, make_room: Callable[[], object]) -> tuple[int, int]:
        """The row of a key and, if it had none until now, its cause bit."""
        row = self.index.get(key)
        if row >= 0:
            return row, 0
        # The newcomer is recalled before a victim is remembered, so that a full memory cannot forget it.
        cause = self.gone.recall(key_hash(key), self._undo) if self.gone else self._first_cause
        if len(self) >= self.max_keys:
            make_room()
        if not self._free:
            self._free.append(len(self.names))
            self.names.extend(1)
        row = self._free.pop()
        self._hold([key], np.array([row]))
        self._undo.append(partial(self._remove, row))
        return row, cause

    @property
    def _first_cause(self) -> int:
        return UNKNOWN if self.gone.forgot else NEW

    def _remove(self, row: int) -> str:
        key = self.names.key(row)
        assert key is not None
        rows = np.array([row])
        if self.changing is not None:
            self.changing(rows)
        self.index.remove(key, row)
        self.names.clear(rows)
        self._free.append(row)
        return key

    def _assign_at_ceiling(
        self, keys: Sequence[str], sequence: IntArray, rows: IntArray, first: IntArray
    ) -> None:
        """Event by event in log order, so that who is evicted does not depend on where a batch ends."""
        touched: OrderedDict[str, None] = OrderedDict()
        before = self._next_victim, self._victims
        self._undo.append(lambda: self._seek_victims(*before))
        self._tell_victims()
        for i, key in enumerate(keys):
            rows[i], first[i] = self._place(key, lambda: self._evict(touched, sequence))
            touched[key] = None
            touched.move_to_end(key)

    def _evict(self, touched: OrderedDict[str, None], sequence: IntArray) -> None:
        row = self._oldest(touched, sequence)
        if row < 0:  # every key left has been served in this batch
            row = self.index.get(next(iter(touched)))
        key = self._remove(row)
        touched.pop(key, None)
        self._undo.append(lambda: self._unevict(row, key))
        self.gone.add(key_hash(key), EVICTED, self._undo)

    def _unevict(self, row: int, key: str) -> None:
        self._free.remove(row)
        self._hold([key], np.array([row]))

    def _oldest(self, touched: OrderedDict[str, None], sequence: IntArray) -> int:
        """The row served longest ago, of those not touched in this batch; -1 if there is none."""
        for _ in range(2):
            while self._next_victim < len(self._victims):
                row, stamp = self._victims[self._next_victim]
                self._next_victim += 1
                key = self.names.key(row)
                if sequence[row] == stamp and key is not None and key not in touched:
                    return row
            self._seek_victims(0, self._find_victims(touched, sequence))
            self._tell_victims()
        return -1

    def _tell_victims(self) -> None:
        """Those next in line are told together: one by one costs many times as much."""
        if self.changing is not None:
            self.changing(np.array([row for row, _ in self._victims[self._next_victim :]], np.int64))

    def _seek_victims(self, position: int, victims: list[tuple[int, int]]) -> None:
        self._next_victim, self._victims = position, victims

    def _find_victims(self, touched: OrderedDict[str, None], sequence: IntArray) -> list[tuple[int, int]]:
        """Pairs of row and last event, oldest first; some thousand at a time, since a look costs all rows."""
        live = np.flatnonzero(sequence > 0)
        count = _VICTIMS_AHEAD + len(touched)
        if len(live) > count:
            live = live[np.argpartition(sequence[live], count)[:count]]
        live = live[np.argsort(sequence[live])]
        return list(zip(live.tolist(), sequence[live].tolist(), strict=True))
