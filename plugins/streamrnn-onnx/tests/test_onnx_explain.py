"""What a person is told of a graph, in a file's lint and in a dry run."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from onnx_graphs import cell, saved

from streamrnn.cli.dry_run import command as dry_run
from streamrnn.cli.lint import command as lint

PIPELINE = """
source: {type: stdin}
decode: {type: jsonl}
event: {key: k, inputs: {x: [{fields: [a, b, c, d, e]}]}}
model: {type: onnx, path: m.onnx%s}
encode: {type: jsonl}
sink: {type: stdout}
"""


def told(command, folder, made, options="", code=0):
    saved(folder, made)
    file = folder / "p.yaml"
    file.write_text(PIPELINE % options)
    flags = ["--explain"] if command is lint else []
    result = CliRunner().invoke(command, [*flags, str(file)])
    assert result.exit_code == code, (result.output, result.exception)
    return [" ".join(line.split()) for line in result.output.splitlines()]


def test_pairs_are_told_with_what_they_were_found_by(tmp_path):
    lines = told(lint, tmp_path, cell("LSTM"))
    assert "input x float32 [steps, rows, 5] data, by event.inputs; an event is one step" in lines
    assert "state h0 -> hn float32 [1, rows, 4] paired by its name and the graph; begins as zeros" in lines
    assert "output y float32 [steps, rows, 4]" in lines


@pytest.mark.parametrize(
    ("names", "metadata", "options", "how"),
    [
        (("a", "b"), None, "", "by the graph"),
        (("a", "b"), [{"input": "a", "output": "b"}], "", "by the file's streamrnn.state"),
        (("a", "b"), None, ", state: [{input: a, output: b, init: 2.5}]", "as written; begins as 2.5"),
    ],
)
def test_every_way_of_pairing_is_named(names, metadata, options, how, tmp_path):
    metadata = {"streamrnn.state": json.dumps(metadata)} if metadata else None
    lines = told(lint, tmp_path, cell("GRU", names=names, metadata=metadata), options)
    assert any(line.startswith("state a -> b") and f"paired {how}" in line for line in lines)


def test_exposed_state_is_told_with_what_was_changed(tmp_path):
    lines = told(dry_run, tmp_path, cell("GRU", names=()))
    state = "state cell.h -> cell.h.next float32 [1, rows, 4] hidden in a node, exposed; begins as zeros"
    assert state in lines
    assert "changed h of GRU 'cell' begins as the input 'cell.h' and ends as an output" in lines
    assert "proven steps equal the unchanged graph's over a sequence" in lines
    assert "provider cpu" in lines


def test_a_padded_model_and_a_fixed_one_say_so(tmp_path):
    lines = told(dry_run, tmp_path, cell("RNN"))
    assert any("rows are padded to a multiple of 2" in line for line in lines)
    lines = told(lint, tmp_path, cell("GRU", x=(1, 1, 5), rows=1))
    assert "rows 1 the graph's number of rows is fixed: events are served one by one" in lines


def test_a_missing_provider_is_refused_and_a_fallback_is_shown(tmp_path):
    lines = told(dry_run, tmp_path, cell(), ", providers: [coreml, cpu]")
    (shown,) = (line for line in lines if line.startswith("provider"))
    assert shown.startswith("provider cpu coreml is not in the installed onnxruntime")
    (tmp_path / "p.yaml").write_text(PIPELINE % ", providers: [coreml]")
    result = CliRunner().invoke(dry_run, [str(tmp_path / "p.yaml")])
    (finding,) = result.exception.findings
    assert finding.path == "model.providers"
    assert finding.message.endswith("installed: cpu. Add one of these as a fallback")
