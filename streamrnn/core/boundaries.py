"""Which events of a batch find a fresh state, decided before anything is stepped.

Arrays are in the sorted order of `Links`. Rules that look at an event and the one before it are asked once
for the whole batch; recursive ones for the first event of every row, then for the second, and so on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from streamrnn.limits import FIRST_RULE_BIT, INITIAL, ZEROS
from streamrnn.rules import Now, Previous

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamrnn.core.columns import Records
    from streamrnn.core.links import Links
    from streamrnn.core.lives import Lives
    from streamrnn.events import Array, BoolArray, IntArray
    from streamrnn.rules import ResetRule

    Index = slice | IntArray


@dataclass(slots=True)
class Carried:
    """The columns of the batch's rows [g] as the last batch left them, marks of meanwhile applied.

    `records` are all of them. `rule_names` are for each rule the columns of its own, by the rule's name.
    """

    records: Records
    rule_names: Sequence[Mapping[str, str]]

    @property
    def steps(self) -> IntArray:
        """Events since the last reset."""
        return self.records["steps"]

    @property
    def reset_time(self) -> IntArray:
        """When that was, if `reset_known`."""
        return self.records["reset_time"]

    @property
    def reset_known(self) -> BoolArray:
        """Whether it had a time."""
        return self.records["reset_known"]

    @property
    def pending(self) -> IntArray:
        """Cause bits of a reset that the next event finds done."""
        return self.records["pending"]

    @property
    def fresh(self) -> NDArray[np.int8]:
        """How that leaves the state."""
        return self.records["fresh"]

    @property
    def rule_columns(self) -> list[dict[str, Array]]:
        """The rules' own columns; writing to them changes `records`."""
        return [{name: self.records[own] for name, own in names.items()} for names in self.rule_names]

    def field(self, path: str) -> Array:
        """The last value of a field that rules compare with."""
        return self.records[f"field:{path}"]


@dataclass(slots=True)
class Boundaries:
    """Each event's place between resets, arrays [n].

    `cause` are the bits of all causes; `fresh` how the event finds its state (0 carried, 1 initial, 2
    zeros); `after` the bits of rules that reset behind the event; `timed` is true where the reset before
    this event happened at its own time, not at that of the event before. `quiet` says that nothing is reset
    in the batch: all of them are 0 or false.
    """

    cause: IntArray
    fresh: NDArray[np.int8]
    after: IntArray
    timed: BoolArray
    quiet: bool = False


@dataclass(slots=True)
class Asking:
    """All that rules may see of a batch; `fields` and `previous_fields` are canonical object arrays [n]."""

    links: Links
    lives: Lives
    carried: Carried
    time: IntArray | None
    fields: Mapping[str, Array]
    previous_fields: dict[str, Array] = field(default_factory=dict)

    def now(self, rule: ResetRule, at: Index) -> Now:
        """The events at some places."""
        time = None if self.time is None else self.time[at]
        return Now({path: self.fields[path][at] for path in rule.fields}, time)

    def previous(self, rule: ResetRule, at: Index) -> Previous:
        """The events before them."""
        time = None if self.time is None else self.lives.before[at]
        fields = {path: self._previous(path)[at] for path in rule.previous_fields}
        return Previous(self.lives.exists[at], fields, time)

    def _previous(self, path: str) -> Array:
        if path not in self.previous_fields:
            values = self.links.shifted(self.fields[path], self.carried.field(path))
            self.previous_fields[path] = values = values.copy()
            values[~self.lives.exists] = None
        return self.previous_fields[path]


class Rules:
    """The reset rules of a pipeline in file order, each with its cause bit."""

    def __init__(self, rules: Sequence[ResetRule]) -> None:
        self.rules = tuple(rules)
        self.bits = [(1 << (FIRST_RULE_BIT + index), rule) for index, rule in enumerate(rules)]
        self._zeros = sum(bit for bit, rule in self.bits if rule.to == "zeros")

    def mark_bits(self, kind: str) -> int:
        """The bits of the rules that a mark of this kind fires."""
        return sum(bit for bit, rule in self.bits if kind in getattr(rule, "marks", ()))

    def to(self, bits: IntArray) -> NDArray[np.int8]:
        """int8: what the first rule of each set of bits resets to."""
        first = bits & -bits
        return np.where(first & self._zeros, ZEROS, INITIAL).astype(np.int8)

    def apply(self, asking: Asking) -> Boundaries:
        """Ask every rule. The rules' own columns in `asking.carried` are left as the batch leaves them."""
        n = len(asking.lives.cause)
        if not self.rules and not asking.lives.cause.any() and not asking.carried.pending.any():
            nothing = np.zeros(n, np.int64)
            return Boundaries(nothing, np.zeros(n, np.int8), nothing, nothing != 0, quiet=True)
        fired = {"before": np.zeros(n, np.int64), "after": np.zeros(n, np.int64)}
        everywhere = slice(None)
        for bit, rule in self.bits:
            if not rule.recursive:
                hits = rule.fires(asking.now(rule, everywhere), asking.previous(rule, everywhere), {})
                fired[rule.when] |= np.where(hits, np.int64(bit), 0)
        if any(rule.recursive for rule in self.rules):
            self._walk(asking, fired)
        return self._conclude(asking, fired["before"], fired["after"])

    def _walk(self, asking: Asking, fired: dict[str, IntArray]) -> None:
        """Recursive rules: event k of every row depends on what they said of event k - 1."""
        counts = np.diff(np.append(asking.links.begins, len(asking.lives.cause)))
        order = np.argsort(-counts, kind="stable")
        begins, counts = asking.links.begins[order], counts[order]
        own = [{n: a[order] for n, a in columns.items()} for columns in asking.carried.rule_columns]
        steps, since = asking.carried.steps[order], asking.carried.reset_time[order]
        known = asking.carried.reset_known[order]
        width = len(begins)
        for k in range(int(counts[0])):
            width = int(np.searchsorted(-counts[:width], -k, side="left"))
            at = begins[:width] + k
            now, exists = asking.lives.now[at], asking.lives.exists[at]
            steps = np.where(exists, steps[:width], 0)
            since = np.where(exists & known[:width], since[:width], now)
            self._clear(own, ~exists)
            fired["before"][at] |= self._ask("before", asking, at, steps, since, own)
            anew = ~exists | (fired["before"][at] != 0)
            steps, since = np.where(anew, 0, steps), np.where(anew, now, since)
            fired["after"][at] |= self._ask("after", asking, at, steps, since, own)
            reset = fired["after"][at] != 0
            steps, since = np.where(reset, 0, steps + 1), np.where(reset, now, since)
            known = np.ones(width, np.bool_)
        for columns, before in zip(own, asking.carried.rule_columns, strict=True):
            for name, array in columns.items():
                before[name][order] = array

    def _ask(
        self,
        when: str,
        asking: Asking,
        at: IntArray,
        steps: IntArray,
        since: IntArray,
        own: list[dict[str, Array]],
    ) -> IntArray:
        bits = np.zeros(len(at), np.int64)
        for (bit, rule), columns in zip(self.bits, own, strict=True):
            if rule.recursive and rule.when == when:
                previous = asking.previous(rule, at)
                previous.steps, previous.reset_time = steps, since
                views = {name: array[: len(at)] for name, array in columns.items()}
                bits |= np.where(rule.fires(asking.now(rule, at), previous, views), np.int64(bit), 0)
        return bits

    @staticmethod
    def _clear(own: list[dict[str, Array]], begins: BoolArray) -> None:
        for columns in own:
            for array in columns.values():
                array[: len(begins)][begins] = 0

    def _conclude(self, asking: Asking, before: IntArray, after: IntArray) -> Boundaries:
        links, lives, carried = asking.links, asking.lives, asking.carried
        if not (before.any() or after.any() or lives.cause.any() or carried.pending.any()):
            return Boundaries(before, np.zeros(len(before), np.int8), after, before != 0, quiet=True)
        pending = np.where(lives.exists, links.shifted(after, carried.pending), 0)
        pending_to = links.shifted(self.to(after), carried.fresh)
        fresh = np.where(pending != 0, pending_to, np.int8(0))
        fresh = np.where(before != 0, self.to(before), fresh)
        fresh = np.where(lives.cause != 0, np.int8(INITIAL), fresh)
        timed = (before != 0) | (lives.cause != 0)
        timed[links.begins] |= ~carried.reset_known & (pending[links.begins] != 0)
        return Boundaries(lives.cause | pending | before, fresh.astype(np.int8), after, timed)
