"""The kit for backends: an honest one passes, and every planted fault is caught by the test meant for it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from streamrnn.backend import Backend, Description, FirstInput, StateSpec, StateTensor, TensorSpec
from streamrnn.conformance import BackendConformance, check_light_import, check_slab
from streamrnn.core.slab import HostSlab

H = StateTensor("h", (2, 3), "float32", batch_axis=1, initial=0.25)
LAST = StateTensor("last", (2,), "float32", initial=FirstInput("x"))


class Honest(Backend):
    """h' = h / 2 + x, and the last input; y = h'."""

    inputs = (TensorSpec("x", (2,)),)
    outputs = (TensorSpec("y", (3,)),)
    state = StateSpec((H, LAST), "honest")

    def step(self, state, x):
        h = state["h"] / np.float32(2) + (x["x"] + state["last"]).T[:, :, None]
        return {"h": h, "last": x["x"].copy()}, {"y": h[0].copy()}

    def scan(self, state, x, lens):
        h, last = state["h"].copy(), state["last"].copy()
        y = np.zeros((*x["x"].shape[:2], 3), np.float32)
        bad_at = np.full(len(lens), -1)
        for k in range(y.shape[1]):
            on = np.flatnonzero(lens > k)
            new, out = Honest.step(self, {"h": h[:, on], "last": last[on]}, {"x": x["x"][on, k]})
            h[:, on], last[on], y[on, k] = new["h"], new["last"], out["y"]
            finite = np.isfinite(h[:, on]).all((0, 2)) & np.isfinite(last[on]).all(1)
            bad_at[on[~finite & (bad_at[on] < 0)]] = k
        return {"h": h, "last": last}, {"y": y}, bad_at


class HiddenState(Honest):
    total = np.float32(0)

    def step(self, state, x):
        self.total += x["x"].sum()
        state, y = super().step(state, x)
        return state, {"y": y["y"] + self.total}


class MixedRows(Honest):
    def step(self, state, x):
        return super().step(state, {"x": x["x"] - x["x"].mean(axis=0)})


class WritesState(Honest):
    def step(self, state, x):
        state["h"] *= np.float32(2)
        return super().step(state, x)


class WritesLens(Honest):
    def scan(self, state, x, lens):
        lens -= 1
        return super().scan(state, x, lens + 1)


class BatchDependentBits(Honest):
    def step(self, state, x):
        state, y = super().step(state, x)
        return state, {"y": y["y"] + np.float32(1e-6 * len(x["x"]))}


class OtherBitsInScan(Honest):
    def scan(self, state, x, lens):
        state, y, bad_at = super().scan(state, x, lens)
        return state, {"y": np.nextafter(y["y"], np.float32(9))}, bad_at


class TouchesPadding(Honest):
    def scan(self, state, x, lens):
        _, y, bad_at = super().scan(state, x, lens)
        state, _, _ = super().scan(state, x, np.full_like(lens, lens.max()))
        return state, y, bad_at


class LastBadStep(Honest):
    def scan(self, state, x, lens):
        state, y, bad_at = super().scan(state, x, lens)
        return state, y, np.where(bad_at < 0, bad_at, lens - 1)


class NeverBad(Honest):
    def scan(self, state, x, lens):
        state, y, bad_at = super().scan(state, x, lens)
        return state, y, np.full_like(bad_at, -1)


class WrongInitialShape(Honest):
    state = StateSpec((replace(H, initial=(0.0, 1.0, 2.0)), LAST))


class WrongInitialInput(Honest):
    state = StateSpec((H, replace(LAST, initial=FirstInput("z"))))


class WrongOutputDtype(Honest):
    def step(self, state, x):
        state, y = super().step(state, x)
        return state, {"y": y["y"].astype(np.float64)}


class WrongStateDtype(Honest):
    def step(self, state, x):
        state, y = super().step(state, x)
        return {**state, "h": state["h"].astype(np.float64)}, y


class WrongBatchAxis(Honest):
    def step(self, state, x):
        state, y = super().step(state, x)
        return {**state, "h": np.moveaxis(state["h"], 1, 0)}, y


class ClosesOnce(Honest):
    closed = False

    def close(self):
        if self.closed:
            raise ValueError("closed already")
        self.closed = True


class OtherFingerprint(Honest):
    def __init__(self):
        self.state = replace(Honest.state, fingerprint=str(id(self)))


class TestHonest(BackendConformance):
    @pytest.fixture
    def backend(self):
        return Honest()

    @pytest.fixture
    def reload(self):
        return Honest()

    @pytest.fixture
    def description(self):
        state = StateSpec((replace(H, initial=((0.25,) * 3,) * 2), LAST), "not known yet")
        return Description(Honest.inputs, Honest.outputs, state)


class OneRow(Honest):
    max_rows = 1

    def step(self, state, x):
        assert len(x["x"]) == 1
        return super().step(state, x)


class TestOneRowAtATime(BackendConformance):
    @pytest.fixture
    def backend(self):
        return OneRow()


class TestNotExact(BackendConformance):
    exact, tolerance = False, 1e-3

    @pytest.fixture
    def backend(self):
        return BatchDependentBits()


def failures(backend: Backend, **fixtures) -> Iterator[str]:
    """Names of the kit's tests that fail."""
    kit = BackendConformance()
    given = {"backend": backend, "model": backend, "reload": None, "description": None, **fixtures}
    for name, test in inspect.getmembers(kit, inspect.ismethod):
        if name.startswith("test_"):
            try:
                test(**{fixture: given[fixture] for fixture in inspect.signature(test).parameters})
            except pytest.skip.Exception:
                continue
            except Exception:
                yield name


@pytest.mark.parametrize(
    ("fault", "caught_by"),
    [
        (HiddenState, "test_it_keeps_no_hidden_state"),
        (MixedRows, "test_rows_do_not_mix"),
        (WritesState, "test_it_does_not_write_to_its_arguments"),
        (WritesLens, "test_it_does_not_write_to_its_arguments"),
        (BatchDependentBits, "test_output_bits_do_not_depend_on_the_batch"),
        (OtherBitsInScan, "test_scan_equals_steps"),
        (TouchesPadding, "test_scan_equals_steps"),
        (LastBadStep, "test_scan_equals_steps"),
        (NeverBad, "test_scan_equals_steps"),
        (WrongInitialShape, "test_the_initial_state_is_the_declared_one"),
        (WrongInitialInput, "test_the_initial_state_is_the_declared_one"),
        (WrongOutputDtype, "test_shapes_and_dtypes_hold_for_every_batch_size"),
        (WrongStateDtype, "test_shapes_and_dtypes_hold_for_every_batch_size"),
        (WrongBatchAxis, "test_shapes_and_dtypes_hold_for_every_batch_size"),
        (ClosesOnce, "test_opening_and_closing_twice_is_fine"),
    ],
)
def test_a_fault_is_caught(fault, caught_by):
    assert caught_by in list(failures(fault()))


def test_a_fault_in_the_scan_alone_fails_nothing_else():
    assert list(failures(LastBadStep())) == ["test_scan_equals_steps"]


def test_loads_that_differ_are_caught():
    assert list(failures(OtherFingerprint(), reload=OtherFingerprint())) == ["test_two_loads_agree"]


def test_a_description_that_differs_is_caught():
    said = Description(Honest.inputs, Honest.outputs, StateSpec((replace(H, initial=0.5), LAST)))
    assert list(failures(Honest(), description=said)) == ["test_describe_agrees_with_the_model"]


def test_without_the_fixture_the_kit_says_what_to_do():
    with pytest.raises(NotImplementedError, match="override the fixture `backend`"):
        BackendConformance.backend.__wrapped__(BackendConformance())


def test_a_light_module_passes():
    check_light_import("streamrnn.builtins.formula")


def test_a_heavy_module_is_named(tmp_path, monkeypatch):
    (tmp_path / "torch.py").write_text("")
    (tmp_path / "eager_plugin.py").write_text("import torch")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(AssertionError, match="import of eager_plugin loads torch"):
        check_light_import("eager_plugin")


STATES = StateSpec(
    (
        StateTensor("h", (2, 3), batch_axis=1, initial=((1.0, 2.0, 3.0), (4.0, 5.0, 6.0))),
        StateTensor("first", (2,), "float64", initial=FirstInput("x")),
    )
)


class ForgetsMasks(HostSlab):
    def put(self, rows, state, mask):
        super().put(rows, state, np.ones_like(mask))


class ForgetsTheRest(HostSlab):
    def grow(self, capacity):
        self.__init__(self.spec, capacity)


class ZerosAreInitial(HostSlab):
    def take(self, rows, fresh, x):
        return super().take(rows, np.minimum(fresh, 1), x)


class WrongAxis(HostSlab):
    def narrow(self, state, start, stop):
        return {name: array[start:stop] for name, array in state.items()}


class TooHealthy(HostSlab):
    def healthy(self, state, max_norm):
        return super().healthy(state, None)


@pytest.mark.parametrize("slab", [ForgetsMasks, ForgetsTheRest, ZerosAreInitial, WrongAxis, TooHealthy])
def test_a_fault_of_a_slab_is_caught(slab):
    check_slab(lambda capacity: HostSlab(STATES, capacity), STATES)
    with pytest.raises((AssertionError, ValueError, IndexError)):
        check_slab(lambda capacity: slab(STATES, capacity), STATES)
