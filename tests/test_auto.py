"""`type: auto`: which backend it takes, in which order, and how it says so."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamrnn.auto import build, candidates, explain
from streamrnn.backend import Fact, TensorSpec
from streamrnn.backends.layers import NumpyBackend
from streamrnn.backends.layers import build as build_numpy
from streamrnn.builtins.auto_layers import AutoConfig
from streamrnn.builtins.numpy_layers import COMPONENTS, NumpyConfig
from streamrnn.context import Context
from streamrnn.errors import ModelError, OptionError
from streamrnn.hookspecs import Component

X2 = {"x": TensorSpec("x", (2,), "float64")}
NUMPY = COMPONENTS[0]


def rnn(hidden: int, **options: Any) -> AutoConfig:
    weights = {"weight_ih_l0": [[0.1, -0.2]] * hidden, "weight_hh_l0": [[0.01] * hidden] * hidden}
    layer = {"type": "rnn", "hidden": hidden, "weights": weights, "name": "r"}
    return AutoConfig.model_validate({"layers": [layer], **options})


class Mixes(NumpyBackend):
    """Adds a trifle of the other rows."""

    def step(self, state, x):
        state, y = super().step(state, x)
        return state, {name: values + values.mean(0) * 1e-3 for name, values in y.items()}


def built_mixing(config: NumpyConfig, given: Mapping[str, TensorSpec], context: Context) -> Mixes:
    backend = build_numpy(config, given, context)
    backend.__class__ = Mixes
    return backend


def failing(config: NumpyConfig, given: Mapping[str, TensorSpec], context: Context) -> Any:
    raise ModelError("its library is of another age")


def refusing(config: NumpyConfig, given: Mapping[str, TensorSpec], context: Context) -> Any:
    raise OptionError((("layers", 0), "not these"))


def world(**components: Component) -> Context:
    """A context in which just these backends are installed, under these names."""
    return Context(backends={name: replace(c, name=name) for name, c in components.items()}.get)


def taken(config: AutoConfig, context: Context) -> str:
    backend = build(config, X2, context)
    backend.close()
    return backend.label


def test_numpy_is_taken_where_nothing_else_is_there() -> None:
    assert taken(rnn(3), Context()) == taken(rnn(3), world(numpy=NUMPY)) == "numpy"
    assert taken(rnn(300), world(numpy=NUMPY)) == "numpy"


def test_the_order_and_the_sizes_from_which_it_holds() -> None:
    def names(hidden: int, context: Context) -> list[str]:
        return [component.name for component, _ in candidates(rnn(hidden), X2, context)]

    every = world(onnx=NUMPY, torch=NUMPY, numpy=NUMPY)
    assert [names(hidden, every) for hidden in (255, 256, 511, 512)] == [
        ["numpy"],
        ["onnx", "numpy"],
        ["onnx", "numpy"],
        ["onnx", "torch", "numpy"],
    ]


@pytest.mark.parametrize("build_with", [built_mixing, failing])
def test_a_backend_that_fails_or_mixes_rows_is_passed_over(build_with: Any) -> None:
    assert taken(rnn(256), world(onnx=replace(NUMPY, build=build_with), numpy=NUMPY)) == "numpy"


def test_a_backend_that_refuses_these_layers_is_no_candidate() -> None:
    assert taken(rnn(256), world(onnx=replace(NUMPY, describe=refusing), numpy=NUMPY)) == "numpy"


def test_no_backend_at_all_is_told_with_the_reasons() -> None:
    with pytest.raises(ModelError, match="alike in every batch: numpy: its library is of another age"):
        build(rnn(3), X2, world(numpy=replace(NUMPY, build=failing)))


def test_mistakes_in_the_layers_are_told_as_by_any_backend() -> None:
    config = AutoConfig.model_validate(
        {"layers": [{"type": "linear", "out": 1, "weights": {"weight": [[1]]}}]}
    )
    with pytest.raises(OptionError, match=r"layers\.0\.weights\.weight: weight: expected \[1, 2\]"):
        build(config, X2, Context())


def test_it_is_explained_with_the_order_of_asking() -> None:
    facts = explain(rnn(300), X2, world(onnx=NUMPY, numpy=NUMPY))
    asked = "if the probe finds that answers do not depend on the batch, else numpy"
    assert facts[0] == Fact("backend", "onnx", "", asked)
    assert [(fact.part, fact.name) for fact in facts[1:]] == [
        ("input", "x"),
        ("state", "r.h0"),
        ("output", "y"),
    ]


def test_its_options_reach_the_backend() -> None:
    backend = build(rnn(3, dtype="float64", outputs={"z": "r"}), X2, Context())
    assert [(s.name, s.dtype) for s in backend.outputs] == [("z", "float64")]
    backend.close()


PIPELINE = """
source: {type: stdin}
decode: {type: jsonl}
event: {inputs: {x: [{field: x}]}}
model:
  type: auto
  path: m.safetensors
  layers: [{type: gru, hidden: HIDDEN, weights: ''}]
encode: {type: jsonl, fields: {top: {type: argmax, output: y}}}
sink: {type: stdout}
numerics: batch_invariant
"""


@pytest.mark.parametrize("hidden", [4, 512])
def test_run_and_lint_say_which(tmp_path: Path, hidden: int) -> None:
    from safetensors.numpy import save_file

    expected = "numpy"
    if hidden == 512 and installed("torch", "streamrnn_torch"):
        expected = "torch"
    if hidden == 512 and installed("onnxruntime", "streamrnn_onnx"):
        expected = "onnx"
    shapes = {"weight_ih_l0": (3 * hidden, 1), "weight_hh_l0": (3 * hidden, hidden)}
    weights = {name: np.full(shape, 0.01, np.float32) for name, shape in shapes.items()}
    save_file(weights, tmp_path / "m.safetensors")
    file = tmp_path / "p.yaml"
    file.write_text(PIPELINE.replace("HIDDEN", str(hidden)))
    for command, where in (("run", ""), ("lint", f"{file}: ")):
        done = subprocess.run(
            [sys.executable, "-m", "streamrnn", command, str(file)],
            input=json.dumps({"x": 1.0}),
            capture_output=True,
            text=True,
            check=True,
        )
        assert f"{where}type: auto takes {expected}" in done.stderr.splitlines()


def installed(*modules: str) -> bool:
    return all(find_spec(module) is not None for module in modules)
