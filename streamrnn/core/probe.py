"""The load-time probe: do an event's bits depend on its key's history alone, and does scan equal step?

Random histories are played one row at a time; that is the reference. The same events are then asked for
again in calls of many sizes, in any order, and must come back with the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from streamrnn.core.slab import HostSlab
from streamrnn.core.wrap import Padded, WithoutScan
from streamrnn.errors import ModelError
from streamrnn.limits import INITIAL

if TYPE_CHECKING:
    from streamrnn.backend import Arrays, Backend, TensorSpec
    from streamrnn.events import Array, IntArray

_PADS = (2, 4, 8, 32)
# A few wide calls beside the narrow ones: matrix products change their method with the number of rows.
_STEP_ROWS = (*range(1, 34), 64, 257)
_SCAN_ROWS = (1, 2, 3, 5, 8, 16, 33)
# One key with a long history among short ones, as a busy key looks in a batch.
_LENGTHS = (40,) + (6,) * 15
_SCALES = (1.0, 0.1, 0.0)


@dataclass(frozen=True)
class Verdict:
    """What the probe found, for `settle`.

    `pad_rows` is the multiple that rows must be padded to, 0 for none; `scan` whether the backend's scan may
    be used; `reasons` are sentences for a person.
    """

    numerics: Literal["batch_invariant", "approximate"]
    pad_rows: int = 0
    scan: bool = False
    reasons: tuple[str, ...] = ()


class BrokenContract(ModelError):
    """What step returned has not the names, shapes or dtypes that the backend declares."""


class ByRow:
    """A backend whose states go in and out as rows [n, *shape], whatever its batch axes and slab.

    With `narrowed` a state is cut out of a larger one, as it is in a batch whose keys have ended.
    """

    def __init__(self, backend: Backend, capacity: int) -> None:
        self.backend = backend
        # A row more at both ends, for states to be cut out of.
        size = capacity + 2
        self.slab = backend.make_slab(size) if backend.make_slab else HostSlab(backend.state, size)

    def initial(self, x: Mapping[str, Array], n: int) -> Arrays:
        """The states that n keys have before their first events `x` [n, *shape]."""
        rows = np.arange(n)
        state = self.slab.take(rows, np.full(n, INITIAL, np.int8), x)
        self.slab.put(rows, state, np.ones(n, np.bool_))
        return self.slab.read(rows)

    def load(self, states: Mapping[str, Array], n: int, narrowed: bool = False) -> Arrays:
        """The states as `step` takes them."""
        rows = np.arange(1, n + 1)
        self.slab.write(rows, {t.name: states[t.name] for t in self.backend.state.tensors})
        if not narrowed:
            return self.slab.take(rows, np.zeros(n, np.int8), {})
        return self.slab.narrow(self.slab.take(np.arange(n + 2), np.zeros(n + 2, np.int8), {}), 1, n + 1)

    def unload(self, state: Arrays, n: int) -> Arrays:
        """What `step` or `scan` returned, as rows."""
        rows = np.arange(n)
        self.slab.put(rows, state, np.ones(n, np.bool_))
        return self.slab.read(rows)

    def step(self, states: Arrays, x: Arrays, n: int, narrowed: bool = False) -> tuple[Arrays, Arrays]:
        """As `Backend.step`; raises `BrokenContract` for an answer that is not as declared."""
        state, y = self.backend.step(self.load(states, n, narrowed), x)
        problem = output_problem(self.backend, y, (n,)) or state_problem(self.backend, state, n)
        if problem:
            raise BrokenContract(problem)
        return self.unload(state, n), y

    def scan(self, states: Arrays, x: Arrays, lens: IntArray) -> tuple[Arrays, Arrays, IntArray]:
        """As `Backend.scan`, with the same check."""
        assert self.backend.scan is not None
        n, t = len(lens), int(lens.max())
        state, y, bad_at = self.backend.scan(self.load(states, n), x, lens)
        problem = output_problem(self.backend, y, (n, t)) or state_problem(self.backend, state, n)
        if np.shape(bad_at) != (n,):
            problem = f"scan returned bad_at of shape {np.shape(bad_at)}, expected ({n},)"
        if problem:
            raise BrokenContract(problem)
        return self.unload(state, n), y, bad_at


def output_problem(backend: Backend, y: Arrays, lead: tuple[int, ...]) -> str | None:
    """What is wrong with the names, dtypes and shapes (*lead, *shape) of outputs, or None."""
    expected = {spec.name: ((*lead, *spec.shape), spec.dtype) for spec in backend.outputs}
    return _problem("output", y, expected)


def state_problem(backend: Backend, state: Arrays, n: int) -> str | None:
    """What is wrong with the names, dtypes and shapes of states with n rows, or None."""
    expected = {
        t.name: ((*t.shape[: t.batch_axis], n, *t.shape[t.batch_axis :]), t.dtype)
        for t in backend.state.tensors
    }
    return _problem("state", state, expected)


def _problem(what: str, found: Arrays, expected: Mapping[str, tuple[tuple[int, ...], str]]) -> str | None:
    if found.keys() != expected.keys():
        return f"expected the {what}s {sorted(expected)}, found {sorted(found)}"
    for name, (shape, dtype) in expected.items():
        array = found[name]
        if tuple(array.shape) != shape:
            return f"{what} '{name}': expected an array of shape {shape}, found {tuple(array.shape)}"
        if isinstance(array, np.ndarray) and array.dtype != np.dtype(dtype):
            return f"{what} '{name}': declared as {dtype}, found {array.dtype}; convert it or declare that"
    return None


def difference(found: Arrays, expected: Arrays, tolerance: float | None = None) -> str | None:
    """How two mappings of arrays [n, ...] differ, or None: in any bit, or by over `tolerance`.

    The tolerance is absolute below 1 and relative above.
    """
    for name, want in expected.items():
        got, n = np.asarray(found[name]), len(want)
        if got.shape != want.shape or got.dtype != want.dtype:
            return f"'{name}' is {got.dtype} {got.shape}, expected {want.dtype} {want.shape}"
        if tolerance is None:
            differs = (_bytes(got, n) != _bytes(want, n)).any(axis=1)
        else:
            close = np.isclose(got, want, rtol=tolerance, atol=tolerance, equal_nan=True)
            differs = ~close.reshape(n, -1).all(axis=1)
        if differs.any():
            gap = np.abs(got[differs].astype(np.float64) - want[differs].astype(np.float64)).max()
            return f"'{name}' differs in {differs.sum()} of {n} events, by up to {gap:.2g}"
    return None


def _bytes(array: Array, n: int) -> Array:
    return np.ascontiguousarray(array).reshape(n, -1).view(np.uint8)


def all_finite(*groups: Mapping[str, Array]) -> bool:
    """Whether every number of these host arrays is finite."""
    return all(
        bool(np.isfinite(array).all())
        for group in groups
        for array in group.values()
        if array.dtype.kind == "f"
    )


def draw(spec: TensorSpec, n: int, rng: np.random.Generator, scale: float = 1.0) -> Array:
    """Random inputs [n, *shape]: normal ones times `scale`; integers below `high`, or 0 and 1 without it."""
    shape = (n, *spec.shape)
    if np.dtype(spec.dtype).kind == "f":
        return (rng.standard_normal(shape) * scale).astype(spec.dtype)
    high = 2 if spec.high is None else spec.high
    return rng.integers(0, high if scale else 1, shape).astype(spec.dtype)


@dataclass
class History:
    """Events of several keys, each played alone: arrays [events, *shape], one key after the other.

    `left` int64 [events] counts a key's events from this one on, itself included.
    """

    before: Arrays
    x: Arrays
    after: Arrays
    y: Arrays
    left: IntArray

    def __len__(self) -> int:
        return len(self.left)


def record(backend: Backend, x: Arrays, lengths: Iterable[int]) -> tuple[History | None, str]:
    """Play the events of `x`, `lengths` of each key, one row at a time; also why a key ended early, or "".

    A key ends at an event that the model refuses or answers with numbers that are not finite. The history is
    None if no event is left.
    """
    alone, events, left, why, start = ByRow(backend, 1), [], [], "", 0
    for length in lengths:
        played, failure = _play_key(alone, x, start, start + length)
        events += played
        left.append(np.arange(len(played), 0, -1))
        why, start = failure or why, start + length
    if not events:
        return None, why
    before, given, after, y = (
        {name: np.concatenate([event[name] for event in part]) for name in part[0]}
        for part in zip(*events, strict=True)
    )
    return History(before, given, after, y, np.concatenate(left)), why


def _play_key(alone: ByRow, x: Arrays, start: int, stop: int) -> tuple[list[tuple[Arrays, ...]], str]:
    """Tuples (state before, inputs, state after, outputs) of the events start..stop of one key."""
    played: list[tuple[Arrays, ...]] = []
    state = alone.initial(pick(x, slice(start, start + 1)), 1)
    for k in range(start, stop):
        event = pick(x, slice(k, k + 1))
        try:
            after, y = alone.step(state, event, 1)
        except BrokenContract:
            raise
        except Exception as error:
            return played, f"the model raises {type(error).__name__}: {error}"
        if not all_finite(after, y):
            return played, "the model's answers are not finite"
        played.append((state, event, after, y))
        state = after
    return played, ""


def probe(backend: Backend, seed: int = 0) -> Verdict:
    """Find out how an opened backend may be served; random inputs come from `seed`.

    Raises `ModelError` if its answers have not the names, shapes or dtypes it declares.
    """
    rng = np.random.default_rng(seed)
    with np.errstate(all="ignore"):
        history, note = _play(backend, rng)
        if history is None:
            return Verdict("approximate", reasons=(f"nothing could be compared: {note}",))
        reasons = [note] if note else []
        problem = step_problem(backend, history, rng)
        pad_rows = 0
        if problem:
            reasons.append(problem)
            pad_rows, history = _find_padding(backend, history, rng)
        exact = not problem or pad_rows > 0
        served = Padded(backend, pad_rows) if pad_rows else backend
        # Bits that vary with the batch cannot equal step's; a scan that is wrong is off by far more.
        wrong = None if backend.scan is None else scan_problem(served, history, rng, None if exact else 1e-3)
    if wrong:
        reasons.append(wrong)
    numerics: Literal["batch_invariant", "approximate"] = "batch_invariant" if exact else "approximate"
    return Verdict(numerics, pad_rows, backend.scan is not None and not wrong, tuple(reasons))


def settle(backend: Backend, verdict: Verdict) -> Backend:
    """The backend to serve with: padded and without its scan, where the verdict says so."""
    if verdict.pad_rows:
        backend = Padded(backend, verdict.pad_rows)
    return backend if verdict.scan or backend.scan is None else WithoutScan(backend)


def _play(backend: Backend, rng: np.random.Generator) -> tuple[History | None, str]:
    """A history of at least half the events, from inputs as large as the model takes; also what failed."""
    note = ""
    for scale in _SCALES:
        x = {spec.name: draw(spec, sum(_LENGTHS), rng, scale) for spec in backend.inputs}
        history, why = record(backend, x, _LENGTHS)
        if history is not None and 2 * len(history) >= sum(_LENGTHS):
            return history, f"compared on inputs of scale {scale:g} only: {note}" if note else ""
        note = why
    return None, note


def _find_padding(backend: Backend, history: History, rng: np.random.Generator) -> tuple[int, History]:
    """The smallest multiple of rows that makes step invariant, with the history so padded; 0 if none does."""
    for rows in _PADS:
        if backend.make_slab is None and (backend.max_rows is None or rows <= backend.max_rows):
            padded = Padded(backend, rows)
            keys = history.left[np.flatnonzero(np.diff(history.left, prepend=0) >= 0)]
            again, _ = record(padded, history.x, keys.tolist())
            if again is not None and len(again) == len(history) and not step_problem(padded, again, rng):
                return rows, again
    return 0, history


def step_problem(
    backend: Backend, history: History, rng: np.random.Generator, tolerance: float | None = None
) -> str | None:
    """How step's answers for many rows differ from those for one, or None."""
    rows = [n for n in _STEP_ROWS if backend.max_rows is None or n <= backend.max_rows]
    many = ByRow(backend, max(rows))
    for n in rows:
        at = rng.integers(0, len(history), n)
        before, x = pick(history.before, at), pick(history.x, at)
        try:
            after, y = many.step(before, x, n, narrowed=n % 2 == 0)
        except BrokenContract:
            raise
        except Exception as error:
            return f"step of {n} rows raises {type(error).__name__}, which none of them does alone: {error}"
        different = difference(after, pick(history.after, at), tolerance)
        different = different or difference(y, pick(history.y, at), tolerance)
        if different:
            return f"step of {n} rows answers otherwise than for each row alone: {different}"
    return None


def scan_problem(
    backend: Backend, history: History, rng: np.random.Generator, tolerance: float | None = None
) -> str | None:
    """How scan's answers for sequences cut at random differ from step's, or None."""
    rows = [n for n in _SCAN_ROWS if backend.max_rows is None or n <= backend.max_rows]
    many = ByRow(backend, max(rows))
    for n in rows:
        first = rng.integers(0, len(history), n)
        lens = rng.integers(1, history.left[first] + 1)
        if n % 2 == 0:
            first[0], lens[0] = 0, history.left[0]
        different = _scan_difference(many, history, first, lens, rng, tolerance)
        if different:
            return f"scan of {n} rows and up to {lens.max()} events does not equal step: {different}"
    with np.errstate(all="ignore"):
        return _bad_at_problem(backend, history, rng)


def _scan_difference(
    many: ByRow,
    history: History,
    first: IntArray,
    lens: IntArray,
    rng: np.random.Generator,
    tolerance: float | None,
) -> str | None:
    place = np.arange(lens.max())
    valid = place < lens[:, None]
    # Steps past a row's length hold other events, to show whether they are read.
    anything = rng.integers(0, len(history), valid.shape)
    at = np.where(valid, first[:, None] + place, anything)
    try:
        after, y, bad_at = many.scan(pick(history.before, first), pick(history.x, at), lens)
    except Exception as error:
        return f"it raises {type(error).__name__}: {error}"
    if (bad_at != -1).any():
        return f"bad_at is {bad_at.tolist()}, expected only -1, for all answers of step are finite"
    expected = pick(history.y, at[valid])
    return difference({name: y[name][valid] for name in expected}, expected, tolerance) or difference(
        after, pick(history.after, first + lens - 1), tolerance
    )


def _bad_at_problem(backend: Backend, history: History, rng: np.random.Generator) -> str | None:
    """Whether scan finds the first step that is not finite, with nan and infinities planted in the inputs.

    A model that raises on such inputs may do so in scan as well.
    """
    floats = [spec.name for spec in backend.inputs if np.dtype(spec.dtype).kind == "f"]
    if not floats:
        return None
    alone = ByRow(backend, 1)
    for value in (np.nan, np.inf, -np.inf) * 2:
        first = int(rng.choice(np.flatnonzero(history.left >= min(4, history.left.max()))))
        t = min(int(history.left[first]), 6)
        x = {name: array[first : first + t].copy() for name, array in history.x.items()}
        x[floats[int(rng.integers(len(floats)))]][int(rng.integers(t))] = value
        before = pick(history.before, np.array([first]))
        expected = _first_bad(alone, before, x, t)
        try:
            found = alone.scan(before, {name: array[None] for name, array in x.items()}, np.array([t]))[2]
        except BrokenContract as error:
            return str(error)
        except Exception:
            continue
        if expected is not None and found[0] != expected:
            return f"with {value} in the inputs, bad_at is {found[0]}, expected {expected}"
    return None


def _first_bad(alone: ByRow, state: Arrays, x: Arrays, t: int) -> int | None:
    """The first step whose answer is not finite, -1 if none is; None if the model raises."""
    for k in range(t):
        try:
            state, y = alone.step(state, {name: array[k : k + 1] for name, array in x.items()}, 1)
        except Exception:
            return None
        if not all_finite(state, y):
            return k
    return -1


def pick(arrays: Mapping[str, Any], at: Any) -> Arrays:
    """The same rows of every array."""
    return {name: array[at] for name, array in arrays.items()}
