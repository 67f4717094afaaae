import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from streamrnn.cli.test import command
from streamrnn.config.open import open_pipeline
from streamrnn.hookspecs import hookimpl
from streamrnn.pipeline_tests import Case, run_case

PIPELINES = Path(__file__).parents[1] / "pipelines"

HEAD = """source: {type: file, path: missing.jsonl}
decode: {type: jsonl}
event: {inputs: {x: [{field: x}]}}
reset: [{type: source_end}]
model: {type: formula, state: {s: 0}, update: {s: s + x}, output: {y: s, z: "[s, 2*s]"}}
encode: {type: jsonl}
sink: {type: file, path: out.jsonl}
dead_letter: {path: refused.jsonl}
"""


def run(*arguments):
    """Exit code and standard output."""
    result = CliRunner().invoke(command, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def write(folder, tests, name="p.yaml", head=HEAD):
    file = folder / name
    file.write_text(head + tests)
    return file


def test_the_pipelines_of_the_repository_pass():
    code, out, _ = run(PIPELINES)
    assert code == 0, out
    assert re.search(r"^ok   .*affine.yaml: the same sequence after a reset", out, re.M)
    assert re.search(r"^\d+ passed, 0 failed", out.splitlines()[-1])


PASSING = {
    "marks and lines": """
tests:
  - name: t
    input: [{x: 1}, {x: 2}, {$mark: source_end}, {$raw: '{"x": 5}'}, {$raw: oops}, {x: 1}]
    output: [{y: 1}, {y: 3}, {y: 5}, {y: 6, z.1: 12}]
    rejected: [{event: 5, reason: not valid}]
""",
    "only what is refused": """
tests: [{name: t, input: [{x: 1}, {x: a}], rejected: [{event: 2}]}]
""",
    "tolerance": """
tests: [{name: t, input: [{x: 1}], output: [{y: 1.05}], tolerance: 0.1}]
""",
}


@pytest.mark.parametrize("name", PASSING)
def test_passes_and_writes_nothing(tmp_path, name):
    file = write(tmp_path, PASSING[name])
    assert run(file) == (0, f"ok   {file}: t\n1 passed, 0 failed\n", "")
    assert list(tmp_path.iterdir()) == [file]


FAILING = {
    "another value": (
        "tests: [{name: t, rejected: [{event: 1}], input: [{x: a}, {x: 1}, {x: 2}], "
        "output: [{}, {y: 4, z.1: 7}]}]",
        ["P:9:93: event 3: y: expected 4, found 3.0", "P:9:101: event 3: z.1: expected 7, found 6.0"],
    ),
    "too few outputs": (
        "tests: [{name: t, input: [{x: 1}], output: [{y: 2}, {}]}]",
        ["P:9:44: expected 2 outputs, found 1 (events 1)", "P:9:49: event 1: y: expected 2, found 1.0"],
    ),
    "refused": (
        "tests: [{name: t, input: [{x: 1}, {x: a}], output: [{}]}]",
        ["P:9:35: event 2: expected an output, found it refused: x: expected a number, found"],
    ),
    "not refused": (
        "tests: [{name: t, input: [{x: 1}, {x: 2}], rejected: [{event: 2, reason: x}]}]",
        ["P:9:55: event 2: expected it refused, found it served"],
    ),
    "another reason": (
        "tests: [{name: t, input: [{$raw: oops}], rejected: [{event: 1, reason: too long}]}]",
        ["P:9:72: event 1: expected a reason with 'too long', found 'not valid JSON: "],
    ),
    "no expectation": (
        "tests: [{name: t, input: [{x: 1}]}]",
        ["P:9:9: expects nothing; write output: or rejected:"],
    ),
}


@pytest.mark.parametrize("name", FAILING)
def test_fails(tmp_path, name):
    tests, expected = FAILING[name]
    file = write(tmp_path, tests)
    code, out, _ = run(file)
    first, *lines, summary = out.splitlines()
    assert (code, first, summary) == (1, f"FAIL {file}: t", "0 passed, 1 failed")
    assert len(lines) == len(expected)
    for line, start in zip(lines, expected, strict=True):
        assert line.startswith(f"     {start.replace('P', str(file), 1)}"), line


def test_counts_what_it_does_not_show(tmp_path):
    entries = ", ".join(12 * ["{x: 0}"])
    expected = ", ".join(12 * ["{y: 1}"])
    _, out, _ = run(write(tmp_path, f"tests: [{{name: t, input: [{entries}], output: [{expected}]}}]"))
    lines = out.splitlines()
    assert len(lines) == 13
    assert lines[-2].strip() == "and 2 more"


WRONG = {
    "a mistake": ("test: []\ntests: [{name: t, input: [{x: 1}]}]", "unknown option 'test'"),
    "a mark": (
        "tests: [{name: t, input: [{$mark: end}], output: []}]",
        "expected source_end, found the text 'end'",
    ),
    "a mark beside": (
        "tests: [{name: t, input: [{$mark: source_end, x: 1}], output: []}]",
        "expected $mark alone",
    ),
    "a misspelt mark": (
        "tests: [{name: t, input: [{$marks: source_end}], output: []}]",
        "did you mean '$mark'?",
    ),
    "a line": ("tests: [{name: t, input: [{$raw: 5}], output: []}]", "expected a text, found the number 5"),
    "an event": ("tests: [{name: t, input: [{x: 1}], rejected: [{event: 2}]}]", "1 to 1, found the number 2"),
    "a marked event": (
        "tests: [{name: t, input: [{$mark: source_end}], rejected: [{event: 1}]}]",
        "expected the number of an event",
    ),
    "an event again": (
        "tests: [{name: t, input: [{x: 1}], rejected: [{event: 1}, {event: 1}]}]",
        "event 1 a second time",
    ),
    "a refusal": (
        "tests: [{name: t, input: [{x: 1}], rejected: [{event: 1, reasn: x}]}]",
        "unknown option 'reasn'; did you mean 'reason'?",
    ),
    "no YAML": ("tests: [", "p.yaml:9:"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_files_end_with_2_and_the_rest_is_run(tmp_path, name):
    tests, message = WRONG[name]
    wrong, right = write(tmp_path, tests), write(tmp_path, PASSING["tolerance"], "q.yaml")
    code, out, _ = run(wrong, right)
    assert code == 2
    assert out.startswith(f"FAIL {wrong}\n     {wrong}:")
    assert message in out
    assert out.endswith(f"ok   {right}: t\n1 passed, 1 failed\n")


SAD = """
from pydantic import BaseModel
from streamrnn.errors import ModelError
from streamrnn.hookspecs import Component, hookimpl


class Options(BaseModel):
    pass


def build(options, given, context):
    raise ModelError("weights.bin is damaged")


@hookimpl
def streamrnn_components():
    return [Component("backend", "sad", Options, build, "never loads")]
"""


def test_a_model_that_cannot_be_loaded_ends_with_3(tmp_path, monkeypatch):
    (tmp_path / "sad_plugin.py").write_text(SAD)
    (tmp_path / "sad-1.dist-info").mkdir()
    (tmp_path / "sad-1.dist-info" / "METADATA").write_text("Name: sad\nVersion: 1\n")
    (tmp_path / "sad-1.dist-info" / "entry_points.txt").write_text("[streamrnn]\nsad = sad_plugin\n")
    monkeypatch.syspath_prepend(tmp_path)
    head = re.sub("model: .*", "model: {type: sad}", HEAD)
    file = write(tmp_path, "tests: [{name: t, input: [{x: 1}], output: [{}]}]", head=head)
    assert run(file)[:2] == (3, f"FAIL {file}: t\n     weights.bin is damaged\n0 passed, 1 failed\n")


class Listening:
    def __init__(self):
        self.heard = []

    @hookimpl
    def streamrnn_pipeline_started(self):
        self.heard.append("started")

    @hookimpl
    def streamrnn_batch_done(self):
        self.heard.append("batch")


def test_observers_hear_nothing_of_it(tmp_path):
    """Else a dashboard would count the events of tests among those that came."""
    file = write(tmp_path, PASSING["marks and lines"])
    spec, registry, context = open_pipeline(str(file))
    registry.add(observer := Listening(), "listening")
    assert run_case(Case(spec, registry, context, 0)) == []
    assert observer.heard == []


def test_selects_by_name(tmp_path):
    tests = "tests: [{name: one, input: [{x: 1}], output: [{}]}, {name: two, input: [{x: 1}], output: []}]"
    file = write(tmp_path, tests)
    assert run(file, "-k", "one")[:2] == (0, f"ok   {file}: one\n1 passed, 0 failed\n")
    code, _, err = run(file, "-k", "three")
    assert code == 2
    assert "no test has 'three' in its name" in err


def test_without_arguments_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run()[0] == 2
    write(tmp_path, PASSING["tolerance"])
    write(tmp_path, "", "none.yaml")
    assert run()[:2] == (0, "ok   p.yaml: t\n1 passed, 0 failed, 1 file without tests\n")
