"""Reset rules. Times are int64 in the unit of the pipeline's `event.time`, converted when a rule is built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from streamrnn.rules import Now, Previous
from streamrnn.values import canonical

if TYPE_CHECKING:
    from streamrnn.builtins import resets as config
    from streamrnn.events import Array, BoolArray

_NUMBERS = frozenset((int, float))


class Rule:
    """What most rules have in common: no recursion, no columns of their own, nothing remembered."""

    when = "before"
    recursive = False
    fields: Sequence[str] = ()
    previous_fields: Sequence[str] = ()
    columns: Mapping[str, str] = {}
    marks: Sequence[str] = ()

    def __init__(self, name: str, to: str) -> None:
        self.name, self.to = name, to


class Gap(Rule):
    """Fires when more than `gap` passed since the key's last event; a late event makes no gap."""

    def __init__(self, name: str, to: str, gap: int) -> None:
        super().__init__(name, to)
        self.gap = gap

    def fires(self, now: Now, previous: Previous, columns: Mapping[str, Array]) -> BoolArray:
        """See `ResetRule.fires`."""
        assert now.time is not None
        assert previous.time is not None
        fired: BoolArray = previous.exists & (now.time - previous.time > self.gap)
        return fired


class Age(Rule):
    """Fires when more than `age` passed since the key's last reset, whatever caused that."""

    recursive = True

    def __init__(self, name: str, to: str, age: int) -> None:
        super().__init__(name, to)
        self.age = age

    def fires(self, now: Now, previous: Previous, columns: Mapping[str, Array]) -> BoolArray:
        """See `ResetRule.fires`."""
        assert now.time is not None
        assert previous.time is not None
        latest = np.maximum(now.time, previous.time)
        fired: BoolArray = previous.exists & (latest - previous.reset_time > self.age)
        return fired


class Every(Rule):
    """Fires when a key has had `events` events since its last reset, whatever caused that."""

    recursive = True

    def __init__(self, name: str, to: str, when: str, events: int) -> None:
        super().__init__(name, to)
        self.when, self.events = when, events

    def fires(self, now: Now, previous: Previous, columns: Mapping[str, Array]) -> BoolArray:
        """See `ResetRule.fires`."""
        assert previous.steps is not None
        counted: BoolArray = previous.steps + (self.when == "after") >= self.events
        return counted


class OnChange(Rule):
    """Fires when a field differs from what it was at the key's last event."""

    def __init__(self, name: str, to: str, when: str, field: str) -> None:
        super().__init__(name, to)
        self.when, self.field = when, field
        self.fields = self.previous_fields = (field,)

    def fires(self, now: Now, previous: Previous, columns: Mapping[str, Array]) -> BoolArray:
        """See `ResetRule.fires`."""
        changed = now.fields[self.field] != previous.fields[self.field]
        fired: BoolArray = previous.exists & changed.astype(np.bool_)
        return fired


class OnValue(Rule):
    """Fires when a field is one of `values` and, if a bound is set, a number above or below it."""

    def __init__(
        self,
        name: str,
        to: str,
        when: str,
        field: str,
        values: Sequence[Any] | None,
        above: float | None,
        below: float | None,
    ) -> None:
        super().__init__(name, to)
        self.when, self.field = when, field
        self.values = None if values is None else frozenset(map(canonical, values))
        self.above, self.below = above, below
        self.fields = (field,)

    def fires(self, now: Now, previous: Previous, columns: Mapping[str, Array]) -> BoolArray:
        """See `ResetRule.fires`."""
        column = now.fields[self.field]
        fired = np.ones(len(column), np.bool_)
        if self.values is not None:
            fired &= np.fromiter(map(self.values.__contains__, column), np.bool_, len(column))
        if self.above is not None:
            fired &= _compare(column, np.greater, self.above)
        if self.below is not None:
            fired &= _compare(column, np.less, self.below)
        return fired


class SourceEnd(Rule):
    """Fires when a source, or one file of it, has ended: all keys start anew after it."""

    marks = ("source_end",)

    def fires(self, now: Now, previous: Previous, columns: Mapping[str, Array]) -> BoolArray:
        """See `ResetRule.fires`; an event never fires this rule."""
        return np.zeros(len(previous.exists), np.bool_)


def _compare(column: Array, against: np.ufunc, bound: float) -> BoolArray:
    """Where the values are numbers and `against` holds; Python's own comparison keeps integers exact."""
    fired = np.fromiter(map(_NUMBERS.__contains__, map(type, column)), np.bool_, len(column))
    fired[fired] = against(column[fired], bound)
    return fired


def gap(config: config.Gap, ticks_per_s: int) -> Gap:
    """Build from the YAML section."""
    return Gap(config.name or "gap", config.to, ticks(config.gap_s, ticks_per_s))


def age(config: config.Age, ticks_per_s: int) -> Age:
    """Build from the YAML section."""
    return Age(config.name or "age", config.to, ticks(config.age_s, ticks_per_s))


def every(config: config.Every, ticks_per_s: int) -> Every:
    """Build from the YAML section."""
    return Every(config.name or "every", config.to, config.when, config.events)


def on_change(config: config.OnChange, ticks_per_s: int) -> OnChange:
    """Build from the YAML section."""
    return OnChange(config.name or "on_change", config.to, config.when, config.field)


def on_value(config: config.OnValue, ticks_per_s: int) -> OnValue:
    """Build from the YAML section."""
    name, bounds = config.name or "on_value", (config.above, config.below)
    return OnValue(name, config.to, config.when, config.field, config.values, *bounds)


def source_end(config: config.SourceEnd, ticks_per_s: int) -> SourceEnd:
    """Build from the YAML section."""
    return SourceEnd(config.name or "source_end", config.to)


def ticks(seconds: float, ticks_per_s: int) -> int:
    """Seconds of the YAML file as whole units of the pipeline's time, rounded down: rules fire beyond it."""
    return int(np.floor(seconds * ticks_per_s))
