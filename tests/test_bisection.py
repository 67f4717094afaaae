"""Rows on which a model raises are found in their batch by halving, those on which it hangs by a deadline."""

from __future__ import annotations

import math
import random
import subprocess
import sys
import time

import numpy as np
import pytest
from test_parking import KILLER, PIPELINE, events, job, letters, streamrnn
from toys import Toy, batch, formula_model, numpy_model

from streamrnn.core import Core
from streamrnn.core.deadline import Timed
from streamrnn.core.wrap import Wrapper
from streamrnn.errors import ModelError

BAD = 13.0


class Picky(Wrapper):
    """Raises on some inputs, and counts how it is asked."""

    def __init__(self, inner, together=None):
        super().__init__(inner)
        self.calls, self.rows, self.together = 0, 0, together

    def step(self, state, x):
        self.calls += 1
        self.rows += len(x["x"])
        if (x["x"][:, 0] == BAD).any() or (self.together and len(x["x"]) >= self.together):
            raise ValueError("not this one")
        return super().step(state, x)

    def _scan(self, state, x, lens):
        if (x["x"][..., 0] == BAD).any():
            raise ValueError("one of these")
        return super()._scan(state, x, lens)


def torch_model(seed):
    pytest.importorskip("torch")
    pytest.importorskip("streamrnn_torch")
    return layers("torch")


def onnx_model(seed):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("streamrnn_onnx")
    return layers("onnx")


def layers(name):
    """A GRU of random weights under a backend of that name."""
    from streamrnn.backend import TensorSpec
    from streamrnn.context import Context
    from streamrnn.registry import Registry

    rng = np.random.default_rng(3)
    layer = {"type": "gru", "hidden": 5, "weights": {}}
    for weight, shape in (("weight_ih_l0", (15, 2)), ("weight_hh_l0", (15, 5))):
        layer["weights"][weight] = rng.normal(size=shape).tolist()
    component = Registry().backend(name)
    config = component.config.model_validate({"layers": [layer]})
    backend = component.resolve("build")(config, {"x": TensorSpec("x", (2,), "float32")}, Context())
    backend.open()
    return backend


BACKENDS = {"toy": lambda seed: Toy(), "formula": formula_model, "numpy": numpy_model} | {
    "torch": torch_model,
    "onnx": onnx_model,
}


def made(keys, bad):
    """One event of each key, but for some of which more come."""
    rng = random.Random(1)
    held = [((key, 0, [rng.random(), rng.random()], None, None), "s") for key in keys]
    for at in bad:
        held[at][0][2][0] = BAD
    found = batch(held)
    found.inputs = {"x": found.inputs["x"].astype(np.float32)}
    return found


@pytest.mark.parametrize("name", BACKENDS)
def test_one_of_many_is_found_in_two_calls_a_halving(name):
    for n in (1, 2, 3, 64, 1000):
        for at in sorted({0, n // 3, n - 1}):
            backend = Picky(BACKENDS[name](1))
            core = Core(backend)
            core.process(made([f"k{i}" for i in range(n)], []))
            backend.calls = backend.rows = 0
            found = made([f"k{i}" for i in range(n)], [at])
            outputs = core.process(found)
            assert {*outputs.refused} == {at}
            assert outputs.refused[at] == "the model refused it: ValueError: not this one"
            # the batch, two calls for each halving, the batch without it; and the short way of a single event
            assert backend.calls <= 3 + 2 * math.ceil(math.log2(n))
            assert backend.rows <= 4 * n + 1


@pytest.mark.parametrize("name", BACKENDS)
def test_the_others_are_as_if_they_had_not_been_there(name):
    rng = random.Random(name)
    keys = [f"k{rng.randrange(9)}" for _ in range(300)]
    bad = sorted(rng.sample(range(300), 25))
    core, other = Core(Picky(BACKENDS[name](1))), Core(BACKENDS[name](1))
    found, whole = core.process(made(keys, bad)), made(keys, bad)
    assert sorted(found.refused) == bad
    clean = other.process(whole.take(np.delete(np.arange(300), bad)))
    for tensor, array in clean.y.items():
        assert array.tobytes() == found.y[tensor].tobytes()


def test_rows_that_only_fail_together_are_nobodys_fault():
    with pytest.raises(ModelError, match="fails on 8 rows together"):
        Core(Picky(Toy(), together=5)).process(made([f"k{i}" for i in range(8)], []))


class Slow(Wrapper):
    """Hangs on some inputs until it is interrupted."""

    def __init__(self, inner):
        super().__init__(inner)
        self.is_stopped = False
        self.interrupt = lambda wanted: setattr(self, "is_stopped", wanted)

    def step(self, state, x):
        while (x["x"][:, 0] == BAD).any():
            if self.is_stopped:
                raise RuntimeError("interrupted")
            time.sleep(0.001)
        return super().step(state, x)


def test_a_call_is_ended_only_while_it_is_under_way():
    calls = Timed(Slow(Toy(scans=False)), deadline_s=2)
    core = Core(calls)
    core.process(made(["a", "b"], []))
    assert calls.under_way is None
    assert calls.end(1)  # over already: nothing is interrupted
    assert not calls.inner.is_stopped
    assert not core.process(made(["a", "b"], [])).refused


def test_a_call_of_a_backend_that_cannot_be_interrupted_is_not_ended():
    calls = Timed(Toy(), deadline_s=2)
    calls._calls, calls._is_running = 7, True
    assert calls.under_way == 7
    assert not calls.end(7)


@pytest.mark.slow
@pytest.mark.parametrize("command", [("run", "--quiet"), ("serve", "--no-admin")])
def test_a_model_that_hangs_ends_its_process_which_says_on_what(tmp_path, command):
    text = PIPELINE.replace(f"kills: {KILLER}", f"hangs: {KILLER}")
    text = text.replace("limits: {", "limits: {step_deadline_s: 0.4, ")
    folder = job(tmp_path / "job", events(300, killers=[200]), text)
    code, told, _ = streamrnn(folder, *command, "p.yaml")
    assert code == 3
    assert "no answer of the model within limits.step_deadline_s = 0.4 s" in told
    assert "it was given 256 events from record 1 of in.jsonl on, at 0" in told
    codes = [streamrnn(folder, *command, "p.yaml")[0] for _ in range(4)]
    assert codes == [3, 3, 3, 0]  # what a deadline ends counts like any other death
    assert [(letter["code"], letter["number"]) for letter in letters(folder)] == [("crash_suspect", 201)]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="stops a process")
def test_a_process_that_was_stopped_for_a_while_has_not_been_waiting(tmp_path):
    import signal

    from test_parking import start

    text = PIPELINE.replace(f"kills: {KILLER}", "row_s: 0.004")
    text = text.replace("limits: {", "limits: {step_deadline_s: 3, ")
    folder = job(tmp_path / "job", events(400), text)
    process = start(folder)
    while process.poll() is None and not (folder / "job" / "UNDERWAY").exists():
        try:
            process.wait(timeout=0.05)
        except subprocess.TimeoutExpired:
            continue
    process.send_signal(signal.SIGSTOP)
    try:
        process.wait(timeout=4)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGCONT)
    assert process.wait(timeout=60) == 0
    process.communicate()
