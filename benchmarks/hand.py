"""The loops that people write by hand: a dict of states around a model of one row, JSON in and out.

`python -m benchmarks.hand STACK WORKLOAD MODEL EVENTS` serves one stream and prints its CPU seconds.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.workloads import NAMES, WORKLOADS, Workload

Step = Callable[[Any, np.ndarray], tuple[Any, np.ndarray]]


def numpy_step(workload: Workload, model: Path) -> Step:
    """One row of an LSTM in numpy, each weight matrix transposed once."""
    from safetensors.numpy import load_file

    w = load_file(model)
    wx, wh = np.ascontiguousarray(w["rnn.weight_ih_l0"].T), np.ascontiguousarray(w["rnn.weight_hh_l0"].T)
    bias, head, head_bias = (
        w["rnn.bias_ih_l0"] + w["rnn.bias_hh_l0"],
        w["head.weight"].T.copy(),
        w["head.bias"],
    )
    size, zero = workload.hidden, np.zeros(workload.hidden, np.float32)

    def step(state: Any, x: np.ndarray) -> tuple[Any, np.ndarray]:
        h, c = state or (zero, zero)
        gates = x @ wx + h @ wh + bias
        gated = 1 / (1 + np.exp(-gates[: 2 * size]))
        c = gated[size:] * c + gated[:size] * np.tanh(gates[2 * size : 3 * size])
        h = np.tanh(c) / (1 + np.exp(-gates[3 * size :]))
        return (h, c), h @ head + head_bias

    return step


def onnxruntime_step(workload: Workload, model: Path) -> Step:
    """`session.run` over an LSTM of one step, state in and out."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(onnx_model(workload, model), options, providers=["CPUExecutionProvider"])
    zero = np.zeros((1, 1, workload.hidden), np.float32)

    def step(state: Any, x: np.ndarray) -> tuple[Any, np.ndarray]:
        h, c = state or (zero, zero)
        y, h, c = session.run(None, {"x": x.reshape(1, 1, -1), "h": h, "c": c})
        return (h, c), y[0]

    return step


def onnx_model(workload: Workload, model: Path) -> bytes:
    """The same weights as an ONNX graph; ONNX orders the gates i, o, f, c."""
    from onnx import TensorProto, helper, numpy_helper
    from safetensors.numpy import load_file

    w, size = load_file(model), workload.hidden

    def gates(a: np.ndarray) -> np.ndarray:
        i, f, g, o = np.split(a, 4)
        return np.concatenate([i, o, f, g])

    bias = np.concatenate([gates(w["rnn.bias_ih_l0"]), gates(w["rnn.bias_hh_l0"])])
    stored = {
        "W": gates(w["rnn.weight_ih_l0"])[None],
        "R": gates(w["rnn.weight_hh_l0"])[None],
        "B": bias[None],
        "head": w["head.weight"].T.copy(),
        "head_bias": w["head.bias"],
        "axis": np.array([0], np.int64),
    }
    nodes = [
        helper.make_node("LSTM", ["x", "W", "R", "B", "", "h", "c"], ["", "hn", "cn"], hidden_size=size),
        helper.make_node("Squeeze", ["hn", "axis"], ["flat"]),
        helper.make_node("MatMul", ["flat", "head"], ["product"]),
        helper.make_node("Add", ["product", "head_bias"], ["y"]),
    ]

    def value(name: str, *shape: int) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    states_in, states_out = (
        (value("h", 1, 1, size), value("c", 1, 1, size)),
        (value("hn", 1, 1, size), value("cn", 1, 1, size)),
    )
    graph = helper.make_graph(
        nodes,
        "lstm",
        [value("x", 1, 1, workload.inputs), *states_in],
        [value("y", 1, 4), *states_out],
        [numpy_helper.from_array(array, name) for name, array in stored.items()],
    )
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


def torch_step(workload: Workload, model: Path) -> Step:
    """`nn.LSTMCell` under inference mode."""
    import torch
    from safetensors.torch import load_file

    torch.set_num_threads(1)
    w = load_file(model)
    cell = torch.nn.LSTMCell(workload.inputs, workload.hidden)
    cell.load_state_dict({name[4:-3]: value for name, value in w.items() if name.startswith("rnn.")})
    head = torch.nn.Linear(workload.hidden, 4)
    head.load_state_dict({name[5:]: value for name, value in w.items() if name.startswith("head.")})

    @torch.inference_mode()
    def step(state: Any, x: np.ndarray) -> tuple[Any, np.ndarray]:
        state = cell(torch.from_numpy(x)[None], state)
        return state, head(state[0])[0].numpy()

    return step


STEPS = {"numpy": numpy_step, "onnxruntime": onnxruntime_step, "torch": torch_step}


def reader(workload: Workload) -> Callable[[dict[str, Any]], np.ndarray]:
    """From a decoded event to the model's input."""
    if workload.named:
        return lambda event: np.array([event[name] for name in NAMES], np.float32)
    return lambda event: np.array(event["x"], np.float32)


def serve(workload: Workload, step: Step, events: Path, out: Path) -> int:
    """The loop itself, with orjson on both sides."""
    import orjson

    states: dict[str, Any] = {}
    read, count = reader(workload), 0
    with events.open("rb") as source, out.open("wb") as sink:
        for line in source:
            event = orjson.loads(line)
            key = event["key"]
            states[key], y = step(states.get(key), read(event))
            sink.write(orjson.dumps({"key": key, "y": y.reshape(-1).tolist()}) + b"\n")
            count += 1
    return count


def serve_bytewax(workload: Workload, step: Step, events: Path, out: Path) -> int:
    """The same step in Bytewax's `stateful_map`."""
    import bytewax.operators as op
    import orjson
    from bytewax.connectors.files import FileSink
    from bytewax.dataflow import Dataflow
    from bytewax.testing import TestingSource, run_main

    read, counted = reader(workload), [0]

    def parsed() -> Iterator[tuple[str, np.ndarray]]:
        with events.open("rb") as source:
            for line in source:
                event = orjson.loads(line)
                counted[0] += 1
                yield event["key"], read(event)

    flow = Dataflow("bench")
    stepped = op.stateful_map("step", op.input("in", flow, TestingSource(parsed(), 512)), step)
    lines = op.map(
        "out",
        stepped,
        lambda kv: (kv[0], orjson.dumps({"key": kv[0], "y": kv[1].reshape(-1).tolist()}).decode()),
    )
    op.output("sink", lines, FileSink(out))
    run_main(flow)
    return counted[0]


def main() -> None:
    """Serve once and tell: events, CPU seconds of the loop."""
    stack, name, model, events, out = sys.argv[1:6]
    workload = WORKLOADS[name]
    loop = serve_bytewax if stack == "bytewax" else serve
    step = STEPS["numpy" if stack == "bytewax" else stack](workload, Path(model))
    start = time.process_time()
    count = loop(workload, step, Path(events), Path(out))
    print(count, time.process_time() - start)


if __name__ == "__main__":
    main()
