"""One shard of a pipeline: columns in, columns out, and all state in between."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from streamrnn.core import segment
from streamrnn.core.admission import admit, too_large
from streamrnn.core.boundaries import Asking, Boundaries, Carried, Rules
from streamrnn.core.keys import Placing
from streamrnn.core.links import Linker, Links
from streamrnn.core.lives import Lives, find_lives, timeless
from streamrnn.core.schedule import Segments, cut, steps_between
from streamrnn.core.serve import GUARDED, QUARANTINED, Served, Server
from streamrnn.core.single import SingleServer
from streamrnn.core.store import Store
from streamrnn.errors import ModelError
from streamrnn.events import Batch, Outputs
from streamrnn.globs import matches
from streamrnn.limits import CONTROL, EXPIRED, MAX_RULES, Elapsed, Limits
from streamrnn.values import canonical_column

if TYPE_CHECKING:
    from streamrnn.backend import Backend
    from streamrnn.cold import ColdStore
    from streamrnn.core.frozen import Frozen
    from streamrnn.events import Array, IntArray, Mark
    from streamrnn.order.waiting import Waiting
    from streamrnn.rules import ResetRule


@dataclass(slots=True)
class Plan:
    """A batch on its way through the core, nothing of it stored yet. All but `batch` in sorted order."""

    batch: Batch
    placing: Placing
    links: Links
    lives: Lives
    bounds: Boundaries
    carried: Carried
    fields: Mapping[str, Array]
    time: IntArray | None
    segments: Segments
    served: Served


class Core:
    """Keys, resets, waves and state of one shard; `definition.Definition` is what it must equal.

    No method touches a file, a clock or a thread. `process` never writes to its batch.
    """

    candidate: Core | None = None
    """The core of another model beside it; see `core.candidate`."""

    def __init__(
        self,
        backend: Backend,
        rules: Sequence[ResetRule] = (),
        elapsed: Sequence[Elapsed] = (),
        limits: Limits | None = None,
        waiting: Waiting | None = None,
        cold: ColdStore | None = None,
    ) -> None:
        if len(rules) > MAX_RULES:
            raise ModelError(f"at most {MAX_RULES} reset rules, found {len(rules)}")
        self.backend, self.elapsed, self.limits = backend, tuple(elapsed), limits or Limits()
        self.rules = Rules(rules)
        self.store = Store(backend, rules, self.limits, cold)
        self.waiting = self.store.beside = waiting
        """Events that are not in order yet: of no meaning to the core, and one with its state."""
        self.server = Server(backend, self.store.slab, self.limits.max_state_norm)
        self._linker = Linker()
        self._single = SingleServer(self.store, self.rules, self.server, self.elapsed)

    def __len__(self) -> int:
        """Live keys."""
        return len(self.store.keys)

    @property
    def forgotten(self) -> tuple[int, int]:
        """Keys that were evicted, and those that expired, since this core was made."""
        return self.store.keys.evicted, self.store.keys.expired

    @property
    def cause_names(self) -> tuple[str, ...]:
        """Names of the bits in `Outputs.cause`, lowest first."""
        return self.store.cause_names

    def process(self, batch: Batch) -> Outputs:
        """Serve a batch: one output for every event that is not refused, in the batch's order."""
        parts, start = [], 0
        while start < len(batch):
            # Idle keys are collected at fixed numbers of events, so that no cut of the stream changes when.
            room = self.limits.collect_every - self.store.sequence % self.limits.collect_every
            stop = min(len(batch), start + room)
            if self.store.tiers is not None:
                stop = min(stop, start + self.store.tiers.most_events)
            parts.append((start, self._serve(_slice(batch, start, stop))))
            if len(parts[-1][1]) == room:
                self.expire(max(self.store.largest.values(), default=0))
            start = stop
        return join(parts) if parts else _nothing(self.backend, {})

    def mark(self, mark: Mark) -> None:
        """Between batches: the end of a source or a control message, for the keys it names or for all."""
        if bits := self._bits(mark):
            self.store.reset_keys(mark.keys if mark.glob is None else self.keys_like(mark.glob), bits)

    def keys_like(self, glob: str) -> list[str]:
        """The live keys that a pattern means, in one pass over all of them."""
        match = matches(glob).fullmatch
        return [key for key in self.store.each_key() if match(key)]

    def heeds(self, mark: Mark) -> bool:
        """Whether a mark means anything to it."""
        return self._bits(mark) != 0

    def _bits(self, mark: Mark) -> int:
        return self.rules.mark_bits(mark.kind) | (CONTROL if mark.kind == "control" else 0)

    def expire(self, log_time: int) -> None:
        """Free the rows of keys that would begin anew anyway if they came back at `log_time` or later."""
        if self.limits.idle is not None:
            self.store.free_idle(log_time, self.limits.idle)

    def snapshot(self) -> bytes:
        """All state as one segment; the next delta starts from here."""
        return self._at_once(self.freeze(base=True))

    def take_delta(self) -> bytes:
        """A segment of the rows that changed since the last snapshot or delta."""
        return self._at_once(self.freeze(base=False))

    def freeze(self, base: bool) -> Frozen:
        """A snapshot, or a delta unless `base`, of this moment, to be taken while events are served."""
        return self.store.freeze(base)

    def _at_once(self, frozen: Frozen) -> bytes:
        frozen.take_all()
        return b"".join(frozen.part()())

    def restore(self, segments: Iterable[bytes]) -> str | None:
        """Become what a snapshot and the deltas after it describe; for a core that has served nothing.

        Returns a sentence for a person if another backend of the same model kept them. Raises `StateError` if
        they are damaged, in the wrong order, or of another model.
        """
        return segment.read(self.store, segments)

    def _serve(self, batch: Batch) -> Outputs:
        """One part of a batch; planned again, without them, for as long as events are refused."""
        if len(batch) == 1:
            single = self._single.serve(batch)
            if single is not None:
                return single
        if self.store.tiers is not None:
            self.store.tiers.warm(batch.keys)
        fields = {path: canonical_column(column) for path, column in batch.fields.items()}
        refused = too_large(self.store, fields)
        away = self._in_quarantine(batch)
        if away is None:
            return self._cut_at(batch, len(batch) // 2)
        refused = dict.fromkeys(away, QUARANTINED) | refused
        guilty: list[int] = []
        while True:
            index, ahead = admit(self.store, batch, refused)
            if not len(index):
                self.store.punish([batch.keys[i] for i in guilty])
                return _nothing(self.backend, refused | ahead)
            whole = len(index) == len(batch)
            part = batch if whole else batch.take(index)
            plan = self._plan(part, fields if whole else {path: c[index] for path, c in fields.items()})
            if not plan.served.refused:
                outputs = self._commit(plan, index, refused | ahead)
                self.store.punish([batch.keys[i] for i in guilty])
                return outputs
            certain = self._certain(plan)
            if not certain:
                return self._cut_at(batch, len(batch) // 2)
            refused |= {int(index[i]): reason for i, reason in certain.items()}
            guilty += [int(index[i]) for i, reason in certain.items() if reason in GUARDED]
            if (again := self._next_of(batch, guilty)) is not None:
                return self._cut_at(batch, again)

    def _cut_at(self, batch: Batch, place: int) -> Outputs:
        """The batch in two parts, the first of `place` events."""
        first = self._serve(_slice(batch, 0, place))
        return join([(0, first), (place, self._serve(_slice(batch, place, len(batch))))])

    def _next_of(self, batch: Batch, guilty: Sequence[int]) -> int | None:
        """The first event that meets what the guard did to its key within the batch; None if none does."""
        if self.limits.guard == "keep_previous" or not guilty:
            return None
        since = {batch.keys[i]: i for i in sorted(guilty, reverse=True)}
        return next((i for i, key in enumerate(batch.keys) if since.get(key, i) < i), None)

    def _is_settled(self, n: int) -> bool:
        """Whether what becomes of a key in a batch of n events is a matter of its own events alone."""
        shared = self.limits.idle is not None or self.limits.max_ahead is not None
        return n == 1 or not (shared or len(self) + n > self.limits.max_keys)

    def _in_quarantine(self, batch: Batch) -> list[int] | None:
        """The events whose key is in quarantine when they come; None if only parts of the batch can tell."""
        n, idle = len(batch), self.limits.idle
        away = self.store.quarantined(batch.keys)
        if not len(away):
            return []
        if n > 1 and len(self) + n > self.limits.max_keys:
            return None  # one of the keys may be evicted, and come back as another
        if idle is not None and batch.time is not None:
            rows = self.store.keys.index.find([batch.keys[i] for i in away.tolist()])
            latest = max([int(batch.time.max()), *self.store.largest.values()])
            expired = latest - self.store.columns["last_time"][rows] > idle
            if n > 1 and expired.any():
                return None
            away = away[~expired]
        found: list[int] = away.tolist()
        return found

    def _certain(self, plan: Plan) -> dict[int, str]:
        """The refusals of a plan that stand, whatever else of its batch must be refused.

        What was concluded of an event holds if the past of its key does: not where keys share time or rows,
        and not behind a reset in the batch, which an event before it may have caused that is refused itself.
        Nothing is certain then, and the batch is served in halves; a single event always is.
        """
        n = len(plan.batch)
        if not self._is_settled(n):
            return {}
        place = np.empty(n, np.int64)
        place[plan.links.order] = np.arange(n)
        unbroken = plan.links.starts[plan.segments.start_of[place]]
        return {i: reason for i, reason in plan.served.refused.items() if unbroken[i]}

    def _plan(self, batch: Batch, fields: Mapping[str, Array]) -> Plan:
        """rows -> links -> resets -> keyed features -> segments -> step and scan."""
        store = self.store
        placing = store.keys.place(batch.keys, store.columns["sequence"])
        store.grow(int(placing.rows.max()) + 1)
        links, first = self._linker.link(placing.rows, store.columns.capacity), placing.first
        order = links.order
        time = np.zeros(len(batch), np.int64) if batch.time is None else batch.time[order]
        expiry = self._expiry(batch.time, order)
        carried = store.carried(links)
        given = None if batch.time is None else time
        if given is None and not store.largest:
            lives = timeless(first[order])
        else:
            lives = find_lives(links, first[order], time, carried.records["last_time"], expiry)
        fields = {path: column[order] for path, column in fields.items()}
        bounds = self.rules.apply(Asking(links, lives, carried, given, fields))
        inputs = self._keyed_features(batch, links, lives, bounds, time)
        segments = cut(links, bounds)
        served = self.server.run(segments, inputs)
        return Plan(batch, placing, links, lives, bounds, carried, fields, given, segments, served)

    def _expiry(self, time: IntArray | None, order: IntArray) -> IntArray | None:
        """In sorted order: the time before which a key's last event is too long ago."""
        if time is None or self.limits.idle is None:
            return None
        start = max(self.store.largest.values(), default=int(time[0]))
        largest = np.maximum(np.maximum.accumulate(time), start)
        return (largest - self.limits.idle)[order]

    def _keyed_features(
        self, batch: Batch, links: Links, lives: Lives, bounds: Boundaries, time: IntArray
    ) -> dict[str, Array]:
        """The inputs with the columns filled in that depend on the key's past."""
        inputs = dict(batch.inputs)
        for feature in self.elapsed:
            if inputs[feature.input] is batch.inputs[feature.input]:
                inputs[feature.input] = batch.inputs[feature.input].copy()
            known = lives.exists if feature.across_reset else lives.exists & (bounds.fresh == 0)
            elapsed = np.maximum(0, time - lives.before) * feature.scale
            values = np.where(known, elapsed, feature.first)
            if feature.then is not None:
                values = feature.then(values[:, None])[:, 0]
            flat = inputs[feature.input].reshape(len(batch), -1)  # a view: a scalar input has no columns
            flat[links.order, feature.column] = values
        return inputs

    def _commit(self, plan: Plan, index: IntArray, refused: dict[int, str]) -> Outputs:
        """Store everything the batch changed, and sort its answer back into the batch's order."""
        self.store.before(plan.links.rows)
        if self.limits.idle is not None:
            began = plan.placing.first[plan.links.order] != 0
            self.store.keys.expired += int(((plan.lives.cause == EXPIRED) & ~began).sum())
        self.store.keys.accept(plan.placing)
        if self.store.tiers is not None:
            self.store.tiers.number(plan.placing.taken)
        for rows, state, mask in plan.served.puts:
            self.store.slab.put(rows, state, mask)
        steps = self._steps(plan)
        self._store_columns(plan, steps)
        self.store.sequence += len(index)
        if plan.batch.time is not None:
            seen = self.store.largest.get(plan.batch.source)
            largest = int(plan.batch.time.max())
            self.store.largest[plan.batch.source] = largest if seen is None else max(largest, seen)
        y = plan.served.y(self.backend.outputs, len(index))
        out = Outputs(index, y, np.empty_like(steps), np.zeros_like(steps), refused)
        out.steps[plan.links.order] = steps
        if not plan.bounds.quiet:
            out.cause[plan.links.order] = plan.bounds.cause
        return out

    def _steps(self, plan: Plan) -> IntArray:
        """int64 [n], sorted: the number of each event since its last reset, from 1."""
        links, carried = plan.links, plan.carried.steps
        if plan.bounds.quiet:
            runs, after = links.mixed, carried + 1
            lengths = steps_between(links.begins, len(links.order))[:runs]
            several = (after[:runs] - links.begins[:runs]).repeat(lengths)
            return np.concatenate([several + np.arange(len(several)), after[runs:]])
        lengths = steps_between(links.begins, len(links.order))
        fresh = plan.bounds.fresh[plan.segments.start_of]
        return np.where(fresh == 0, carried.repeat(lengths), 0) + plan.segments.place + 1

    def _store_columns(self, plan: Plan, steps: IntArray) -> None:
        """The row columns as the last event of each row leaves them."""
        last, records = plan.links.lasts, plan.carried.records
        self._store_resets(plan, last)
        at = plan.links.order[last]
        records["sequence"] = at + (self.store.sequence + 1)
        records["position"] = 0 if plan.batch.positions is None else plan.batch.positions[at]
        if plan.time is not None or self.store.largest:  # else no event ever had one
            records["last_time"] = plan.lives.now[last]
        records["steps"] = steps[last]
        records["epoch"] = self.store.epoch
        records["pending"] = 0
        records["quarantined"] = 0
        records["fresh"] = 0
        for path in self.store.kept_fields:
            records[f"field:{path}"] = plan.fields[path][last]
        self.store.columns.put(records)
        if plan.bounds.quiet:
            return
        after = plan.bounds.after[last]
        reset = after != 0
        if reset.any():
            self.store.reset(plan.links.rows[reset], after[reset], self.rules.to(after[reset]))

    def _store_resets(self, plan: Plan, last: IntArray) -> None:
        """When, where and why each row was reset last."""
        bounds, now, records = plan.bounds, plan.lives.now, plan.carried.records
        records["reset_known"] = True
        if bounds.quiet:
            return
        start, after = plan.segments.start_of[last], bounds.after[last] != 0
        inside = ~after & (bounds.fresh[start] != 0)
        at_event = after | bounds.timed[start]
        own_time = np.where(after, now[last], now[start])
        # A reset behind an event counts from that event, which may lie in an earlier batch.
        behind = np.where(plan.links.starts[start], plan.carried.reset_time, now[np.maximum(start - 1, 0)])
        time = np.where(at_event, own_time, behind)
        changed = after | inside
        records["reset_time"] = np.where(changed, time, plan.carried.reset_time)
        at = plan.links.order[np.where(after, last, start)[changed]]
        records["reset_sequence"][changed] = at + (self.store.sequence + 1)
        records["reset_position"][changed] = 0 if plan.batch.positions is None else plan.batch.positions[at]
        why = np.where(after, bounds.after[last], bounds.cause[start])
        records["reset_cause"][changed] = why[changed]


def _slice(batch: Batch, start: int, stop: int) -> Batch:
    return batch if stop - start == len(batch) else batch.take(np.arange(start, stop))


def _nothing(backend: Backend, refused: dict[int, str]) -> Outputs:
    empty = np.zeros(0, np.int64)
    y = {spec.name: np.zeros((0, *spec.shape), spec.dtype) for spec in backend.outputs}
    return Outputs(empty, y, empty, empty.copy(), refused)


def join(parts: Sequence[tuple[int, Outputs]]) -> Outputs:
    """The outputs of consecutive parts of a batch, each with the index at which it starts."""
    if len(parts) == 1:
        return parts[0][1]
    return Outputs(
        np.concatenate([part.accepted + start for start, part in parts]),
        {name: np.concatenate([part.y[name] for _, part in parts]) for name in parts[0][1].y},
        np.concatenate([part.steps for _, part in parts]),
        np.concatenate([part.cause for _, part in parts]),
        {i + start: reason for start, part in parts for i, reason in part.refused.items()},
    )
