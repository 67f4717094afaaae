"""The conformance kit, run on the backends that ship with streamrnn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from streamrnn.backend import TensorSpec
from streamrnn.backends import formula, layers
from streamrnn.builtins.formula import FormulaConfig
from streamrnn.builtins.formula import describe as describe_formula
from streamrnn.builtins.numpy_layers import NumpyConfig
from streamrnn.conformance import BackendConformance, check_light_import
from streamrnn.context import Context
from streamrnn.layers import plan

MEAN = {
    "state": {"E": {"first": "x"}, "n": 0},
    "update": {"E": "0.9*E + 0.1*x", "n": "n + u"},
    "output": {"y": "tanh(E)", "d": "x - prev(E)", "many": "n > 3"},
}
VECTORS = {"x": TensorSpec("x", (3,), "float64"), "u": TensorSpec("u", (1,), "float64")}

STORED = {
    "emb.weight": (5, 4),
    "lstm.weight_ih_l0": (28, 7), "lstm.weight_hh_l0": (28, 7), "lstm.bias_ih_l0": (28,),
    "lstm.bias_hh_l0": (28,), "lstm.weight_ih_l1": (28, 7), "lstm.weight_hh_l1": (28, 7),
    "lstm.bias_ih_l1": (28,), "lstm.bias_hh_l1": (28,),
    "gru.weight_ih_l0": (33, 7), "gru.weight_hh_l0": (33, 11), "gru.bias_ih_l0": (33,),
    "gru.bias_hh_l0": (33,),
    "rnn.weight_ih_l0": (9, 11), "rnn.weight_hh_l0": (9, 9), "rnn.bias_ih_l0": (9,), "rnn.bias_hh_l0": (9,),
    "head.weight": (3, 9), "head.bias": (3,),
}  # fmt: skip
LAYERS = [
    {"type": "embedding", "of": "id", "weights": "emb"},
    {"type": "concat", "of": ["emb", "num"]},
    {"type": "lstm", "hidden": 7, "layers": 2, "weights": "lstm"},
    {"type": "gru", "hidden": 11, "weights": "gru"},
    {"type": "rnn", "hidden": 9, "weights": "rnn"},
    {"type": "linear", "out": 3, "activation": "softmax", "weights": "head"},
]
MIXED = {"id": TensorSpec("id", (1,), "int64"), "num": TensorSpec("num", (3,), "float64")}


class TestFormula(BackendConformance):
    @pytest.fixture
    def backend(self):
        return formula.build(FormulaConfig.model_validate(MEAN), VECTORS, Context())

    @pytest.fixture
    def reload(self):
        return formula.build(FormulaConfig.model_validate(MEAN), VECTORS, Context())

    @pytest.fixture
    def description(self):
        return describe_formula(FormulaConfig.model_validate(MEAN), VECTORS, Context())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models")
    rng = np.random.default_rng(0)
    tensors = {name: rng.uniform(-0.5, 0.5, shape).astype(np.float32) for name, shape in STORED.items()}
    save_file(tensors, path / "m.safetensors")
    return path


class TestNumpyLayers(BackendConformance):
    @pytest.fixture(params=[("float32", 1), ("float32", 8), ("float64", 1)], ids=str)
    def arguments(self, request, folder):
        dtype, tile_rows = request.param
        options = {"path": "m.safetensors", "layers": LAYERS, "dtype": dtype, "tile_rows": tile_rows}
        return NumpyConfig.model_validate(options), MIXED, Context(base_dir=folder)

    @pytest.fixture
    def backend(self, arguments):
        return layers.build(*arguments)

    @pytest.fixture
    def reload(self, arguments):
        return layers.build(*arguments)

    @pytest.fixture
    def description(self, arguments):
        return plan.describe(*arguments)


@pytest.mark.parametrize("module", ["streamrnn.builtins.formula", "streamrnn.layers.plan"])
def test_what_lint_imports_is_light(module):
    check_light_import(module)
