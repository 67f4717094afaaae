"""ONNX's own test cases of operators with state: their published answers step by step, or refused."""

from __future__ import annotations

import re
import warnings

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from streamrnn_onnx import OnnxConfig
from streamrnn_onnx.loading import build

from streamrnn.backend import TensorSpec
from streamrnn.context import Context
from streamrnn.errors import OptionError

OURS = re.compile(r"test_(lstm|gru|rnn|simple_rnn|causal_conv_with_state|linear_attention)_")
DATA = {"X", "input", "query", "key", "value", "decay", "beta"}
STATES = {"initial_h", "initial_c", "past_state"}
TIME_AXIS = {"X": 0, "input": 2}
REFUSED = {
    "batchwise": "has layout=1",
    "reverse": "runs reverse",
    "bidirectional": "runs bidirectional",
    "lstm_with_peepholes": "input initial_c (float32 [1, B, 3]) is neither in event.inputs",
    # A convolution that looks at one step keeps no state at all, and its state has no numbers.
    "kernel_size_one": "no reading of the axes fits",
}


def cases():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        with np.errstate(all="ignore"):
            found = collect_testcases(None)
    return [case for case in found if OURS.match(case.name)]


@pytest.fixture(scope="module")
def all_cases():
    return cases()


def as_file(case, folder):
    """The case's graph with its weights inside and free axes of rows and steps."""
    made = onnx.ModelProto()
    made.CopyFrom(case.model)
    given, expected = case.data_sets[0]
    values = {port.name: np.asarray(value) for port, value in zip(made.graph.input, given, strict=True)}
    fixed = [port for port in made.graph.input if port.name not in DATA | STATES]
    for port in fixed:
        made.graph.input.remove(port)
        made.graph.initializer.append(numpy_helper.from_array(values[port.name], port.name))
    for port in made.graph.input:
        dims = port.type.tensor_type.shape.dim
        time = TIME_AXIS.get(port.name, 1) if port.name in DATA else None
        rows = 1 if port.name in {"X", "initial_h", "initial_c"} else 0
        dims[rows].dim_param = "B"
        if time is not None:
            dims[time].dim_param = "T"
    for port in made.graph.output:
        port.type.tensor_type.ClearField("shape")
        if port.name == "present_state":
            shape = [None, *np.shape(values.get("past_state", expected[-1]))[1:]]
            port.CopyFrom(
                onnx.helper.make_tensor_value_info(port.name, port.type.tensor_type.elem_type, shape)
            )
    onnx.save_model(made, folder / "m.onnx")
    outputs = {port.name: np.asarray(value) for port, value in zip(made.graph.output, expected, strict=True)}
    return values, outputs


def steps_of(name, array):
    """[rows, steps, width] of a data input."""
    time = TIME_AXIS.get(name, 1)
    rows = 1 if name == "X" else 0
    moved = np.moveaxis(array, (rows, time), (0, 1))
    return moved.reshape(*moved.shape[:2], -1)


def served(model, values):
    """The outputs and states after the last step, each key's steps one after the other."""
    x = {name: steps_of(name, values[name]) for name in values if name in DATA}
    n, t = next(iter(x.values())).shape[:2]
    state = {}
    for tensor in model.state.tensors:
        zeros = np.zeros(
            (*tensor.shape[: tensor.batch_axis], n, *tensor.shape[tensor.batch_axis :]), tensor.dtype
        )
        state[tensor.name] = values.get(tensor.name, zeros)
    answers = []
    for k in range(t):
        given = {s.name: x[s.name][:, k].astype(s.dtype).reshape(n, *s.shape) for s in model.inputs}
        state, y = model.step(state, given)
        answers.append(y)
    return answers


@pytest.mark.parametrize(
    "kind", ["lstm", "gru", "rnn", "simple_rnn", "causal_conv_with_state", "linear_attention"]
)
def test_published_answers(kind, all_cases, tmp_path):
    wrong, right = [], []
    for case in all_cases:
        if not case.name.startswith(f"test_{kind}_"):
            continue
        expanded = case.name.endswith("_expanded")
        reason = next((text for part, text in REFUSED.items() if part in case.name and not expanded), "")
        values, expected = as_file(case, tmp_path)
        given = {n: TensorSpec(n, (steps_of(n, values[n]).shape[2],), "float64") for n in values if n in DATA}
        numbered = {name: name for name in expected}
        try:
            model = build(OnnxConfig(path="m.onnx", outputs=numbered), given, Context(base_dir=tmp_path))
        except OptionError as error:
            # Written out in other operators a case hides its state, or has its sizes built in.
            if not (expanded or (reason and reason in str(error))):
                wrong.append(f"{case.name} refused: {error}")
            continue
        if reason:
            wrong.append(f"{case.name} should be refused: {reason}")
        answers = served(model, values)
        for name, value in expected.items():
            found = np.stack([y[name] for y in answers], 1) if name in ("output", "Y") else answers[-1][name]
            if name == "output" and "conv" in kind:
                found = np.moveaxis(found, 1, 2)
            if name in ("Y_h", "Y_c"):
                found = np.moveaxis(found, 0, 1)
            if not np.allclose(found.reshape(value.shape), value, 2e-3, 2e-3):
                wrong.append(f"{case.name}: {name}")
        right.append(case.name)
    assert wrong == []
    assert len(right) >= {"rnn": 1, "gru": 3, "simple_rnn": 2, "lstm": 2}.get(kind, 8), right
