from pathlib import Path

import pytest
from click.testing import CliRunner

from streamrnn.cli.echo import command, normalised, to_flow, to_yaml
from streamrnn.config.load import load_pipeline
from streamrnn.config.yaml_tree import load
from streamrnn.context import Context
from streamrnn.errors import ConfigError
from streamrnn.registry import Registry

PIPELINES = sorted((Path(__file__).parents[1] / "pipelines").glob("*.yaml"))

EVERYTHING = """
source: {type: file, path: [a.jsonl, "b*.jsonl"]}
decode: {type: jsonl}
event:
  key: [user, device]
  time: {field: ts, unit: ms}
  inputs:
    x:
      - fields: [a, b]
        missing: 0
        standardize: {mean: [0, 1.5], std: [1, 2]}
        then: [log1p, {scale: {by: 2}}]
      - {field: letter, one_hot: "ab", missing: null}
      - {elapsed: min, then: [log1p]}
      - {field: plain}
reset:
  - {type: on_value, field: f, equals: null}
  - {type: on_value, name: high, field: f, in: [1, "1", on], when: after}
  - {type: gap, gap_s: 30}
  - type: every
    events: ${EVERY:-100}
model:
  type: numpy
  layers: [{type: linear, out: 1, weights: {weight: [[0.5, 1e-9, 3, 4, 5, 6]]}}]
encode:
  type: jsonl
  include: [user]
  fields: {top: {type: top_k, output: y, k: 1, labels: ["$$a"]}, n: {type: meta, name: steps}}
sink: {type: file, path: "${OUT}/scores"}
dead_letter: {path: "${OUT}${OUT}.jsonl"}
limits: {idle_s: 60.5}
tests:
  - {name: "odd: $5 #", input: [{$mark: source_end}, {$raw: "yes"}], rejected: []}
"""
ENV = {"OUT": "a$${b", "EVERY": "7"}


def understood(text, env=ENV):
    return load_pipeline(text, "p.yaml", Registry(), Context(), env)


def parts(spec):
    """What a pipeline is built from."""
    chosen = [spec.source, spec.decode, spec.model, spec.encode, spec.sink, *spec.rules]
    return (
        spec.name,
        spec.file.model_dump(exclude={"event": {"inputs"}, "model": True, "name": True, "reset": True}),
        [(c.component, c.options.model_dump(), c.path) for c in chosen],
        [(getattr(r.options, "values", None)) for r in spec.rules],
        spec.inputs,
        spec.description,
    )


@pytest.mark.parametrize("resolved", [True, False])
def test_means_the_same(resolved):
    spec = understood(EVERYTHING)
    text = to_yaml(normalised(spec, resolved))
    again = understood(text, {} if resolved else ENV)
    assert parts(again)[2:] == parts(spec)[2:]
    assert again.file.limits == spec.file.limits
    assert again.file.tests == spec.file.tests
    assert again.file.dead_letter == spec.file.dead_letter
    assert again.file.encode.fields == spec.file.encode.fields
    assert to_yaml(normalised(again, resolved)) == text


@pytest.mark.parametrize("file", PIPELINES, ids=lambda file: file.name)
def test_the_pipelines_of_the_repository(file):
    result = CliRunner().invoke(command, [str(file)])
    assert (result.exit_code, result.stderr) == (0, "")
    context = Context(base_dir=file.parent)
    first = load_pipeline(file.read_bytes(), str(file), Registry(), context, {})
    again = load_pipeline(result.stdout, "echo.yaml", Registry(), context, {})
    assert parts(again)[2:] == parts(first)[2:]
    assert again.name == first.name
    assert again.file.tests == first.file.tests


def test_shows_defaults_and_hides_variables():
    shown = to_yaml(normalised(understood(EVERYTHING)))
    lines = [line.strip() for line in shown.splitlines()]
    for line in (
        "name: p",
        "- {type: gap, to: initial, gap_s: 30}",
        "- {type: on_value, to: initial, field: f, equals: null, when: before}",
        "events: ${EVERY:-100}",
        'path: "${OUT}/scores"',
        'path: "${OUT}${OUT}.jsonl"',
        "if_exists: overwrite",
        "n: {type: meta, name: steps}",
        "- name: 'odd: $5 #'",
    ):
        assert line in lines


def test_shows_what_variables_held_when_asked():
    data = load(to_yaml(normalised(understood(EVERYTHING), resolved=True)), "p.yaml").data
    assert data["reset"][3]["events"] == 7
    assert data["sink"]["path"] == "a$$$${b/scores"


def test_wrong_files_are_told():
    result = CliRunner().invoke(command, ["nowhere.yaml"])
    assert isinstance(result.exception, ConfigError)
    assert result.stdout == ""


SCALARS = [
    *(None, True, False, 0, -7, 10**30, 1.0, 1e300, 1e-9, 0.1),
    *("", "a b", "on", "No", "y", "null", "~", "true", "1e3", "0o17", "0x1f", "12", "1_000", "22:22"),
    *("2026-01-31", ".inf", ".5", "+1", "-", "- a", "a: b", "a #b", "#a", "@a", "%a", "&a", "*a", "!a"),
    *("|", ">", "?", "? a", ":", "a:", "{a", "[a", "a,b", "a]", "'", '"', "\\", "a\nb", "\ta ", " a", "a "),
    *(
        "é",
        "日本",
        "😀",
        "\u2028",
        "\x85",
        "\x00",
        "\x7f",
        "\ufeff",
        "=",
        "<<",
        "$a",
        "word " * 60,
        "=" * 200,
    ),
]


@pytest.mark.parametrize("value", SCALARS, ids=ascii)
def test_scalars_read_back(value):
    data = {"a": value, "b": [value], "c": {"d": value, "e": [[value], {}]}}
    if isinstance(value, str):
        data[value] = 1
    for text in (to_yaml(data), to_flow(data)):
        found = load(text, "p.yaml").data
        assert (found, [type(x) for x in found["b"]]) == (data, [type(value)])
