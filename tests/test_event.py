from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from streamrnn.backend import TensorSpec
from streamrnn.event import EventStage, Reading, TimeReading, key_texts
from streamrnn.events import Block, Columns, Origin
from streamrnn.features.encoders import OneHot

NUMBERS = {"x": [Reading(("x",), slice(0, 1))]}
SCALAR = {"x": TensorSpec("x", (), "float32")}
TOO_LONG = "k: a key of more than limits.max_key_bytes = 8"
NO_KEY = "expected a key, a text or an integer, found"
S, MS, US, NS = 1, 1_000, 1_000_000, 1_000_000_000


def block(n: int) -> Block:
    at = np.arange(n)
    return Block(b"", at, at, at * 10, at + 1, Origin("file", "day.jsonl"))


def stage(**changed: Any) -> EventStage:
    given: dict[str, Any] = {
        "key_fields": ("k",),
        "time": TimeReading("t", False, 1),
        "inputs": NUMBERS,
        "specs": SCALAR,
        "rule_fields": ("w",),
        "max_key_bytes": 8,
    }
    return EventStage(**(given | changed))


@pytest.mark.parametrize(
    ("values", "texts", "refused"),
    [
        (["a", "b", "a"], ["a", "b", "a"], {}),
        (["", "é"], ["", "é"], {}),
        ([7, -7, "7", 2**70], ["7", "-7", "7", str(2**70)], {3: TOO_LONG}),
        (np.array([3, 4]), ["3", "4"], {}),
        ([None, "a"], ["", "a"], {0: f"k: {NO_KEY} nothing"}),
        (["a", True, 1.5], ["a", "", ""], {1: f"k: {NO_KEY} true", 2: f"k: {NO_KEY} 1.5"}),
        ([["a"], {"a": 1}], ["", ""], {0: f'k: {NO_KEY} ["a"]', 1: f'k: {NO_KEY} {{"a":1}}'}),
        (["12345678", "123456789"], ["12345678", "123456789"], {1: TOO_LONG}),
        (["ééééé"], ["ééééé"], {0: TOO_LONG}),
    ],
)  # fmt: skip
def test_keys(values: Any, texts: list[str], refused: dict[int, str]) -> None:
    found: dict[int, str] = {}
    assert (list(key_texts(values, "k", 8, found)), found) == (texts, refused)


def test_compound_keys_cannot_be_confused() -> None:
    pairs = [("a", "b,c"), ("a,b", "c"), ('a"', "b"), ("a", '"b'), ("a", ""), ("", "a"), (1, "b"), ("1", "b")]
    one = stage(key_fields=("k", "l"), time=None, inputs={}, rule_fields=())
    columns = Columns(len(pairs), {"k": [k for k, _ in pairs], "l": [part for _, part in pairs]})
    batch, _, refused = one.read(columns, block(len(pairs)))
    assert (len(set(batch.keys)), refused) == (
        len(pairs) - 1,
        {},
    )  # an integer is its text, as with one field
    assert batch.keys[0] == '["a","b,c"]'
    _, records, refused = one.read(Columns(2, {"k": ["a", "a"], "l": [None, "b"]}), block(2))
    assert (records.tolist(), refused) == ([1], {0: f"l: {NO_KEY} nothing"})


def test_no_key_is_one_key_for_all() -> None:
    batch, _, _ = stage(key_fields=(), time=None, inputs={}, rule_fields=()).read(Columns(2, {}), block(2))
    assert list(batch.keys) == ["", ""]


BEYOND = "t: expected a time within 2^62 ticks of 1970, found one beyond"


@pytest.mark.parametrize(
    ("per_unit", "values", "ticks", "refused"),
    [
        (1, [5, -5, 0], [5, -5, 0], {}),
        (1000, [5, 2**40], [5000, 1000 * 2**40], {}),
        (1, np.array([1, 2]), [1, 2], {}),
        (1, [2**62 - 1, 2**62, -(2**62), 10**30], [2**62 - 1, 0, 0, 0], dict.fromkeys([1, 2, 3], BEYOND)),
        (1000, [2**53], [0], {0: BEYOND} if 2**53 * 1000 >= 2**62 else {}),
        (1000, [1.5, 2.0, 0.0004, 1e300, 3], [1500, 2000, 0, 0, 3000], {3: BEYOND}),
        (1, [1.5, 2.0, 1e300], [0, 2, 0], {
            0: "t: expected a whole number, found 1.5; time.resolution can be finer", 2: BEYOND,
        }),
        (1, [None, "5", True, [1]], [0, 0, 0, 0], {
            0: "t: expected a time, found nothing", 1: 't: expected a time, found "5"',
            2: "t: expected a time, found true", 3: "t: expected a time, found [1]",
        }),
    ],
)  # fmt: skip
def test_times(per_unit: int, values: Any, ticks: list[int], refused: dict[int, str]) -> None:
    found: dict[int, str] = {}
    assert (TimeReading("t", False, per_unit).encode(values, found).tolist(), found) == (ticks, refused)


FORM = "t: expected a time such as 2026-01-31T12:00:00Z, found"


@pytest.mark.parametrize(
    ("resolution", "value", "expected"),
    [
        (S, "1970-01-01T00:00:00Z", 0),
        (S, "1970-01-01T01:00:00+01:00", 0),
        (S, "1969-12-31T19:00:01-05:00", 1),
        (S, "1969-12-31T23:59:59Z", -1),
        (S, "2026-01-31t12:00:00z", 1_769_860_800),
        (S, "2026-01-31 12:00:00Z", 1_769_860_800),
        (S, "1970-01-01T00:00:01.999Z", 1),
        (MS, "1970-01-01T00:00:01.999Z", 1_999),
        (US, "1970-01-01T00:00:00.000001Z", 1),
        (NS, "1970-01-01T00:00:00.000001Z", 1_000),
        (US, "9999-12-31T23:59:59.999999Z", 253_402_300_799_999_999),
        (NS, "2400-01-01T00:00:00Z", BEYOND),
        (NS, "1970-01-01T00:00:01.123456789Z", 1_123_456_789),
        (US, "1969-12-31T23:59:59.1234567899+00:00", -876_544),
        (S, "2026-01-31T12:00:00", f'{FORM} "2026-01-31T12:00:00"'),
        (S, "2026-02-30T12:00:00Z", f'{FORM} "2026-02-30T12:00:00Z"'),
        (S, "2026-01-31T12:00Z", f'{FORM} "2026-01-31T12:00Z"'),
        (S, "2026-01-31", f'{FORM} "2026-01-31"'),
        (S, "", f'{FORM} ""'),
        (S, "tomorrow" * 20, f'{FORM} "{("tomorrow" * 20)[:56]}...'),
        (S, 5, f"{FORM} 5"),
        (S, None, f"{FORM} nothing"),
    ],
)
def test_rfc3339(resolution: int, value: Any, expected: int | str) -> None:
    refused: dict[int, str] = {}
    (found,) = TimeReading("t", True, resolution).encode([value], refused).tolist()
    assert (refused or found) == ({0: expected} if isinstance(expected, str) else expected)


def test_refused_records_leave_the_others_aligned() -> None:
    n = 8
    columns = Columns(
        n,
        {
            "k": ["a", "b", None, "a", "c", "a", "b", "a"],
            "t": [0, 1, 2, 3, 4, 1.5, 6, 7],
            "x": [0, 1, 2, "3", 4, 5, 6, 1e99],
            "w": list("01234567"),
        },
        refused={4: "not JSON"},
    )
    batch, records, refused = stage().read(columns, block(n))
    assert records.tolist() == [0, 1, 6]
    assert refused == {
        2: f"k: {NO_KEY} nothing",
        3: 'x: expected a number, found "3"',
        4: "not JSON",
        5: "t: expected a whole number, found 1.5; time.resolution can be finer",
        7: "x: beyond the range of float32",
    }
    assert (list(batch.keys), batch.source) == (["a", "b", "b"], "file")
    assert batch.time is not None
    assert batch.positions is not None
    assert (batch.time.tolist(), batch.positions.tolist()) == ([0, 1, 6], [0, 10, 60])
    assert (batch.inputs["x"].tolist(), batch.inputs["x"].dtype) == ([0, 1, 6], np.float32)
    assert batch.fields == {"w": ["0", "1", "6"]}


@pytest.mark.parametrize("n", [0, 2])
def test_nothing_left(n: int) -> None:
    columns = Columns(n, {name: [None] * n for name in "ktxw"}, dict.fromkeys(range(n), "not JSON"))
    batch, records, refused = stage().read(columns, block(n))
    assert (len(batch), records.tolist(), len(refused)) == (0, [], n)
    assert batch.time is not None
    assert (batch.time.shape, batch.inputs["x"].shape) == ((0,), (0,))


def test_the_first_reason_is_told() -> None:
    columns = Columns(1, {"k": [None], "t": [None], "x": [None], "w": [None]})
    assert stage().read(columns, block(1))[2] == {0: f"k: {NO_KEY} nothing"}


def test_inputs_have_the_shape_of_the_model_and_room_for_keyed_features() -> None:
    readings = [
        Reading(("c",), slice(0, 2), encoder=OneHot("ab", 0, None)),
        Reading((), slice(2, 3)),
        Reading(("x", "z"), slice(3, 5), missing=9, has_missing=True),
        Reading(("x",), slice(5, 6)),
    ]
    one = stage(inputs={"m": readings}, specs={"m": TensorSpec("m", (2, 3), "float32")}, time=None)
    fields = {"k": ["a", "b"], "c": ["b", "a"], "x": [1, 2], "z": [None, 4], "w": [0, 0]}
    batch, _, refused = one.read(Columns(2, fields), block(2))
    assert (batch.inputs["m"].tolist(), refused) == ([[[0, 1, 0], [1, 9, 1]], [[1, 0, 0], [2, 4, 2]]], {})
    assert (one.fields, batch.time) == (("k", "c", "x", "z", "w"), None)
