"""Small recurrent graphs made by hand, with weights that come from a seed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
FLOAT = TensorProto.FLOAT


def info(name, *dims, kind=FLOAT):
    return helper.make_tensor_value_info(name, kind, list(dims))


def weights(op: str, inputs: int, hidden: int, directions: int = 1, seed: int = 0, dtype=np.float32):
    rng, gates = np.random.default_rng(seed), GATES[op]
    shapes = {
        "W": (directions, gates * hidden, inputs),
        "R": (directions, gates * hidden, hidden),
        "B": (directions, 2 * gates * hidden),
    }
    return [
        numpy_helper.from_array(rng.uniform(-0.7, 0.7, shape).astype(dtype), name)
        for name, shape in shapes.items()
    ]


def constant(name: str, values, dtype=np.int64):
    return numpy_helper.from_array(np.array(values, dtype), name)


def model(nodes, inputs, outputs, initializers=(), opset: int = 17, metadata=None, **kwargs):
    graph = helper.make_graph(nodes, "g", inputs, outputs, list(initializers))
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9, **kwargs)
    for key, value in (metadata or {}).items():
        made.metadata_props.add(key=key, value=value)
    onnx.checker.check_model(made)
    return made


def cell(
    op: str = "GRU",
    inputs: int = 5,
    hidden: int = 4,
    names: Sequence[str] | None = None,
    x: Sequence = ("T", "B", 5),
    rows: str | int = "B",
    metadata=None,
    **attributes,
):
    """One recurrent node, its state as inputs and outputs, `y` its sequence [T, B, hidden].

    `names` are those of the state's inputs and then outputs, () hides it.
    """
    letters = ("h", "c") if op == "LSTM" else ("h",)
    names = [f"{a}0" for a in letters] + [f"{a}n" for a in letters] if names is None else list(names)
    before, after = names[: len(names) // 2], names[len(names) // 2 :]
    finals = after or ["" for _ in letters]
    nodes = [
        helper.make_node(
            op,
            ["x", "W", "R", "B", "", *before],
            ["Y", *finals],
            name="cell",
            hidden_size=hidden,
            **attributes,
        ),
        helper.make_node("Squeeze", ["Y", "one"], ["y"], name="flat"),
    ]
    steps = x[0]
    states = [info(name, 1, rows, hidden) for name in names]
    return model(
        nodes,
        [info("x", *x), *states[: len(before)]],
        [info("y", steps, rows, hidden), *states[len(before) :]],
        [*weights(op, inputs, hidden), constant("one", [1])],
        metadata=metadata,
    )


def saved(folder: Path, made, name: str = "m.onnx") -> str:
    onnx.save_model(made, folder / name)
    return name
