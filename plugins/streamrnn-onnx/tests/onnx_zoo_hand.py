"""Graphs made by hand, for what the exporters do not make."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper
from onnx_graphs import cell, constant, info, model, weights
from onnx_zoo import Specimen

HAND = "onnx.helper"
IN, HID = 5, 4


def whole(made: onnx.ModelProto, outputs: Sequence[str] = ("y",), rows_axis: int = 1, **fixed: Any) -> Any:
    """The file itself over a whole sequence of one key, [t, 1, width] or [1, t, width], other inputs zero."""
    session = ort.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])

    def run(x: dict[str, Any]) -> dict[str, Any]:
        feeds = {name: np.expand_dims(array, rows_axis) for name, array in x.items()}
        for port in session.get_inputs():
            if port.name in fixed:
                feeds[port.name] = np.asarray(fixed[port.name])
            elif port.name not in feeds:
                sizes = [size if isinstance(size, int) else 1 for size in port.shape]
                dtype = {
                    "tensor(float)": np.float32,
                    "tensor(float16)": np.float16,
                    "tensor(int64)": np.int64,
                }
                feeds[port.name] = np.zeros(sizes, dtype[port.type])
            else:
                feeds[port.name] = feeds[port.name].astype(
                    np.float16 if port.type == "tensor(float16)" else np.float32
                )
        found = session.run(list(outputs), feeds)
        return {name: np.squeeze(y, rows_axis) for name, y in zip(outputs, found, strict=True)}

    return run


def numbers(step: Any, states: dict[str, Any]) -> Any:
    """A recurrence written in numpy: step(states, x [width]) -> (states, outputs)."""

    def run(x: dict[str, Any]) -> dict[str, Any]:
        now, answers = dict(states), []
        for k in range(len(next(iter(x.values())))):
            now, y = step(now, {name: array[k] for name, array in x.items()})
            answers.append(y)
        return {name: np.stack([y[name] for y in answers]) for name in answers[0]}

    return run


def _nodes() -> Iterator[Specimen]:
    widths = {"x": IN}
    for title, made in (
        ("GRU, reset after the product", cell("GRU", linear_before_reset=1)),
        ("LSTM, clipped", cell("LSTM", clip=0.5)),
        ("LSTM, other activations", cell("LSTM", activations=["HardSigmoid", "Softsign", "Tanh"])),
        ("RNN of width 1", cell("RNN", hidden=1)),
        ("LSTM, four rows", cell("LSTM", hidden=3, x=("T", 1, 5), rows=1)),
        ("GRU with peephole weights' place empty", cell("GRU", names=("state", "stateN"))),
    ):
        yield Specimen(title, HAND, made, widths, whole(made))
    peephole = _peephole()
    yield Specimen("LSTM with peepholes", HAND, peephole, widths, whole(peephole))
    for title, made, refused in (
        ("GRU, reverse", cell("GRU", direction="reverse"), "runs reverse"),
        ("LSTM, reverse, state hidden", cell("LSTM", names=(), direction="reverse"), "runs reverse"),
        ("GRU, layout=1", _batchwise(), "has layout=1"),
        ("LSTM, sequence lengths given, state hidden", _with_lengths(), "is given sequence lengths"),
        ("LSTM in an If, state hidden", _inside_if(), "is inside an If, Loop or Scan"),
        ("GRU, two outputs may be its state", _two_outputs(), "'h_out' and 'h_new' fits"),
        ("GRU, an input nobody gives", _extra_input(), "is neither in event.inputs nor among constants"),
        ("a state that grows", _growing(), "goes in as float32"),
        ("mean over the rows of a call", _mixing_rows(), "rows mix"),
    ):
        yield Specimen(title, HAND, made, widths, refused=refused)


def _peephole() -> onnx.ModelProto:
    peepholes = constant("P", np.random.default_rng(3).uniform(-1, 1, (1, 3 * HID)), np.float32)
    inputs = ["x", "W", "R", "B", "", "h0", "c0", "P"]
    nodes = [
        helper.make_node("LSTM", inputs, ["Y", "hn", "cn"], name="cell", hidden_size=HID),
        helper.make_node("Squeeze", ["Y", "one"], ["y"]),
    ]
    states = [info(name, 1, "B", HID) for name in ("h0", "c0", "hn", "cn")]
    return model(
        nodes, [info("x", "T", "B", IN), *states[:2]], [info("y", "T", "B", HID), *states[2:]],
        [*weights("LSTM", IN, HID), peepholes, constant("one", [1])],
    )  # fmt: skip


def _batchwise() -> onnx.ModelProto:
    node = helper.make_node(
        "GRU", ["x", "W", "R", "B", "", "h0"], ["y", "hn"], name="cell", hidden_size=HID, layout=1
    )
    state = [info(name, "B", 1, HID) for name in ("h0", "hn")]
    return model(
        [node],
        [info("x", "B", "T", IN), state[0]],
        [info("y", "B", "T", 1, HID), state[1]],
        weights("GRU", IN, HID),
    )


def _with_lengths() -> onnx.ModelProto:
    node = helper.make_node("LSTM", ["x", "W", "R", "B", "lens"], ["Y", "hn"], name="cell", hidden_size=HID)
    flat = helper.make_node("Squeeze", ["Y", "one"], ["y"])
    initial = [*weights("LSTM", IN, HID), constant("one", [1]), constant("lens", [1], np.int32)]
    return model([node, flat], [info("x", "T", 1, IN)], [info("y", "T", 1, HID)], initial)


def _inside_if() -> onnx.ModelProto:
    def branch(name: str) -> onnx.GraphProto:
        node = helper.make_node(
            "LSTM", ["x", "W", "R", "B"], [f"Y{name}"], name=f"cell{name}", hidden_size=HID
        )
        flat = helper.make_node("Squeeze", [f"Y{name}", "one"], [f"y{name}"])
        return helper.make_graph([node, flat], name, [], [info(f"y{name}", None, None, HID)])

    node = helper.make_node("If", ["yes"], ["y"], then_branch=branch("a"), else_branch=branch("b"))
    initial = [*weights("LSTM", IN, HID), constant("one", [1]), constant("yes", True, np.bool_)]
    return model([node], [info("x", "T", "B", IN)], [info("y", "T", "B", HID)], initial)


def _plain(outputs: Sequence[str], before: Sequence[str] = ("h",)) -> list[onnx.NodeProto]:
    """h' = tanh(x W + h), given under several names."""
    return [
        helper.make_node("MatMul", ["x", "W"], ["xw"]),
        helper.make_node("Add", ["xw", before[0]], ["sum"]),
        helper.make_node("Tanh", ["sum"], ["next"]),
        *(helper.make_node("Identity", ["next"], [name]) for name in outputs),
    ]


W = constant("W", np.random.default_rng(1).normal(size=(IN, HID)), np.float32)


def _two_outputs() -> onnx.ModelProto:
    names = ("h_out", "h_new")
    return model(
        _plain(names),
        [info("x", "B", IN), info("h", "B", HID)],
        [info(name, "B", HID) for name in names],
        [W],
    )


def _extra_input() -> onnx.ModelProto:
    ports = [info("x", "B", IN), info("h", "B", HID), info("weights_of_rows", "B", 2)]
    return model(_plain(("h_out",)), ports, [info("h_out", "B", HID)], [W])


def _growing() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Unsqueeze", ["x", "one"], ["x1"]),
        helper.make_node("Concat", ["past", "x1"], ["present"], axis=1),
        helper.make_node("ReduceSum", ["present", "one"], ["y"], keepdims=0),
    ]
    ports = [info("x", "B", IN), info("past", "B", 2, IN)]
    return model(nodes, ports, [info("y", "B", IN), info("present", "B", None, IN)], [constant("one", [1])])


def _mixing_rows() -> onnx.ModelProto:
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[0], keepdims=1),
        helper.make_node("Sub", ["x", "mean"], ["xc"]),
        helper.make_node("Add", ["xc", "h_in"], ["h_out"]),
        helper.make_node("Tanh", ["h_out"], ["y"]),
    ]
    ports = [info(name, "B", IN) for name in ("x", "h_in", "y", "h_out")]
    return model(nodes, ports[:2], ports[2:])


def _cells() -> Iterator[Specimen]:
    widths = {"x": IN}
    weight = onnx.numpy_helper.to_array(W)

    def tanh(state: Any, x: Any) -> Any:
        h = np.tanh(x["x"] @ weight + state["h"])
        return {"h": h}, {"h_out": h}

    reference = numbers(tanh, {"h": np.zeros(HID, np.float32)})
    for title, ports, after in (
        (
            "a cell of plain operators",
            [info("x", "B", IN), info("h", "B", HID)],
            info("h_out", "B", HID),
        ),
        (
            "the same, sizes without symbols",
            [info("x", None, IN), info("h", None, HID)],
            info("h_out", None, HID),
        ),
        ("the same for one row", [info("x", 1, IN), info("h", 1, HID)], info("h_out", 1, HID)),
        ("the same for eight rows", [info("x", 8, IN), info("h", 8, HID)], info("h_out", 8, HID)),
        ("the same without rows", [info("x", IN), info("h", HID)], info("h_out", HID)),
    ):
        yield Specimen(title, HAND, model(_plain(("h_out",)), ports, [after], [W]), widths, reference)
    told = [{"input": "memory", "output": "out", "init": 0.5}]
    made = model(
        _plain(("out",), ("memory",)),
        [info("x", "B", IN), info("memory", "B", HID)],
        [info("out", "B", HID)],
        [W],
        metadata={"streamrnn.state": json.dumps(told)},
    )
    begun = numbers(lambda s, x: (tanh(s, x)[0], {"out": tanh(s, x)[0]["h"]}), {"h": np.full(HID, 0.5)})
    yield Specimen("the same, told by its metadata", HAND, made, widths, begun)
    yield _counting(widths)
    yield _constant_input(widths)
    yield _half(widths)
    yield _quantized(widths)
    yield _scanned(widths)


def _counting(widths: dict[str, int]) -> Specimen:
    nodes = [
        helper.make_node("Add", ["count_in", "one"], ["count_out"]),
        helper.make_node("Cast", ["count_out"], ["n"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["sum_in", "x"], ["sum_out"]),
        helper.make_node("Div", ["sum_out", "n"], ["mean"]),
    ]
    count = [info(name, "B", 1, kind=TensorProto.INT64) for name in ("count_in", "count_out")]
    sums = [info(name, "B", IN) for name in ("sum_in", "sum_out")]
    made = model(
        nodes, [info("x", "B", IN), count[0], sums[0]], [info("mean", "B", IN), count[1], sums[1]],
        [constant("one", [[1]])],
    )  # fmt: skip

    def means(x: dict[str, Any]) -> dict[str, Any]:
        return {"mean": np.cumsum(x["x"], 0) / np.arange(1, len(x["x"]) + 1)[:, None]}

    return Specimen("a mean: integer and float state", HAND, made, widths, means)


def _constant_input(widths: dict[str, int]) -> Specimen:
    nodes = [
        helper.make_node("Mul", ["h_in", "decay"], ["kept"]),
        helper.make_node("Add", ["kept", "x"], ["h_out"]),
        helper.make_node("Mul", ["h_out", "scale"], ["y"]),
    ]
    ports = [info("x", "B", IN), info("h_in", "B", IN), info("decay"), info("scale", "B", 1)]
    made = model(nodes, ports, [info("y", "B", IN), info("h_out", "B", IN)])

    def step(state: Any, x: Any) -> Any:
        h = state["h"] * 0.5 + x["x"]
        return {"h": h}, {"y": h * 3}

    options = {"constants": {"decay": 0.5, "scale": 3}}
    return Specimen(
        "constants, one for each row", HAND, made, widths, numbers(step, {"h": np.zeros(IN)}), options
    )


def _half(widths: dict[str, int]) -> Specimen:
    half = TensorProto.FLOAT16
    weight = constant("W", onnx.numpy_helper.to_array(W), np.float16)
    ports = [info("x", "B", IN, kind=half), info("h", "B", HID, kind=half)]
    made = model(_plain(("h_out",)), ports, [info("h_out", "B", HID, kind=half)], [weight])

    def step(state: Any, x: Any) -> Any:
        h = np.tanh(x["x"].astype(np.float16) @ onnx.numpy_helper.to_array(weight) + state["h"])
        return {"h": h.astype(np.float16)}, {"h_out": h}

    reference = numbers(step, {"h": np.zeros(HID, np.float16)})
    return Specimen("float16 throughout", HAND, made, widths, reference, tolerance=2e-2)


def _quantized(widths: dict[str, int]) -> Specimen:
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"], name="quantize"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["xq"]),
        helper.make_node("MatMul", ["xq", "W"], ["xw"]),
        helper.make_node("Add", ["xw", "h"], ["sum"]),
        helper.make_node("Tanh", ["sum"], ["h_out"]),
    ]
    made = model(nodes, [info("x", "B", IN), info("h", "B", HID)], [info("h_out", "B", HID)], [W])
    session = ort.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])

    def step(state: Any, x: Any) -> Any:
        (h,) = session.run(["h_out"], {"x": x["x"][None].astype(np.float32), "h": state["h"]})
        return {"h": h}, {"h_out": h[0]}

    reference = numbers(step, {"h": np.zeros((1, HID), np.float32)})
    return Specimen("numbers scaled by the largest of a call", HAND, made, widths, reference)


def _scanned(widths: dict[str, int]) -> Specimen:
    """h' = tanh(x W + h) by a Scan node over the steps, state in and out."""
    nodes = [
        helper.make_node("MatMul", ["xt", "W"], ["xw"]),
        helper.make_node("Add", ["xw", "before"], ["sum"]),
        helper.make_node("Tanh", ["sum"], ["after"]),
        helper.make_node("Identity", ["after"], ["yt"]),
    ]
    body = helper.make_graph(
        nodes,
        "body",
        [info("before", "B", HID), info("xt", "B", IN)],
        [info("after", "B", HID), info("yt", "B", HID)],
    )
    scan = helper.make_node("Scan", ["h_in", "x"], ["h_out", "y"], name="scan", body=body, num_scan_inputs=1)
    made = model(
        [scan],
        [info("x", "T", "B", IN), info("h_in", "B", HID)],
        [info("y", "T", "B", HID), info("h_out", "B", HID)],
        [W],
    )
    return Specimen("a Scan over the steps", HAND, made, widths, whole(made))


def specimens() -> Iterator[Specimen]:
    """All of them."""
    yield from _nodes()
    yield from _cells()
