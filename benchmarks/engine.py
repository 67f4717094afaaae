"""The engine alone over ONNX models, against a dict of states around a session of one row.

python -m benchmarks.engine          a GRU 16 to 64 over 100,000 keys, uniform and by Zipf's law
python -m benchmarks.engine voice    Silero VAD, 64 calls at once, against one call at a time

No reading, decoding or writing on either side; CPU time of one core, the best of three runs.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper
from streamrnn_onnx import OnnxConfig
from streamrnn_onnx.loading import build

from benchmarks.workloads import draw_keys
from streamrnn.backend import Backend, TensorSpec
from streamrnn.context import Context
from streamrnn.core import Core
from streamrnn.core.probe import probe, settle
from streamrnn.core.wrap import WithContext
from streamrnn.events import Batch

INPUTS, HIDDEN, KEYS, EVENTS, BATCH = 16, 64, 100_000, 200_000, 1024
SILERO = Path(__file__).parent.parent / "pipelines" / "models" / "silero_vad_16k.onnx"


def gru() -> bytes:
    """x [T, B, 16] and h0 [1, B, 64] to y [T, 1, B, 64] and hn."""
    rng = np.random.default_rng(0)
    shapes = {"W": (1, 3 * HIDDEN, INPUTS), "R": (1, 3 * HIDDEN, HIDDEN), "B": (1, 6 * HIDDEN)}
    weights = [
        numpy_helper.from_array(rng.uniform(-0.1, 0.1, shape).astype(np.float32), name)
        for name, shape in shapes.items()
    ]
    node = helper.make_node("GRU", ["x", "W", "R", "B", "", "h0"], ["y", "hn"], hidden_size=HIDDEN)

    def port(name: str, *sizes: Any) -> Any:
        return helper.make_tensor_value_info(name, 1, sizes)

    inputs = [port("x", "T", "B", INPUTS), port("h0", 1, "B", HIDDEN)]
    outputs = [port("y", "T", 1, "B", HIDDEN), port("hn", 1, "B", HIDDEN)]
    graph = helper.make_graph([node], "gru", inputs, outputs, weights)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    assert isinstance(made, onnx.ModelProto)
    return bytes(made.SerializeToString())


def session(model: bytes) -> ort.InferenceSession:
    """As a careful author would set it up."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class Hand:
    """An event at a time, the states in a dict."""

    def __init__(self, model: bytes) -> None:
        self.running, self.states = session(model), dict[str, Any]()

    def serve(self, keys: list[str], x: np.ndarray) -> None:
        """The GRU."""
        run, states, zero = self.running.run, self.states, np.zeros((1, 1, HIDDEN), np.float32)
        for key, row in zip(keys, x, strict=True):
            _, states[key] = run(["y", "hn"], {"x": row[None, None], "h0": states.get(key, zero)})


class VoiceByHand(Hand):
    """A chunk at a time, with the past 64 samples kept beside the state."""

    def serve(self, keys: list[str], x: np.ndarray) -> None:
        """Silero VAD."""
        rate, states = np.array(16000, np.int64), self.states
        fresh = np.zeros((2, 1, 128), np.float32), np.zeros((1, 64), np.float32)
        for key, row in zip(keys, x, strict=True):
            state, past = states.get(key, fresh)
            chunk = np.concatenate([past, row[None]], axis=1)
            _, state = self.running.run(["output", "stateN"], {"input": chunk, "state": state, "sr": rate})
            states[key] = state, chunk[:, -64:]


class Engine:
    """The core, in batches of `size`."""

    def __init__(self, backend: Backend, size: int) -> None:
        self.core, self.name, self.size = Core(backend), backend.inputs[0].name, size

    def serve(self, keys: list[str], x: np.ndarray) -> None:
        """Either."""
        for start in range(0, len(keys), self.size):
            stop = start + self.size
            self.core.process(Batch(keys[start:stop], {self.name: x[start:stop]}))


def loaded(folder: Path, model: bytes, width: int, **options: Any) -> Backend:
    """The model as a pipeline would have it."""
    (folder / "m.onnx").write_bytes(model)
    config = OnnxConfig.model_validate({"path": "m.onnx", **options})
    name = "input" if "constants" in options else "x"
    backend: Backend = build(config, {name: TensorSpec(name, (width,), "float64")}, Context(base_dir=folder))
    return settle(backend, probe(backend))


def seconds(side: Hand | Engine, keys: list[str], x: np.ndarray) -> float:
    """CPU time once all keys are known, the best of three."""
    side.serve(keys, x)
    times = []
    for _ in range(3):
        start = time.process_time()
        side.serve(keys, x)
        times.append(time.process_time() - start)
    return min(times)


def races(folder: Path, voice: bool) -> Iterator[tuple[str, int, float, float]]:
    """(what, events, seconds by hand, seconds by us)."""
    rng = np.random.default_rng(1)
    if voice:
        model = SILERO.read_bytes()
        backend = WithContext(loaded(folder, model, 576, constants={"sr": 16000}), {"input": 64})
        x = rng.normal(size=(6400, 512)).astype(np.float32) * 0.1
        keys = [f"call{i % 64}" for i in range(len(x))]
        hand, us = seconds(VoiceByHand(model), keys, x), seconds(Engine(backend, 64), keys, x)
        yield "voice, 64 calls", len(x), hand, us
        return
    model, x = gru(), rng.standard_normal((EVENTS, INPUTS)).astype(np.float32)
    backend = loaded(folder, model, INPUTS)
    for mix in ("uniform", "zipf"):
        keys = [f"key{key:08d}" for key in draw_keys(rng, KEYS, mix, EVENTS).tolist()]
        hand, us = seconds(Hand(model), keys, x), seconds(Engine(backend, BATCH), keys, x)
        yield f"GRU 16 to 64, {mix}", EVENTS, hand, us


def main() -> None:
    """Print a row for each race."""
    print("| stream | by hand, events/s | engine, events/s | ratio |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for what, count, hand, us in races(Path(folder), "voice" in sys.argv):
            print(f"| {what} | {count / hand:,.0f} | {count / us:,.0f} | {hand / us:.1f}x |", flush=True)


if __name__ == "__main__":
    main()
