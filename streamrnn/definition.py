"""The executable definition: what every fast path must equal, bit for bit.

One event at a time, a dict of keys, no batching. It is slow and means to be read. Rules that ship with
streamrnn are written out once more here in plain Python; any other is asked with batches of one event.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from streamrnn.almanac import has_begun
from streamrnn.backend import FirstInput
from streamrnn.globs import matches
from streamrnn.limits import (
    CONTROL,
    EVICTED,
    EXPIRED,
    FIRST_RULE_BIT,
    INITIAL,
    NEW,
    UNKNOWN,
    ZEROS,
    Elapsed,
    Limits,
    guard_bit,
    key_hash,
)
from streamrnn.rules import Now, Previous
from streamrnn.values import canonical, to_bytes

if TYPE_CHECKING:
    from streamrnn.backend import Backend
    from streamrnn.events import Array, Batch, Mark
    from streamrnn.rules import ResetRule


class Refused(Exception):
    """The event is as if it had not been there."""


class Guarded(Refused):
    """The same, but for what `limits.guard` does to its key."""


@dataclass
class Held:
    """All that is kept of one key. `pending` are causes of a reset that the next event finds done.

    `reset_time` is None after a mark, which has no time: the reset then counts from the next event.
    """

    state: dict[str, Array]
    columns: list[dict[str, Array]]
    pending: int = 0
    fresh: int = INITIAL
    last_time: int = 0
    steps: int = 0
    reset_time: int | None = None
    sequence: int = 0
    seen: bool = False
    quarantined: bool = False
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass
class Turn:
    """One event being served: its key as it was, and what it will be if the event is accepted.

    `now` is the largest time of the key, this event included.
    """

    held: Held
    time: int | None
    now: int
    fields: dict[str, Any]
    columns: list[dict[str, Array]]
    cause: int = 0
    fresh: int = 0
    steps: int = 0
    reset_time: int = 0
    state: dict[str, Array] = field(default_factory=dict)


@dataclass
class Answer:
    """One event's output: `y` rows by name, or the reason in `refused`."""

    y: dict[str, Array] = field(default_factory=dict)
    steps: int = 0
    cause: int = 0
    refused: str | None = None


class Definition:
    """The same constructor and the same words as `core.Core`."""

    def __init__(
        self,
        backend: Backend,
        rules: Sequence[ResetRule] = (),
        elapsed: Sequence[Elapsed] = (),
        limits: Limits | None = None,
    ) -> None:
        self.backend, self.rules, self.elapsed, self.limits = backend, rules, elapsed, limits or Limits()
        self.keys: dict[str, Held] = {}
        self.gone: dict[int, int] = {}
        self.forgot = False
        self.evicted = self.expired = 0
        self.sequence = 0
        self.largest: dict[str, int] = {}

    def process(self, batch: Batch) -> list[Answer]:
        """Every event of the batch, one after the other."""
        return [self._event(batch, i) for i in range(len(batch))]

    def mark(self, mark: Mark) -> None:
        """A source's end or a control message: a reset of the keys it names, or of all."""
        bits = CONTROL if mark.kind == "control" else 0
        for bit, rule in enumerate(self.rules, FIRST_RULE_BIT):
            if mark.kind in getattr(rule, "marks", ()):
                bits |= 1 << bit
        like = None if mark.glob is None else matches(mark.glob)
        for key in self.keys if mark.keys is None else mark.keys:
            if bits and key in self.keys and (like is None or like.fullmatch(key)):
                self._reset(self.keys[key], bits)
                if bits & CONTROL:
                    self.keys[key].quarantined = False

    def _reset(self, held: Held, bits: int) -> None:
        """A reset outside of time: it counts from the next event of the key."""
        held.pending, held.fresh, held.steps = held.pending | bits, INITIAL, 0
        held.reset_time = None
        held.state = self._initial(INITIAL)

    def _event(self, batch: Batch, i: int) -> Answer:
        time = None if batch.time is None else int(batch.time[i])
        fields = {path: canonical(column[i]) for path, column in batch.fields.items()}
        try:
            self._admit(batch.source, time, fields)
            self._admit_key(batch.keys[i])
            turn = self._begin(batch.keys[i], time, fields)
            y = self._step(batch, i, turn)
            self._guard(turn.state, y)
        except Refused as refusal:
            if isinstance(refusal, Guarded) and batch.keys[i] in self.keys:
                self._punish(self.keys[batch.keys[i]])
            return Answer(refused=str(refusal))
        self._accept(batch.keys[i], batch.source, turn)
        return Answer(y, turn.steps, turn.cause)

    def _punish(self, held: Held) -> None:
        """What `limits.guard` does to the key of an event that the guard refused."""
        if self.limits.guard == "reset":
            self._reset(held, guard_bit(self.rules))
        held.quarantined = held.quarantined or self.limits.guard == "quarantine"

    def _admit(self, source: str, time: int | None, fields: Mapping[str, Any]) -> None:
        ahead = self.limits.max_ahead
        if time is not None and ahead is not None and time - self.largest.get(source, time) > ahead:
            raise Refused("ahead")
        for rule in self.rules:
            if any(len(to_bytes(fields[f])) > self.limits.max_value_bytes for f in rule.previous_fields):
                raise Refused("value")

    def _admit_key(self, key: str) -> None:
        if self.limits.refuse_new and key not in self.keys and len(self.keys) >= self.limits.max_keys:
            raise Refused("full")

    def _begin(self, key: str, time: int | None, fields: dict[str, Any]) -> Turn:
        """Find the key's record, or a new one that is not stored yet, and ask the rules before the event."""
        held, cause = self.keys.get(key), 0
        if held is None:
            held, cause = self._blank(), self.gone.get(key_hash(key), UNKNOWN if self.forgot else NEW)
        elif self._is_idle(held, time):
            held, cause = self._blank(), EXPIRED
        if held.quarantined:
            raise Refused("quarantined")
        now = 0 if time is None else max(time, held.last_time) if held.seen else time
        columns = [{name: array.copy() for name, array in own.items()} for own in held.columns]
        turn = Turn(held, time, now, fields, columns)
        since = now if held.reset_time is None else held.reset_time
        before = self._fired("before", turn, held.steps, since)
        turn.fresh = INITIAL if cause else self._to(before) if before else held.fresh
        turn.cause = cause | held.pending | before
        turn.steps = 1 if turn.fresh else held.steps + 1
        turn.reset_time = now if cause or before else since
        return turn

    def _is_idle(self, held: Held, time: int | None) -> bool:
        if time is None or self.limits.idle is None:
            return False
        return max([time, *self.largest.values()]) - held.last_time > self.limits.idle

    def _blank(self) -> Held:
        columns = [{n: np.zeros(1, d) for n, d in rule.columns.items()} for rule in self.rules]
        return Held(self._initial(INITIAL), columns)

    def _initial(self, fresh: int) -> dict[str, Array]:
        state = {}
        for tensor in self.backend.state.tensors:
            axis = tensor.batch_axis
            row = np.zeros((*tensor.shape[:axis], 1, *tensor.shape[axis:]), tensor.dtype)
            if fresh == INITIAL and not isinstance(tensor.initial, FirstInput):
                row[...] = np.expand_dims(np.broadcast_to(np.asarray(tensor.initial), tensor.shape), axis)
            state[tensor.name] = row
        return state

    def _fired(self, when: str, turn: Turn, steps: int, since: int) -> int:
        """Bits of the rules of one moment that fire, asked about the key as it was before this event."""
        bits = 0
        for index, rule in enumerate(self.rules):
            if rule.when == when and _fires(rule, turn, steps, since, turn.columns[index]):
                bits |= 1 << (FIRST_RULE_BIT + index)
        return bits

    def _step(self, batch: Batch, i: int, turn: Turn) -> dict[str, Array]:
        """Reset if due, then step the model once."""
        x = {name: np.array(column[i : i + 1]) for name, column in batch.inputs.items()}
        for feature in self.elapsed:
            x[feature.input].reshape(1, -1)[0, feature.column] = self._elapsed(feature, turn)
        state = self._initial(turn.fresh) if turn.fresh else turn.held.state
        if turn.fresh == INITIAL:
            for tensor in self.backend.state.tensors:
                if isinstance(tensor.initial, FirstInput):
                    first = x[tensor.initial.input].reshape(1, *tensor.shape)
                    state[tensor.name] = np.moveaxis(first, 0, tensor.batch_axis).astype(tensor.dtype)
        try:
            turn.state, y = self.backend.step(state, x)
        except Exception as error:
            raise Refused("model") from error
        return y

    def _to(self, bits: int) -> int:
        first = next(r for b, r in enumerate(self.rules, FIRST_RULE_BIT) if bits >> b & 1)
        return ZEROS if first.to == "zeros" else INITIAL

    def _elapsed(self, feature: Elapsed, turn: Turn) -> float:
        assert turn.time is not None
        known = turn.held.seen and (feature.across_reset or not turn.fresh)
        value = max(0, turn.time - turn.held.last_time) * feature.scale if known else feature.first
        if feature.then is not None:
            value = feature.then(np.array([[value]], np.float64))[0, 0]
        return float(value)

    def _guard(self, state: Mapping[str, Array], y: Mapping[str, Array]) -> None:
        for array in (*state.values(), *y.values()):
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise Guarded("finite")
        norm = self.limits.max_state_norm
        for array in state.values():
            if norm is not None and array.dtype.kind == "f" and _norm(array) > norm:
                raise Guarded("norm")

    def _accept(self, key: str, source: str, turn: Turn) -> None:
        """Everything that changes, once the event is certain to be served."""
        after = self._fired("after", turn, turn.steps - 1, turn.reset_time)
        held = turn.held
        self.expired += key in self.keys and self.keys[key] is not held
        self._store(key, held)
        self.sequence += 1
        held.state, held.steps, held.reset_time = turn.state, turn.steps, turn.reset_time
        held.last_time, held.seen, held.sequence = turn.now, True, self.sequence
        held.fields, held.columns, held.pending, held.fresh = turn.fields, turn.columns, 0, 0
        if after:
            held.pending, held.fresh, held.steps, held.reset_time = after, self._to(after), 0, turn.now
            held.state = self._initial(held.fresh)
        if turn.time is not None:
            self.largest[source] = max(turn.time, self.largest.get(source, turn.time))
        if self.sequence % self.limits.collect_every == 0:
            self.expire(max(self.largest.values(), default=0))

    def _store(self, key: str, held: Held) -> None:
        self.gone.pop(key_hash(key), None)
        if key not in self.keys and len(self.keys) >= self.limits.max_keys:
            victim = min(self.keys, key=lambda name: self.keys[name].sequence)
            del self.keys[victim]
            self.evicted += 1
            self._remember(victim, EVICTED)
        self.keys[key] = held

    def _remember(self, key: str, code: int) -> None:
        self.gone[key_hash(key)] = code
        if len(self.gone) > self.limits.remember_evicted:
            del self.gone[next(iter(self.gone))]
            self.forgot = True

    def expire(self, log_time: int) -> None:
        """Forget keys that would start anew anyway, oldest first."""
        if self.limits.idle is None:
            return
        for key in sorted(self.keys, key=lambda name: self.keys[name].sequence):
            if log_time - self.keys[key].last_time > self.limits.idle:
                del self.keys[key]
                self.expired += 1
                self._remember(key, EXPIRED)


def _norm(array: Array) -> float:
    flat = np.ascontiguousarray(array, np.float64).reshape(1, -1)
    with np.errstate(over="ignore"):
        return float(np.sqrt((flat * flat).sum(axis=1))[0])


def _fires(rule: ResetRule, turn: Turn, steps: int, since: int, columns: dict[str, Array]) -> bool:
    if type(rule).__module__.startswith("streamrnn.resets."):
        return _KNOWN[type(rule).__name__](rule, turn, steps, since)
    stamp = None if turn.time is None else np.array([turn.time], np.int64)
    now = Now({path: _one(turn.fields[path]) for path in rule.fields}, stamp)
    previous = Previous(
        np.array([turn.held.seen]),
        {path: _one(turn.held.fields.get(path)) for path in rule.previous_fields},
        None if turn.time is None else np.array([turn.held.last_time], np.int64),
        np.array([steps], np.int64) if rule.recursive else None,
        np.array([since], np.int64) if rule.recursive else None,
    )
    return bool(rule.fires(now, previous, columns)[0])


def _one(value: Any) -> Array:
    array = np.empty(1, object)
    array[0] = value
    return array


def _gap(rule: Any, turn: Turn, steps: int, since: int) -> bool:
    return turn.held.seen and turn.time is not None and turn.time - turn.held.last_time > rule.gap


def _age(rule: Any, turn: Turn, steps: int, since: int) -> bool:
    return bool(turn.held.seen and turn.now - since > rule.age)


def _every(rule: Any, turn: Turn, steps: int, since: int) -> bool:
    return bool(steps + (rule.when == "after") >= rule.events)


def _on_change(rule: Any, turn: Turn, steps: int, since: int) -> bool:
    return turn.held.seen and bool(turn.held.fields[rule.field] != turn.fields[rule.field])


def _on_value(rule: Any, turn: Turn, steps: int, since: int) -> bool:
    value = turn.fields[rule.field]
    number = isinstance(value, int | float)
    return (
        (rule.values is None or value in rule.values)
        and (rule.above is None or (number and value > rule.above))
        and (rule.below is None or (number and value < rule.below))
    )


def _calendar(rule: Any, turn: Turn, steps: int, since: int) -> bool:
    return turn.held.seen and has_begun(rule, turn.held.last_time, turn.now)


def _by_mark(rule: Any, turn: Turn, steps: int, since: int) -> bool:
    return False


_KNOWN: dict[str, Callable[[Any, Turn, int, int], bool]] = {
    "Gap": _gap,
    "Age": _age,
    "Every": _every,
    "OnChange": _on_change,
    "OnValue": _on_value,
    "Calendar": _calendar,
    "SourceEnd": _by_mark,
    "Control": _by_mark,
}
