"""The torch backend beside the numpy one, its refusals, and what it leaves alone."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from streamrnn_torch.backend import TorchLayers
from streamrnn_torch.models import build, describe
from streamrnn_torch.options import TorchConfig
from streamrnn_torch.runtime import THREAD_LIMIT
from torch_gpu import needs_gpu

from streamrnn.backend import TensorSpec
from streamrnn.backends.layers import build as build_numpy
from streamrnn.builtins.numpy_layers import NumpyConfig
from streamrnn.conformance import check_light_import
from streamrnn.context import Context
from streamrnn.core.probe import ByRow, difference, probe
from streamrnn.errors import ModelError, OptionError
from streamrnn.layers.loading import LoadedModel
from streamrnn.testing import run_pipeline

ACTIVATIONS = [
    "identity",
    "relu",
    "leaky_relu",
    "elu",
    "selu",
    "tanh",
    "sigmoid",
    "silu",
    "gelu_tanh",
    "softplus",
    "softmax",
    "log_softmax",
]
ROWS_OF = {"rnn": 1, "gru": 3, "lstm": 4}
TOLERANCE = 1e-5
"""Between two backends in float32, absolute below 1 and relative above, after a dozen events."""
X2 = {"x": TensorSpec("x", (2,), "float64")}
GRU = {"type": "gru", "hidden": 1, "weights": {"weight_ih_l0": [[1, 2]] * 3, "weight_hh_l0": [[0.5]] * 3}}


def random_model(rng: np.random.Generator, path: Path) -> tuple[list[dict[str, Any]], dict[str, TensorSpec]]:
    """One to four layers of any kind over random inputs, with weights in m.safetensors of the folder."""
    width, weights, layers = int(rng.integers(1, 9)), dict[str, Any](), list[dict[str, Any]]()

    def draw(name: str, *shape: int) -> None:
        weights[name] = rng.uniform(-0.5, 0.5, shape).astype(np.float32)

    given = {"x": TensorSpec("x", (width,), "float64")}
    for index in range(rng.integers(1, 5)):
        kind, size, name = rng.choice(["rnn", "gru", "lstm", "linear"]), int(rng.integers(1, 21)), f"w{index}"
        if kind == "linear":
            draw(f"{name}.weight", size, width)
            draw(f"{name}.bias", size)
            layers.append(
                {"type": kind, "out": size, "weights": name, "activation": str(rng.choice(ACTIVATIONS))}
            )
            width = size
            continue
        layer = {"type": str(kind), "hidden": size, "layers": int(rng.integers(1, 4)), "weights": name}
        proj = int(rng.integers(1, size)) if kind == "lstm" and size > 1 and rng.random() < 0.5 else 0
        layer |= {"proj": proj} if proj else {}
        layer |= {"activation": str(rng.choice(["tanh", "relu"]))} if kind == "rnn" else {}
        bias = rng.random() < 0.7
        for k in range(layer["layers"]):
            draw(f"{name}.weight_ih_l{k}", ROWS_OF[kind] * size, width)
            draw(f"{name}.weight_hh_l{k}", ROWS_OF[kind] * size, proj or size)
            for part in ("ih", "hh") if bias else ():
                draw(f"{name}.bias_{part}_l{k}", ROWS_OF[kind] * size)
            if proj:
                draw(f"{name}.weight_hr_l{k}", proj, size)
            width = proj or size
        layers.append(layer)
    save_file(weights, path / "m.safetensors")
    return layers, given


def answers(backend: Any, x: np.ndarray) -> list[dict[str, np.ndarray]]:
    """Outputs and states of keys with the events x [steps, n, width], step by step."""
    backend.open()
    rows, n = ByRow(backend, x.shape[1]), x.shape[1]
    state, told = rows.initial({"x": x[0]}, n), []
    for events in x:
        state, y = rows.step(state, {"x": events}, n)
        told.append(state | y)
    backend.close()
    return told


@pytest.mark.parametrize("seed", range(40))
def test_numpy_and_torch_compute_the_same_model(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    layers, given = random_model(rng, tmp_path)
    options, context = {"path": "m.safetensors", "layers": layers}, Context(base_dir=tmp_path)
    ours = build(TorchConfig.model_validate(options), given, context)
    theirs = build_numpy(NumpyConfig.model_validate(options), given, context)
    assert (ours.inputs, ours.outputs, ours.state.tensors) == (
        theirs.inputs,
        theirs.outputs,
        theirs.state.tensors,
    )
    assert ours.state.meaning == theirs.state.meaning
    assert ours.state.fingerprint != theirs.state.fingerprint
    x = rng.standard_normal((12, 5, *given["x"].shape)).astype(np.float32)
    for found, expected in zip(answers(ours, x), answers(theirs, x), strict=True):
        assert not difference(found, expected, TOLERANCE)


@pytest.mark.parametrize("seed", range(40, 52))
def test_the_probe_finds_random_models_invariant(tmp_path: Path, seed: int) -> None:
    layers, given = random_model(np.random.default_rng(seed), tmp_path)
    options = {"path": "m.safetensors", "layers": layers}
    backend = build(TorchConfig.model_validate(options), given, Context(base_dir=tmp_path))
    backend.open()
    verdict = probe(backend)
    backend.close()
    assert (verdict.numerics, verdict.pad_rows, verdict.scan) == ("batch_invariant", 0, True)


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.05), ("float16", 0.005)])
def test_narrow_types_hand_over_float32(tmp_path: Path, dtype: str, tolerance: float) -> None:
    layers, given = random_model(np.random.default_rng(3), tmp_path)
    options, context = {"path": "m.safetensors", "layers": layers}, Context(base_dir=tmp_path)
    ours = build(TorchConfig.model_validate({**options, "dtype": dtype}), given, context)
    theirs = build_numpy(NumpyConfig.model_validate(options), given, context)
    assert ours.state.tensors == theirs.state.tensors
    x = np.random.default_rng(4).standard_normal((6, 5, *given["x"].shape)).astype(np.float32)
    for found, expected in zip(answers(ours, x), answers(theirs, x), strict=True):
        assert not difference(found, expected, tolerance)


@pytest.mark.parametrize("own_slab", [False, True])
def test_a_scan_of_whole_rows_does_not_write_to_its_state(own_slab: bool) -> None:
    """Four rows of four units need no padding, so nothing is copied on the way in."""
    weights = {"weight_ih_l0": [[0.1, 0.2]] * 16, "weight_hh_l0": [[0.3] * 4] * 16}
    config = TorchConfig.model_validate({"layers": [{"type": "lstm", "hidden": 4, "weights": weights}]})
    backend = TorchLayers(LoadedModel(config, X2, Context()), config, own_slab)
    rows = ByRow(backend, 4)
    state = rows.load({name: np.ones((4, 4), np.float32) for name in ("lstm0.h0", "lstm0.c0")}, 4)
    backend.scan(state, {"x": np.ones((4, 3, 2), np.float32)}, np.array([3, 1, 2, 3]))
    assert all((array == 1).all() for array in state.values())


def test_bad_at_sees_a_lower_layer_that_the_upper_one_hides() -> None:
    """relu lets the lower state overflow, tanh makes 1 of it."""
    lower = {"weight_ih_l0": [[1e20, 0.0]], "weight_hh_l0": [[1e19]]}
    upper = {"weight_ih_l0": [[1.0]], "weight_hh_l0": [[0.0]]}
    layers = [
        {"type": "rnn", "hidden": 1, "activation": "relu", "weights": lower},
        {"type": "rnn", "hidden": 1, "weights": upper},
    ]
    backend = build(TorchConfig.model_validate({"layers": layers}), X2, Context())
    state = {t.name: np.zeros((2, 1), np.float32) for t in backend.state.tensors}
    x = np.array([[[1, 0]] * 3, [[1, 0], [0, 0], [0, 0]]], np.float32)
    _, y, bad_at = backend.scan(state, {"x": x}, np.array([3, 1]))
    assert bad_at.tolist() == [1, -1]
    assert np.isfinite(y["y"][0, :2]).all()


def problems_of(**options: Any) -> list[tuple[tuple[str | int, ...], str]]:
    with pytest.raises(OptionError) as caught:
        build(TorchConfig.model_validate(options), X2, Context())
    return list(caught.value.problems)


def test_what_pytorch_cannot_compute_is_refused_with_all_else() -> None:
    rnn = {"type": "rnn", "hidden": 1, "activation": "identity", "of": "gru0"}
    rnn["weights"] = {"weight_ih_l0": [[1.0, 2.0]], "weight_hh_l0": [[1.0]]}
    found = problems_of(layers=[GRU | {"reset_after": False}, rnn])
    assert [path for path, _ in found] == [
        ("layers", 0, "reset_after"),
        ("layers", 1, "activation"),
        ("layers", 1, "weights", "weight_ih_l0"),
    ]
    assert all("`type: numpy` computes it" in text for _, text in found[:2])


def test_a_device_that_is_not_there_is_refused() -> None:
    ((path, text),) = problems_of(layers=[GRU], device="cuda:77")
    assert (path, text.startswith("expected a device that PyTorch finds here (cpu")) == (("device",), True)


def test_without_pytorch_the_way_to_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(OptionError, match=r"type: PyTorch is not installed: pip install"):
        describe(TorchConfig.model_validate({"layers": [GRU]}), X2, Context())


def test_weights_too_large_for_float16_are_refused() -> None:
    layer = GRU | {"weights": {"weight_ih_l0": [[1, 2]] * 3, "weight_hh_l0": [[0.5], [1e5], [1]]}}
    config = TorchConfig.model_validate({"layers": [layer], "dtype": "float16"})
    with pytest.raises(ModelError, match=r"weight_hh_l0: expected numbers that torch\.float16 can hold"):
        build(config, X2, Context())


def test_an_index_without_a_row_is_refused() -> None:
    layers = [{"type": "embedding", "weights": {"weight": [[1.0], [2.0]]}}]
    given = {"i": TensorSpec("i", (1,), "int64", 9)}
    backend = build(TorchConfig.model_validate({"layers": layers}), given, Context())
    with pytest.raises(ModelError, match=r"expected indices from 0 to 1, found 2 in 'i'"):
        backend.step({}, {"i": np.array([[1], [2]])})


LINEAR = {"type": "linear", "out": 1, "weights": {"weight": [[1, 2]]}}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_model_answers_alike() -> None:
    plain, compiled = (
        build(TorchConfig.model_validate({"layers": [LINEAR], "compile": each}), X2, Context())
        for each in (False, True)
    )
    compiled.open()
    for rows in (1, 4, 9):
        x = {"x": np.random.default_rng(rows).standard_normal((rows, 2)).astype(np.float32)}
        assert not difference(compiled.step({}, x)[1], plain.step({}, x)[1], 1e-6)
    compiled.close()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_model_that_cannot_be_compiled_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(state: Any, values: Any) -> Any:
        raise RuntimeError("no compiler\nand more")

    backend = build(TorchConfig.model_validate({"layers": [LINEAR], "compile": True}), X2, Context())
    monkeypatch.setattr(backend, "_run", refuses)
    held = THREAD_LIMIT._holders  # by lives of other tests that were ended by a crash
    with pytest.raises(ModelError, match=r"torch\.compile fails with RuntimeError: no compiler; leave"):
        backend.open()
    assert THREAD_LIMIT._holders == held


def test_threads_are_held_while_a_model_is_open() -> None:
    before = torch.get_num_threads(), THREAD_LIMIT._holders
    one, other, two = (
        build(TorchConfig.model_validate({"layers": [GRU], "threads": n}), X2, Context()) for n in (1, 1, 2)
    )
    one.open()
    other.open()
    assert torch.get_num_threads() == 1
    with pytest.raises(ModelError, match="threads: expected 1, as another model in this process has set"):
        two.open()
    one.close()
    assert torch.get_num_threads() == 1
    other.close()
    assert (torch.get_num_threads(), THREAD_LIMIT._holders) == before


@pytest.mark.parametrize("module", ["streamrnn_torch", "streamrnn_torch.models"])
def test_what_lint_imports_is_light(module: str) -> None:
    check_light_import(module)


def test_a_pipeline_runs_with_it() -> None:
    weights = "{weight_ih_l0: [[1.0]], weight_hh_l0: [[2.0]]}"
    text = f"""
    source: {{type: stdin}}
    decode: {{type: jsonl}}
    event: {{key: k, inputs: {{x: [{{field: x}}]}}}}
    model: {{type: torch, layers: [{{type: rnn, hidden: 1, activation: relu, weights: {weights}}}]}}
    encode: {{type: jsonl, include: [k]}}
    sink: {{type: stdout}}
    numerics: batch_invariant
    """.replace("\n    ", "\n")
    outputs, rejected = run_pipeline(text, [{"k": "a", "x": 1}, {"k": "b", "x": 5}, {"k": "a", "x": 2}])
    assert (outputs, rejected) == ([{"k": "a", "y": 1.0}, {"k": "b", "y": 5.0}, {"k": "a", "y": 4.0}], [])


@needs_gpu
@pytest.mark.parametrize("seed", range(10))
def test_a_gpu_computes_the_same_model(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    layers, given = random_model(rng, tmp_path)
    options, context = {"path": "m.safetensors", "layers": layers}, Context(base_dir=tmp_path)
    ours = build(TorchConfig.model_validate({**options, "device": "cuda"}), given, context)
    theirs = build_numpy(NumpyConfig.model_validate(options), given, context)
    x = rng.standard_normal((12, 5, *given["x"].shape)).astype(np.float32)
    for found, expected in zip(answers(ours, x), answers(theirs, x), strict=True):
        assert not difference(found, expected, 1e-4)
