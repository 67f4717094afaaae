"""Poison among many events, on every backend, in steps and in scans: as if it had not been there, to the bit.

STREAMRNN_POISON=1 takes 10,000 poisons in 1,000,000 events of 1,000 keys; by default a hundredth of that.
"""

from __future__ import annotations

import os
import random

import numpy as np
import pytest

from streamrnn.build import build_pipeline
from streamrnn.config.load import load_pipeline
from streamrnn.core.serve import Server
from streamrnn.letters.reading import read
from streamrnn.pipeline import run
from streamrnn.registry import Registry
from streamrnn.testing import quiet_context

FULL = bool(os.environ.get("STREAMRNN_POISON"))
EVENTS, KEYS, POISONS = (1_000_000, 1_000, 10_000) if FULL else (10_000, 50, 100)
LAYERS = (
    "layers: [{type: linear, out: 2, weights: pre}, {type: lstm, hidden: 8, weights: rnn}, "
    "{type: concat, of: [pre, rnn]}, {type: linear, out: 2, weights: head}]"
)
"""The first one makes infinities of both signs of numbers over 3.4e34, the second one NaN of these.

That of ONNX Runtime swallows NaN, so that it shows in the outputs alone.
"""
RECURRENCE = "0.9*s + x*x*x*x*x*x*x*x*x"
MODELS = {
    "formula": f'{{type: formula, state: {{s: 0}}, update: {{s: "{RECURRENCE}"}}, output: {{y: "2 * s"}}}}',
    "numpy": f"{{type: numpy, path: m.safetensors, {LAYERS}}}",
    "torch": f"{{type: torch, path: m.safetensors, {LAYERS}}}",
    "onnx": f"{{type: onnx, path: m.safetensors, {LAYERS}}}",
}
NEEDS = {"torch": ("torch", "streamrnn_torch"), "onnx": ("onnxruntime", "streamrnn_onnx")}
PIPELINE = """
source: {type: file, path: in.jsonl}
decode: {type: jsonl}
event: {key: k, inputs: {x: [{field: x, range: [-1e35, 1e35]}]}}
reset: [{type: every, events: 100}]
model: MODEL
encode: {type: jsonl, include: [k], fields: {y: {type: output, output: y}, n: {type: meta, name: steps}}}
sink: {type: file, path: out.txt}
dead_letter: {path: bad.txt}
limits: {max_batch_events: 1024}
"""
# What JSON cannot say, what no float holds, what is out of range; what a model makes something of that is not
# finite; and numbers that are like others, however small.
REFUSED = ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", '"NaN"', "1e39", "-1e38", "1e38", "null"]
BLOW_UPS = ["1e35", "-1e35", "5e34", "-7e34"]
HARMLESS = ["1e-45", "5e-324", "-1e-310", "1e-38"]


def weights(path):
    from safetensors.numpy import save_file

    rng = np.random.default_rng(5)
    shapes = {
        "rnn.weight_hh_l0": (32, 8), "rnn.bias_ih_l0": (32,), "rnn.bias_hh_l0": (32,),
        "head.weight": (2, 10), "head.bias": (2,),
    }  # fmt: skip
    tensors = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    tensors["pre.weight"], tensors["pre.bias"] = np.array([[1e4], [-1.5e4]]), np.zeros(2)
    tensors["rnn.weight_ih_l0"] = rng.uniform(0.5, 1.5, (32, 2)) * 1e-4
    save_file({name: tensor.astype(np.float32) for name, tensor in tensors.items()}, path)


def lines():
    """Lines of a file, and which of them must be refused."""
    rng, poisons = random.Random(7), set(random.Random(8).sample(range(EVENTS), POISONS))
    kinds = [*REFUSED, *BLOW_UPS, *HARMLESS]
    made, refused = [], []
    for i in range(EVENTS):
        x = repr(rng.randrange(-16, 16) / 8)
        if i in poisons:
            x = kinds[i % len(kinds)]
            if x not in HARMLESS:
                refused.append(i)
        made.append(f'{{"k": "k{rng.randrange(KEYS)}", "x": {x}}}\n')
    return made, refused


def served(folder, text, made):
    folder.mkdir()
    (folder / "p.yaml").write_text(text)
    weights(folder / "m.safetensors")
    (folder / "in.jsonl").write_text("".join(made))
    registry = Registry()
    context = quiet_context(base_dir=folder, models=registry.resolve_model, backends=registry.backend)
    spec = load_pipeline(text, "p.yaml", registry, context, {})
    pipeline = build_pipeline(spec, registry, context)
    run(pipeline, lambda: False, lambda report: None)
    letters = [letter.number - 1 for _, letter in read(context.fs, folder / "bad.txt")]
    core = pipeline.parts.shards.at("")
    rows = core.store.keys.index.find(sorted(f"k{i}" for i in range(KEYS)))
    state = {tensor: array.tobytes() for tensor, array in core.store.slab.read(rows).items()}
    return (folder / "out.txt").read_bytes(), letters, state


@pytest.mark.slow
@pytest.mark.timeout(3600 if FULL else 300)
@pytest.mark.parametrize("scan_below", [0, 10**9], ids=["step", "scan"])
@pytest.mark.parametrize("name", MODELS)
def test_poison_is_as_if_it_had_not_been_there(tmp_path, monkeypatch, name, scan_below):
    for needed in NEEDS.get(name, ()):
        pytest.importorskip(needed)
    monkeypatch.setattr(Server, "scan_below", scan_below)
    made, wanted = lines()
    text = PIPELINE.replace("MODEL", MODELS[name])
    out, refused, state = served(tmp_path / "poisoned", text, made)
    gone = set(refused)
    left = [line for i, line in enumerate(made) if i not in gone]
    clean_out, clean_refused, clean_state = served(tmp_path / "clean", text, left)
    assert (clean_refused, out == clean_out, state == clean_state) == ([], True, True)
    missed = sorted(set(wanted) - gone)
    assert missed == [], made[missed[0]]
    more = [made[i] for i in sorted(gone - set(wanted))]
    assert more == []
    print(f"{name}: {len(made):,} events, {len(refused):,} refused")
