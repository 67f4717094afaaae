"""The same events through batches of any size, by one thread or two: the same bytes in the output file.

STREAMRNN_BITS_EVENTS=50000 makes more of it than the everyday run. On busy cores run that with --timeout 0
and OMP_WAIT_POLICY=passive: two threads that spin for each other lose a turn on the core at every call, and
there are 50,000 calls of one row.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")

from safetensors.numpy import save_file
from test_torch_conforms import model
from threadpoolctl import threadpool_limits

from streamrnn.build import build_pipeline
from streamrnn.config.load import load_pipeline
from streamrnn.pipeline import run
from streamrnn.registry import Registry
from streamrnn.testing import quiet_context

EVENTS = int(os.environ.get("STREAMRNN_BITS_EVENTS", "600"))
LIMITS = (1, 7, 64, 4096)
MODELS = {
    "lstm of 1": model("lstm", 1, 1, "sigmoid"),
    "lstm of 33": model("lstm", 33, 3, "softmax"),
    "gru of 7": model("gru", 7, 5, "silu", layers=2),
    "rnn of 13": model("rnn", 13, 2, "gelu_tanh"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path, rng = tmp_path_factory.mktemp("bits"), np.random.default_rng(0)
    for name, (_, shapes, _) in MODELS.items():
        drawn = {key: rng.uniform(-0.5, 0.5, shape).astype(np.float32) for key, shape in shapes.items()}
        save_file(drawn, path / f"{name}.safetensors")
    share = 1 / np.arange(1, 201) ** 1.1
    keys = rng.choice(200, EVENTS, p=share / share.sum()).tolist()
    rows = rng.standard_normal((EVENTS, 5)).round(4).tolist()
    lines = (json.dumps({"k": k, "x": x, "n": n}) for n, (k, x) in enumerate(zip(keys, rows, strict=True)))
    (path / "events.jsonl").write_text("\n".join(lines) + "\n")
    return path


def served(folder: Path, backend: str, name: str, limit: int, threads: int) -> bytes:
    """The output file of a run."""
    options: dict[str, Any] = {"type": backend, "path": f"{name}.safetensors", "layers": MODELS[name][0]}
    if backend == "torch":
        options["threads"] = threads
    pipeline = {
        "source": {"type": "file", "path": "events.jsonl"},
        "decode": {"type": "jsonl"},
        "event": {"key": "k", "inputs": {"x": [{"field": "x", "vector": 5}]}},
        "reset": [{"type": "every", "events": 40}],
        "model": options,
        "encode": {"type": "jsonl", "include": ["k", "n"]},
        "sink": {"type": "file", "path": "out.jsonl"},
        "limits": {"max_batch_events": limit},
        "numerics": "batch_invariant",
    }
    (folder / "out.jsonl").unlink(missing_ok=True)
    registry, context = Registry(), quiet_context(base_dir=folder)
    with threadpool_limits(threads):
        spec = load_pipeline(json.dumps(pipeline), "bits.yaml", registry, context, {})
        run(build_pipeline(spec, registry, context), lambda: False, lambda report: None)
    return (folder / "out.jsonl").read_bytes()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_output_files_are_byte_for_byte_alike(folder: Path, backend: str, name: str) -> None:
    first = served(folder, backend, name, LIMITS[0], 1)
    assert first.count(b"\n") == EVENTS
    for limit in LIMITS[1:]:
        assert served(folder, backend, name, limit, 1) == first, f"batches of {limit}"


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS if EVENTS > 1000 else ["lstm of 33"])
@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_so_they_are_with_two_threads(folder: Path, backend: str, name: str) -> None:
    """PyTorch's threads wait for each other at every call of the probe, which takes a while on busy cores."""
    first = served(folder, backend, name, LIMITS[2], 1)
    for limit in LIMITS if EVENTS > 1000 else LIMITS[-1:]:
        assert served(folder, backend, name, limit, 2) == first, f"batches of {limit}"
