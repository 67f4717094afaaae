"""`streamrnn verify` with PyTorch's whole sequences as the reference."""

from __future__ import annotations

import json
import random
import shutil
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from streamrnn.cli.verify import command
from streamrnn.offline import gate_orders

NETS = Path(__file__).parent / "nets"
FILE = """
source: {type: file, path: data.jsonl}
decode: {type: jsonl}
event:
  key: user
  time: {field: ts, unit: s}
  inputs:
    x:
      - {field: a}
      - {field: b, standardize: {mean: [3], std: [2]}}
      - {field: kind, one_hot: [p, q]}
      - {elapsed: min}
reset:
  - {type: on_change, field: session}
  - {type: gap, gap_s: 50}
model: MODEL
encode: {type: jsonl}
sink: {type: stdout}
"""
OWN = {
    "LSTM": "{type: torch_module, module: 'trained_nets:Trained', path: PATH, args: {layers: 2}, SEQUENCE}",
    "GRU": "{type: torch_module, module: 'trained_nets:Trained', path: PATH, args: {kind: GRU}, SEQUENCE}",
    "custom": "{type: torch_module, module: 'trained_nets:Custom', path: PATH, SEQUENCE}",
}
LAYERS = {
    "LSTM": "{type: TYPE, path: PATH, layers: [{type: lstm, hidden: 6, layers: 2, weights: rnn}, "
    "{type: linear, out: 3, weights: head}]}",
    "GRU": "{type: TYPE, path: PATH, layers: [{type: gru, hidden: 6, weights: rnn}, "
    "{type: linear, out: 3, weights: head}]}",
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Data of six users, the networks' code, and their weights, all in one folder."""
    shutil.copy(NETS / "trained_nets.py", tmp_path)
    monkeypatch.delitem(sys.modules, "trained_nets", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    import trained_nets

    torch.manual_seed(1)
    nets = {
        "LSTM": trained_nets.Trained(layers=2),
        "GRU": trained_nets.Trained("GRU"),
        "custom": trained_nets.Custom(),
    }
    for name, net in nets.items():
        save_file(
            {key: 2 * value for key, value in net.state_dict().items()}, tmp_path / f"{name}.safetensors"
        )
    rng, ts, session = random.Random(1), 0, dict.fromkeys(range(6), 0)
    with (tmp_path / "data.jsonl").open("w") as data:
        for _ in range(300):
            user, ts = rng.choice([0, 0, 0, 1, 2, 3, 4, 5]), ts + rng.choice([0, 1, 5])
            session[user] += rng.random() < 0.1
            event = {"user": user, "ts": ts, "session": session[user], "kind": rng.choice("pq")}
            data.write(json.dumps({**event, "a": rng.gauss(0, 1), "b": rng.gauss(3, 2)}) + "\n")
    yield tmp_path
    sys.modules.pop("trained_nets", None)


def write(folder, name, model, path, *changes, sequence=True, type="numpy"):
    text = FILE.replace("MODEL", model)
    for old, new in (
        ("SEQUENCE", "sequence: {}" if sequence else ""),
        ("PATH", path),
        ("TYPE", type),
        *changes,
    ):
        assert old in text or old.isupper()
        text = text.replace(old, new)
    (folder / name).write_text(("trust: code\n" if "torch_module" in text else "") + text)
    return folder / name


def run(*arguments):
    result = CliRunner().invoke(command, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout


def causes(out):
    return [line.removeprefix("  cause: ") for line in out.splitlines() if line.startswith("  cause: ")]


@pytest.mark.parametrize("name", OWN)
def test_a_module_served_by_steps_is_its_own_forward_over_whole_sequences(folder, name):
    code, out = run(write(folder, "live.yaml", OWN[name], f"{name}.safetensors"))
    assert code == 0, out
    code, out = run(write(folder, "live.yaml", OWN[name], f"{name}.safetensors", sequence=False))
    assert code == 0, out


@pytest.mark.parametrize("type", ["numpy", "torch"])
@pytest.mark.parametrize("name", LAYERS)
def test_layers_are_the_module_that_was_trained(folder, name, type):
    reference = write(folder, "reference.yaml", OWN[name], f"{name}.safetensors")
    live = write(folder, "live.yaml", LAYERS[name], f"{name}.safetensors", type=type)
    code, out = run(live, "--against", reference)
    assert code == 0, out


def swapped(folder, name, parts=("rnn",)):
    """The weights with two gates in each other's place in some parts."""
    found = load_file(folder / f"{name}.safetensors")
    for key, value in found.items():
        if key.partition(".")[0] in parts:
            gates = 3 if name == "GRU" or key.startswith("slow") else 4
            blocks = list(value.chunk(gates))
            blocks[0], blocks[1] = blocks[1], blocks[0]
            found[key] = torch.cat(blocks)
    save_file(found, folder / "swapped.safetensors")
    return "swapped.safetensors"


MISTAKES = {
    "a feature moved": ("      - {field: a}\n", "", "feature order: columns 0 to 4 of 'x' must be"),
    "a reset dropped": (
        "  - {type: on_change, field: session}\n",
        "",
        "a reset is missing: ",
    ),
    "a scale wrong": (
        "std: [2]",
        "std: [1]",
        "feature 'b' (x[1]): scaling: the reference has 0.5 times the live value",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("name", OWN)
def test_a_mistake_in_the_file_is_named(folder, name, mistake):
    old, new, message = MISTAKES[mistake]
    changes = [(old, new)]
    if mistake == "a feature moved":
        changes.append(("      - {elapsed: min}\n", f"      - {{elapsed: min}}\n{old}"))
    reference = write(folder, "reference.yaml", OWN[name], f"{name}.safetensors")
    live = write(folder, "live.yaml", LAYERS.get(name, OWN[name]), f"{name}.safetensors", *changes)
    code, out = run(live, "--against", reference)
    assert code == 1
    (cause,) = causes(out)
    assert cause.startswith(message)


@pytest.mark.parametrize("name", LAYERS)
def test_swapped_gates_are_named(folder, name):
    reference = write(folder, "reference.yaml", OWN[name], f"{name}.safetensors")
    for model in (LAYERS[name], OWN[name]):
        code, out = run(write(folder, "live.yaml", model, swapped(folder, name)), "--against", reference)
        assert code == 1
        (cause,) = causes(out)
        stored = "f, i, g, o" if name == "LSTM" else "z, r, n"
        assert cause.startswith(f"gate order: the weights of 'rnn' have their gates as {stored}")
        assert ", in the live model; this explains all of it (largest distance left " in cause


def test_swapped_gates_of_one_part_of_a_module_are_named(folder):
    reference = write(folder, "reference.yaml", OWN["custom"], "custom.safetensors")
    live = write(folder, "live.yaml", OWN["custom"], swapped(folder, "custom", ("slow",)))
    code, out = run(live, "--against", reference)
    assert code == 1
    (cause,) = causes(out)
    assert cause.startswith(next(gate_orders("rzn")).text("'slow'"))


def test_a_sequence_that_the_module_does_not_have_is_refused(folder):
    model = OWN["GRU"].replace("SEQUENCE", "sequence: {method: backward_in_time}")
    result = CliRunner().invoke(command, [str(write(folder, "live.yaml", model, "GRU.safetensors"))])
    assert result.exception.exit_code == 2
    assert "model.sequence.method: the module has no method 'backward_in_time'" in str(result.exception)
    model = OWN["GRU"].replace("SEQUENCE", "sequence: {time_axis: 0}")
    result = CliRunner().invoke(command, [str(write(folder, "live.yaml", model, "GRU.safetensors"))])
    assert result.exit_code == 1  # batch first, read as time first: every event begins anew
    assert "state: the reference's model forgets at every event" in result.stdout
