"""A batch of one event of a known key, without the machinery for many: what latency is made of.

It answers only where nothing out of the ordinary happens, and otherwise leaves the event to the general way,
which it must equal bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from streamrnn.events import Outputs
from streamrnn.limits import Elapsed
from streamrnn.rules import Now, Previous
from streamrnn.values import canonical_column

if TYPE_CHECKING:
    from streamrnn.core.boundaries import Rules
    from streamrnn.core.serve import Server
    from streamrnn.core.store import Store
    from streamrnn.events import Array, Batch, IntArray

_ACCEPTED = np.zeros(1, np.int64)
_EXISTS = np.ones(1, np.bool_)


@dataclass(slots=True)
class Single:
    """One event being served; `row` holds its key, `now` is the key's largest time with it."""

    row: int
    rows: IntArray
    time: int | None
    last: int
    now: int
    steps: int
    since: int
    fields: dict[str, Array]
    cause: int = 0
    fresh: int = 0


class SingleServer:
    """Serves batches of one event over the same store, rules and model as the general way."""

    def __init__(self, store: Store, rules: Rules, server: Server, elapsed: Sequence[Elapsed]) -> None:
        self._store, self._rules, self._server, self._elapsed = store, rules, server, elapsed
        self._able = not any(rule.columns for rule in rules.rules)

    def serve(self, batch: Batch) -> Outputs | None:
        """The answer, or None with nothing changed: then the event takes the general way."""
        event = self._find(batch) if self._able else None
        if event is None:
            return None
        before = self._fired("before", event, batch)
        if before:
            bits = np.array([before], np.int64)
            event.cause, event.fresh = before, int(self._rules.to(bits)[0])
            event.steps, event.since = 0, event.now
        served = self._step(batch, event)
        if served is None:
            return None
        state, y = served
        after = self._fired("after", event, batch)
        self._accept(batch, event, state, after)
        steps = np.array([event.steps + 1], np.int64)
        return Outputs(_ACCEPTED.copy(), y, steps, np.array([event.cause], np.int64))

    def _find(self, batch: Batch) -> Single | None:
        """The event with the past of its key; None where that is not simply its last event."""
        store, limits = self._store, self._store.limits
        row = store.keys.index.get(batch.keys[0])
        column = store.columns.arrays
        if row < 0 or column["pending"][row] or column["epoch"][row] != store.epoch:
            return None
        if store.has_quarantine and column["quarantined"][row]:
            return None
        last, time = int(column["last_time"][row]), None
        if batch.time is not None:
            time = int(batch.time[0])
            seen = store.largest.get(batch.source, time)
            if limits.max_ahead is not None and time - seen > limits.max_ahead:
                return None
            if limits.idle is not None and max(time, *store.largest.values()) - last > limits.idle:
                return None
        fields = {path: canonical_column(values) for path, values in batch.fields.items()}
        if any(len(str(fields[path][0])) * 4 > limits.max_value_bytes for path in store.kept_fields):
            return None
        now = 0 if time is None else max(time, last)
        steps, since = int(column["steps"][row]), int(column["reset_time"][row])
        return Single(row, np.array([row]), time, last, now, steps, since, fields)

    def _fired(self, when: str, event: Single, batch: Batch) -> int:
        bits = 0
        for bit, rule in self._rules.bits:
            if rule.when == when:
                column = self._store.columns.arrays
                fields = {p: column[f"field:{p}"][event.rows] for p in rule.previous_fields}
                last = None if event.time is None else np.array([event.last])
                previous = Previous(_EXISTS, fields, last)
                if rule.recursive:
                    previous.steps, previous.reset_time = np.array([event.steps]), np.array([event.since])
                now = Now({path: event.fields[path] for path in rule.fields}, batch.time)
                if rule.fires(now, previous, {})[0]:
                    bits |= bit
        return bits

    def _step(self, batch: Batch, event: Single) -> tuple[Any, dict[str, Array]] | None:
        """The model's answer, or None if it or the guard refuses."""
        x = dict(batch.inputs)
        for feature in self._elapsed:
            x[feature.input] = _with_elapsed(x[feature.input], batch, feature, event)
        slab = self._store.slab
        self._server.calls += 1
        self._server.stepped += 1
        self._server.depth = 1
        state = slab.take(event.rows, np.array([event.fresh], np.int8), x)
        try:
            state, y = self._server.backend.step(state, x)
        except Exception:
            return None
        healthy = slab.healthy(state, self._server.max_norm)[0]
        for array in y.values():
            healthy = healthy and (array.dtype.kind != "f" or np.isfinite(array).all())
        return (state, y) if healthy else None

    def _accept(self, batch: Batch, event: Single, state: Any, after: int) -> None:
        store, row = self._store, event.row
        column = store.columns.arrays
        store.before(event.rows)
        store.slab.put(event.rows, state, _EXISTS)
        store.sequence += 1
        position = 0 if batch.positions is None else int(batch.positions[0])
        if event.fresh or after:
            column["reset_time"][row] = event.now if after else event.since
            column["reset_sequence"][row], column["reset_position"][row] = store.sequence, position
            column["reset_cause"][row] = after or event.cause
        column["sequence"][row], column["position"][row] = store.sequence, position
        column["last_time"][row], column["steps"][row] = event.now, event.steps + 1
        column["reset_known"][row], column["fresh"][row] = True, 0
        for path in store.kept_fields:
            column[f"field:{path}"][row] = event.fields[path][0]
        if after:
            bits = np.array([after], np.int64)
            store.reset(event.rows, bits, self._rules.to(bits))
        if event.time is not None:
            seen = store.largest.get(batch.source, event.time)
            store.largest[batch.source] = max(seen, event.time)


def _with_elapsed(x: Array, batch: Batch, feature: Elapsed, event: Single) -> Array:
    known = feature.across_reset or not event.fresh
    assert event.time is not None
    value: Any = max(0, event.time - event.last) * feature.scale if known else feature.first
    if feature.then is not None:
        value = feature.then(np.array([[value]], np.float64))[0, 0]
    x = x.copy() if x is batch.inputs[feature.input] else x
    x.reshape(1, -1)[0, feature.column] = value
    return x
