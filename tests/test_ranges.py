"""Declared ranges of inputs: what is out of them, or not finite, never reaches the model."""

from __future__ import annotations

import pytest

from streamrnn.config.load import load_pipeline
from streamrnn.errors import ConfigError
from streamrnn.refusals import code_of
from streamrnn.registry import Registry
from streamrnn.testing import quiet_context, run_pipeline

PIPELINE = """
source: {type: stdin}
decode: {type: jsonl}
event: {key: k, inputs: {x: [ITEM]}}
model: {type: formula, output: {y: x}}
encode: {type: jsonl}
sink: {type: stdout}
"""


def served(item, *values):
    """The answers, and the codes of what was refused, by the number of the event."""
    events = [{"k": "a", "x": value, "z": 0} for value in values]
    records, rejected = run_pipeline(PIPELINE.replace("ITEM", item), events)
    return [record["y"] for record in records], {event.number: event.code for event in rejected}


@pytest.mark.parametrize(
    ("item", "values", "answers", "refused"),
    [
        ("{field: x, range: [-1, 5]}", [-1, 5, -1.01, 5.01], [-1, 5], {3: "range", 4: "range"}),
        ("{field: x, range: [null, 0]}", [-1e300, -1e9, 1], [-1e300, -1e9], {3: "range"}),
        ("{field: x, range: [0, null]}", [1e30, -1e-300], [1e30], {2: "range"}),
        ("{field: x, range: [0, 5], scale: 10, then: [log1p]}", [0, 6], [0], {2: "range"}),
        ("{field: x, range: [0, 5], missing: 2}", [None, 6, 5e-324], [2, 5e-324], {2: "range"}),
        ("{field: x, range: [0, 5]}", [None, "a"], [], {1: "missing_field", 2: "wrong_type"}),
        ("{fields: [z, x], range: [0, 5]}", [5, 6], [[0, 5]], {2: "range"}),
        ("{field: x, vector: 2, range: [0, 5]}", [[1, 2], [1, 6], [-1, 0]], [[1, 2]],
         {2: "range", 3: "range"}),
        ("{field: x, vector: 2, range: [0, 5]}", [[1], "a"], [], {1: "wrong_type", 2: "wrong_type"}),
    ],
)  # fmt: skip
def test_what_is_out_of_range_is_refused(item, values, answers, refused):
    assert served(item, *values) == (answers, refused)


def test_it_is_said_which_field_and_what_was_found():
    _, (refused,) = run_pipeline(
        PIPELINE.replace("ITEM", "{fields: [z, x], range: [0, 5]}"), [{"k": "a", "x": 7.5, "z": 1}]
    )
    assert refused.reason == "x: expected a number within the range 0 to 5, found 7.5"
    assert code_of("x: expected a number within the range from 1e+06 on, found 3") == "range"


@pytest.mark.parametrize(
    ("item", "told"),
    [
        ("{field: x, range: [5, 0]}", "the least and the greatest number, [low, high]"),
        ("{field: x, range: 5}", "found the number 5"),
        ("{field: x, range: [0, a]}", "the least and the greatest number"),
        ("{field: x, range: [true, 2]}", "the least and the greatest number"),
        ("{field: x, range: [0, 1], missing: 2}", "expected a number within the range, found the number 2"),
        ("{field: x, one_hot: ab, range: [0, 1]}", "'one_hot' takes values, and only numbers have a range"),
    ],
)
def test_mistakes_are_told_before_the_first_event(item, told):
    with pytest.raises(ConfigError) as found:
        load_pipeline(PIPELINE.replace("ITEM", item), "p.yaml", Registry(), quiet_context(), {})
    assert told in str(found.value)
