"""Models and streams to race over: seeded, made once into a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Workload:
    """An LSTM under a linear layer of four outputs, over events of `inputs` numbers and `keys` keys.

    With `named` each number is a field of its own, else they are one list.
    """

    name: str
    inputs: int
    hidden: int
    keys: int
    named: bool = False


WORKLOADS = {
    "W1": Workload("W1", 32, 128, 10_000),
    "W2": Workload("W2", 4, 32, 10_000, named=True),
    "W3": Workload("W3", 32, 64, 1_000_000),
}
MIXES = ("uniform", "zipf", "hot")
NAMES = ("a", "b", "c", "d")
OUTPUTS = 4


def weights_path(folder: Path, workload: Workload) -> Path:
    """The model's file, made if absent, by PyTorch's names and in PyTorch's own initial range."""
    from safetensors.numpy import save_file

    path = folder / f"{workload.name}.safetensors"
    if not path.exists():
        rng, hidden = np.random.default_rng(1), workload.hidden
        bound = 1 / np.sqrt(hidden)
        shapes = {
            "rnn.weight_ih_l0": (4 * hidden, workload.inputs),
            "rnn.weight_hh_l0": (4 * hidden, hidden),
            "rnn.bias_ih_l0": (4 * hidden,),
            "rnn.bias_hh_l0": (4 * hidden,),
            "head.weight": (OUTPUTS, hidden),
            "head.bias": (OUTPUTS,),
        }
        draw = {name: rng.uniform(-bound, bound, shape).astype(np.float32) for name, shape in shapes.items()}
        save_file(draw, path)
    return path


def events_path(folder: Path, workload: Workload, mix: str, events: int) -> Path:
    """The stream as JSON lines, made if absent."""
    path = folder / f"{workload.name}_{mix}_{events}.jsonl"
    if not path.exists():
        rng = np.random.default_rng(2)
        keys = draw_keys(rng, workload.keys, mix, events)
        with path.open("w") as file:
            for start in range(0, events, 10_000):
                some = keys[start : start + 10_000]
                rows = rng.standard_normal((len(some), workload.inputs)).round(6).tolist()
                for at, (key, row) in enumerate(zip(some.tolist(), rows, strict=True), start):
                    file.write(f'{{"key":"key{key:08d}","t":{at},{_numbers(workload, row)}}}\n')
    return path


def draw_keys(rng: np.random.Generator, keys: int, mix: str, events: int) -> np.ndarray:
    """Which key each event has: all alike, by Zipf's law with exponent 1.1, or one key alone."""
    if mix == "hot":
        return np.zeros(events, np.int64)
    if mix == "uniform":
        return rng.integers(0, keys, events)
    share = 1 / np.arange(1, keys + 1) ** 1.1
    return rng.choice(keys, events, p=share / share.sum())


def pipeline_text(workload: Workload, model: Path, events: Path, out: str) -> str:
    """The pipeline file that serves a stream."""
    features = (
        f"[{{fields: [{', '.join(NAMES)}]}}]"
        if workload.named
        else f"[{{field: x, vector: {workload.inputs}}}]"
    )
    return f"""
name: {workload.name}
source: {{type: file, path: {events}}}
decode: {{type: jsonl}}
event: {{key: key, inputs: {{x: {features}}}}}
model:
  type: numpy
  path: {model}
  layers:
    - {{type: lstm, hidden: {workload.hidden}, weights: rnn}}
    - {{type: linear, out: {OUTPUTS}, weights: head}}
encode: {{type: jsonl, include: [key]}}
sink: {{type: file, path: {out}}}
numerics: batch_invariant
"""


def _numbers(workload: Workload, row: list[float]) -> str:
    if workload.named:
        return ",".join(f'"{name}":{value}' for name, value in zip(NAMES, row, strict=True))
    return f'"x":{row}'
