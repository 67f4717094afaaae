"""`streamrnn verify` with ONNX models live, and whole sequences of ONNX models as the reference."""

from __future__ import annotations

import json
import random

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import helper, numpy_helper
from onnx_graphs import constant, info, model
from safetensors.numpy import save_file
from streamrnn_onnx.layer_graph import onnx_weights

from streamrnn.cli.verify import command
from streamrnn.offline import ONNX_GRU, ONNX_LSTM, gate_orders

FILE = """
source: {type: file, path: data.jsonl}
decode: {type: jsonl}
event:
  key: user
  inputs:
    x: [{field: a}, {field: b}, {field: c, scale: 2}]
reset: [{type: on_change, field: session}]
model: MODEL
encode: {type: jsonl}
sink: {type: stdout}
"""
GATES = {"lstm": 4, "gru": 3, "rnn": 1}
HIDDEN = 5


@pytest.fixture(params=GATES)
def kind(request):
    return request.param


@pytest.fixture
def folder(tmp_path, kind):
    """The same cell as safetensors, and as an ONNX graph of whole sequences that hides its state."""
    rng, rows = np.random.default_rng(2), GATES[kind] * HIDDEN
    shapes = {"weight_ih": (rows, 3), "weight_hh": (rows, HIDDEN), "bias_ih": (rows,), "bias_hh": (rows,)}
    weights = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    save_file({f"{name}_l0": value for name, value in weights.items()}, tmp_path / "m.safetensors")
    save_sequence(tmp_path / "m.onnx", kind, onnx_weights(kind, weights))
    draw, session = random.Random(1), dict.fromkeys("uvw", 0)
    with (tmp_path / "data.jsonl").open("w") as data:
        for _ in range(200):
            user = draw.choice("uvw")
            session[user] += draw.random() < 0.15
            event = {name: draw.gauss(0, 1) for name in "abc"}
            data.write(json.dumps({"user": user, "session": session[user], **event}) + "\n")
    return tmp_path


def save_sequence(path, kind, weights, steps="T"):
    options = {"linear_before_reset": 1} if kind == "gru" else {}
    node = helper.make_node(
        kind.upper(), ["x", "W", "R", "B"], ["Y"], name="cell", hidden_size=HIDDEN, **options
    )
    flat = helper.make_node("Squeeze", ["Y", "one"], ["y"])
    stored = [numpy_helper.from_array(array, name) for name, array in zip("WRB", weights, strict=True)]
    graph = [info("x", steps, "B", 3)], [info("y", steps, "B", HIDDEN)], [*stored, constant("one", [1])]
    onnx.save_model(model([node, flat], *graph), path)


def write(folder, name, model, *changes):
    text = FILE.replace("MODEL", model)
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (folder / name).write_text(text)
    return folder / name


def layers(kind, type="numpy", path="m.safetensors"):
    return f"{{type: {type}, path: {path}, layers: [{{type: {kind}, hidden: {HIDDEN}, weights: ''}}]}}"


def run(*arguments):
    result = CliRunner().invoke(command, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout


def causes(out):
    return [line.removeprefix("  cause: ") for line in out.splitlines() if line.startswith("  cause: ")]


GRAPH = "{type: onnx, path: m.onnx}"


def test_every_backend_is_the_sequence_model(folder, kind):
    reference = write(folder, "reference.yaml", GRAPH)
    for live in (GRAPH, layers(kind), layers(kind, "onnx")):
        code, out = run(write(folder, "live.yaml", live), "--against", reference)
        assert code == 0, out
        assert out.startswith("equal: 200 events")


def test_a_mistake_in_the_file_is_named(folder, kind):
    reference = write(folder, "reference.yaml", layers(kind, "onnx"))
    for change, message in (
        (("reset: [{type: on_change, field: session}]", "reset: []"), "a reset is missing: "),
        (("{field: a}, {field: b}", "{field: b}, {field: a}"), "feature order: 'b' (x[0]) and 'a' (x[1])"),
        (("{field: c, scale: 2}", "{field: c}"), "feature 'c' (x[2]): scaling: the reference has 2 times"),
    ):
        code, out = run(write(folder, "live.yaml", GRAPH, change), "--against", reference)
        assert code == 1
        (cause,) = causes(out)
        assert cause.startswith(message)


def swap(array, gates):
    """The first two gates in each other's place, of all layers of a weight [1, ...]."""
    blocks = list(np.split(array, gates, axis=1))
    return np.concatenate([blocks[1], blocks[0], *blocks[2:]], axis=1)


@pytest.mark.parametrize("kind", ["lstm", "gru"], indirect=True)
def test_swapped_gates_in_a_graph_are_named(folder, kind):
    proto = onnx.load_model(folder / "m.onnx")
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    gates = GATES[kind]
    w, r = swap(stored["W"], gates), swap(stored["R"], gates)
    b = np.concatenate([swap(half, gates) for half in np.split(stored["B"], 2, axis=1)], axis=1)
    save_sequence(folder / "swapped.onnx", kind, (w, r, b))
    read = ONNX_LSTM if kind == "lstm" else ONNX_GRU
    wanted = (read[1], read[0], *read[2:])
    order = next(order for order in gate_orders(read) if order.stored == wanted)
    for reference in (GRAPH, layers(kind)):
        live = write(folder, "live.yaml", "{type: onnx, path: swapped.onnx}")
        code, out = run(live, "--against", write(folder, "reference.yaml", reference))
        assert code == 1
        (cause,) = causes(out)
        assert cause.startswith(order.text(f"{kind.upper()} 'cell'"))


@pytest.mark.parametrize("kind", ["gru"], indirect=True)
def test_a_graph_that_was_left_to_forget_is_named(folder, kind):
    proto = onnx.load_model(folder / "m.onnx")
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    save_sequence(folder / "one.onnx", kind, [stored[name] for name in "WRB"], steps=1)
    live = write(folder, "live.yaml", "{type: onnx, path: one.onnx, hidden_state: forget}")
    code, out = run(live, "--against", write(folder, "reference.yaml", layers(kind)))
    assert code == 1
    (cause,) = causes(out)
    assert cause.startswith(
        "state: the live model forgets at every event, as the other one does if it is reset"
    )
