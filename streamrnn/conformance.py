"""Tests that every backend must pass; subclass `BackendConformance` in a test file of your plugin.

class TestMine(BackendConformance):
    @pytest.fixture
    def backend(self):
        return my_plugin.build(MyConfig(...), {"x": TensorSpec("x", (1,))}, Context())
"""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from streamrnn.backend import Backend, Description, FirstInput, StateSpec, StateTensor, TensorSpec
from streamrnn.core import probe
from streamrnn.core.slab import HostSlab
from streamrnn.limits import INITIAL, ZEROS

if TYPE_CHECKING:
    from streamrnn.backend import Arrays, Slab
    from streamrnn.events import Array

HEAVY = ("torch", "onnxruntime", "jax", "tensorflow")
_LENGTHS, _STEPS = (24, *(5,) * 8), 12


class BackendConformance:
    """The contract of `streamrnn.backend.Backend` as tests.

    Override the fixture `backend`; `reload` and `description` add two more tests. With `exact = False` the
    tests of batches and scans allow `tolerance`, absolute below 1 and relative above.
    """

    exact = True
    tolerance = 1e-6

    @pytest.fixture
    def backend(self) -> Backend:
        """A newly built backend, not opened; small, with trained or random weights, not all zero.

        A width of every tensor that is neither 1 nor equal to another finds the most mistakes.
        """
        raise NotImplementedError("override the fixture `backend` and return a backend that is not opened")

    @pytest.fixture
    def reload(self) -> Backend | None:
        """The same model built once more from its files, not opened; None skips the comparison."""
        return None

    @pytest.fixture
    def description(self) -> Description | None:
        """What the component's `describe` says of the model; None skips the comparison."""
        return None

    def sample(self, rng: np.random.Generator, spec: TensorSpec, n: int) -> Array:
        """Inputs [n, *shape] that the model accepts; override it if normal numbers are not."""
        return probe.draw(spec, n, rng)

    @pytest.fixture
    def model(self, backend: Backend) -> Iterator[Backend]:
        """The backend between `open` and `close`."""
        backend.open()
        yield backend
        backend.close()

    def test_shapes_and_dtypes_hold_for_every_batch_size(self, model: Backend) -> None:
        """Outputs and new states are as declared, the states with their rows at `batch_axis`."""
        for n in self._rows(model, 1, 2, 7, 33, 64):
            state, y = model.step(*self._fresh(model, n))
            problem = probe.output_problem(model, y, (n,)) or probe.state_problem(model, state, n)
            assert not problem, f"step of {n} rows: {problem}"

    def test_it_keeps_no_hidden_state(self, model: Backend) -> None:
        """Two keys served in turns get what each gets when served alone, and again when repeated."""
        keys = [self._x(model, _STEPS, seed) for seed in (1, 2)]
        alone = [self._answers(model, x)[0] for x in keys]
        turns, again = self._answers(model, *keys), self._answers(model, keys[0])[0]
        for what, found, expected in (
            ("a key served in turns with another", turns[0], alone[0]),
            ("a key served in turns with another", turns[1], alone[1]),
            ("a key that begins anew with the same events", again, alone[0]),
        ):
            problem = probe.difference(found, expected, self._tolerance)
            assert not problem, f"{what}: {problem}; keep all that an event leaves behind in the state"

    def test_rows_do_not_mix(self, model: Backend) -> None:
        """A row's answer does not change with the order of the rows, nor with the other rows' values."""
        n = self._rows(model, 7)[-1]
        rows, x, other = probe.ByRow(model, n), self._x(model, n, 3), self._x(model, n, 4)
        state, _ = rows.step(rows.initial(other, n), other, n)
        _, y = rows.step(state, x, n)
        for at in (np.arange(n)[::-1], *np.arange(n)[:, None]):
            _, again = rows.step(probe.pick(state, at), probe.pick(x, at), len(at))
            problem = probe.difference(again, probe.pick(y, at), max(self.tolerance, 1e-4))
            assert not problem, f"rows {at.tolist()} of {n}: {problem}; compute each row from that row only"

    def test_it_does_not_write_to_its_arguments(self, model: Backend) -> None:
        """State, inputs and lens are as before after step and scan."""
        n = self._rows(model, 5)[-1]
        state, x = self._fresh(model, n)
        _check_untouched("step", model.step, state, x)
        if model.scan is not None:
            x = {name: np.repeat(array[:, None], n, axis=1) for name, array in x.items()}
            _check_untouched("scan", model.scan, state, x, np.arange(1, n + 1))

    def test_output_bits_do_not_depend_on_the_batch(self, model: Backend) -> None:
        """The same event in a call of any size has the same bits, or is close if not `exact`."""
        problem = probe.step_problem(model, self._history(model), np.random.default_rng(5), self._tolerance)
        assert not problem, (
            f"{problem}; multiply row by row or in tiles of one fixed size, wrap the backend in "
            "streamrnn.core.wrap.Padded, or set `exact = False` and serve with numerics: approximate"
        )

    def test_the_initial_state_is_the_declared_one(self, model: Backend) -> None:
        """It fits shape and dtype, the slab begins and resets with it, and step accepts it."""
        n = self._rows(model, 3)[-1]
        rows, x = probe.ByRow(model, n), self._x(model, n, 6)
        for tensor in model.state.tensors:
            problem = _initial_problem(model, tensor)
            assert not problem, f"state '{tensor.name}': {problem}"
        index, ones = np.arange(n), np.ones(n, np.int8)
        rows.slab.init(index, INITIAL * ones)
        # A state that begins as an input is zero until there is one.
        problem = probe.difference(rows.slab.read(index), _initial(model, {}, n))
        assert not problem, f"init of a reset key's row differs from the declared initial state: {problem}"
        problem = probe.difference(rows.initial(x, n), _initial(model, x, n))
        assert not problem, f"take with fresh 1 differs from the declared initial state: {problem}"
        zeros = rows.unload(rows.slab.take(index, ZEROS * ones, x), n)
        assert not any(array.any() for array in zeros.values()), "take with fresh 2 must give zeros"
        rows.step(_initial(model, x, n), x, n)

    def test_state_survives_the_slab(self, model: Backend) -> None:
        """Put, take, read and write give back the bits they got, also after growing."""
        n = self._rows(model, 6)[-1]
        rows, x = probe.ByRow(model, n), self._x(model, n, 7)
        states, _ = rows.step(rows.initial(x, n), x, n)
        kept = {name: array.copy() for name, array in states.items()}
        rows.slab.grow(2 * n + 2)
        moved = np.arange(n + 2, 2 * n + 2)
        rows.slab.write(moved, kept)
        state = rows.slab.take(moved, np.zeros(n, np.int8), x)
        for what, found in (("read", rows.slab.read(moved)), ("take and put", rows.unload(state, n))):
            problem = probe.difference(found, kept)
            assert not problem, f"the slab's {what} after write: {problem}"

    def test_scan_equals_steps(self, model: Backend) -> None:
        """Sequences of mixed lengths, cut anywhere, give the bits of one step after the other.

        Steps past a row's length hold other inputs, which must not show in its state. `bad_at` is the first
        step whose state or output is not finite, counting from 0, and -1 where all are.
        """
        if model.scan is None:
            pytest.skip("the backend has no scan: every event is a call of step")
        problem = probe.scan_problem(model, self._history(model), np.random.default_rng(8), self._tolerance)
        assert not problem, f"{problem}; update and check a row at every step k < lens, or set scan to None"

    def test_opening_and_closing_twice_is_fine(self, backend: Backend) -> None:
        """Neither of the second calls raises."""
        backend.open()
        backend.open()
        backend.step(*self._fresh(backend, 1))
        backend.close()
        backend.close()

    def test_two_loads_agree(self, model: Backend, reload: Backend | None) -> None:
        """The same files make the same fingerprint and the same answers."""
        if reload is None:
            pytest.skip("override the fixture `reload` to compare two loads of one model")
        assert reload.state.fingerprint == model.state.fingerprint, (
            "two loads of one model differ in their fingerprint; make it a digest of options and weights"
        )
        reload.open()
        x = self._x(model, _STEPS, 10)
        ours, theirs = (self._answers(loaded, x)[0] for loaded in (model, reload))
        reload.close()
        problem = probe.difference(theirs, ours, self._tolerance)
        assert not problem, f"two loads of one model answer differently: {problem}"

    def test_describe_agrees_with_the_model(self, model: Backend, description: Description | None) -> None:
        """What `describe` says without loading is what the loaded model declares."""
        if description is None:
            pytest.skip("override the fixture `description` to compare it with the loaded model")
        for what, said, found in (
            ("inputs", description.inputs, model.inputs),
            ("outputs", description.outputs, model.outputs),
            ("state", _plain(description.state), _plain(model.state)),
        ):
            assert said == found, f"describe says {what} {said}, the loaded model has {found}"

    @property
    def _tolerance(self) -> float | None:
        return None if self.exact else self.tolerance

    def _rows(self, model: Backend, *sizes: int) -> list[int]:
        """The sizes that one call may have, the largest allowed among them."""
        limit = model.max_rows
        return sorted({n if limit is None else min(n, limit) for n in sizes})

    def _x(self, model: Backend, n: int, seed: int) -> Arrays:
        rng = np.random.default_rng(seed)
        return {spec.name: self.sample(rng, spec, n) for spec in model.inputs}

    def _fresh(self, model: Backend, n: int) -> tuple[Arrays, Arrays]:
        """Arguments of step for n new keys."""
        x, rows = self._x(model, n, 0), probe.ByRow(model, n)
        return rows.load(rows.initial(x, n), n), x

    def _answers(self, model: Backend, *keys: Arrays) -> list[Arrays]:
        """The outputs [steps, *shape] of keys that are served in turns, each from a new state."""
        rows, steps = probe.ByRow(model, 1), range(_STEPS)
        events = [[probe.pick(x, slice(k, k + 1)) for k in steps] for x in keys]
        states = [rows.initial(own[0], 1) for own in events]
        answers: list[list[Arrays]] = [[] for _ in keys]
        for k in steps:
            for key, own in enumerate(events):
                states[key], y = rows.step(states[key], own[k], 1)
                answers[key].append(y)
        return [{name: np.concatenate([y[name] for y in own]) for name in own[0]} for own in answers]

    def _history(self, model: Backend) -> probe.History:
        history, why = probe.record(model, self._x(model, sum(_LENGTHS), 11), _LENGTHS)
        if history is None or why:
            pytest.fail(f"{why}; override `sample` to draw inputs that the model accepts")
        return history


def check_slab(make_slab: Callable[[int], Slab], spec: StateSpec, seed: int = 0) -> None:
    """Assert that a slab of a backend's own stores what one in the host's memory does.

    Thirty random operations on rows; `make_slab(capacity)` is a new one for states of `spec`.
    """
    rng = np.random.default_rng(seed)
    slabs = HostSlab(spec, 8), make_slab(8)
    for number in range(30):
        what, rows = rng.integers(5), rng.permutation(slabs[0].capacity)[: rng.integers(1, 6)]
        drawn = {t.name: _drawn(rng, t, len(rows)) for t in spec.tensors}
        firsts = ((t.initial, t) for t in spec.tensors)
        x = {i.input: _drawn(rng, t, len(rows)) for i, t in firsts if isinstance(i, FirstInput)}
        fresh, mask = rng.integers(0, 3, len(rows)).astype(np.int8), rng.random(len(rows)) < 0.5
        twice = np.repeat(np.arange(len(rows)), 2 if what == 3 else 1)
        seen: list[Any] = []
        for slab in slabs:
            if what == 0:
                slab.grow(slab.capacity + 3)
            elif what == 1:
                slab.init(rows, np.maximum(fresh, 1))
            elif what == 2:
                slab.write(rows, drawn)
            state = slab.take(rows[twice], fresh[twice], probe.pick(x, twice))
            ones = np.ones(len(twice), np.bool_)
            healthy = [ones & slab.healthy(state, norm) for norm in (None, 4.0)]
            cut = slab.narrow(state, len(rows) // 2, len(rows))
            slab.put(rows, slab.narrow(state, 0, len(rows)), mask)
            kept = slab.read(np.arange(slab.capacity))
            seen.append([slab.capacity, healthy, *map(_listed, (state, cut, kept))])
        np.testing.assert_equal(seen[1], seen[0], f"operation {number}")
    assert _listed(slabs[1].read(np.zeros(0, np.int64))) == {t.name: [] for t in spec.tensors}


def _drawn(rng: np.random.Generator, tensor: StateTensor, n: int) -> Array:
    """Rows [n, *shape] of a state, now and then with a number that is none."""
    values = (rng.standard_normal((n, *tensor.shape)) * 3).astype(tensor.dtype)
    if values.dtype.kind == "f" and rng.random() < 0.1:
        values[0] = rng.choice([np.nan, np.inf])
    return values


def _listed(state: Mapping[str, Any]) -> dict[str, Any]:
    """Whatever arrays they are."""
    return {
        name: array.tolist() if hasattr(array, "tolist") else np.asarray(array).tolist()
        for name, array in state.items()
    }


def check_light_import(module: str) -> None:
    """Assert that a new interpreter loads none of `HEAVY` by importing `module`."""
    code = f"import sys, {module}; print(*sorted(set({HEAVY}) & set(sys.modules)))"
    command = [sys.executable, "-c", code]
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=paths, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"import of {module} fails:\n{done.stderr}"
    assert done.stdout.isspace(), f"import of {module} loads {done.stdout.strip()}; import it inside `build`"


def _plain(spec: StateSpec) -> list[StateTensor]:
    """Declared tensors in a form that == compares, whatever their initial values are written as."""
    return [
        replace(t, initial=t.initial if isinstance(t.initial, FirstInput) else _initial_row(t).tolist())
        for t in spec.tensors
    ]


def _initial_row(tensor: StateTensor) -> Array:
    return np.broadcast_to(np.asarray(tensor.initial, tensor.dtype), tensor.shape)


def _initial(model: Backend, x: Arrays, n: int) -> Arrays:
    """The declared initial states [n, *shape] for first events `x`, or for none yet."""
    states = {t.name: np.zeros((n, *t.shape), t.dtype) for t in model.state.tensors}
    for tensor in model.state.tensors:
        if not isinstance(tensor.initial, FirstInput):
            states[tensor.name][:] = _initial_row(tensor)
        elif x:
            states[tensor.name][:] = x[tensor.initial.input].reshape(n, *tensor.shape)
    return states


def _initial_problem(model: Backend, tensor: StateTensor) -> str | None:
    """What is wrong with a declared initial state, or None."""
    if isinstance(tensor.initial, FirstInput):
        widths = {spec.name: spec.width for spec in model.inputs}
        fits = widths.get(tensor.initial.input) == tensor.width
        return None if fits else f"expected {tensor.initial} to name an input of its width, found {widths}"
    found = np.asarray(tensor.initial)
    if found.shape not in ((), tensor.shape):
        return f"its initial value has shape {found.shape}, expected {tensor.shape} or one number"
    with np.errstate(all="ignore"):
        kept = found.astype(tensor.dtype)
    fits = np.isfinite(kept).all() and (kept.dtype.kind == "f" or np.array_equal(kept, found))
    return None if fits else f"its initial value {tensor.initial!r} cannot be kept as {tensor.dtype}"


def _check_untouched(what: str, call: Callable[..., object], *arguments: Any) -> None:
    """Compare arguments before and after a call; numpy arrays among them are made read-only for good.

    A ValueError of numpy then stands on the very line that writes.
    """
    groups = [group.values() if isinstance(group, dict) else [group] for group in arguments]
    arrays = [array for group in groups for array in group if isinstance(array, np.ndarray)]
    before = [array.copy() for array in arrays]
    for array in arrays:
        array.flags.writeable = False
    with warnings.catch_warnings():
        # Some libraries warn of read-only memory, though they only read it.
        warnings.simplefilter("ignore")
        call(*arguments)
    assert all(map(np.array_equal, arrays, before)), f"{what} writes to its arguments; copy what you change"
