"""What the probe concludes of well-behaved and faulty models, and the wrappers that it serves them with."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from toys import Toy

from streamrnn.backend import Backend, FirstInput, StateSpec, StateTensor, TensorSpec
from streamrnn.conformance import check_slab
from streamrnn.core.probe import ByRow, Verdict, difference, draw, probe, settle
from streamrnn.core.slab import HostSlab
from streamrnn.core.wrap import Chunked, Padded, WithContext, WithoutScan
from streamrnn.errors import ModelError

EXACT = Verdict("batch_invariant", scan=True)


class InTiles(Toy):
    """Its bits change unless the rows come in a multiple of `tile`."""

    tile = 4

    def step(self, state, x):
        state, y = super().step(state, x)
        return state, {**y, "y": y["y"] + 1e-9 * (len(x["x"]) % self.tile)}

    def _scan(self, state, x, lens):
        state, y, bad_at = super()._scan(state, x, lens)
        return state, {**y, "y": y["y"] + 1e-9 * (len(lens) % self.tile)}, bad_at


class InTilesOf3(InTiles):
    tile = 3


class OtherScan(Toy):
    def _scan(self, state, x, lens):
        state, y, bad_at = super()._scan(state, x, lens)
        return state, {**y, "y": y["y"] + 1e-9}, bad_at


class RaisingScan(Toy):
    def _scan(self, state, x, lens):
        raise RuntimeError("no scan today")


class ScanWithoutBadAt(Toy):
    def _scan(self, state, x, lens):
        return *super()._scan(state, x, lens)[:2], None


class ScanThatNeverSeesBad(Toy):
    def _scan(self, state, x, lens):
        state, y, bad_at = super()._scan(state, x, lens)
        return state, y, np.full_like(bad_at, -1)


class OnlySmall(Toy):
    def step(self, state, x):
        if (np.abs(x["x"]) > 1).any():
            raise ValueError("too large")
        return super().step(state, x)


class OnlyZero(Toy):
    def step(self, state, x):
        return super().step(state, {"x": x["x"] + np.where(x["x"].any(axis=1, keepdims=True), np.inf, 0)})


class Never(Toy):
    def step(self, state, x):
        raise ValueError("never")


class WrongShape(Toy):
    def step(self, state, x):
        state, y = super().step(state, x)
        return state, {**y, "y": y["y"][:, None]}


class OneRow(Toy):
    max_rows = 1

    def step(self, state, x):
        assert len(x["x"]) == 1
        return super().step(state, x)


class AtMost6(Toy):
    max_rows = 6


class OwnSlab(Toy):
    """A model that would keep its states elsewhere."""

    def make_slab(self, capacity):
        return HostSlab(self.state, capacity)


class Lookup(Backend):
    """A state of counts by word; inputs are integers only."""

    inputs = (TensorSpec("word", (), "int64", high=5),)
    outputs = (TensorSpec("seen", (), "int64"),)
    state = StateSpec((StateTensor("counts", (5,), "int64", initial=(1, 2, 3, 4, 5)),), "lookup")

    def step(self, state, x):
        rows = np.arange(len(x["word"]))
        counts = state["counts"].copy()
        counts[rows, x["word"]] += 1
        return {"counts": counts}, {"seen": counts[rows, x["word"]]}


@pytest.mark.parametrize(
    ("backend", "verdict"),
    [
        (Toy(), EXACT),
        (Toy(scans=False), replace(EXACT, scan=False)),
        (Lookup(), replace(EXACT, scan=False)),
        (OneRow(), EXACT),
        (AtMost6(), EXACT),
        (OwnSlab(), EXACT),
    ],
)
def test_models_that_are_fine_as_they_are(backend, verdict):
    assert probe(backend) == verdict


@pytest.mark.parametrize(
    ("backend", "numerics", "pad_rows", "scan", "reason"),
    [
        (InTiles(), "batch_invariant", 4, True, "step of 2 rows answers otherwise than for each row alone"),
        (InTilesOf3(), "approximate", 0, True, "step of 2 rows answers otherwise"),
        (OtherScan(), "batch_invariant", 0, False, "does not equal step: 'y' differs in 2 of 2 events"),
        (RaisingScan(), "batch_invariant", 0, False, "it raises RuntimeError: no scan today"),
        (ScanWithoutBadAt(), "batch_invariant", 0, False, "bad_at of shape"),
        (ScanThatNeverSeesBad(), "batch_invariant", 0, False, "with nan in the inputs, bad_at is -1"),
        (OnlySmall(), "batch_invariant", 0, True, "inputs of scale 0.1 only: the model raises ValueError"),
        (
            OnlyZero(scans=False),
            "batch_invariant",
            0,
            False,
            "scale 0 only: the model's answers are not finite",
        ),
        (Never(), "approximate", 0, False, "nothing could be compared: the model raises ValueError: never"),
    ],
)
def test_models_with_a_fault(backend, numerics, pad_rows, scan, reason):
    verdict = probe(backend)
    assert (verdict.numerics, verdict.pad_rows, verdict.scan) == (numerics, pad_rows, scan)
    assert reason in " ".join(verdict.reasons)


def test_the_same_seed_gives_the_same_verdict():
    assert probe(InTiles(), seed=3) == probe(InTiles(), seed=3)


def test_answers_of_another_shape_are_an_error():
    with pytest.raises(ModelError, match=r"output 'y': expected an array of shape \(1,\), found \(1, 1\)"):
        probe(WrongShape())


def test_settle_serves_as_the_verdict_says():
    assert settle(toy := Toy(), EXACT) is toy
    served = settle(Toy(), Verdict("batch_invariant", pad_rows=4, scan=False))
    assert served.scan is None
    assert served.state.fingerprint == "toy+padded=4"
    tiled = InTiles()
    assert probe(settle(tiled, probe(tiled))) == EXACT


class Plays:
    """Random sequences of several keys, one event at a time and in every other way."""

    def __init__(self, backend: Backend, keys: int, steps: int) -> None:
        rng = np.random.default_rng(1)
        self.x = {spec.name: draw(spec, keys * steps, rng) for spec in backend.inputs}
        self.x = {name: array.reshape(keys, steps, *array.shape[1:]) for name, array in self.x.items()}
        self.keys, self.steps = keys, steps

    def first(self, rows: ByRow, keys: slice) -> dict:
        x = {name: array[keys, 0] for name, array in self.x.items()}
        return rows.initial(x, len(next(iter(x.values()))))

    def alone(self, backend: Backend) -> list[dict]:
        """One key after the other; states and outputs [keys, *shape] after each step."""
        rows, found = ByRow(backend, 1), []
        for key in range(self.keys):
            state = self.first(rows, slice(key, key + 1))
            for k in range(self.steps):
                x = {name: array[key : key + 1, k] for name, array in self.x.items()}
                state, y = rows.step(state, x, 1)
                found.append({**state, **{f"out {name}": array for name, array in y.items()}})
        at = [found[k :: self.steps] for k in range(self.steps)]
        return [{name: np.concatenate([one[name] for one in now]) for name in now[0]} for now in at]

    def together(self, backend: Backend) -> list[dict]:
        """All keys in one call of step."""
        rows, found = ByRow(backend, self.keys), []
        state = self.first(rows, slice(None))
        for k in range(self.steps):
            state, y = rows.step(state, {name: array[:, k] for name, array in self.x.items()}, self.keys)
            found.append({**state, **{f"out {name}": array for name, array in y.items()}})
        return found

    def scanned(self, backend: Backend, lens: np.ndarray) -> tuple[dict, dict]:
        """The state after `lens` steps, and the outputs."""
        rows = ByRow(backend, self.keys)
        x = {name: array[:, : lens.max()] for name, array in self.x.items()}
        state, y, bad_at = rows.scan(self.first(rows, slice(None)), x, lens)
        assert (bad_at == -1).all()
        return state, {f"out {name}": array for name, array in y.items()}


def same_either_way(backend: Backend, reference: Backend) -> None:
    """Step and scan of `backend` equal `reference`, which is played one event at a time."""
    plays = Plays(backend, keys=7, steps=6)
    expected = plays.alone(reference)
    for found, want in zip(plays.together(backend), expected, strict=True):
        assert difference(found, want) is None
    if backend.scan is not None:
        lens = np.array([1, 6, 2, 3, 1, 5, 4])
        state, y = plays.scanned(backend, lens)
        for key, length in enumerate(lens):
            one = {name: array[key : key + 1] for name, array in state.items()}
            want = {name: array[key : key + 1] for name, array in expected[length - 1].items()}
            assert difference(one, {name: want[name] for name in one}) is None
            for k in range(length):
                for name, array in y.items():
                    assert array[key, k].tobytes() == expected[k][name][key].tobytes()


@pytest.mark.parametrize(
    "backend",
    [
        Padded(Toy(), 1),
        Padded(Toy(), 4),
        Padded(Toy(), 8),
        Padded(Toy(scans=False), 8),
        Padded(OwnSlab(), 8),
        Padded(AtMost6(scans=False), 3),
        Chunked(OneRow()),
        Chunked(AtMost6()),
        Chunked(Padded(AtMost6(), 4)),
        Chunked(Toy()),
        WithoutScan(Toy()),
        WithoutScan(OwnSlab()),
    ],
)
def test_wrapped_models_answer_as_they_do_alone(backend):
    same_either_way(backend, Toy())


def test_padding_reaches_the_model():
    same_either_way(Padded(InTiles(), 4), Padded(InTiles(), 4))
    with pytest.raises(AssertionError):
        same_either_way(InTiles(), InTiles())


def test_padding_that_cannot_be():
    assert Padded(AtMost6(), 4).max_rows == 4
    with pytest.raises(
        ModelError, match="cannot pad to 8 rows: expected 1 or more, and the model takes at most 6"
    ):
        Padded(AtMost6(), 8)
    with pytest.raises(ModelError, match="cannot pad to 0 rows"):
        Padded(Toy(), 0)


class Counted(Toy):
    opened = 0

    def open(self, device="cpu", threads=1):
        self.opened += threads

    def close(self):
        self.opened = 0


def test_opening_and_closing_reach_the_model():
    inner = Counted()
    backend = Chunked(Padded(WithoutScan(inner), 2))
    backend.open("cpu", 3)
    assert inner.opened == 3
    backend.close()
    assert inner.opened == 0


class Window(Backend):
    """Weighs five numbers of one input and one of another; y shows the window as it came."""

    inputs = (TensorSpec("x", (5,), "float64"), TensorSpec("u", (), "float32"))
    outputs = (TensorSpec("y", (5,), "float64"),)
    state = StateSpec((StateTensor("h", (2,), "float64", initial=1.0),), "window")

    def step(self, state, x):
        h = state["h"] / 2 + x["x"][:, :1] * x["u"][:, None] - x["x"][:, -2:]
        return {"h": h}, {"y": x["x"] * 1.0}

    def scan(self, state, x, lens):
        h, y = state["h"].copy(), x["x"] * 1.0
        bad_at = np.full(len(lens), -1)
        for k in range(y.shape[1]):
            on = np.flatnonzero(lens > k)
            h[on] = Window.step(self, {"h": h[on]}, {name: array[on, k] for name, array in x.items()})[0]["h"]
            finite = np.isfinite(h[on]).all(1) & np.isfinite(y[on, k]).all(1)
            bad_at[on[~finite & (bad_at[on] < 0)]] = k
        return {"h": h}, {"y": y}, bad_at


class WindowElsewhere(Window):
    def make_slab(self, capacity):
        return HostSlab(self.state, capacity)


class Blind(Window):
    """Looks at the last number only, and so answers with finite ones whatever the others are."""

    def step(self, state, x):
        return super().step(state, {**x, "x": np.repeat(x["x"][:, -1:], 5, axis=1)})

    def scan(self, state, x, lens):
        return super().scan(state, {**x, "x": np.repeat(x["x"][:, :, -1:], 5, axis=2)}, lens)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("window", [Window, WindowElsewhere])
def test_context_is_the_past_of_its_own_key(window, size):
    backend, width = WithContext(window(), {"x": size}), 5 - size
    assert backend.inputs == (TensorSpec("x", (width,), "float64"), TensorSpec("u", (), "float32"))
    assert backend.state.tensors[1] == StateTensor("context.x", (size,), "float64")
    assert backend.state.fingerprint == f"window+context=x:{size}"
    plays = Plays(backend, keys=7, steps=6)
    past = np.concatenate([np.zeros((7, size)), plays.x["x"].reshape(7, -1)], axis=1)
    for k, found in enumerate(plays.alone(backend)):
        assert np.array_equal(found["out y"], past[:, k * width : k * width + 5])
    same_either_way(backend, backend)
    if window is Window:
        same_either_way(Chunked(Padded(backend, 2)), backend)
    assert probe(backend) == EXACT


@pytest.mark.parametrize("seed", range(5))
def test_what_is_kept_beside_a_slab_is_stored_as_in_one(seed):
    backend = WithContext(WindowElsewhere(), {"x": 2})
    check_slab(backend.make_slab, backend.state, seed)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("place", [0, -1])
def test_a_context_that_is_not_finite_is_found_by_scan_as_by_step(size, place):
    backend = WithContext(Blind(), {"x": size})
    plays = Plays(backend, keys=3, steps=4)
    plays.x["x"][0, 1, place] = np.nan
    plays.x["x"][1, 2, place] = np.inf
    rows = ByRow(backend, 3)
    with np.errstate(all="ignore"):
        expected = np.full(3, -1)
        for k, found in reversed(list(enumerate(plays.together(backend)))):
            bad = ~np.all([np.isfinite(array).reshape(3, -1).all(1) for array in found.values()], axis=0)
            expected[bad] = k
        _, _, bad_at = rows.scan(plays.first(rows, slice(None)), plays.x, np.array([4, 4, 4]))
        assert bad_at.tolist() == expected.tolist()
        _, _, bad_at = rows.scan(plays.first(rows, slice(None)), plays.x, np.array([4, 2, 1]))
        assert bad_at.tolist() == [expected[0], -1, -1]


class BeginsAsX(Window):
    state = StateSpec((StateTensor("h", (5,), "float64", initial=FirstInput("x")),))


class HasContext(Window):
    state = StateSpec((StateTensor("context.x", (1,), "float64"),))


@pytest.mark.parametrize(
    ("backend", "sizes", "message"),
    [
        (Window(), {"z": 2}, r"context of 'z': expected an input of the model \(x, u\)"),
        (Window(), {"u": 1}, "expected a vector of floats, found float32"),
        (Lookup(), {"word": 1}, "expected a vector of floats, found int64"),
        (Window(), {"x": 5}, "the model takes 5 numbers, expected a context of 1 to 4 of them, found 5"),
        (Window(), {"x": 0}, "found 0"),
        (BeginsAsX(), {"x": 2}, "state 'h' begins as that input"),
        (HasContext(), {"x": 2}, "the model already has a state 'context.x'"),
    ],
)
def test_context_that_cannot_be(backend, sizes, message):
    with pytest.raises(ModelError, match=message):
        WithContext(backend, sizes)


def test_chunks_need_states_in_host_memory():
    with pytest.raises(ModelError, match="max_rows needs states in host memory"):
        Chunked(OwnSlab())
