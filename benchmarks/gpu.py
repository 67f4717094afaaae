"""The engine alone on a GPU and on CPUs: events by second, the time of one call, and a million states.

`python -m benchmarks.gpu` prints a table. Keys come uniformly; time is that of the wall, for no process is
charged for a GPU's.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.engines import drawn_cell, opened

MODELS = {"GRU 16 to 64": ("gru", 16, 64), "LSTM 32 to 512": ("lstm", 32, 512)}
ENGINES: dict[str, tuple[str, dict[str, Any]]] = {
    "numpy, one core": ("numpy", {}),
    "torch, one core": ("torch", {}),
    "torch, eight cores": ("torch", {"threads": 8}),
    "torch, GPU": ("torch", {"device": "cuda"}),
    "onnx, one core": ("onnx", {}),
    "onnx, GPU": ("onnx", {"providers": ["cuda"]}),
}
SIZES = (1, 256, 4096, 16384)


def loaded(engine: str, model: str, folder: Path) -> Any:
    """A core with that model."""
    from safetensors.numpy import save_file

    from streamrnn.core import Core
    from streamrnn.limits import Limits

    (name, options), (kind, inputs, hidden) = ENGINES[engine], MODELS[model]
    path = folder / f"{kind}{hidden}.safetensors"
    save_file(drawn_cell(kind, inputs, hidden), path)
    layers = [{"type": kind, "hidden": hidden, "weights": "rnn"}]
    made = opened(name, {"path": str(path), "layers": layers, **options}, "x", inputs)
    return Core(made, limits=Limits(max_keys=2_000_000))


class Traffic:
    """Batches of random keys out of so many."""

    def __init__(self, keys: int, inputs: int) -> None:
        self.rng, self.inputs = np.random.default_rng(3), inputs
        self.names = [f"key{number:08d}" for number in range(keys)]

    def all_keys(self) -> Iterator[Any]:
        """Every key once."""
        for start in range(0, len(self.names), 4096):
            yield self._batch(self.names[start : start + 4096])

    def batch(self, events: int) -> Any:
        """Random keys."""
        return self._batch([self.names[at] for at in self.rng.integers(0, len(self.names), events)])

    def _batch(self, keys: list[str]) -> Any:
        from streamrnn.events import Batch

        x = self.rng.standard_normal((len(keys), self.inputs)).astype(np.float32)
        return Batch(keys, {"x": x})


def calls(core: Any, traffic: Traffic, events: int, longest_s: float) -> np.ndarray:
    """Seconds of each call of so many events, after some that do not count."""
    batches = [traffic.batch(events) for _ in range(300 if events < 4096 else 60)]
    for batch in batches[:5]:
        core.process(batch)
    seconds, end = [], time.perf_counter() + longest_s
    for batch in batches[5:]:
        start = time.perf_counter()
        core.process(batch)
        seconds.append(time.perf_counter() - start)
        if time.perf_counter() > end:
            break
    return np.array(seconds)


def row(engine: str, model: str, keys: int, folder: Path, longest_s: float) -> str:
    """One line of the table."""
    core, traffic = loaded(engine, model, folder), Traffic(keys, MODELS[model][1])
    for batch in traffic.all_keys():
        core.process(batch)
    found = {events: calls(core, traffic, events, longest_s) for events in SIZES}
    rates = " | ".join(f"{events / np.median(found[events]):,.0f}" for events in SIZES[2:])
    p50 = " | ".join(f"{1e3 * np.median(found[events]):.2f}" for events in SIZES[:3])
    start = time.perf_counter()
    size = len(core.snapshot())
    kept = f"{size / 1e6:,.0f} MB in {time.perf_counter() - start:.1f} s"
    core.backend.close()
    return f"| {model} | {keys:,} | {engine} | {rates} | {p50} | {kept} |"


def main() -> None:
    """All that is installed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="the longest for each size of call")
    parser.add_argument("--without", action="append", default=[], help="an engine to leave out")
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--many", type=int, default=1_000_000, help="keys on a GPU, once more")
    given = parser.parse_args()
    heads = "| model | keys | engine | events/s in batches of 4,096 | of 16,384"
    print(f"{heads} | p50 of 1 event, ms | of 256 | of 4,096 | a snapshot |\n|{'---|' * 9}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for model in MODELS:
            for engine in (engine for engine in ENGINES if engine not in given.without):
                sizes = (given.keys, given.many) if "GPU" in engine else (given.keys,)
                for keys in sizes:
                    print(row(engine, model, keys, Path(folder), given.seconds), flush=True)


if __name__ == "__main__":
    main()
