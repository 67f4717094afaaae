"""`streamrnn why`: a key's steps since its last reset are those that were served."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from crash_harness import FORMULA, events

from streamrnn.backend import TensorSpec
from streamrnn.backends.gates import Gates
from streamrnn.backends.layers import NumpyBackend
from streamrnn.builtins.numpy_layers import NumpyConfig
from streamrnn.cli import cli
from streamrnn.config.open import open_pipeline
from streamrnn.config.recorded import recorded
from streamrnn.context import Context
from streamrnn.layers.loading import LoadedModel
from streamrnn.pipeline import run
from streamrnn.replay.replay import build_replay
from streamrnn.replay.until import until
from streamrnn.replay.why import Why, gates_of

LETTERS = Path(__file__).parent.parent / "pipelines" / "next_letter.yaml"
FIXTURE = json.loads((Path(__file__).parent / "fixtures" / "torch_cells.json").read_text(encoding="utf-8"))


def why(file, key, at=None, last=10_000):
    spec, registry, context = open_pipeline(str(file))
    replay = build_replay(recorded(spec, registry, (), follows=False), registry, context, spec)
    replay.until = until(at, replay.parts, spec.ticks_per_s) if at else None
    found = Why(replay, key, last, gates_of(spec, context))
    found.play()
    replay.close()
    return found


def emitted(file, folder):
    """Each output with the position of its event, in order."""
    text = Path(file).read_text().replace("data/typed.jsonl", str(LETTERS.parent / "data/typed.jsonl"))
    text = text.replace("models/", f"{LETTERS.parent}/models/")
    written = folder / "emitted.yaml"
    written.write_text(text.replace("sink: {type: stdout}", "sink: {type: file, path: emitted}"))
    from streamrnn.build import build_pipeline

    pipeline = build_pipeline(*open_pipeline(str(written)))
    places, write = [], pipeline.parts.sink.write

    def noted(block):
        places.extend(block.block.positions[block.records].tolist())
        write(block)

    pipeline.parts.sink.write = noted
    run(pipeline, lambda: False, lambda report: None)
    return list(zip(places, (folder / "emitted").read_text().splitlines(), strict=True))


def test_letters_gates_and_predictions_are_those_that_were_emitted(tmp_path):
    """At every event of the next-letter pipeline, for whoever typed it; a new word begins anew."""
    lines = [json.loads(line) for line in (LETTERS.parent / "data/typed.jsonl").read_text().splitlines()]
    outputs = emitted(LETTERS, tmp_path)
    assert len(outputs) == len(lines)
    for i, (place, _) in enumerate(outputs):
        typist, word = lines[i]["typist"], lines[i]["word"]
        found = why(LETTERS, typist, str(place))
        own = [j for j in range(i + 1) if lines[j]["typist"] == typist]
        since = [j for j in own if lines[j]["word"] == word]
        assert [step.output for step in found.steps] == [outputs[j][1] for j in since]
        assert [json.loads(step.event)["letter"] for step in found.steps] == [
            lines[j]["letter"] for j in since
        ]
        assert [step.steps for step in found.steps] == list(range(1, len(since) + 1))
        h = np.zeros(96)
        for step in found.steps:
            z, n = step.gates["gru.z"], step.gates["gru.n"]
            h = (1 - z) * n + z * h
            assert np.allclose(h, step.state["gru.h0"], atol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_whatever_resets_evicts_and_refuses_the_steps_are_those_that_were_served(tmp_path, seed):
    (tmp_path / "a.jsonl").write_bytes(events(random.Random(seed), 150))
    (tmp_path / "p.yaml").write_text(FORMULA.replace("checkpoint: {dir: job, every_s: 2, keep: 1}", ""))
    spec, registry, context = open_pipeline(str(tmp_path / "p.yaml"))
    from streamrnn.build import build_pipeline

    run(build_pipeline(spec, registry, context), lambda: False, lambda report: None)
    served = [(json.loads(line), line) for line in (tmp_path / "out.txt").read_text().splitlines()]
    keys = {record["k"] for record, _ in served}
    assert len(keys) > 9
    for key in keys:
        own = [(record["n"], line) for record, line in served if record["k"] == key]
        last = max(i for i, (n, _) in enumerate(own) if n == 1)
        found = why(tmp_path / "p.yaml", str(key))
        assert [step.output for step in found.steps] == [line for _, line in own[last:]]
        assert found.steps[0].causes
        assert not any(step.causes for step in list(found.steps)[1:])


@pytest.mark.parametrize("seed", range(2))
def test_so_they_are_where_events_wait_for_earlier_ones(tmp_path, seed):
    rng = random.Random(seed)
    times = [max(0, i + rng.randrange(-6, 7)) for i in range(120)]
    text = "".join(f'{{"k":"k{rng.randrange(4)}","t":{t},"x":1,"w":{t // 30}}}\n' for t in times)
    (tmp_path / "a.jsonl").write_text(text)
    more = "order: {type: event_time, max_behind_s: 9}"
    (tmp_path / "p.yaml").write_text(FORMULA.replace("checkpoint: {dir: job, every_s: 2, keep: 1}", more))
    spec, registry, context = open_pipeline(str(tmp_path / "p.yaml"))
    from streamrnn.build import build_pipeline

    run(build_pipeline(spec, registry, context), lambda: False, lambda report: None)
    served = [(json.loads(line), line) for line in (tmp_path / "out.txt").read_text().splitlines()]
    assert len(served) == 120
    for key in {record["k"] for record, _ in served}:
        own = [(record["n"], line) for record, line in served if record["k"] == key]
        last = max(i for i, (n, _) in enumerate(own) if n == 1)
        assert [step.output for step in why(tmp_path / "p.yaml", key).steps] == [
            line for _, line in own[last:]
        ]


def test_only_the_last_steps_are_kept_and_the_others_counted():
    found = why(LETTERS, "ann", last=2)
    whole = why(LETTERS, "ann")
    assert list(found.steps)[-1].output == list(whole.steps)[-1].output
    assert (len(found.steps), found.dropped) == (2, len(whole.steps) - 2)


def gated(layer, dtype="float64"):
    config = NumpyConfig.model_validate({"layers": [layer], "dtype": dtype})
    model = LoadedModel(config, {"x": TensorSpec("x", (len(FIXTURE_X[0][0]),), "float64")}, Context())
    return NumpyBackend(model, None), Gates(model)


FIXTURE_X = next(iter(FIXTURE["cells"].values()))["x"]


@pytest.mark.parametrize(
    "name", [n for n, case in FIXTURE["cells"].items() if case["layer"]["type"] != "rnn"]
)
@pytest.mark.parametrize("reset_after", [True, False])
def test_gates_make_the_state_that_the_model_makes(name, reset_after):
    case = FIXTURE["cells"][name]
    layer = dict(case["layer"])
    if layer["type"] == "gru":
        layer["reset_after"] = reset_after
    elif not reset_after:
        layer["type"] = "lstm"  # there is no other kind
    x = np.array(case["x"])
    config = NumpyConfig.model_validate({"layers": [layer], "dtype": "float64"})
    model = LoadedModel(config, {"x": TensorSpec("x", (x.shape[2],), "float64")}, Context())
    backend, gates = NumpyBackend(model, None), Gates(model)
    state = {t.name: np.zeros((len(x), *t.shape)) for t in backend.state.tensors}
    (plan,) = [layer for layer in model.plan.layers if hasattr(layer, "cells")]
    for step in range(x.shape[1]):
        new, _ = backend.step(state, {"x": x[:, step]})
        found = gates.of(state, {"x": x[:, step]})
        for i, cell in enumerate(plan.cells):
            place = f"{plan.name}.{i}." if len(plan.cells) > 1 else f"{plan.name}."
            g = {gate[len(place) :]: array for gate, array in found.items() if gate.startswith(place)}
            old = [state[tensor] for tensor in cell.states]
            if layer["type"] == "gru":
                assert np.allclose((1 - g["z"]) * g["n"] + g["z"] * old[0], new[cell.states[0]], atol=1e-9)
            else:
                c = g["f"] * old[1] + g["i"] * g["g"]
                assert np.allclose(c, new[cell.states[1]], atol=1e-9)
                if "proj" not in layer:
                    assert np.allclose(g["o"] * np.tanh(c), new[cell.states[0]], atol=1e-9)
        state = new


def test_it_is_shown_at_the_terminal(tmp_path):
    result = CliRunner().invoke(cli, ["why", str(LETTERS), "ann"])
    assert result.exit_code == 0
    assert "1. record 1, byte 0  reset: new" in result.output
    assert "gates   gru.r 0.398, gru.z 0.347, gru.n 0.034" in result.output
    result = CliRunner().invoke(cli, ["why", str(LETTERS), "ann", "--format", "json", "--last", "1"])
    (step,) = json.loads(result.output)
    assert len(step["gates"]["gru.r"]) == len(step["state"]["gru.h0"]) == 96
    result = CliRunner().invoke(cli, ["why", str(LETTERS), "nobody"])
    assert (result.exit_code, result.output) == (1, "key 'nobody' has no event there\n")
    assert tmp_path
