from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from streamrnn.config.load import load_pipeline
from streamrnn.context import Context
from streamrnn.errors import ConfigError
from streamrnn.registry import Registry

HERE = Path(__file__).parent
PIPELINES = HERE.parent / "pipelines"

BROKEN = {
    "bad_unit": [
        "5:27: event.time.unit: expected one of s, ms, us, ns, rfc3339, found 'seconds'",
        "5:48: event.time.resolution: expected one of s, ms, us, ns, found 'minutes'",
        "7:31: event.inputs.x.1.elapsed: expected one of ns, us, ms, s, min, h, found 'minutes'; did "
        "you mean 'min'?",
        "9:17: reset.0.gap: unknown option 'gap'; did you mean 'gap_s'? known: name, to, gap_s",
        "10:24: reset.1.age_s: expected a number, found the text '1h'",
        "18:18: limits.idle_s: expected a number, found the text '7d'",
    ],
    "bomb": [
        "1:4: a: the anchor &a; leave it out, write values where they are used",
        "2:4: b: the anchor &b; leave it out, write values where they are used",
        "2:8: b.0: the alias *a; write the value out",
        "2:12: b.1: the alias *a; write the value out",
        "2:16: b.2: the alias *a; write the value out",
        "2:20: b.3: the alias *a; write the value out",
        "2:24: b.4: the alias *a; write the value out",
        "2:28: b.5: the alias *a; write the value out",
        "2:32: b.6: the alias *a; write the value out",
        "2:36: b.7: the alias *a; write the value out",
        "2:40: b.8: the alias *a; write the value out",
        "3:5: c.0: the alias *b; write the value out",
        "3:9: c.1: the alias *b; write the value out",
        "3:13: c.2: the alias *b; write the value out",
        "3:17: c.3: the alias *b; write the value out",
        "3:21: c.4: the alias *b; write the value out",
        "3:25: c.5: the alias *b; write the value out",
        "3:29: c.6: the alias *b; write the value out",
        "3:33: c.7: the alias *b; write the value out",
        "3:37: c.8: the alias *b; write the value out",
    ],
    "duplicate_key": [
        "5:20: event.inputs.x.0.field: the key 'field' again; it is already on line 5",
        "13:1: source: the key 'source' again; it is already on line 1",
    ],
    "later_version": [
        "13:1: checkpoint: 'checkpoint' is planned, but streamrnn 0.1.0 cannot do it yet; remove it",
        "14:1: workers: 'workers' is planned, but streamrnn 0.1.0 cannot do it yet; remove it",
    ],
    "missing_field": [
        "1:1: decode.type: missing; expected the name of a component; `streamrnn list` shows those installed",
        "1:1: source: missing; expected where records come from, such as {type: stdin}",
        "3:3: event.time.unit: missing; expected what the field counts since 1970 (s, ms, us, ns), or "
        "rfc3339 for a text",
        "5:8: event.inputs.x: expected at least one feature, found an empty list",
        "6:9: event.inputs.z.0: expected field or fields, found neither",
        "8:5: reset.0.gap_s: missing; expected seconds of event time",
        "9:5: reset.1.type: missing; expected the name of a component; `streamrnn list` shows those "
        "installed",
        "12:12: model.layers.0.type: missing; expected one of embedding, concat, rnn, lstm, gru, linear",
        "13:32: encode.fields.y.type: missing; expected one of output, argmax, top_k, threshold, meta",
        "14:1: sink.type: missing; expected the name of a component; `streamrnn list` shows those installed",
        "15:1: dead_letter.path: missing; expected a file of JSON lines: position, reason and raw bytes",
        "17:5: tests.0.name: missing; expected what this example shows, in a few words",
    ],
    "rule_that_never_fires": [
        "9:5: reset.0: can never fire: 'machine' is part of the key, so it never changes in one",
        "10:5: reset.1: can never fire: no number is above 5 and below 3",
        "11:5: reset.2: can never fire: limits.idle_s forgets the key after 3600 s already",
        "13:5: reset.4: can never fire: another rule resets every 10 events",
    ],
    "tab": [
        "5:1: a tab; YAML indents with spaces",
    ],
    "unknown_backend": [
        "1:11: plugins.0: no plugin 'acme' is installed",
        "2:16: source.type: no source 'kafka'; installed: file, stdin; pip install streamrnn-kafka adds it",
        "3:16: decode.type: no codec 'json'; installed: jsonl; did you mean 'jsonl'?",
        "8:12: reset.0.type: no reset rule 'on_chnage'; installed: age, every, gap, on_change, "
        "on_value, source_end; did you mean 'on_change'?",
        "10:9: model.type: no backend 'onnx'; installed: formula, numpy; pip install streamrnn-onnx adds it",
        "13:14: sink.type: no sink 'printer'; installed: file, stdout",
    ],
    "unknown_option": [
        "1:23: source.path: unknown option 'path'",
        "2:23: decode.encoding: unknown option 'encoding'",
        "4:3: event.keys: unknown option 'keys'; did you mean 'key'? known: key, time, inputs",
        "6:20: event.inputs.x.0.onehot: unknown feature 'onehot'; did you mean 'one_hot'? known: log1p, "
        "one_hot, scale, standardize, vector, vocab, field, fields, missing, then, elapsed",
        "7:40: event.inputs.z.0.then.0: no feature 'standardise'; installed: log1p, one_hot, scale, "
        "standardize, vector, vocab; did you mean 'standardize'?",
        "8:1: resets: unknown option 'resets'; did you mean 'reset'? known: name, plugins, source, "
        "decode, event, reset, model, encode, sink, dead_letter, limits, numerics, tests",
        "13:3: model.outputs: unknown option 'outputs'; did you mean 'output'? known: state, update, output",
        "14:32: encode.fields.best.k: missing; expected the number of entries to give",
        "14:63: encode.fields.best.n: unknown option 'n'; known: type, output, k, labels, scores",
        "14:82: encode.fields.all.type: expected one of output, argmax, top_k, threshold, meta, found "
        "'softmax'",
        "15:37: sink.mode: unknown option 'mode'; known: path, if_exists",
        "16:10: limits.max_key: unknown option 'max_key'; did you mean 'max_keys'? known: max_keys, "
        "idle_s, max_ahead_s, max_state_norm, remember_evicted, max_key_bytes, max_value_bytes, "
        "max_line_bytes, max_batch_events",
    ],
    "unset_variable": [
        "1:28: source.path: environment variable EVENTS is not set; give a default with ${EVENTS:-...}",
        "4:8: event.key: set KEY to the field that names the machine",
        "6:27: event.inputs.x.0.scale: expected ${NAME}, ${NAME:-default} or ${NAME:?message}, found "
        "'${1}'; write $$ for a $ before a brace",
        "15:13: limits.max_keys: expected an integer, found the value of '${MAX_KEYS:-many}'",
    ],
    "weights_of_another_width": [
        "11:40: model.layers.0.weights: gru.bias_hh_l0: expected [192] (3 x hidden 64), found [288]",
        "11:40: model.layers.0.weights: gru.bias_ih_l0: expected [192] (3 x hidden 64), found [288]",
        "11:40: model.layers.0.weights: gru.weight_hh_l0: expected [192, 64] (3 x hidden 64, hidden "
        "64), found [288, 96]",
        "11:40: model.layers.0.weights: gru.weight_ih_l0: expected [192, 26] (3 x hidden 64, input 26), "
        "found [288, 27]; the input is 'x'",
        "12:40: model.layers.1.weights: head.weight: expected [27, 64] (out 27, input 64), found [27, "
        "96]; the input is 'gru'",
    ],
    "wrong_type": [
        "1:7: name: expected a text, found the number 7",
        "6:9: event.time: expected a mapping, found the text 'ts'",
        "8:8: event.inputs.x: expected a list, found a mapping",
        "9:17: event.inputs.y.0.field: expected the path of a field, found a list; several go into fields",
        "9:35: event.inputs.y.1.fields: expected a list of paths, found the text 'a'",
        "9:74: event.inputs.y.2.missing: expected a number, found the text 'none'",
        "11:27: reset.0.events: expected an integer, found the text '10'",
        "12:24: reset.1.gap_s: expected a number > 0, found -30",
        "15:14: model.state.H: expected a finite number, a list of 2 to 65536 finite numbers or {first: "
        "<input>}, found 'zero'; a list of one number is written as the number",
        "18:32: encode.include: expected a list, found the text 'typist'",
        "19:7: sink: expected a mapping, found the text 'stdout'",
        "20:20: limits.max_keys: expected an integer, found the number 1000000.0",
        "20:43: limits.max_batch_events: expected a number <= 65536, found 100000",
    ],
}

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
    assert lint((HERE / "broken" / f"{name}.yaml").read_bytes()) == BROKEN[name]


def test_every_broken_pipeline_is_in_the_table() -> None:
    assert sorted(BROKEN) == sorted(path.stem for path in (HERE / "broken").glob("*.yaml"))


def test_the_command_prints_the_findings_and_exits_with_1() -> None:
    names = ["bad_unit", "tab"]
    done = streamrnn("lint", *(f"tests/broken/{name}.yaml" for name in names))
    expected = [f"tests/broken/{name}.yaml:{line}" for name in names for line in BROKEN[name]]
    assert (done.returncode, done.stdout.splitlines()) == (1, expected)


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
                "standardize, vector, vocab, field, fields, missing, then, elapsed"
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


ODD: list[Any] = [
    None,
    True,
    0,
    -1,
    7,
    1e9,
    1.5,
    10**30,
    "",
    "x",
    "${X}",
    [],
    [1],
    [[]],
    {},
    {"a": 1},
    {"type": "gap"},
]


def places(data: Any) -> list[tuple[Any, Any]]:
    """Every key and index in nested data, with what holds it."""
    parts = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [place for part, value in parts for place in ((data, part), *places(value))]


def mutate(data: dict[str, Any], rng: random.Random) -> None:
    """One change: a value replaced, removed, or swapped with another, or a key renamed."""
    holder, part = rng.choice(places(data))
    match rng.randrange(4):
        case 0:
            holder[part] = deepcopy(rng.choice(ODD))
        case 1:
            del holder[part]
        case 2:
            other, at = rng.choice(places(data))
            inside = places(holder[part]) + places(other[at])
            if all(other is not each and holder is not each for each, _ in inside):
                holder[part], other[at] = other[at], holder[part]
        case 3 if isinstance(holder, dict):
            holder[rng.choice(["type", "field", "then", "elapsed", "y", part[:-1]])] = holder.pop(part)


@pytest.mark.parametrize("name", ["affine", "next_letter"])
def test_a_mutated_pipeline_is_accepted_or_has_findings(name: str) -> None:
    rng, text = random.Random(name), (PIPELINES / f"{name}.yaml").read_text()
    whole = yaml.safe_load(text)
    registry, context, found = Registry([]), Context(base_dir=PIPELINES), 0
    for _ in range(500):
        if rng.random() < 0.3:
            lines = text.splitlines()
            del lines[rng.randrange(len(lines))]
            mutated = "\n".join(lines)
        else:
            data = deepcopy(whole)
            for _ in range(rng.choice([1, 1, 2, 3])):
                mutate(data, rng)
            mutated = json.dumps(data)
        try:
            load_pipeline(mutated, "p.yaml", registry, context, {"X": "x"})
        except ConfigError as error:
            found += bool(error.findings)
    assert found > 250
