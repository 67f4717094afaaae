"""Silero's model with 64 calls at once: the core against a chunk at a time, without JSON.

`python -m benchmarks.voice (ours|loop|wrapper)` prints one run's chunks per CPU second.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

MODEL = Path(__file__).parent.parent / "pipelines" / "models" / "silero_vad_16k.onnx"
CALLS, CHUNKS, SAMPLES, PAST, RATE = 64, 6400, 512, 64, 16_000

Serve = Callable[[list[str], np.ndarray], None]


def by_hand() -> Serve:
    """A dict of states around `session.run`, the past samples of each call beside its state."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(str(MODEL), options, providers=["CPUExecutionProvider"])
    rate, states = np.array(RATE, np.int64), dict[str, Any]()
    fresh = np.zeros((2, 1, 128), np.float32), np.zeros((1, PAST), np.float32)

    def serve(keys: list[str], x: np.ndarray) -> None:
        for key, row in zip(keys, x, strict=True):
            state, past = states.get(key, fresh)
            chunk = np.concatenate([past, row[None]], axis=1)
            _, state = session.run(["output", "stateN"], {"input": chunk, "state": state, "sr": rate})
            states[key] = state, chunk[:, -PAST:]

    return serve


def by_wrapper() -> Serve:
    """The vendor's own wrapper; it keeps one call's state, which is put there before each chunk."""
    import torch
    from silero_vad.utils_vad import OnnxWrapper

    torch.set_num_threads(1)
    wrapper, states = OnnxWrapper(str(MODEL), force_onnx_cpu=True), dict[str, Any]()

    def serve(keys: list[str], x: np.ndarray) -> None:
        for key, row in zip(keys, x, strict=True):
            if key in states:
                wrapper._state, wrapper._context = states[key]
            else:
                wrapper.reset_states()
            wrapper(torch.from_numpy(row), RATE)
            states[key] = wrapper._state, wrapper._context

    return serve


def by_us() -> Serve:
    """The core in batches of one chunk of each call."""
    from benchmarks.engines import settled
    from streamrnn.core import Core
    from streamrnn.core.wrap import WithContext
    from streamrnn.events import Batch

    model = settled("onnx", {"path": str(MODEL), "constants": {"sr": RATE}}, "input", SAMPLES + PAST)
    core = Core(WithContext(model, {"input": PAST}))

    def serve(keys: list[str], x: np.ndarray) -> None:
        for start in range(0, len(keys), CALLS):
            core.process(Batch(keys[start : start + CALLS], {"input": x[start : start + CALLS]}))

    return serve


def main() -> None:
    """Serve once to know all keys, and once more on the clock."""
    serve = {"ours": by_us, "loop": by_hand, "wrapper": by_wrapper}[sys.argv[1]]()
    x = np.random.default_rng(1).normal(scale=0.1, size=(CHUNKS, SAMPLES)).astype(np.float32)
    keys = [f"call{i % CALLS}" for i in range(CHUNKS)]
    serve(keys[: 2 * CALLS], x[: 2 * CALLS])
    start = time.process_time()
    serve(keys, x)
    print(CHUNKS / (time.process_time() - start))


if __name__ == "__main__":
    main()
