"""`streamrnn export` of PyTorch's modules and layers, then `verify` of what was exported."""

from __future__ import annotations

import json
import random
import shutil
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
onnx = pytest.importorskip("onnx", reason="streamrnn-onnx is not installed")

from click.testing import CliRunner
from safetensors.torch import save_file
from streamrnn_torch import module_export

from streamrnn.cli.export import command as export
from streamrnn.cli.verify import command as verify

NETS = Path(__file__).parent / "nets"
FILE = """
source: {type: file, path: data.jsonl}
decode: {type: jsonl}
event: {key: user, inputs: {x: [{fields: [a, b, c, d, e]}]}}
reset: [{type: on_change, field: session}]
model: MODEL
encode: {type: jsonl}
sink: {type: stdout}
"""
MODULE = "{type: torch_module, module: 'trained_nets:NAME', path: m.safetensors, ARGS}"
MODELS = {
    "LSTM": MODULE.replace("NAME", "Trained").replace("ARGS", "args: {layers: 2}"),
    "GRU": MODULE.replace("NAME", "Trained").replace("ARGS", "args: {kind: GRU}"),
    "custom": MODULE.replace("NAME", "Custom").replace(", ARGS", ""),
    "layers": "{type: torch, path: m.safetensors, layers: [{type: gru, hidden: 6, weights: rnn}, "
    "{type: linear, out: 3, weights: head}]}",
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in ("trained_nets", "odd_nets", "alarm_net"):
        shutil.copy(NETS / f"{name}.py", tmp_path)
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    draw, session = random.Random(1), dict.fromkeys("uvw", 0)
    with (tmp_path / "data.jsonl").open("w") as data:
        for _ in range(150):
            user = draw.choice("uvw")
            session[user] += draw.random() < 0.1
            event = {name: draw.gauss(0, 1) for name in "abcde"}
            data.write(json.dumps({"user": user, "session": session[user], **event}) + "\n")
    yield tmp_path
    for name in ("trained_nets", "odd_nets", "alarm_net"):
        sys.modules.pop(name, None)


def write(folder, name, model):
    (folder / name).write_text(("trust: code\n" if "module" in model else "") + FILE.replace("MODEL", model))
    return folder / name


def weigh(folder, name):
    import trained_nets

    torch.manual_seed(1)
    made = {
        "LSTM": lambda: trained_nets.Trained(layers=2),
        "custom": trained_nets.Custom,
    }.get(name, lambda: trained_nets.Trained("GRU"))()
    save_file({key: 2 * value for key, value in made.state_dict().items()}, folder / "m.safetensors")


def run(command, *arguments):
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


EXPORTERS = ["torch.jit.trace", "torch.export"]


@pytest.fixture(params=EXPORTERS[:1])
def exporter(request, monkeypatch):
    """One of PyTorch's exporters alone."""
    if request.param == "torch.export":
        pytest.importorskip("onnxscript", reason="PyTorch's new exporter needs it")
    known = dict(module_export.exporters())
    monkeypatch.setattr(module_export, "exporters", lambda: [(request.param, known[request.param])])
    return request.param


CASES = [*((name, "torch.jit.trace") for name in MODELS), ("GRU", "torch.export"), ("custom", "torch.export")]


@pytest.mark.parametrize(("name", "exporter"), CASES, indirect=["exporter"])
def test_an_exported_model_is_equal_to_its_original(folder, name, exporter):
    weigh(folder, name)
    original = write(folder, "original.yaml", MODELS[name])
    done = run(export, original, "-o", folder / "m.onnx")
    assert done.exit_code == 0, done.exception
    assert done.stdout == "model: {type: onnx, path: m.onnx}\n"
    live = write(folder, "live.yaml", "{type: onnx, path: m.onnx}")
    checked = run(verify, live, "--against", original)
    assert checked.exit_code == 0, checked.stdout
    assert checked.stdout.startswith("equal: 150 events")


def test_names_of_states_and_outputs_may_be_the_same(folder, exporter):
    import alarm_net

    torch.manual_seed(1)
    save_file(alarm_net.Alarm().state_dict(), folder / "m.safetensors")
    text = "{type: torch_module, module: 'alarm_net:Alarm', path: m.safetensors}"
    original = write(folder, "original.yaml", text)
    original.write_text(original.read_text().replace("[a, b, c, d, e]", "[a, b, c]"))
    done = run(export, original, "-o", folder / "m.onnx")
    assert done.exit_code == 0, done.exception
    graph = onnx.load_model(folder / "m.onnx").graph
    assert [port.name for port in graph.input] == ["x", "state.h", "state.mean"]
    assert [port.name for port in graph.output] == ["score", "mean", "state.h_next", "state.mean_next"]
    live = write(folder, "live.yaml", "{type: onnx, path: m.onnx}")
    live.write_text(live.read_text().replace("[a, b, c, d, e]", "[a, b, c]"))
    assert run(verify, live, "--against", original).exit_code == 0


def test_a_module_without_weights_is_another_each_time(folder):
    original = write(folder, "original.yaml", "{type: torch_module, module: 'trained_nets:Custom'}")
    done = run(export, original, "-o", folder / "m.onnx")
    assert done.exception.exit_code == 3
    assert "the model is another one each time it is loaded" in str(done.exception)
    assert not (folder / "m.onnx").exists()


BRANCH = """
import torch
class Branch(torch.nn.Module):
    def initial_state(self, batch): return torch.zeros(batch, 5)
    def step(self, x, state):
        if float(state.sum()) > 1:
            return x, state * 0
        return state, state + x.abs()
"""


def test_a_branch_on_a_number_is_refused_and_nothing_written(folder):
    (folder / "branching_net.py").write_text(BRANCH)
    original = write(folder, "original.yaml", "{type: torch_module, module: 'branching_net:Branch'}")
    done = run(export, original, "-o", folder / "m.onnx")
    assert done.exception.exit_code == 3
    assert "nothing was written" in str(done.exception)
    assert not (folder / "m.onnx").exists()
    sys.modules.pop("branching_net", None)
