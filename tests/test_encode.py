from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from streamrnn import encode as e
from streamrnn.codecs.jsonl import JsonlCodec
from streamrnn.events import Batch, Columns, Outputs

LABELS = ["no", "maybe", "yes"]


def answered(y: Any, accepted: list[int] | None = None, dtype: str = "float64") -> e.Answered:
    values = np.array(y, dtype)
    at = np.arange(len(values)) if accepted is None else np.array(accepted, np.int64)
    n = int(at.max()) + 1 if len(at) else 0
    keys, times, positions = [f"k{i}" for i in range(n)], np.arange(n) * 10, np.arange(n) * 100
    batch = Batch(keys, {}, times, {}, positions)
    steps, cause = np.arange(len(at)) + 1, np.arange(len(at)) % 4
    return e.Answered(Outputs(at, {"y": values}, steps, cause), batch, ("new", "gap", "word"))


def written(make: e.Make, given: e.Answered) -> str:
    """A made column as the lines of an output file."""
    data, ends = JsonlCodec().encoder()({"f": make(given)}, len(given.outputs))
    assert len(ends) == len(given.outputs)
    return data.decode().replace('{"f":', "").replace("}\n", " ").strip()


@pytest.mark.parametrize(
    ("make", "y", "dtype", "expected"),
    [
        (e.output("y"), [1.5, 2], "float64", "1.5 2.0"),
        (e.output("y"), [[1.5], [2]], "float64", "1.5 2.0"),
        (e.output("y"), [[0.1, 2]], "float32", "[0.1,2.0]"),
        (e.output("y"), [[[0.1, 2], [3, 4]]], "float32", "[[0.1,2.0],[3.0,4.0]]"),
        (e.output("y"), [[1, 2], [3, 4]], "int64", "[1,2] [3,4]"),
        (e.output("y"), [True, False], "bool", "true false"),
        (e.argmax("y", None), [[1, 3, 2], [5, 5, 1]], "float32", "1 0"),
        (e.argmax("y", LABELS), [[1, 3, 2], [0, 0, 0]], "float32", '"maybe" "no"'),
        (e.argmax("y", "abc"), [[1, 3, 9]], "float32", '"c"'),
        (e.top_k("y", 2, None, False), [[1, 3, 2], [0, 0, 0], [0, 1, 1]], "float32", "[1,2] [0,1] [1,2]"),
        (e.top_k("y", 3, LABELS, False), [[0.5, 0.25, 0.5]], "float32", '["no","yes","maybe"]'),
        (e.top_k("y", 2, None, False), [[0, 200, 3]], "uint8", "[1,2]"),
        (e.top_k("y", 2, None, False), [[-128, 0, 3]], "int8", "[2,1]"),
        (e.top_k("y", 2, None, False), [[False, True, True]], "bool", "[1,2]"),
        (e.top_k("y", 1, LABELS, True), [[0.1, 0.7, 0.2]], "float32", '[{"label":"maybe","score":0.7}]'),
        (e.top_k("y", 1, None, True), [[0.1, 0.7]], "float64", '[{"label":1,"score":0.7}]'),
        (e.threshold("y", 0.5), [0.5, 0.6], "float64", "false true"),
        (e.threshold("y", 0.5), [[0.4, 0.6]], "float32", "[false,true]"),
        (e.threshold("y", 0.1), [np.float32(0.1)], "float32", "false"),
    ],
)
def test_made_fields(make: e.Make, y: Any, dtype: str, expected: str) -> None:
    assert written(make, answered(y, dtype=dtype)) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("steps", "1 2 3 4"),
        ("cause", '[] ["new"] ["gap"] ["new","gap"]'),
        ("key", '"k0" "k2" "k3" "k6"'),
        ("time", "0 20 30 60"),
        ("position", "0 200 300 600"),
    ],
)
def test_what_the_engine_knows(name: str, expected: str) -> None:
    assert written(e.meta(name), answered([0, 0, 0, 0], accepted=[0, 2, 3, 6])) == expected


@pytest.mark.parametrize("name", ["steps", "cause", "key", "time", "position"])
def test_nothing_was_answered(name: str) -> None:
    empty = answered(np.zeros((0, 3)))
    made = (e.meta(name), e.output("y"), e.argmax("y", LABELS), e.top_k("y", 2, LABELS, True))
    assert [written(make, empty) for make in (*made, e.threshold("y", 0))] == [""] * 5


def test_fields_passed_on_stand_first_and_beside_their_answers() -> None:
    stage = e.EncodeStage(("b", "a"), {"n": e.meta("steps"), "y": e.output("y")})
    decoded = Columns(9, {"a": list("abcdefghi"), "b": np.arange(9), "c": [None] * 9})
    columns = stage.columns(answered([5, 6], accepted=[0, 2]), decoded, np.array([1, 4, 8]))
    assert [(name, list(column)) for name, column in columns.items()] == [
        ("b", [1, 8]), ("a", ["b", "i"]), ("n", [1, 2]), ("y", [5, 6]),
    ]  # fmt: skip
