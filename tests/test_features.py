from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamrnn.config.load import load_pipeline
from streamrnn.context import Context
from streamrnn.errors import ConfigError
from streamrnn.registry import Registry
from streamrnn.testing import run_pipeline

MISSING = "x: missing; `missing:` can give a value for it"


def pipeline(item: str, width: int = 1) -> str:
    """A pipeline whose output is its input: what one feature makes."""
    layer = f"{{type: linear, out: {width}, weights: {{weight: {np.eye(width).tolist()}}}}}"
    return f"""
source: {{type: stdin}}
decode: {{type: jsonl}}
event: {{inputs: {{v: [{item}]}}}}
model: {{type: numpy, dtype: float64, layers: [{layer}]}}
encode: {{type: jsonl}}
sink: {{type: stdout}}
"""


def encoded(
    item: str, width: int, events: list[dict[str, Any]], base_dir: Path | None = None
) -> tuple[Any, Any]:
    """What a feature makes of events, and the reasons for those it refuses."""
    context = Context(base_dir=base_dir or Path())
    outputs, rejected = run_pipeline(pipeline(item, width), events, context=context)
    return [output["y"] for output in outputs], [event.reason for event in rejected]


@pytest.mark.parametrize(
    ("item", "values", "expected", "refused"),
    [
        ("{field: x}", [1, -2.5, 0.0, 2**53], [1, -2.5, 0, 2**53], []),
        ("{field: x}", [True, "1", None, [1], {}], [], [
            "x: expected a number, found true",
            'x: expected a number, found "1"',
            MISSING,
            "x: expected a number, found [1]",
            "x: expected a number, found {}",
        ]),
        ("{field: x}", [1, 10**350, 2], [1, 2], ["number out of range: 10000000000000000..."]),
        ("{field: x}", [1, "a" * 99], [1], ['x: expected a number, found "' + "a" * 56 + "..."]),
        ("{field: x, missing: -1}", [None, 3, "a"], [-1, 3], ['x: expected a number, found "a"']),
        ("{field: x, scale: 0.5}", [4, None], [2], [MISSING]),
        ("{field: x, scale: {offset: 10, by: 2}}", [10, 11.5], [0, 3], []),
        ("{field: x, log1p: true}", [0, math.e - 1, -1, -5], [0, 1], [
            "x: log1p: expected a number above -1, found -1.0",
            "x: log1p: expected a number above -1, found -5.0",
        ]),
        ("{field: x, standardize: {mean: [10], std: [4]}}", [10, 12, None], [0, 0.5], [MISSING]),
        ("{field: x, missing: 9, scale: 2, then: [log1p, {scale: 3}]}", [0, None], [0, 3 * math.log(19)], []),
        ("{field: x, then: [log1p]}", [0, -3], [0], ["x: log1p: expected a number above -1, found -3.0"]),
        ("{field: x, scale: 1e300}", [1e-300, 1e300], [1], ["x: beyond the range of float64"]),
    ],
)  # fmt: skip
def test_numbers(item: str, values: list[Any], expected: list[float], refused: list[str]) -> None:
    found = encoded(item, 1, [{"x": value} for value in values])
    assert (found[0], found[1]) == (pytest.approx(expected), refused)


KNOWN = "expected one of the 3 known values, found"


@pytest.mark.parametrize(
    ("item", "values", "expected", "refused"),
    [
        ("one_hot: abc", ["a", "c", "d", "", None], [0, 2], ['"d"', '""', "nothing"]),
        ("one_hot: abc, unknown: zeros", ["b", "d", None, ["a"]], [1, -1, -1, -1], []),
        ("one_hot: abc, missing: c", [None, "a"], [2, 0], []),
        ('one_hot: [1, "1", true]', [1, "1", True, 1.0, False, 2], [0, 1, 2, 0], ["false", "2"]),
        ("one_hot: [null, 0, -0.5]", [None, 0, -0.5, 0.0, -0.0], [0, 1, 2, 1, 1], []),
    ],
)  # fmt: skip
def test_one_hot(item: str, values: list[Any], expected: list[int], refused: list[str]) -> None:
    found = encoded(f"{{field: x, {item}}}", 3, [{"x": value} for value in values])
    rows = [[float(place == at) for place in range(3)] for at in expected]
    assert found == (rows, [f"x: {KNOWN} {shown}" for shown in refused])


@pytest.mark.parametrize(
    ("item", "values", "expected", "refused"),
    [
        ("vocab: abc", ["c", "a", "d", 1], [2, 0], ['3 known values, found "d"', "3 known values, found 1"]),
        ("vocab: [a, 1], unknown: 0", ["a", 1, "1", None], [1, 2, 0, 0], []),
        ("vocab: [a, 1], unknown: 2", ["a", 1, "1", None], [0, 1, 2, 2], []),
        ("vocab: [a, b, c], missing: b", [None, "c"], [1, 2], []),
    ],
)
def test_vocab(item: str, values: list[Any], expected: list[int], refused: list[str]) -> None:
    table = [[0.0], [1.0], [2.0]]
    text = pipeline(f"{{field: x, {item}}}").replace("type: linear, out: 1", "type: embedding")
    text = text.replace("weight: [[1.0]]", f"weight: {table}")
    outputs, rejected = run_pipeline(text, [{"x": value} for value in values])
    assert [output["y"] for output in outputs] == expected
    assert [event.reason for event in rejected] == [f"x: expected one of the {reason}" for reason in refused]


def test_a_vector() -> None:
    values = [[1, 2.5], [1], [1, "a"], None, 3, [1e308, -1], [10**350, 1], [True, 1]]
    rows, refused = encoded("{field: x, vector: 2}", 2, [{"x": value} for value in values])
    assert rows == [[1, 2.5], [1e308, -1]]
    assert refused == [
        "x: expected a list of 2 numbers, found one of 1",
        'x: expected a list of 2 numbers, found "a" in it',
        "x: expected a list of 2 numbers, found nothing",
        "x: expected a list of 2 numbers, found 3",
        "number out of range: 10000000000000000...",
        "x: expected a list of 2 numbers, found true in it",
    ]


def test_several_fields_and_several_items(tmp_path: Path) -> None:
    (tmp_path / "scaler.json").write_text(json.dumps({"mean": [1, 10], "std": [2, 5], "n": 9}))
    scaled = "{fields: [a.b, c], missing: 0, standardize: {from: scaler.json}}"
    items = f"{scaled}, {{field: d, one_hot: xy}}, {{field: c}}"
    events = [
        {"a": {"b": 3}, "c": 5, "d": "y"},
        {"a": {}, "c": 20, "d": "x"},
        {"c": None, "d": "x"},
        {"a": {"b": "3"}, "c": 1, "d": "z"},
    ]
    rows, refused = encoded(items, 5, events, tmp_path)
    assert rows == [[1, -1, 0, 1, 5], [-0.5, 2, 1, 0, 20]]
    assert refused == [MISSING.replace("x:", "c:"), 'a.b: expected a number, found "3"']


def test_a_number_beyond_float32() -> None:
    text = pipeline("{field: x}").replace("dtype: float64", "dtype: float32")
    outputs, rejected = run_pipeline(text, [{"x": 1e38}, {"x": 1e39}, {"x": -1e39}, {"x": 1e-50}])
    assert [output["y"] for output in outputs] == [1e38, 0]
    assert [event.reason for event in rejected] == ["x: beyond the range of float32"] * 2


@pytest.mark.parametrize(
    ("scaler", "expected"),
    [
        (None, "expected a JSON file with the lists mean and std: "),
        ("[1]", "expected a JSON file with the lists mean and std: "),
        ('{"mean": [1]}', "expected a JSON file with the lists mean and std: "),
        ('{"mean": [1], "std": "x"}', "expected a JSON file with the lists mean and std: "),
        ('{"mean": [1], "std": [0]}', "expected as many std as mean, all of them above 0"),
        ('{"mean": [1], "std": [1, 1]}', "expected as many std as mean, all of them above 0"),
    ],
)
def test_a_scaler_that_cannot_be_used(tmp_path: Path, scaler: str | None, expected: str) -> None:
    if scaler is not None:
        (tmp_path / "s.json").write_text(scaler)
    text = pipeline("{field: x, standardize: {from: s.json}}")
    context, registry = Context(base_dir=tmp_path), Registry([])
    load_pipeline(text, "p.yaml", registry, context, {})
    with pytest.raises(ConfigError) as caught:
        run_pipeline(text, [], context=context, registry=registry)
    (finding,) = caught.value.findings
    assert finding.path == "event.inputs.v.0.standardize.from"
    assert finding.message.startswith(expected)
