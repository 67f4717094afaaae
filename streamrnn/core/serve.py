"""Running the model over the segments of a batch: wide waves by `step`, the narrow rest by `scan`.

Nothing is stored here: what has to be put into the slab is collected, so that a batch in which the model
or the guard refuses an event can be planned again as if nothing had happened.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from streamrnn.backend import FirstInput
from streamrnn.core.rows import all_finite, put_rows
from streamrnn.core.schedule import Segments, stretches
from streamrnn.errors import ModelError

if TYPE_CHECKING:
    from streamrnn.backend import Backend, Slab, TensorSpec
    from streamrnn.events import Array, BoolArray, IntArray

NOT_FINITE = "the model's new state or output is not finite"
OVER_NORM = "the norm of the model's new state is over limits.max_state_norm"
GUARDED = (NOT_FINITE, OVER_NORM)
"""Reasons for which `limits.guard` does something to the key, too."""
QUARANTINED = "the key is in quarantine, since the guard refused an event of it; reset the key to free it"


@dataclass
class Served:
    """What the model made of a batch: outputs of some events at a time, states to put, refused events.

    Events are named by their index in the batch.
    """

    answers: list[tuple[IntArray, Mapping[str, Array]]] = field(default_factory=list)
    puts: list[tuple[IntArray, Any, BoolArray]] = field(default_factory=list)
    refused: dict[int, str] = field(default_factory=dict)

    def y(self, specs: Sequence[TensorSpec], n: int) -> dict[str, Array]:
        """All outputs [n, *shape] in the batch's order; none of its n events was refused."""
        found = {spec.name: np.empty((n, *spec.shape), spec.dtype) for spec in specs}
        for events, y in self.answers:
            for name, array in found.items():
                put_rows(array, events, y[name])
        return found


@dataclass
class Server:
    """A backend with its slab and the guard. Waves narrower than `scan_below` rows go through `scan`."""

    backend: Backend
    slab: Slab
    max_norm: float | None = None
    scan_below: int = 40
    calls: int = field(default=0, init=False)
    """How often the model was called for waves; with `stepped`, how wide they are."""
    stepped: int = field(default=0, init=False)
    scans: int = field(default=0, init=False)
    """How often it was called for sequences, and with `scanned` how many events they had."""
    scanned: int = field(default=0, init=False)
    depth: int = field(default=0, init=False)
    """Events of the busiest key in the last batch, one behind the other without a reset."""

    def __post_init__(self) -> None:
        initial = [tensor.initial for tensor in self.backend.state.tensors]
        self._begun_by = {first.input for first in initial if isinstance(first, FirstInput)}

    def run(self, segments: Segments, inputs: Mapping[str, Array]) -> Served:
        """Serve all segments of a batch of n events; `inputs` arrays [n, *shape] in batch order."""
        served = Served()
        width = len(segments.rows)
        self.depth = int(segments.lengths[0])
        first = {name: inputs[name] for name in self._begun_by}
        x = _pick(first, segments.events(0, 0, width)) if first else {}
        state = self.slab.take(segments.rows, segments.fresh, x)
        # scan reports what is not finite, not what is over the norm.
        scan = self.backend.scan is not None and self.max_norm is None
        _Run(self, segments, inputs, served).advance(state, 0, 0, width, scan)
        return served

    def step(
        self, state: Any, x: dict[str, Array], events: IntArray, served: Served
    ) -> tuple[Any, dict[str, Array]]:
        """One step for the batch's `events`; those that the model or the guard refuses go to `served`."""
        self.calls += 1
        self.stepped += len(events)
        try:
            new_state, y = self.backend.step(state, x)
        except Exception as error:
            guilty = dict(self._bisect(state, x, 0, len(events), error))
            if not guilty:
                raise ModelError(f"the model fails on {len(events)} rows together: {error}") from error
            served.refused.update({int(events[i]): reason for i, reason in guilty.items()})
            return state, {}
        if self.max_norm is None and self._is_fine(new_state, y):
            return new_state, y
        bad = ~self._finite(new_state, y)
        if bad.any():
            served.refused.update({int(events[i]): NOT_FINITE for i in np.flatnonzero(bad)})
        if self.max_norm is not None:
            for i in np.flatnonzero(~bad & ~self.slab.healthy(new_state, self.max_norm)):
                served.refused[int(events[i])] = OVER_NORM
        return new_state, y

    def _is_fine(self, state: Any, y: Mapping[str, Array]) -> bool:
        for array in y.values():
            # An output that is a state is looked over once.
            if not any(array is kept for kept in state.values()) and not all_finite(array):
                return False
        return bool(self.slab.healthy(state, None).all())

    def _finite(self, state: Any, y: Mapping[str, Array]) -> BoolArray:
        n = len(next(iter(y.values())))
        ok = np.ones(n, np.bool_) & self.slab.healthy(state, None)
        for array in y.values():
            if array.dtype.kind == "f":
                ok &= np.isfinite(array).reshape(n, -1).all(axis=1)
        return ok

    def _bisect(
        self, state: Any, x: dict[str, Array], start: int, stop: int, error: Exception | None
    ) -> list[tuple[int, str]]:
        """Which of the rows start..stop, that fail together, make the model raise on their own.

        `error` is what it raised for them, None if that is only concluded from others being fine.
        """
        if stop - start == 1:
            error = error or self._failure(state, x, start, stop)
            return [(start, f"the model refused it: {type(error).__name__}: {error}")] if error else []
        middle = (start + stop) // 2
        if found := self._failure(state, x, start, middle):
            guilty = self._bisect(state, x, start, middle, found)
            found = self._failure(state, x, middle, stop)
            return guilty + (self._bisect(state, x, middle, stop, found) if found else [])
        return self._bisect(state, x, middle, stop, None)

    def _failure(self, state: Any, x: dict[str, Array], start: int, stop: int) -> Exception | None:
        """What the model raises for some of the rows, if it does."""
        try:
            self.backend.step(self.slab.narrow(state, start, stop), {n: v[start:stop] for n, v in x.items()})
        except Exception as error:
            return error
        return None


@dataclass
class _Run:
    """One batch being served. Segments start..stop stand at their k-th event, `state` has their rows."""

    server: Server
    segments: Segments
    inputs: Mapping[str, Array]
    served: Served

    def advance(self, state: Any, k: int, start: int, stop: int, scan: bool) -> None:
        """To the end of the segments, or until an event is refused."""
        segments, served, slab = self.segments, self.served, self.server.slab
        while stop > start and not served.refused:
            running = max(min(segments.running(k + 1), stop), start)
            if scan and running > start and stop - start < self.server.scan_below:
                self._scan(state, k, start, stop)
                return
            events = segments.events(k, start, stop)
            state, y = self.server.step(state, _pick(self.inputs, events), events, served)
            if served.refused:
                return
            served.answers.append((events, y))
            self._finish(state, running, stop, start)
            if running > start:
                state = slab.narrow(state, 0, running - start)
            k, stop = k + 1, running

    def _finish(self, state: Any, start: int, stop: int, offset: int) -> None:
        """Segments start..stop have had their last event; `state` begins with segment `offset`."""
        kept = self.segments.kept[start:stop]
        if start < stop and kept.any():
            last = self.server.slab.narrow(state, start - offset, stop - offset)
            self.served.puts.append((self.segments.rows[start:stop], last, kept))

    def _scan(self, state: Any, k: int, start: int, stop: int) -> None:
        """To the end in a few calls, of ever fewer segments; in one, if that costs no more."""
        lengths = (self.segments.lengths[start:stop] - k).tolist()
        for steps in lengths[:1] if self.server.backend.ragged else stretches(lengths):
            scanned = self._scan_steps(state, k, start, stop, steps)
            if scanned is None:
                self.advance(state, k, start, stop, scan=False)
                return
            k += steps
            running = max(min(self.segments.running(k), stop), start)
            self._finish(scanned, running, stop, start)
            if running > start:
                state = self.server.slab.narrow(scanned, 0, running - start)
            stop = running

    def _scan_steps(self, state: Any, k: int, start: int, stop: int, steps: int) -> Any:
        """The state behind so many steps or the end; None if an event was refused, which `step` must find."""
        segments = self.segments
        lens = np.minimum(segments.lengths[start:stop] - k, steps)
        place = np.arange(steps)
        at = segments.begins[start:stop, None] + k + np.minimum(place, lens[:, None] - 1)
        events = segments.order[at]
        scan: Callable[..., Any] = self.server.backend.scan  # type: ignore[assignment]
        try:
            state, y, bad_at = scan(state, _pick(self.inputs, events), lens)
        except Exception:
            return None
        if bad_at.max() >= 0:
            return None
        self.server.scans += 1
        self.server.scanned += int(lens.sum())
        if lens[-1] == steps:  # lengths fall: none is padded
            answers = {name: array.reshape(-1, *array.shape[2:]) for name, array in y.items()}
            self.served.answers.append((events.ravel(), answers))
        else:
            valid = (place < lens[:, None]).nonzero()
            self.served.answers.append((events[valid], {name: array[valid] for name, array in y.items()}))
        return state


def _pick(inputs: Mapping[str, Array], events: IntArray) -> dict[str, Array]:
    return {name: array.take(events, axis=0) for name, array in inputs.items()}
