"""Cells and activations against torch or plain formulas, and bits that do not depend on the batch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamrnn.backend import TensorSpec
from streamrnn.backends.activations import ACTIVATIONS
from streamrnn.backends.layers import NumpyBackend, build
from streamrnn.builtins.numpy_layers import NumpyConfig
from streamrnn.context import Context

FIXTURE = json.loads((Path(__file__).parent / "fixtures" / "torch_cells.json").read_text(encoding="utf-8"))
TOLERANCE = 1e-6


def model(layer: dict[str, Any], width: int, dtype: str = "float32") -> NumpyBackend:
    config = NumpyConfig.model_validate({"layers": [layer], "dtype": dtype})
    return build(config, {"x": TensorSpec("x", (width,), "float64")}, Context())


def run(backend: NumpyBackend, x: np.ndarray) -> np.ndarray:
    """Step through x [n, t, w] from zeros; y [n, t, out]."""
    state = {spec.name: np.zeros((len(x), *spec.shape), spec.dtype) for spec in backend.state.tensors}
    outputs = []
    for step in range(x.shape[1]):
        state, y = backend.step(state, {"x": x[:, step]})
        outputs.append(y["y"])
    return np.stack(outputs, axis=1)


@pytest.mark.parametrize("name", FIXTURE["cells"])
def test_stored_values_of_torch(name: str) -> None:
    case = FIXTURE["cells"][name]
    x = np.array(case["x"], np.float32)
    y = run(model(case["layer"], x.shape[2]), x)
    assert np.abs(y - np.array(case["y"])).max() <= TOLERANCE


@pytest.mark.parametrize("name", FIXTURE["activations"]["values"])
def test_stored_activations_of_torch(name: str) -> None:
    x = np.array(FIXTURE["activations"]["x"], np.float32)
    with np.errstate(under="ignore"):
        y = ACTIVATIONS[name](x)
    assert y.dtype == np.float32
    assert np.allclose(y, FIXTURE["activations"]["values"][name], rtol=2e-6, atol=1e-7)


def test_every_activation_but_identity_is_stored() -> None:
    assert set(ACTIVATIONS) == {*FIXTURE["activations"]["values"], "identity"}


@pytest.mark.parametrize(
    "name", ["sigmoid", "silu", "softplus", "elu", "selu", "softmax", "tanh", "gelu_tanh"]
)
def test_activations_of_huge_numbers_stay_quiet_and_finite(name: str) -> None:
    x = np.array([[-1e4, 1e4, 0.0], [1e4, 1e4, 1e4]], np.float32)
    assert np.isfinite(ACTIVATIONS[name](x)).all()


RANDOM_LAYERS = [
    pytest.param(kind, options, id=f"{kind} {options}")
    for kind, options in [
        ("rnn", {}),
        ("rnn", {"activation": "relu", "layers": 2}),
        ("lstm", {}),
        ("lstm", {"layers": 3}),
        ("lstm", {"layers": 2, "proj": 5}),
        ("gru", {}),
        ("gru", {"layers": 2}),
    ]
]


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("kind", "options"), RANDOM_LAYERS)
def test_random_shapes_equal_torch(kind: str, options: dict[str, Any], bias: bool) -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(3)
    rng = np.random.default_rng(3)
    renamed = {"layers": "num_layers", "activation": "nonlinearity", "proj": "proj_size"}
    for _ in range(2):
        width, hidden = int(rng.integers(1, 40)), int(rng.integers(6, 100))
        module = getattr(torch.nn, kind.upper())(
            width,
            hidden,
            bias=bias,
            batch_first=True,
            **{renamed[key]: value for key, value in options.items()},
        )
        weights = {name: value.detach().double().tolist() for name, value in module.named_parameters()}
        x = rng.standard_normal((7, 12, width)).astype(np.float32)
        y = run(model({"type": kind, "hidden": hidden, "weights": weights, **options}, width), x)
        with torch.no_grad():
            expected = module(torch.from_numpy(x))[0].numpy()
        assert np.abs(y - expected).max() <= TOLERANCE


def sigmoid(a: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-a))


@pytest.mark.parametrize("bias", [True, False])
def test_gru_with_reset_before_the_product(bias: bool) -> None:
    rng = np.random.default_rng(4)
    width, hidden = 3, 5
    shapes = {"weight_ih_l0": (3 * hidden, width), "weight_hh_l0": (3 * hidden, hidden)}
    if bias:
        shapes |= {"bias_ih_l0": (3 * hidden,), "bias_hh_l0": (3 * hidden,)}
    weights = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    x = rng.standard_normal((4, 6, width))
    layer = {"type": "gru", "hidden": hidden, "reset_after": False}
    inline = {name: value.tolist() for name, value in weights.items()}
    y = run(model({**layer, "weights": inline}, width, "float64"), x)

    zeros = np.zeros(3 * hidden)
    w_r, w_z, w_n = np.split(weights["weight_ih_l0"], 3)
    u_r, u_z, u_n = np.split(weights["weight_hh_l0"], 3)
    b_r, b_z, b_n = np.split(weights.get("bias_ih_l0", zeros) + weights.get("bias_hh_l0", zeros), 3)
    for row in range(4):
        h = np.zeros(hidden)
        for step in range(6):
            event = x[row, step]
            r = sigmoid(w_r @ event + u_r @ h + b_r)
            z = sigmoid(w_z @ event + u_z @ h + b_z)
            h = (1 - z) * np.tanh(w_n @ event + u_n @ (r * h) + b_n) + z * h
            assert np.abs(y[row, step] - h).max() <= 1e-12


def same_bits(left: np.ndarray, right: np.ndarray) -> bool:
    same = left.shape == right.shape and left.dtype == right.dtype
    return same and left.tobytes() == right.tobytes()


def random_weights(
    kind: str, width: int, hidden: int, layers: int = 1, proj: int = 0, seed: int = 0
) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    gates = {"rnn": 1, "lstm": 4, "gru": 3}[kind] * hidden
    weights: dict[str, Any] = {}
    for stack in range(layers):
        inputs = width if stack == 0 else proj or hidden
        shapes = {"weight_ih": (gates, inputs), "weight_hh": (gates, proj or hidden)}
        shapes |= {"bias_ih": (gates,), "bias_hh": (gates,)} if seed % 2 else {}
        shapes |= {"weight_hr": (proj, hidden)} if proj else {}
        weights |= {f"{name}_l{stack}": rng.normal(0, 0.6, shape).tolist() for name, shape in shapes.items()}
    return weights


RECURRENT = [
    {"type": "rnn"},
    {"type": "rnn", "activation": "relu", "layers": 2},
    {"type": "rnn", "activation": "identity"},
    {"type": "lstm"},
    {"type": "lstm", "layers": 2},
    {"type": "lstm", "layers": 2, "proj": True},
    {"type": "gru"},
    {"type": "gru", "layers": 2},
    {"type": "gru", "layers": 2, "reset_after": False},
]
HEADS = ["softmax", "log_softmax", "sigmoid", "gelu_tanh", "softplus", "elu", "selu", "silu", "identity"]


def random_model(
    kind: dict[str, Any], width: int, hidden: int, seed: int, more: dict[str, Any]
) -> NumpyBackend:
    """An embedding of two indices of width 3, numbers beside it, the recurrent layers and a linear head."""
    rng = np.random.default_rng(seed)
    proj = max(1, hidden // 2) if "proj" in kind and hidden > 1 else 0
    recurrent = {
        **{name: value for name, value in kind.items() if name != "proj"},
        "hidden": hidden,
        "weights": random_weights(kind["type"], width + 6, hidden, kind.get("layers", 1), proj, seed),
        **({"proj": proj} if proj else {}),
    }
    out = int(rng.integers(1, 9))
    head = {
        "weight": rng.standard_normal((out, proj or hidden)).tolist(),
        "bias": rng.standard_normal(out).tolist(),
    }
    layers = [
        {"type": "embedding", "of": "id", "weights": {"weight": rng.standard_normal((7, 3)).tolist()}},
        {"type": "concat", "of": ["embedding0", "num"]},
        {"name": "r", **recurrent},
        {"type": "linear", "out": out, "activation": HEADS[seed % len(HEADS)], "weights": head},
    ]
    given = {"id": TensorSpec("id", (2,), "int64"), "num": TensorSpec("num", (width,), "float64")}
    backend = build(NumpyConfig.model_validate({"layers": layers, **more}), given, Context())
    backend.open()
    return backend


def random_rows(
    backend: NumpyBackend, shape: tuple[int, ...], rng: np.random.Generator
) -> dict[str, np.ndarray]:
    number = backend.inputs[1]
    return {
        "id": rng.integers(0, 7, (*shape, 2)),
        "num": rng.normal(0, 2, (*shape, *number.shape)).astype(number.dtype),
    }


def random_state(backend: NumpyBackend, rows: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {
        spec.name: rng.standard_normal((rows, *spec.shape)).astype(spec.dtype)
        for spec in backend.state.tensors
    }


def rows_of(arrays: dict[str, np.ndarray], rows: Any) -> dict[str, np.ndarray]:
    return {name: value[rows] for name, value in arrays.items()}


SHAPES = [(1, 1), (1, 7), (3, 5), (26, 33), (32, 64), (5, 100)]
OPTIONS = [{}, {"tile_rows": 8}, {"dtype": "float64"}]


@pytest.mark.parametrize("more", OPTIONS, ids=str)
@pytest.mark.parametrize("kind", RECURRENT, ids=str)
def test_step_does_not_depend_on_the_batch(kind: dict[str, Any], more: dict[str, Any]) -> None:
    for seed, (width, hidden) in enumerate(SHAPES):
        backend = random_model(kind, width, hidden, seed, more)
        rng = np.random.default_rng(seed)
        state, x = random_state(backend, 33, rng), random_rows(backend, (33,), rng)
        alone = [backend.step(rows_of(state, [row]), rows_of(x, [row])) for row in range(33)]
        expected = {name: np.concatenate([new[name] for new, _ in alone]) for name in state}
        expected_y = np.concatenate([y["y"] for _, y in alone])
        for rows in range(2, 34):
            picked = rng.permutation(33)[:rows]
            new, y = backend.step(rows_of(state, picked), rows_of(x, picked))
            assert same_bits(y["y"], expected_y[picked])
            assert all(same_bits(new[name], expected[name][picked]) for name in new)


@pytest.mark.parametrize("more", OPTIONS, ids=str)
@pytest.mark.parametrize("kind", RECURRENT, ids=str)
def test_scan_equals_steps(kind: dict[str, Any], more: dict[str, Any]) -> None:
    for seed, (width, hidden) in enumerate(SHAPES):
        backend = random_model(kind, width, hidden, seed, more)
        rng = np.random.default_rng(seed)
        for rows, steps in ((1, 9), (2, 5), (7, 6), (9, 3)):
            lens = rng.integers(1, steps + 1, rows)
            state, x = random_state(backend, rows, rng), random_rows(backend, (rows, steps), rng)
            new, y, bad_at = backend.scan(state, x, lens)
            assert bad_at.dtype == np.int64
            assert y["y"].shape == (rows, steps, *backend.outputs[0].shape)
            for row in range(rows):
                one = {name: value[[row]] for name, value in state.items()}
                finite = True
                for step in range(lens[row]):
                    one, single = backend.step(one, {name: value[[row], step] for name, value in x.items()})
                    assert same_bits(y["y"][[row], step], single["y"])
                    finite &= all(np.isfinite(value).all() for value in (*one.values(), *single.values()))
                assert all(same_bits(new[name][[row]], one[name]) for name in one)
                assert (bad_at[row] == -1) == finite


@pytest.mark.parametrize("kind", RECURRENT, ids=str)
def test_arguments_are_not_written_to(kind: dict[str, Any]) -> None:
    backend = random_model(kind, 3, 5, 1, {})
    rng = np.random.default_rng(0)
    for shape in ((4,), (4, 3)):
        state, x = random_state(backend, 4, rng), random_rows(backend, shape, rng)
        lens = np.array([3, 1, 2, 3])
        kept = {name: value.copy() for name, value in {**state, **x, "lens": lens}.items()}
        for value in (*state.values(), *x.values(), lens):
            value.flags.writeable = False
        new, _ = backend.step(state, x) if len(shape) == 1 else backend.scan(state, x, lens)[:2]
        for value in new.values():
            value += 1  # a new state must not share memory with the old one
        assert all(same_bits(value, kept[name]) for name, value in {**state, **x, "lens": lens}.items())


@pytest.mark.parametrize("kind", RECURRENT, ids=str)
def test_bad_at_is_the_first_step_that_is_not_finite(kind: dict[str, Any]) -> None:
    backend = random_model(kind, 3, 6, 0, {})
    rng = np.random.default_rng(5)
    state, x = random_state(backend, 5, rng), random_rows(backend, (5, 6), rng)
    lens = np.array([6, 3, 6, 4, 2])
    x["num"][0, 2] = np.nan
    x["num"][1, 3] = np.nan  # past the end of its row
    x["num"][3, 3, 0] = np.inf if kind["type"] == "rnn" and kind.get("activation") != "tanh" else np.nan
    x["num"][3, 3, 1] = -np.inf
    _, _, bad_at = backend.scan(state, x, lens)
    assert bad_at.tolist() == [2, -1, -1, 3, -1]
    state = {name: value.copy() for name, value in state.items()}
    if "r.c0" in state:
        state["r.c0"][4, 0] = np.inf
        assert backend.scan(state, x, lens)[2].tolist() == [2, -1, -1, 3, 0]
