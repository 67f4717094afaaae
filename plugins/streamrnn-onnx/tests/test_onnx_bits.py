"""Bits that do not depend on the batch, and the faults that would make them.

STREAMRNN_BITS_EVENTS=50000 makes more of it than the everyday run.
"""

import os

import numpy as np
import pytest
from onnx_graphs import cell, saved
from safetensors.numpy import save_file
from streamrnn_onnx import OnnxConfig
from streamrnn_onnx.loading import build

from streamrnn.backend import TensorSpec
from streamrnn.context import Context
from streamrnn.core import Core
from streamrnn.core.probe import probe, settle
from streamrnn.events import Batch

X = {"x": TensorSpec("x", (7,))}
EVENTS, KEYS = int(os.environ.get("STREAMRNN_BITS_EVENTS", "2000")), 37


def served(folder, limit, threads, **options):
    config = OnnxConfig.model_validate({"path": "m.onnx", "threads": threads, **options})
    model = build(config, X, Context(base_dir=folder))
    verdict = probe(model)
    assert verdict.numerics == "batch_invariant", verdict
    core = Core(settle(model, verdict))
    rng = np.random.default_rng(0)
    share = 1 / np.arange(1, KEYS + 1) ** 1.1
    keys = [f"k{key}" for key in rng.choice(KEYS, EVENTS, p=share / share.sum()).tolist()]
    x = rng.normal(size=(EVENTS, 7)).astype(np.float32)
    parts = [
        core.process(Batch(keys[at : at + limit], {"x": x[at : at + limit]})).y["y"].copy()
        for at in range(0, EVENTS, limit)
    ]
    return np.concatenate(parts).tobytes()


@pytest.mark.slow
@pytest.mark.parametrize("hidden", [1, 13])
@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
def test_any_batch_limit_and_number_of_threads_gives_the_same_bytes(op, hidden, tmp_path):
    saved(tmp_path, cell(op, inputs=7, hidden=hidden, x=("T", "B", 7)))
    expected = served(tmp_path, 1, 1)
    for limit, threads in ((7, 1), (64, 2), (4096, 1), (4096, 2)):
        assert served(tmp_path, limit, threads) == expected, (limit, threads)


@pytest.mark.slow
@pytest.mark.parametrize("hidden", [1, 13])
@pytest.mark.parametrize("tuned_for", ["hot_keys", "many_keys"])
def test_so_do_layers_whatever_they_are_tuned_for(tuned_for, hidden, tmp_path):
    rng, shapes = np.random.default_rng(1), {"ih": (7,), "hh": (hidden,)}
    weights = {f"weight_{n}_l0": rng.normal(size=(3 * hidden, *shape)) for n, shape in shapes.items()}
    weights |= {f"bias_{n}_l0": rng.normal(size=3 * hidden) for n in shapes}
    given = {f"rnn.{name}": array.astype(np.float32) for name, array in weights.items()}
    save_file(given, tmp_path / "m.safetensors")
    layers = [{"type": "gru", "name": "y", "hidden": hidden, "weights": "rnn"}]
    options = {"path": "m.safetensors", "layers": layers, "tuned_for": tuned_for}
    expected = served(tmp_path, 1, 1, **options)
    for limit, threads in ((7, 1), (64, 2), (4096, 1), (4096, 2)):
        assert served(tmp_path, limit, threads, **options) == expected, (limit, threads)


def test_the_rnn_operator_alone_is_found_to_vary(tmp_path):
    saved(tmp_path, cell("RNN", inputs=7, hidden=13, x=("T", "B", 7)))
    verdict = probe(build(OnnxConfig(path="m.onnx"), X, Context(base_dir=tmp_path)))
    assert verdict.pad_rows == 2
    assert "answers otherwise than for each row alone" in verdict.reasons[0]
