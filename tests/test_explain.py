"""`lint --explain` and `dry-run` on the backends that ship with streamrnn."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from streamrnn.cli.dry_run import command as dry_run
from streamrnn.cli.lint import command as lint

PIPELINES = Path(__file__).parent.parent / "pipelines"
FORMULA = """
source: {type: file, path: in.jsonl}
decode: {type: jsonl}
event: {key: k, inputs: {x: [{field: a}]}}
model:
  type: formula
  state: {mean: {first: x}, n: 0, many: [1, 2]}
  update: {mean: 0.9*mean + 0.1*x, n: n + 1, many: many}
  output: {y: mean + many}
encode: {type: jsonl}
sink: {type: file, path: out.jsonl}
dead_letter: {path: dead.jsonl}
"""


@pytest.fixture
def formula(tmp_path):
    (tmp_path / "f.yaml").write_text(FORMULA)
    return tmp_path / "f.yaml"


def rows(command, *arguments):
    result = CliRunner().invoke(command, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return [line.split(maxsplit=2) for line in result.stdout.splitlines()]


def test_what_a_description_says_is_told(formula):
    heading, *facts = rows(lint, "--explain", formula)
    assert heading[:2] == ["part", "name"]
    assert facts == [
        ["input", "x", "float64 []"],
        ["state", "mean", "float64 []   begins as the first event's 'x'"],
        ["state", "n", "float64 []   begins as zeros"],
        ["state", "many", "float64 [2]  begins as a constant tensor"],
        ["output", "y", "float64 [2]"],
    ]


def test_dry_run_adds_what_the_probe_found_and_touches_nothing(formula):
    facts = rows(dry_run, formula)[1:]
    assert [fact[0] for fact in facts] == [
        "input",
        "state",
        "state",
        "state",
        "output",
        "numerics",
        "scan",
        "memory",
    ]
    assert facts[5][1] == "batch_invariant"
    assert [path.name for path in formula.parent.iterdir()] == ["f.yaml"]


def test_of_several_files_each_is_named_and_json_holds_both(formula):
    told = rows(lint, "--explain", formula, PIPELINES / "next_letter.yaml")
    assert [row[0] for row in told if row[0].endswith(":")] == [
        f"{formula}:",
        f"{PIPELINES}/next_letter.yaml:",
    ]
    result = CliRunner().invoke(lint, ["--explain", "--format", "json", str(formula)])
    found = json.loads(result.stdout)
    assert found["findings"] == []
    assert found["explained"][str(formula)][1]["meaning"] == "begins as the first event's 'x'"


def test_a_file_with_mistakes_is_not_explained(formula):
    formula.write_text(FORMULA.replace("n + 1", "m + 1"))
    result = CliRunner().invoke(lint, ["--explain", str(formula)])
    assert result.exit_code == 1
    assert "part" not in result.stdout
