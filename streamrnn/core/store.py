"""All that a shard remembers: keys, their rows of columns and model state, and the clocks over them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from streamrnn.core import segment
from streamrnn.core.boundaries import Carried
from streamrnn.core.columns import BUILT_IN, Columns, catch_up
from streamrnn.core.frozen import Frozen
from streamrnn.core.keys import KeyTable
from streamrnn.core.slab import HostSlab
from streamrnn.core.tiers import Tiers
from streamrnn.limits import CONTROL, EXPIRED, INITIAL, Limits, cause_names, guard_bit

if TYPE_CHECKING:
    from streamrnn.backend import Backend, Slab
    from streamrnn.cold import ColdStore
    from streamrnn.core.links import Links
    from streamrnn.events import BoolArray, IntArray
    from streamrnn.rules import ResetRule

_FIRST_CAPACITY = 1024
_FLAG_BITS = 6
_ROWS_PER_FLAG = 1 << _FLAG_BITS


class Dirty:
    """Which rows changed since the last segment, a flag per block of rows."""

    def __init__(self, capacity: int) -> None:
        self._flags = np.zeros(0, np.bool_)
        self.grow(capacity)

    def grow(self, capacity: int) -> None:
        """Flags for more rows."""
        flags = np.zeros(-(-capacity // _ROWS_PER_FLAG), np.bool_)
        flags[: len(self._flags)] = self._flags
        self._flags = flags

    def touch(self, rows: IntArray) -> None:
        """These rows changed."""
        self._flags[rows >> _FLAG_BITS] = True

    def touched(self, rows: IntArray) -> BoolArray:
        """Whether each row lies in a touched block, bool [n]."""
        touched: BoolArray = self._flags[rows >> _FLAG_BITS]
        return touched

    def rows(self, used: int) -> BoolArray:
        """Whether a row lies in a touched block, bool [used]."""
        return np.repeat(self._flags, _ROWS_PER_FLAG)[:used]

    def clear(self) -> None:
        """Everything is written."""
        self._flags[:] = False


class Store:
    """The state of one shard.

    `sequence` counts accepted events; `largest` is the largest time by source; `epochs` the last reset of all
    keys by its cause bits, which a row has seen once its own epoch is as high. `kept_fields` are the fields
    whose last value the rules need; `rule_columns` for each rule the columns of its own, by the rule's name.
    """

    def __init__(
        self, backend: Backend, rules: Sequence[ResetRule], limits: Limits, cold: ColdStore | None = None
    ) -> None:
        self.limits = limits
        self.cause_names = cause_names(rules, limits)
        self.fingerprint, self.meaning = backend.state.fingerprint, backend.state.meaning
        self.sequence = 0
        self.largest: dict[str, int] = {}
        self.has_quarantine = False
        """Whether a key may be in quarantine."""
        self._guard_bit = guard_bit(rules)
        self.epochs: dict[int, int] = {}
        self.keys = KeyTable(limits.max_keys, limits.remember_evicted)
        self.kept_fields = sorted({path for rule in rules for path in rule.previous_fields})
        self.rule_columns = [{n: f"rule:{i}:{n}" for n in rule.columns} for i, rule in enumerate(rules)]
        dtypes = BUILT_IN | {f"field:{path}": "object" for path in self.kept_fields}
        for names, rule in zip(self.rule_columns, rules, strict=True):
            dtypes |= {names[name]: dtype for name, dtype in rule.columns.items()}
        self.columns = Columns(dtypes)
        self.most_rows = limits.max_keys if cold is None else limits.hot_keys or limits.max_keys
        """Rows that there may be at once."""
        capacity = min(_FIRST_CAPACITY, self.most_rows)
        self.columns.grow(capacity)
        self.slab: Slab = HostSlab(backend.state, capacity)
        self.on_host = backend.make_slab is None
        """Whether the state of keys is in this machine's memory, not on a device."""
        if backend.make_slab is not None:
            self.slab = backend.make_slab(capacity)
        self.dirty = Dirty(capacity)
        self._frozen: Frozen | None = None
        self.tiers: Tiers | None = None
        if cold is not None:
            self.keys.elsewhere, self.tiers = cold, Tiers(self, cold, self.most_rows)
            self.tiers.grow(capacity)
        self.beside: segment.Beside | None = None
        """What is kept of the shard beside its keys."""

    def before(self, rows: IntArray) -> None:
        """These rows, distinct ones, are about to change."""
        self.copy_before(rows)
        self.dirty.touch(rows)

    def copy_before(self, rows: IntArray) -> None:
        """What these rows hold is about to leave them."""
        if self._frozen is not None:
            self._frozen.before(rows)
            if self._frozen.taken:
                self._frozen = None

    def freeze(self, base: bool) -> Frozen:
        """A segment of this moment, of all keys or of what changed; then all count as unchanged."""
        if self._frozen is not None:
            self._frozen.take_all()
        used = len(self.keys.names)
        held = self.columns["sequence"][:used] > 0
        waits = held if base else self.dirty.rows(used)
        if self.tiers is not None and not base:
            waits &= held
        changes = None if self.tiers is None else self.tiers.freeze(base)
        self._frozen = Frozen(self, waits, segment.header_of(self, base), changes)
        self.dirty.clear()
        return self._frozen

    @property
    def epoch(self) -> int:
        """How many times all keys were reset."""
        return max(self.epochs.values(), default=0)

    def grow(self, needed: int) -> None:
        """Room for so many rows, and some more."""
        if needed > self.columns.capacity:
            capacity = max(needed, min(2 * self.columns.capacity, self.most_rows))
            self.columns.grow(capacity)
            self.slab.grow(capacity)
            self.dirty.grow(capacity)
            if self.tiers is not None:
                self.tiers.grow(capacity)

    def carried(self, links: Links) -> Carried:
        """Columns of a batch's rows, with resets of all keys since a row's last event applied."""
        records = self.columns.take(links.rows)
        catch_up(records, self.epochs)
        return Carried(records, self.rule_columns)

    def reset(self, rows: IntArray, causes: IntArray, fresh: Any) -> None:
        """Reset rows at once; their next event shows why."""
        self.before(rows)
        self.slab.init(rows, fresh)
        self.columns["pending"][rows] = causes
        self.columns["fresh"][rows] = fresh
        self.columns["steps"][rows] = 0

    def reset_keys(self, keys: Sequence[str] | None, bits: int) -> None:
        """Reset some keys, or all of them, outside of time: it counts from the next event of each."""
        if keys is None:
            self.epochs[bits] = self.epoch + 1
            return
        for _, found in self._found(keys):
            rows = np.unique(found[found >= 0])
            self.reset(rows, self.columns["pending"][rows] | bits, np.full(len(rows), INITIAL, np.int8))
            self.columns["reset_known"][rows] = False
            if bits & CONTROL:
                self.columns["quarantined"][rows] = 0

    def alive(self, keys: Sequence[str]) -> list[str]:
        """Those of the keys that have a state, wherever it lies."""
        return [
            key
            for part, rows in self._found(keys)
            for key, row in zip(part, rows.tolist(), strict=True)
            if row >= 0
        ]

    def each_key(self) -> Iterator[str]:
        """All keys that have a state, wherever it lies; nothing may change meanwhile."""
        for row in range(len(self.keys.names)):
            if (key := self.keys.names.key(row)) is not None:
                yield key
        if self.tiers is not None:
            yield from self.tiers.each_key()

    def _found(self, keys: Sequence[str]) -> Iterator[tuple[Sequence[str], IntArray]]:
        """The rows of keys, -1 where one has none, so many at a time as have rows at the same time."""
        some = len(keys) if self.tiers is None else self.tiers.most_events
        for start in range(0, len(keys), max(1, some)):
            part = keys[start : start + some]
            if self.tiers is not None:
                self.tiers.warm(part)
            yield part, self.keys.index.find(part)

    def punish(self, keys: Sequence[str]) -> None:
        """Do to keys what `limits.guard` says, once the guard has refused an event of each."""
        if self.limits.guard == "reset":
            self.reset_keys(keys, self._guard_bit)
        elif self.limits.guard == "quarantine":
            rows = np.unique(self.keys.index.find(keys))
            rows = rows[rows >= 0]
            self.before(rows)
            self.columns["quarantined"][rows] = self.epoch + 1
            self.has_quarantine = self.has_quarantine or len(rows) > 0

    def quarantined(self, keys: Sequence[str]) -> IntArray:
        """Indices of the keys that are in quarantine; a reset of all by hand frees those put there before."""
        if not self.has_quarantine:
            return np.zeros(0, np.int64)
        rows = self.keys.index.find(keys)
        freed = max((epoch for bits, epoch in self.epochs.items() if bits & CONTROL), default=0)
        return np.flatnonzero((rows >= 0) & (self.columns["quarantined"][rows] > freed))

    def free_idle(self, log_time: int, idle: int) -> None:
        """Free the rows of keys whose largest time lies more than `idle` before `log_time`, oldest first."""
        sequence = self.columns["sequence"]
        rows = np.flatnonzero((sequence > 0) & (log_time - self.columns["last_time"] > idle))
        rows = rows[np.argsort(sequence[rows])]
        self.before(rows)
        if self.tiers is None:
            self.keys.release(rows, EXPIRED)
        else:
            stamps, others = self.tiers.pop_idle(log_time - idle)
            order = np.argsort(np.concatenate([sequence[rows], stamps]))
            self.tiers.release(rows)
            self.keys.release(rows, EXPIRED, lambda own: np.concatenate([own, others])[order])
        self.columns.clear(rows)
