"""The conformance kit over graphs of many forms, and pipelines that equal whole sequences."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from onnx_graphs import cell, constant, info, model, saved, weights
from streamrnn_onnx import OnnxConfig
from streamrnn_onnx.loading import build, describe

from streamrnn.backend import TensorSpec
from streamrnn.conformance import BackendConformance, check_light_import
from streamrnn.context import Context
from streamrnn.core.wrap import Padded
from streamrnn.testing import quiet_context, run_pipeline

X = {"x": TensorSpec("x", (5,), "float64")}


def stacked():
    """Two GRUs over a state [2, B, 4], batch first, a head behind them."""
    nodes = [
        helper.make_node("Transpose", ["x"], ["xt"], perm=[1, 0, 2]),
        helper.make_node("Split", ["h0"], ["ha", "hb"], axis=0, num_outputs=2),
        helper.make_node(
            "GRU", ["xt", "W", "R", "B", "", "ha"], ["Ya", "na"], hidden_size=4, linear_before_reset=1
        ),
        helper.make_node("Squeeze", ["Ya", "one"], ["ya"]),
        helper.make_node("GRU", ["ya", "W2", "R2", "B2", "", "hb"], ["Yb", "nb"], hidden_size=4),
        helper.make_node("Squeeze", ["Yb", "one"], ["yb"]),
        helper.make_node("Transpose", ["yb"], ["yt"], perm=[1, 0, 2]),
        helper.make_node("MatMul", ["yt", "head"], ["logits"]),
        helper.make_node("Concat", ["na", "nb"], ["hn"], axis=0),
    ]
    second = weights("GRU", 4, 4, seed=1)
    for tensor in second:
        tensor.name += "2"
    head = constant("head", np.random.default_rng(2).normal(size=(4, 3)), np.float32)
    return model(
        nodes,
        [info("x", "batch", "time", 5), info("h0", 2, "batch", 4)],
        [info("logits", "batch", "time", 3), info("hn", 2, "batch", 4)],
        [*weights("GRU", 5, 4), *second, head, constant("one", [1])],
        opset=18,
    )


def plain_step():
    """No time axis and no recurrent node: h' = tanh([x, h] W), c' = c + 1, with int and float state."""
    nodes = [
        helper.make_node("Concat", ["x", "h_in"], ["xh"], axis=1),
        helper.make_node("MatMul", ["xh", "W"], ["z"]),
        helper.make_node("Tanh", ["z"], ["h_out"]),
        helper.make_node("Add", ["count_in", "one"], ["count_out"]),
        helper.make_node("Cast", ["count_in"], ["cf"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["h_out", "cf"], ["y"]),
    ]
    return model(
        nodes,
        [info("x", "N", 5), info("h_in", "N", 7), info("count_in", "N", 1, kind=TensorProto.INT64)],
        [info("y", "N", 7), info("h_out", "N", 7), info("count_out", "N", 1, kind=TensorProto.INT64)],
        [
            constant("W", np.random.default_rng(0).normal(size=(12, 7)) / 2, np.float32),
            constant("one", [[1]]),
        ],
    )


GRAPHS = {
    "gru": lambda: cell("GRU"),
    "lstm": lambda: cell("LSTM"),
    "rnn": lambda: cell("RNN"),
    "rnn of width 1": lambda: cell("RNN", hidden=1),
    "hidden lstm": lambda: cell("LSTM", names=()),
    "fixed batch": lambda: cell("GRU", x=(1, 1, 5), rows=1),
    "four rows": lambda: cell("LSTM", hidden=3, x=("T", 4, 5), rows=4),
    "stacked": stacked,
    "plain step": plain_step,
}


class TestOnnx(BackendConformance):
    @pytest.fixture(params=GRAPHS, ids=str)
    def arguments(self, request, tmp_path):
        self.pad = 2 if request.param.startswith("rnn") else 1  # as the probe finds
        return OnnxConfig(path=saved(tmp_path, GRAPHS[request.param]())), X, Context(base_dir=tmp_path)

    def load(self, arguments):
        return Padded(build(*arguments), self.pad) if self.pad > 1 else build(*arguments)

    @pytest.fixture
    def backend(self, arguments):
        return self.load(arguments)

    @pytest.fixture
    def reload(self, arguments):
        return self.load(arguments)

    @pytest.fixture
    def description(self, arguments, backend):
        described = describe(*arguments)
        assert described.state.fingerprint == ""
        return replace(described, state=replace(described.state, fingerprint=backend.state.fingerprint))


def test_what_only_a_run_can_tell_is_left_to_the_run(tmp_path):
    made = cell("LSTM", hidden=4, x=("T", 4, 5), rows=4)
    arguments = OnnxConfig(path=saved(tmp_path, made)), X, Context(base_dir=tmp_path)
    assert describe(*arguments) is None
    assert build(*arguments).state.tensors[0].batch_axis == 1


PIPELINE = """
source: {type: stdin}
decode: {type: jsonl}
event: {key: k, inputs: {x: [{fields: [a, b, c, d, e]}]}}
reset: [{type: on_value, field: new, equals: true}]
model: {type: onnx, path: m.onnx}
encode: {type: jsonl, include: [k]}
sink: {type: stdout}
"""


@pytest.mark.parametrize("limit", [1, 7, 64])
@pytest.mark.parametrize("name", ["gru", "lstm", "rnn", "hidden lstm", "stacked"])
def test_keys_in_turns_get_what_their_whole_sequences_give(name, limit, tmp_path):
    made = GRAPHS[name]()
    saved(tmp_path, made)
    rng = np.random.default_rng(3)
    x = rng.normal(size=(2, 30, 5)).astype(np.float32)
    turns = rng.permutation([0] * 30 + [1] * 30)
    at, events = [0, 0], []
    for key in turns:
        k = at[key]
        events.append({"k": f"k{key}", "new": k == 12, **dict(zip("abcde", x[key, k].tolist(), strict=True))})
        at[key] += 1
    text = PIPELINE + f"limits: {{max_batch_events: {limit}}}\n"
    outputs, rejected = run_pipeline(text, events, context=quiet_context(base_dir=tmp_path))
    assert not rejected
    for key in (0, 1):
        own = [next(v for n, v in out.items() if n != "k") for out in outputs if out["k"] == f"k{key}"]
        parts = [whole(made, x[key, :12]), whole(made, x[key, 12:])]
        np.testing.assert_allclose(own, np.concatenate(parts), atol=1e-5)


def whole(made, x):
    """The graph's first output over one sequence [t, 5] from zero states, whatever its layout."""
    session = ort.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    first = session.get_inputs()[0].shape[0] in ("batch", "B", "N")
    feeds = {"x": x[None] if first else x[:, None]}
    for port in session.get_inputs()[1:]:
        feeds[port.name] = np.zeros([d if isinstance(d, int) else 1 for d in port.shape], np.float32)
    return np.squeeze(session.run(None, feeds)[0], 0 if first else 1)


def test_the_package_is_light():
    check_light_import("streamrnn_onnx")


def test_metadata_tells_the_state(tmp_path):
    names = ("first", "second", "third", "fourth")
    told = [{"input": "first", "output": "third", "init": 0.5}, {"input": "second", "output": "fourth"}]
    made = cell("LSTM", names=names, metadata={"streamrnn.state": json.dumps(told)})
    model = build(OnnxConfig(path=saved(tmp_path, made)), X, Context(base_dir=tmp_path))
    assert [(t.name, t.initial) for t in model.state.tensors] == [("first", 0.5), ("second", 0.0)]
