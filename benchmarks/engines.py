"""The engine alone: `core.process` on columns, no JSON, against each library's own loop over single rows.

`python -m benchmarks.engines ENGINE (ours|loop) MIX EVENTS FOLDER` prints one run's events per CPU second.
A GRU of 64 over 16 numbers, 100,000 keys; every key is served once before the clock starts.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.workloads import draw_keys

INPUTS, HIDDEN, KEYS, BATCH = 16, 64, 100_000, 4096
MIXES = ("uniform", "zipf")
GOALS = {
    ("torch", "uniform"): 12.0,
    **{(engine, "uniform"): 12.0 for engine in ("onnx", "onnx, many_keys")},
    **{(engine, "zipf"): 7.0 for engine in ("onnx", "onnx, many_keys")},
    ("onnx", "Silero, against its wrapper"): 1.8,
}
NEEDS = {"numpy": "numpy", "torch": "torch", "onnx": "onnxruntime"}
TUNED = {"onnx, many_keys": {"tuned_for": "many_keys"}}
"""Engines with other options than their own loop's library knows of."""

Step = Callable[[Any, np.ndarray], Any]


def weights_path(folder: Path) -> Path:
    """The GRU's weights in PyTorch's initial range, made if absent."""
    from safetensors.numpy import save_file

    path = folder / "engine.safetensors"
    if not path.exists():
        save_file(drawn_cell("gru", INPUTS, HIDDEN), path)
    return path


def drawn_cell(kind: str, inputs: int, hidden: int) -> dict[str, np.ndarray]:
    """Weights of one layer called rnn, by PyTorch's names and in its initial range."""
    rng, bound, rows = np.random.default_rng(1), hidden**-0.5, {"gru": 3, "lstm": 4}[kind] * hidden
    shapes = {"weight_ih_l0": (rows, inputs), "weight_hh_l0": (rows, hidden)}
    shapes |= {"bias_ih_l0": (rows,), "bias_hh_l0": (rows,)}
    return {f"rnn.{n}": rng.uniform(-bound, bound, s).astype(np.float32) for n, s in shapes.items()}


def numpy_loop(weights: Path) -> Step:
    """One row of a GRU in numpy, each weight matrix transposed once."""
    from safetensors.numpy import load_file

    w = load_file(weights)
    wx, wh = (np.ascontiguousarray(w[f"rnn.weight_{part}_l0"].T) for part in ("ih", "hh"))
    bx, bh, zero = w["rnn.bias_ih_l0"], w["rnn.bias_hh_l0"], np.zeros(HIDDEN, np.float32)

    def step(h: Any, x: np.ndarray) -> Any:
        h = zero if h is None else h
        gx, gh = x @ wx + bx, h @ wh + bh
        gates = 1 / (1 + np.exp(-(gx[: 2 * HIDDEN] + gh[: 2 * HIDDEN])))
        new = np.tanh(gx[2 * HIDDEN :] + gates[:HIDDEN] * gh[2 * HIDDEN :])
        return new + gates[HIDDEN:] * (h - new)

    return step


def torch_loop(weights: Path) -> Step:
    """`nn.GRUCell` on one row under inference mode."""
    import torch
    from safetensors.torch import load_file

    torch.set_num_threads(1)
    cell = torch.nn.GRUCell(INPUTS, HIDDEN)
    cell.load_state_dict({name[4:-3]: value for name, value in load_file(weights).items()})

    @torch.inference_mode()
    def step(h: Any, x: np.ndarray) -> Any:
        return cell(torch.from_numpy(x)[None], h)

    return step


def onnx_loop(weights: Path) -> Step:
    """`session.run` over a GRU of one step, state in and out."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(onnx_gru(weights), options, providers=["CPUExecutionProvider"])
    zero = np.zeros((1, 1, HIDDEN), np.float32)

    def step(h: Any, x: np.ndarray) -> Any:
        return session.run(None, {"x": x.reshape(1, 1, -1), "h": zero if h is None else h})[0]

    return step


def onnx_gru(weights: Path) -> bytes:
    """The same weights as an ONNX graph; ONNX orders the gates z, r, h."""
    from onnx import TensorProto, helper, numpy_helper
    from safetensors.numpy import load_file

    def gates(part: str) -> np.ndarray:
        r, z, n = np.split(w[f"rnn.{part}_l0"], 3)
        return np.concatenate([z, r, n])

    def value(name: str, *shape: int) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    w = load_file(weights)
    bias = np.concatenate([gates("bias_ih"), gates("bias_hh")])
    stored = {"W": gates("weight_ih")[None], "R": gates("weight_hh")[None], "B": bias[None]}
    node = helper.make_node(
        "GRU", ["x", "W", "R", "B", "", "h"], ["", "hn"], hidden_size=HIDDEN, linear_before_reset=1
    )
    constants = [numpy_helper.from_array(array, name) for name, array in stored.items()]
    inputs, outputs = [value("x", 1, 1, INPUTS), value("h", 1, 1, HIDDEN)], [value("hn", 1, 1, HIDDEN)]
    graph = helper.make_graph([node], "gru", inputs, outputs, constants)
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


LOOPS: dict[str, Callable[[Path], Step]] = {"numpy": numpy_loop, "torch": torch_loop, "onnx": onnx_loop}


def backend(engine: str, weights: Path) -> Any:
    """The engine's backend with the GRU."""
    layers = [{"type": "gru", "hidden": HIDDEN, "weights": "rnn"}]
    options = {"path": str(weights), "layers": layers, **TUNED.get(engine, {})}
    return settled(_library(engine), options, "x", INPUTS)


def _library(engine: str) -> str:
    return engine.partition(",")[0]


def settled(engine: str, options: dict[str, Any], name: str, width: int) -> Any:
    """A model over one input, opened and found to be batch invariant."""
    from streamrnn.core.probe import probe, settle

    made = opened(engine, options, name, width)
    verdict = probe(made)
    assert verdict.numerics == "batch_invariant", verdict.reasons
    return settle(made, verdict)


def opened(engine: str, options: dict[str, Any], name: str, width: int) -> Any:
    """The same, whatever its numerics are."""
    from streamrnn.backend import TensorSpec
    from streamrnn.context import Context
    from streamrnn.registry import Registry

    registry = Registry()
    registry.load_for([engine])
    component = registry.find("backend", engine)
    assert component is not None, registry.missing("backend", engine)
    config = component.config.model_validate(options)
    made = component.resolve("build")(config, {name: TensorSpec(name, (width,), "float64")}, Context())
    made.open()
    return made


def stream(mix: str, events: int) -> tuple[list[str], np.ndarray]:
    """Keys and inputs: every key once, and then the events that are timed."""
    rng = np.random.default_rng(2)
    drawn = np.concatenate([np.arange(KEYS), draw_keys(rng, KEYS, mix, events)])
    rows = rng.standard_normal((len(drawn), INPUTS)).astype(np.float32)
    return [f"key{key:08d}" for key in drawn.tolist()], rows


def timed_loop(step: Step, keys: list[str], x: np.ndarray) -> float:
    """CPU seconds of the loop behind the first event of every key."""
    states: dict[str, Any] = {}
    for key, row in zip(keys[:KEYS], x[:KEYS], strict=True):
        states[key] = step(states.get(key), row)
    rest, rows = keys[KEYS:], x[KEYS:]
    start = time.process_time()
    for key, row in zip(rest, rows, strict=True):
        states[key] = step(states.get(key), row)
    return time.process_time() - start


def timed_core(model: Any, keys: list[str], x: np.ndarray) -> float:
    """CPU seconds of `core.process` behind the first event of every key."""
    from streamrnn.core import Core
    from streamrnn.events import Batch

    core = Core(model)
    cuts = [slice(at, at + BATCH) for at in range(0, KEYS, BATCH)]
    cuts[-1] = slice(cuts[-1].start, KEYS)
    for cut in cuts:
        core.process(Batch(keys[cut], {"x": x[cut]}))
    batches = [
        Batch(keys[at : at + BATCH], {"x": x[at : at + BATCH]}) for at in range(KEYS, len(keys), BATCH)
    ]
    start = time.process_time()
    for batch in batches:
        core.process(batch)
    return time.process_time() - start


def race(folder: Path, events: int, runs: int, measure: Callable[..., str]) -> Iterator[str]:
    """A row for each engine and mix, the best of some runs; `measure` runs a module on one core."""
    weights_path(folder)

    def row(engine: str, mix: str, rate: Callable[[str], str], other: str = "loop") -> str:
        rates = {"ours": 0.0, other: 0.0}
        for _ in range(runs):
            for side in rates:
                rates[side] = max(rates[side], float(rate(side)))
        ratio, goal = rates["ours"] / rates[other], GOALS.get((engine, mix))
        verdict = "" if goal is None else f"{goal:g}x {'met' if ratio >= goal else '**missed**'}"
        return f"| {engine} {mix} | {rates['ours']:,.0f} | {rates[other]:,.0f} | {ratio:.1f}x | {verdict} |"

    def voice(side: str) -> str:
        return measure("benchmarks.voice", side)

    def gru(engine: str, mix: str) -> Callable[[str], str]:
        return lambda side: measure("benchmarks.engines", engine, side, mix, str(events), str(folder))

    for engine in (engine for engine in (*LOOPS, *TUNED) if find_spec(NEEDS[_library(engine)])):
        for mix in MIXES:
            yield row(engine, mix, gru(engine, mix))
    if find_spec(NEEDS["onnx"]):
        yield row("onnx", "Silero, 64 calls", voice)
        if find_spec("silero_vad") and find_spec("torch"):
            yield row("onnx", "Silero, against its wrapper", voice, "wrapper")


def main() -> None:
    """Serve once."""
    engine, side, mix, events, folder = sys.argv[1:6]
    weights, (keys, x) = weights_path(Path(folder)), stream(mix, int(events))
    if side == "ours":
        seconds = timed_core(backend(engine, weights), keys, x)
    else:
        seconds = timed_loop(LOOPS[_library(engine)](weights), keys, x)
    print(int(events) / seconds)


if __name__ == "__main__":
    main()
