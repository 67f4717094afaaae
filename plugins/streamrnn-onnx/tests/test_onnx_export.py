"""`streamrnn export` of layers, then `verify` of the exported file against the pipeline it came from."""

from __future__ import annotations

import json
import random
import re
import shutil
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner

from streamrnn.cli.export import command as export
from streamrnn.cli.verify import command as verify

ROOT = Path(__file__).parents[3]
PIPELINES, DOCS = ROOT / "pipelines", ROOT / "docs" / "onnx.md"


def run(command, *arguments):
    result = CliRunner().invoke(command, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def rewritten(folder, name, model):
    """An example pipeline with another model, its other files where they are."""
    text = (PIPELINES / f"{name}.yaml").read_text()
    before, _, rest = text.partition("\nmodel:\n")
    kept = rest[rest.index("\nencode:") :].partition("\ntests:")[0]
    text = f"{before}\n{model}{kept}".replace("data/", f"{PIPELINES}/data/").replace(
        "from: models", f"from: {PIPELINES}/models"
    )
    (folder / f"{name}.yaml").write_text(text)
    return folder / f"{name}.yaml"


@pytest.mark.parametrize("name", ["next_letter", "flights_delay"])
def test_an_exported_pipeline_is_equal_to_its_original(tmp_path, name):
    data = []
    if name == "next_letter":
        draw = random.Random(0)
        events = [
            {"typist": draw.choice("uvw"), "word": i // 40, "letter": draw.choice("abcdefgh")}
            for i in range(300)
        ]
        (tmp_path / "data.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
        data = ["--input", tmp_path / "data.jsonl"]
    done = run(export, PIPELINES / f"{name}.yaml", "-o", tmp_path / "m.onnx")
    assert "a step differs from the model's by at most" in done.stderr
    assert done.stdout.startswith("model: {type: onnx, path: ")
    onnx.checker.check_model(onnx.load_model(tmp_path / "m.onnx"), full_check=True)
    live = rewritten(tmp_path, name, "model: {type: onnx, path: m.onnx}")
    checked = run(verify, live, "--against", PIPELINES / f"{name}.yaml", "--events", 1000, *data)
    assert checked.exit_code == 0, checked.stdout
    assert checked.stdout.startswith("equal: ")


def test_layers_of_the_onnx_backend_are_exported_too(tmp_path):
    text = (PIPELINES / "next_letter.yaml").read_text().replace("type: numpy", "type: onnx")
    text = text.replace("path: models/", f"path: {PIPELINES}/models/")
    (tmp_path / "p.yaml").write_text(text.replace("path: data/", f"path: {PIPELINES}/data/"))
    run(export, tmp_path / "p.yaml", "-o", tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx").stat().st_size > 100_000


def test_context_is_left_to_the_pipeline(tmp_path):
    (tmp_path / "p.yaml").write_text("""
source: {type: stdin}
decode: {type: jsonl}
event: {inputs: {x: [{field: x}]}}
model:
  type: numpy
  context: {x: 2}
  layers: [{type: linear, out: 1, weights: {weight: [[1.0, 2.0, 3.0]]}}]
encode: {type: jsonl}
sink: {type: stdout}
""")
    done = run(export, tmp_path / "p.yaml", "-o", tmp_path / "m.onnx")
    assert done.stdout == "model: {type: onnx, path: m.onnx, context: {x: 2}}\n"
    (graph,) = [onnx.load_model(tmp_path / "m.onnx").graph]
    assert [port.name for port in graph.input] == ["x"]
    assert graph.input[0].type.tensor_type.shape.dim[-1].dim_value == 3


def test_the_documented_example_prints_what_is_shown(tmp_path, monkeypatch):
    for name in ("next_letter.yaml", "data/typed.jsonl", "models/next_letter.safetensors"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(PIPELINES / name, tmp_path / name)
    text = (PIPELINES / "next_letter.yaml").read_text().partition("\ntests:")[0]
    before, after = re.split(r"(?ms)^model:.*?(?=^encode:)", text)
    (tmp_path / "exported.yaml").write_text(f"{before}model: {{type: onnx, path: next_letter.onnx}}\n{after}")
    monkeypatch.chdir(tmp_path)
    shown = re.findall(r"(?ms)^```console\n\$ streamrnn (\w+) ([^\n]*)\n(.*?)^```$", DOCS.read_text())
    assert [name for name, _, _ in shown] == ["export", "verify"]
    for (name, arguments, printed), command in zip(shown, (export, verify), strict=True):
        done = run(command, *arguments.split())
        numbers = r"\d[\d.,e-]*"
        assert re.sub(numbers, "#", done.stdout + done.stderr) == re.sub(numbers, "#", printed), name
