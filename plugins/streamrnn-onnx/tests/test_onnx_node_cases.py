"""ONNX's own test cases of operators with state: their published answers step by step, or refused."""

from __future__ import annotations

import re
import warnings
from collections import Counter

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
    # Of those written out in other operators only the ones that are given a past can be served.
    return [
        case
        for case in found
        if OURS.match(case.name) and ("_expanded" not in case.name or "decode_step" in case.name)
    ]


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


KINDS = {"lstm": 2, "gru": 3, "rnn": 1, "simple_rnn": 2, "causal_conv_with_state": 12, "linear_attention": 15}
"""The least number of cases of each kind that must be served."""


@pytest.mark.slow
def test_published_answers(tmp_path):
    """One test, since making the cases takes seconds."""
    wrong, right = [], Counter()
    for case in cases():
        kind = OURS.match(case.name)[1]
        problem = check(case, kind, tmp_path)
        right[kind] += problem == ""
        wrong += [problem] if problem else []
    assert wrong == []
    assert {kind: right[kind] for kind in KINDS if right[kind] < KINDS[kind]} == {}


def check(case, kind, folder):
    """What is wrong with how a case is served; empty if nothing, None if it is rightly refused."""
    expanded = case.name.endswith("_expanded")
    reason = next((text for part, text in REFUSED.items() if part in case.name and not expanded), "")
    values, expected = as_file(case, folder)
    given = {n: TensorSpec(n, (steps_of(n, values[n]).shape[2],), "float64") for n in values if n in DATA}
    config = OnnxConfig(path="m.onnx", outputs={name: name for name in expected})
    try:
        model = build(config, given, Context(base_dir=folder))
    except OptionError as error:
        # Written out in other operators a case hides its state, or has its sizes built in.
        rightly = expanded or (reason and reason in str(error))
        return None if rightly else f"{case.name} refused: {error}"
    if reason:
        return f"{case.name} should be refused: {reason}"
    answers = served(model, values)
    for name, value in expected.items():
        found = np.stack([y[name] for y in answers], 1) if name in ("output", "Y") else answers[-1][name]
        if name == "output" and "conv" in kind:
            found = np.moveaxis(found, 1, 2)
        if name in ("Y_h", "Y_c"):
            found = np.moveaxis(found, 0, 1)
        if not np.allclose(found.reshape(value.shape), value, 2e-3, 2e-3):
            return f"{case.name}: {name}"
    return ""
