from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from streamrnn.config.load import load_pipeline
from streamrnn.context import Context
from streamrnn.errors import ConfigError
from streamrnn.registry import Registry

HERE = Path(__file__).parent
PIPELINES = HERE.parent / "pipelines"

EXPECTED = (HERE / "broken" / "expected.txt").read_text().splitlines()
BROKEN = [path.name for path in sorted((HERE / "broken").glob("*.yaml"))]

WHOLE = """\
plugins: []
source: {type: stdin}
decode: {type: jsonl}
event:
  key: machine
  time: {field: ts, unit: ms}
  inputs:
    x: [{field: x}, {field: z}]
reset: []
model: {type: formula, state: {H: 0}, update: {H: "2*H + x[0]"}, output: {y: "-H + x[1]"}}
encode: {type: jsonl}
sink: {type: stdout}
limits: {}
"""
ITEMS = "[{field: x}, {field: z}]"
NO_TIME = ("  time: {field: ts, unit: ms}\n", "")
ONE_OF_TWO = "expected either from: a file, or mean and std"


def lint(text: str | bytes, name: str = "p.yaml", env: dict[str, str] | None = None) -> list[str]:
    """What is found in a pipeline file, without the file's name."""
    try:
        load_pipeline(text, name, Registry([]), Context(base_dir=HERE / "broken"), env or {})
    except ConfigError as error:
        return [str(finding).removeprefix(f"{name}:") for finding in error.findings]
    return []


@pytest.mark.parametrize("name", BROKEN)
def test_every_mistake_of_a_broken_pipeline_is_told_at_once(name: str) -> None:
    found = [f"{name}:{line}" for line in lint((HERE / "broken" / name).read_bytes(), name)]
    assert found == [line for line in EXPECTED if line.startswith(f"{name}:")]
    assert found


def test_the_command_prints_the_findings_of_all_files_and_exits_with_1() -> None:
    done = streamrnn("lint", *(f"tests/broken/{name}" for name in BROKEN))
    expected = [f"tests/broken/{line}" for line in EXPECTED]
    assert (done.returncode, done.stdout.splitlines(), done.stderr) == (1, expected, "")


def streamrnn(*arguments: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(HERE.parent)}
    command = [sys.executable, "-m", "streamrnn", *arguments]
    return subprocess.run(command, cwd=HERE.parent, env=env, capture_output=True, text=True, timeout=60)


def test_the_whole_pipeline_is_fine() -> None:
    assert lint(WHOLE) == []


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ("[3]", ["x.0: expected a mapping, found the number 3"]),
        ("[]", ["x: expected at least one feature, found an empty list"]),
        ("[{}]", ["x.0: expected field or fields, found neither"]),
        ("[{field: x, fields: [z]}]", ["x.0: expected field or fields, found both"]),
        ('[{field: ""}]', ["x.0.field: expected the path of a field, found the text ''"]),
        (
            "[{field: [x, z]}]",
            ["x.0.field: expected the path of a field, found a list; several go into fields"],
        ),
        ("[{fields: x}]", ["x.0.fields: expected a list of paths, found the text 'x'"]),
        ("[{fields: []}]", ["x.0.fields: expected a list of paths, found an empty list"]),
        (
            "[{fields: [x, 3]}]",
            ["x.0.fields.1: expected the path of a field, found the number 3"],
        ),
        (
            "[{fields: [x, z], one_hot: ab}]",
            ["x.0: this feature takes one field, found several; write one item for each"],
        ),
        (
            "[{fields: [x, z], missing: none}]",
            ["x.0.missing: expected a number, found the text 'none'"],
        ),
        (
            "[{field: x, missing: null, log1p: true}]",
            ["x.0.missing: expected a number, found nothing"],
        ),
        (
            "[{field: x, one_hot: ab, vocab: ab}]",
            ["x.0.vocab: one feature an item, found one_hot and vocab"],
        ),
        (
            "[{field: x, color: ab}]",
            [
                "x.0.color: unknown feature 'color'; known: log1p, one_hot, scale, "
                "standardize, vector, vocab, field, fields, missing, range, then, elapsed"
            ],
        ),
        (
            "[{field: x, vocab: ab, color: 1}]",
            ["x.0.color: unknown option 'color'; known: vocab, unknown"],
        ),
        (
            "[{field: x, one_hot: [a, b, a]}]",
            ["x.0: expected distinct values, found 'a' twice"],
        ),
        (
            "[{field: x, one_hot: [1, 1.0]}]",
            ["x.0: expected distinct values, found 1.0 twice"],
        ),
        ('[{field: x, one_hot: ""}]', ["x.0: expected at least one value, found none"]),
        ("[{field: x, vocab: []}]", ["x.0: expected at least one value, found none"]),
        (
            "[{field: x, vocab: abc, unknown: 2}]",
            ["x.0: unknown: expected 0 (known values then start at 1) or 3 (after them), found 2"],
        ),
        (
            "[{fields: [x, z], standardize: {mean: [0, 0, 0], std: [1, 1, 1]}}]",
            ["x.0: standardize has 3 means for 2 numbers"],
        ),
        (
            "[{fields: [x, z], standardize: {mean: [0, 0], std: [1]}}]",
            ["x.0.standardize: expected mean and std of the same length"],
        ),
        (
            "[{fields: [x, z], standardize: {mean: [0, 0], std: [1, 0]}}]",
            ["x.0.standardize: expected std > 0 everywhere; a constant field carries nothing, leave it out"],
        ),
        ("[{field: x, standardize: {}}]", [f"x.0.standardize: {ONE_OF_TWO}"]),
        (
            "[{field: x, standardize: {from: a.json, mean: [0]}}]",
            [f"x.0.standardize: {ONE_OF_TWO}"],
        ),
        (
            "[{field: x, then: log1p}, {field: z}]",
            ["x.0.then: expected a list of features, found the text 'log1p'"],
        ),
        (
            "[{field: x, then: [3]}, {field: z}]",
            ["x.0.then.0: expected the name of a feature, found the number 3"],
        ),
        (
            "[{field: x, then: [log1p, sqrt]}, {field: z}]",
            ["x.0.then.1: no feature 'sqrt'; installed: log1p, one_hot, scale, standardize, vector, vocab"],
        ),
        (
            "[{field: x, then: [scale]}, {field: z}]",
            ["x.0.then.0: 'scale' needs options; write {scale: ...}, such as {scale: 0.01}"],
        ),
        (
            "[{field: x, then: [{vocab: ab}]}, {field: z}]",
            ["x.0.then.0: 'vocab' takes a field's values, not numbers; it must come first"],
        ),
        (
            "[{field: x}, {elapsed: hours}]",
            ["x.1.elapsed: expected one of ns, us, ms, s, min, h, found 'hours'"],
        ),
        (
            "[{field: x}, {elapsed: s, field: z}]",
            ["x.1.field: unknown option 'field'; known: elapsed, first, across_reset"],
        ),
        (
            "[{field: x}, {elapsed: s, then: [{standardize: {mean: [0, 0], std: [1, 1]}}]}]",
            ["x.1.then.0: standardize has 2 means for 1 numbers"],
        ),
    ],
)
def test_features(items: str, expected: list[str]) -> None:
    found = lint(WHOLE.replace(ITEMS, items))
    assert [line.split(": event.inputs.", 1)[1] for line in found] == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([("plugins: []", "plugins: 5")], ["plugins: expected a list, found the number 5"]),
        ([("plugins: []", "plugins: [acme]")], ["plugins.0: no plugin 'acme' is installed"]),
        (
            [("unit: ms", "unit: ms, resolution: s")],
            ["event.time.resolution: expected ms or finer, found s, which is coarser than the unit"],
        ),
        (
            [
                NO_TIME,
                ("{field: z}", "{elapsed: s}"),
                ("reset: []", "reset: [{type: gap, gap_s: 1}, {type: age, age_s: 1}]"),
                ("limits: {}", "limits: {idle_s: 9, max_ahead_s: 9}"),
                ("type: jsonl}\nsink", "type: jsonl, fields: {t: {type: meta, name: time}}}\nsink"),
            ],
            [
                "event.inputs.x.1.elapsed: needs event.time, which this pipeline does not have",
                "reset.0.type: 'gap' needs event.time, which this pipeline does not have",
                "reset.1.type: 'age' needs event.time, which this pipeline does not have",
                "encode.fields.t.name: needs event.time, which this pipeline does not have",
                "limits.idle_s: needs event.time, which this pipeline does not have",
                "limits.max_ahead_s: needs event.time, which this pipeline does not have",
            ],
        ),
        (
            [("limits: {}", "limits: {idle_s: 1e300}")],
            ["limits.idle_s: expected a number <= 4000000000, found 1e+300"],
        ),
        (
            [("formula,", "formula, context: {z: 3},")],
            ["model.context.z: event.inputs has no 'z'; it has: x"],
        ),
        (
            [("formula,", "formula, context: {x: 0},")],
            ["model.context.x: expected a number >= 1, found 0"],
        ),
    ],
)
def test_sections_that_do_not_fit(changes: list[tuple[str, str]], expected: list[str]) -> None:
    text = WHOLE
    for old, new in changes:
        text = text.replace(old, new)
    assert [line.split(": ", 1)[1] for line in lint(text)] == expected


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ("{type: on_value, field: a}", ["expected one of equals, in, above, below, found none"]),
        (
            "{type: on_value, field: a, equals: 1, in: [2]}",
            ["expected equals or in, found both; put the value into the list"],
        ),
        ("{type: on_value, field: a, in: []}", ["can never fire: the list of values is empty"]),
        (
            "{type: on_value, field: a, above: 5, below: 5}",
            ["can never fire: no number is above 5 and below 5"],
        ),
        (
            "{type: on_value, field: a, in: [1, true, b], above: 1}",
            ["can never fire: none of the values lies within the bounds"],
        ),
        ("{type: on_value, field: a, in: [1, 2], above: 1}", []),
        (
            "{type: on_change, field: machine}",
            ["can never fire: 'machine' is part of the key, so it never changes in one"],
        ),
        ("{type: on_change, field: plant}", []),
        ("{type: every, events: 5}, {type: every, events: 5, name: b}", []),
        (
            "{type: every, events: 5}, {type: every, events: 6, name: b}",
            ["can never fire: another rule resets every 5 events"],
        ),
        (
            "{type: every, events: 5}, {type: every, events: 5}",
            ["two rules are named 'every'; give one of them a name: of its own"],
        ),
        (
            "{type: every, events: 1}, {type: gap, gap_s: 3}, {type: age, age_s: 3}",
            ["can never change anything: another rule resets at every event"] * 2,
        ),
        ("{type: gap, gap_s: 60}", ["can never fire: limits.idle_s forgets the key after 60 s already"]),
        ("{type: gap, gap_s: 59}", []),
        ("{type: calendar, every: week, on: sunday, at: 23:30, zone: Asia/Tokyo}", []),
        (
            "{type: calendar, every: hour, at: 06:00}",
            ["at goes with every: day, week or month; hours begin when they are full"],
        ),
        ("{type: calendar, every: day, on: friday}", ["on goes with every: week, found every: day"]),
        (
            "{type: every, events: 1}, {type: calendar, every: day}",
            ["can never change anything: another rule resets at every event"],
        ),
    ],
)
def test_reset_rules(rules: str, expected: list[str]) -> None:
    text = WHOLE.replace("limits: {}", "limits: {idle_s: 60}").replace("reset: []", f"reset: [{rules}]")
    assert [line.split(": ", 2)[2] for line in lint(text)] == expected


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            "include: [a], fields: {a: {type: output, output: y}}",
            ["fields.a: 'a' is also in include; give one of them another name"],
        ),
        ("include: [a, y]", ["include: 'y' is also a model output; name the outputs in fields"]),
        ("include: [y], fields: {}", []),
        (
            "fields: {a: {type: output, output: Y}}",
            ["fields.a.output: the model has no output 'Y'; did you mean 'y'? it has: y"],
        ),
        (
            "fields: {a: {type: argmax, output: score}}",
            ["fields.a.output: the model has no output 'score'; it has: y"],
        ),
        (
            "fields: {a: {type: argmax, output: y, labels: ab}}",
            ["fields.a.labels: expected 1 labels, one per number of the output, found 2"],
        ),
        (
            "fields: {a: {type: top_k, output: y, k: 2}}",
            ["fields.a.k: expected at most 1, the width of the output, found 2"],
        ),
        (
            "fields: {a: {type: threshold, output: y}}",
            ["fields.a.above: missing; expected the number that must be exceeded"],
        ),
        ("fields: {a: y}", ["fields.a: expected a mapping, found the text 'y'"]),
    ],
)
def test_encode(options: str, expected: list[str]) -> None:
    text = WHOLE.replace("encode: {type: jsonl}", f"encode: {{type: jsonl, {options}}}")
    assert [line.split(": encode.", 1)[1] for line in lint(text)] == expected


NUMPY = """\
source: {type: stdin}
decode: {type: jsonl}
event:
  inputs:
    x: [{field: x, scale: 2}]
model: {type: numpy, layers: [{type: linear, out: 1, weights: {weight: [[1]]}}]}
encode: {type: jsonl}
sink: {type: stdout}
"""


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("", "", []),
        (
            "{field: x, scale: 2}",
            "{field: x, vocab: ab}",
            [
                "model.layers.0: expected numbers, found 'x', which is indices; put an `embedding` "
                "layer between"
            ],
        ),
        (
            "linear, out: 1",
            "embedding",
            [
                "model.layers.0: expected indices, found 'x', which is numbers; give the input a "
                "`vocab` feature alone"
            ],
        ),
        (
            "{field: x, scale: 2}",
            "{field: x, vector: 3}",
            [
                "model.layers.0.weights.weight: weight: expected [1, 3] (out 1, input 3), "
                "found [1, 1]; the input is 'x'"
            ],
        ),
    ],
)
def test_inputs_that_the_model_does_not_take(old: str, new: str, expected: list[str]) -> None:
    text = NUMPY.replace(old, new) if old else NUMPY
    assert [line.split(": ", 1)[1] for line in lint(text)] == expected


def test_lint_loads_nothing_heavy() -> None:
    code = (
        "import sys; from streamrnn.config.open import open_pipeline; open_pipeline(sys.argv[1], env={});"
        "print([name for name in ('numpy', 'torch', 'safetensors', 'rich') if name in sys.modules])"
    )
    for name in ("affine", "next_letter"):
        command = [sys.executable, "-c", code, str(PIPELINES / f"{name}.yaml")]
        env = {**os.environ, "PYTHONPATH": str(HERE.parent)}
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
        assert (done.stdout, done.stderr) == ("[]\n", "")


def test_a_model_s_mistakes_are_told_beside_those_of_other_sections() -> None:
    text = (HERE.parent / "pipelines" / "reset_each_step.yaml").read_text()
    text = text.replace("sink: {type: stdout}", "sink: {type: stdot}").replace("[[2.0]]", "[[2.0, 1.0]]")
    told = lint(text.encode(), "both.yaml")
    assert [line.split(": ")[1] for line in told] == ["model.layers.0.weights.weight_hh_l0", "sink.type"]
