"""Loop and Scan nodes made by hand: h' = tanh(x W + h), and what may go wrong with it in a loop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper
from onnx_graphs import constant, info, model
from onnx_zoo import Specimen
from onnx_zoo_hand import HAND, HID, IN, numbers

W = np.random.default_rng(1).normal(size=(IN, HID)).astype(np.float32)
FIRST = np.random.default_rng(2).normal(size=(1, HID)).astype(np.float32)
BOOL, INT = TensorProto.BOOL, TensorProto.INT64
WIDTHS = {"x": IN}
node = helper.make_node

_STEP = [
    node("MatMul", ["xt", "W"], ["xw"]),
    node("Add", ["xw", "before"], ["sum"]),
    node("Tanh", ["sum"], ["plain"]),
]
_PLAIN = [node("Identity", ["plain"], ["after"])]
_ZEROS = [
    node("Shape", ["x"], ["sizes"]),
    node("Gather", ["sizes", "axis_rows"], ["rows"]),
    node("Concat", ["rows", "width"], ["of"], axis=0),
    node("Expand", ["first", "of"], ["h0"]),
]
_CONSTANTS = {"axis_rows": [1], "width": [HID], "zero": 0, "one": [1], "eight": 8, "axis_0": [0]}


def specimens() -> Iterator[Specimen]:
    """All of them."""
    hidden = numbers(_tanh, {"h": np.zeros(HID, np.float32)})
    learned = numbers(_tanh, {"h": FIRST[0]})
    yield Specimen("a Scan, state hidden", HAND, scan(), WIDTHS, hidden)
    yield Specimen("a Loop, state hidden", HAND, loop(), WIDTHS, hidden)
    yield Specimen("a Loop, first state learned", HAND, loop(first=FIRST), WIDTHS, learned)
    yield Specimen("a Loop, its variable given and returned", HAND, given_loop(), WIDTHS, hidden)
    forget = {"hidden_state": "forget"}
    within = numbers(_three_times, {})
    yield Specimen("a Loop within an event", HAND, within_event(), WIDTHS, refused="hidden_state: forget")
    yield Specimen("the same, told to forget", HAND, within_event(), WIDTHS, within, forget)
    table = constant("table", np.repeat([[1.0], [0.0]], [7, 20], 0), np.float32)
    for title, made, refused in (
        ("a Scan from last to first", scan(scan_input_directions=[1]), "from the last to the first"),
        ("a Loop that forgets every eighth step", loop(_every_eighth()), "such as the number of the step"),
        ("the same, last answer only", last_only(), "such as the number of the step"),
        ("a Loop that looks its step up", loop(_looked_up(), [table]), "such as the number of the step"),
        ("a Loop that stops by numbers", loop(stop=_by_numbers()), "stops where numbers tell it to"),
        ("a Loop that begins with the data", loop(first=None), "a sequence is not that step alone"),
        ("a Loop in an If, state hidden", inside_if(), "is inside an If, Loop or Scan"),
    ):
        yield Specimen(title, HAND, made, WIDTHS, refused=refused)


def _tanh(state: Any, x: Any) -> Any:
    h = np.tanh(x["x"] @ W + state["h"])
    return {"h": h}, {"y": h}


def _three_times(state: Any, x: Any) -> Any:
    h = np.zeros(HID)
    for _ in range(3):
        h = np.tanh(x["x"] @ W + h)
    return state, {"y": h}


def scan(**attributes: Any) -> onnx.ModelProto:
    """A Scan over the steps of x [T, B, 5], from zeros."""
    after = [node("Identity", ["after"], ["yt"])]
    ports = [info("before", "B", HID), info("xt", "B", IN)]
    body = _graph([*_STEP, *_PLAIN, *after], ports, [info("after", "B", HID), info("yt", "B", HID)])
    made = node("Scan", ["h0", "x"], ["hn", "y"], name="scan", body=body, num_scan_inputs=1, **attributes)
    return _model([*_ZEROS, made])


def loop(
    ends: Sequence[onnx.NodeProto] = _PLAIN,
    more: Sequence[onnx.TensorProto] = (),
    stop: Sequence[onnx.NodeProto] = (),
    first: Any = 0.0,
) -> onnx.ModelProto:
    """A Loop over the steps of x [T, B, 5]; `first` is what it begins with, the first step if None."""
    zeros = [node("MatMul", ["x", "W"], ["all"]), node("Gather", ["all", "zero"], ["h0"])]
    begin = zeros if first is None else _ZEROS
    return _model([*begin, *_looped(ends, stop)], more, 0.0 if first is None else first)


def last_only() -> onnx.ModelProto:
    """The Loop that forgets, without its answers but the last."""
    nodes = _looped(_every_eighth())
    nodes[-1].output.pop()
    nodes[-1].attribute[0].g.output.pop()
    return model([*_ZEROS, *nodes], [info("x", "T", "B", IN)], [info("hn", "B", HID)], _initial(0.0))


def given_loop() -> onnx.ModelProto:
    """The same with its variable as an input and an output, whose names say nothing."""
    nodes = [node("Identity", ["in_5"], ["h0"]), *_looped(), node("Identity", ["hn"], ["out_7"])]
    return _model(nodes, ports=[info("in_5", "B", HID)], outputs=[info("out_7", "B", HID)])


def within_event() -> onnx.ModelProto:
    """Three rounds from zeros over the same x [B, 5]."""
    body = _body([node("Identity", ["x"], ["xt"]), *_STEP, *_PLAIN])
    body.output.pop()
    nodes = [
        *_ZEROS[:1],
        node("Gather", ["sizes", "axis_0"], ["rows"]),
        *_ZEROS[2:],
        node("Loop", ["rounds", "", "h0"], ["y"], name="loop", body=body),
    ]
    initial = [*_initial(0.0), constant("rounds", 3)]
    return model(nodes, [info("x", "B", IN)], [info("y", "B", HID)], initial)


def inside_if() -> onnx.ModelProto:
    """The Loop in both branches of an If."""
    ends = [node("Identity", ["y"], ["answer"])]
    parts = [_graph([*_ZEROS, *_looped(), *ends], [], [info("answer", None, None, HID)]) for _ in range(2)]
    branches = dict(zip(("then_branch", "else_branch"), parts, strict=True))
    made = node("If", ["yes"], ["y"], **branches)
    return _model([made], [constant("yes", True, np.bool_)])


def _looped(
    ends: Sequence[onnx.NodeProto] = _PLAIN, stop: Sequence[onnx.NodeProto] = ()
) -> list[onnx.NodeProto]:
    read = node("Gather", ["x", "i"], ["xt"])
    return [
        node("Shape", ["x"], ["shape"]),
        node("Gather", ["shape", "zero"], ["steps"]),
        node("Loop", ["steps", "", "h0"], ["hn", "y"], name="loop", body=_body([read, *_STEP, *ends], stop)),
    ]


def _body(nodes: Sequence[onnx.NodeProto], stop: Sequence[onnx.NodeProto] = ()) -> onnx.GraphProto:
    ends = [*(stop or [node("Identity", ["go"], ["on"])]), node("Identity", ["after"], ["yt"])]
    ports = [info("i", kind=INT), info("go", kind=BOOL), info("before", "B", HID)]
    return _graph(
        [*nodes, *ends], ports, [info("on", kind=BOOL), info("after", "B", HID), info("yt", "B", HID)]
    )


def _every_eighth() -> list[onnx.NodeProto]:
    return [
        node("Mod", ["i", "eight"], ["phase"]),
        node("Equal", ["phase", "zero"], ["now"]),
        node("Where", ["now", "xw", "sum"], ["kept"]),
        node("Tanh", ["kept"], ["after"]),
    ]


def _looked_up() -> list[onnx.NodeProto]:
    return [node("Gather", ["table", "i"], ["weight"]), node("Mul", ["plain", "weight"], ["after"])]


def _by_numbers() -> list[onnx.NodeProto]:
    return [
        node("ReduceSum", ["before"], ["all"], keepdims=0),
        node("Less", ["all", "most"], ["on"]),
    ]


def _graph(nodes: Sequence[Any], inputs: Sequence[Any], outputs: Sequence[Any]) -> onnx.GraphProto:
    return helper.make_graph(list(nodes), "part", list(inputs), list(outputs))


def _initial(first: Any) -> list[onnx.TensorProto]:
    numbers = {"W": W, "first": first, "most": 1e3}
    floats = [constant(name, value, np.float32) for name, value in numbers.items()]
    return [*floats, *(constant(name, value) for name, value in _CONSTANTS.items())]


def _model(
    nodes: Sequence[onnx.NodeProto],
    more: Sequence[onnx.TensorProto] = (),
    first: Any = 0.0,
    ports: Sequence[Any] = (),
    outputs: Sequence[Any] = (),
) -> onnx.ModelProto:
    inputs = [info("x", "T", "B", IN), *ports]
    return model(nodes, inputs, [info("y", "T", "B", HID), *outputs], [*_initial(first), *more])
