"""The conformance kit on layers computed by PyTorch, with the state in numpy and in a slab of tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from streamrnn_torch.backend import TorchLayers
from streamrnn_torch.models import build, describe
from streamrnn_torch.options import TorchConfig
from torch_gpu import needs_gpu

from streamrnn.backend import TensorSpec
from streamrnn.conformance import BackendConformance
from streamrnn.context import Context
from streamrnn.layers.loading import LoadedModel

GATES = {"rnn": 1, "gru": 3, "lstm": 4}
X5 = {"x": TensorSpec("x", (5,), "float64")}


def recurrent(
    name: str, kind: str, inputs: int, hidden: int, layers: int = 1, proj: int = 0, bias: bool = True
):
    """Shapes of the weights of stacked layers, by their names in a file."""
    shapes: dict[str, tuple[int, ...]] = {}
    for k in range(layers):
        width = inputs if k == 0 else proj or hidden
        rows = GATES[kind] * hidden
        shapes |= {f"{name}.weight_ih_l{k}": (rows, width), f"{name}.weight_hh_l{k}": (rows, proj or hidden)}
        if bias:
            shapes |= {f"{name}.bias_ih_l{k}": (rows,), f"{name}.bias_hh_l{k}": (rows,)}
        if proj:
            shapes[f"{name}.weight_hr_l{k}"] = (proj, hidden)
    return shapes


def model(kind: str, hidden: int, out: int, head: str = "identity", **options: Any):
    """A recurrent layer and a linear one over five numbers: the layers, and the shapes of their weights."""
    top = options.get("proj") or hidden
    layers = [
        {"type": kind, "hidden": hidden, "weights": "r", **{k: v for k, v in options.items() if k != "bias"}},
        {"type": "linear", "out": out, "activation": head, "weights": "head"},
    ]
    named = {k: v for k, v in options.items() if k in ("layers", "proj", "bias")}
    shapes = recurrent("r", kind, 5, hidden, **named) | {"head.weight": (out, top), "head.bias": (out,)}
    return layers, shapes, X5


def mixed():
    shapes = {"emb.weight": (5, 4)} | recurrent("a", "lstm", 7, 7, layers=2) | recurrent("b", "gru", 7, 11)
    shapes |= recurrent("c", "rnn", 11, 9) | {"head.weight": (3, 9), "head.bias": (3,)}
    layers = [
        {"type": "embedding", "of": "id", "weights": "emb"},
        {"type": "concat", "of": ["emb", "num"]},
        {"type": "lstm", "hidden": 7, "layers": 2, "weights": "a"},
        {"type": "gru", "hidden": 11, "weights": "b"},
        {"type": "rnn", "hidden": 9, "weights": "c"},
        {"type": "linear", "out": 3, "activation": "softmax", "weights": "head"},
    ]
    return layers, shapes, {"id": TensorSpec("id", (1,), "int64"), "num": TensorSpec("num", (3,), "float64")}


MODELS = {
    "lstm of 1": model("lstm", 1, 1, "sigmoid"),
    "gru of 1": model("gru", 1, 1, "elu"),
    "rnn of 1": model("rnn", 1, 1, "gelu_tanh"),
    "lstm of 33": model("lstm", 33, 7, "softplus"),
    "gru of 33": model("gru", 33, 7, "silu"),
    "rnn of 33": model("rnn", 33, 7, "selu"),
    "lstm of 64, projected, two": model("lstm", 64, 3, "log_softmax", proj=13, layers=2),
    "lstm of 4, projected to 3, no bias": model("lstm", 4, 2, proj=3, bias=False),
    "gru of 64, three": model("gru", 64, 5, "leaky_relu", layers=3),
    "rnn of 17, relu, no bias": model("rnn", 17, 9, "tanh", bias=False, activation="relu"),
    "mixed": mixed(),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path, rng = tmp_path_factory.mktemp("models"), np.random.default_rng(0)
    for name, (_, shapes, _) in MODELS.items():
        drawn = {key: rng.uniform(-0.5, 0.5, shape).astype(np.float32) for key, shape in shapes.items()}
        save_file(drawn, path / f"{name}.safetensors")
    return path


def arguments_of(name: str, folder: Path, **options: Any):
    layers, _, given = MODELS[name]
    options = {"path": f"{name}.safetensors", "layers": layers, **options}
    return TorchConfig.model_validate(options), given, Context(base_dir=folder)


class TestFloat32(BackendConformance):
    @pytest.fixture(params=MODELS)
    def arguments(self, request, folder):
        return arguments_of(request.param, folder)

    @pytest.fixture
    def backend(self, arguments):
        return build(*arguments)

    @pytest.fixture
    def reload(self, arguments):
        return build(*arguments)

    @pytest.fixture
    def description(self, arguments):
        return describe(*arguments)


class TestSlabOfTensors(TestFloat32):
    """What runs on a GPU, on the CPU."""

    @pytest.fixture(params=["gru of 33", "lstm of 4, projected to 3, no bias", "mixed"])
    def arguments(self, request, folder):
        return arguments_of(request.param, folder)

    @pytest.fixture
    def backend(self, arguments):
        return TorchLayers(LoadedModel(*arguments), arguments[0], own_slab=True)


class TestFloat64(TestFloat32):
    @pytest.fixture(params=["lstm of 33", "gru of 33", "rnn of 33"])
    def arguments(self, request, folder):
        return arguments_of(request.param, folder, dtype="float64")


@needs_gpu
class TestOnAGpu(TestFloat32):
    """Nothing is promised there of the bits."""

    exact, tolerance = False, 1e-5

    @pytest.fixture(params=MODELS)
    def arguments(self, request, folder):
        return arguments_of(request.param, folder, device="cuda")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
class TestHalfOnAGpu(TestOnAGpu):
    """Numbers of 8 and 11 bits."""

    tolerance = 5e-2

    @pytest.fixture(params=["lstm of 33", "gru of 33", "mixed"])
    def arguments(self, request, folder, dtype):
        return arguments_of(request.param, folder, device="cuda", dtype=dtype)
