import pytest

from streamrnn.errors import ConfigError
from streamrnn.events import Mark
from streamrnn.matching import differences
from streamrnn.pipeline_tests import collect, run_case
from streamrnn.ports import EndOfStream
from streamrnn.testing import ORIGIN, WAIT, ListSource, run_pipeline

END = Mark("source_end", ORIGIN)

SUM = """
source: {type: stdin}
decode: {type: jsonl}
event: {inputs: {x: [{field: x}]}}
reset: [{type: source_end}]
model: {type: formula, state: {s: 0}, update: {s: s + x}, output: {y: s}}
encode: {type: jsonl}
sink: {type: file, path: nowhere/out.jsonl}
dead_letter: {path: nowhere/refused.jsonl}
limits: {max_line_bytes: 40}
"""

STAMPED = """
source: {type: stdin}
decode: {type: jsonl}
event:
  time: TIME
  inputs: {x: [{field: x}, {elapsed: s, first: 100}]}
model: {type: formula, output: {y: x}}
encode: {type: jsonl, fields: {dt: {type: output, output: y}, at: {type: meta, name: time}}}
sink: {type: stdout}
tests: [{name: t, input: INPUT, output: OUTPUT, SPEED}]
"""


def read(source, limit=100):
    """Everything a source gives, as the texts and numbers of records, marks and None."""
    found = []
    while True:
        try:
            block = source.read(limit, 0)
        except EndOfStream:
            return found
        is_block = block is not None and not isinstance(block, Mark)
        found.append(
            [(block.record(i), int(block.positions[i]), int(block.numbers[i])) for i in range(len(block))]
            if is_block
            else block
        )


def test_list_source():
    items = [{"a": [1, {"b": None}]}, "x\n", WAIT, END, b"", "y\nz", " \t", {}]
    assert read(ListSource(items)) == [
        [(b'{"a":[1,{"b":null}]}', 0, 1), (b"x", 1, 2)],
        None,
        END,
        [(b"y", 5, 6), (b"z", 5, 6), (b"{}", 7, 8)],
    ]


def test_list_source_gives_no_more_than_asked():
    source = ListSource(["a", "b", "c", END])
    assert [len(block) for block in (source.read(2, 0), source.read(2, 0))] == [2, 1]
    assert source.position() == {"list": 3}


def test_list_source_position_is_that_of_the_next_read():
    source = ListSource(["a", "b", WAIT, "c"])
    positions = []
    for _ in range(5):
        positions.append(source.position()["list"])
        try:
            source.read(1, 0)
        except EndOfStream:
            break
    assert positions == [0, 1, 2, 3, 4]


def test_list_source_ends_for_ever():
    source = ListSource([])
    for _ in range(2):
        with pytest.raises(EndOfStream):
            source.read(1, 0)


def test_run_pipeline():
    events = [{"x": 1}, WAIT, {"x": 2}, "nonsense", END, {"x": 5}, '{"x": 1, "long": "' + 40 * "o" + '"}', {}]
    outputs, rejected = run_pipeline(SUM, events)
    assert outputs == [{"y": 1.0}, {"y": 3.0}, {"y": 5.0}]
    assert [(event.number, event.reason.split(":")[0]) for event in rejected] == [
        (4, "not valid JSON"),
        (7, "line of more than 40 bytes"),
        (8, "x"),
    ]


def test_run_pipeline_uses_the_environment_it_is_given():
    text = SUM.replace("s + x", '"${HOW}"')
    assert run_pipeline(text, [{"x": 3}], env={"HOW": "s - x"})[0] == [{"y": -3.0}]
    with pytest.raises(ConfigError, match="HOW is not set"):
        run_pipeline(text, [], env={})


@pytest.mark.parametrize(
    ("expected", "found"),
    [
        ({}, {"y": 1}),
        ({"y": 1}, {"y": 1.0, "z": 2}),
        ({"y": 1.0}, {"y": 1.0000005}),
        ({"y": 1e9}, {"y": 1e9 + 100}),
        ({"y": True}, {"y": True}),
        ({"y": None}, {}),
        ({"y": None}, {"y": None}),
        ({"y.z": None}, {"y": 3}),
        ({"y": {"a": 1}}, {"y": {"a": 1, "b": 2}}),
        ({"y.a": 1}, {"y": {"a": 1}}),
        ({"y.a": 1}, {"y.a": 1}),
        ({"y.a.b": 1}, {"y.a": {"b": 1}}),
        ({"y.1": "b"}, {"y": ["a", "b"]}),
        ({"y.1.label": "b"}, {"y": [{}, {"label": "b", "score": 2}]}),
        ({"y.1.0": 4}, {"y": [[1], [4]]}),
        ({"y": {"1": "b"}}, {"y": ["a", "b"]}),
        ({"y": [{"a": 1}, [2]]}, {"y": [{"a": 1, "b": 3}, [2]]}),
    ],
)
def test_matches(expected, found):
    assert list(differences(expected, found, 1e-6)) == []


@pytest.mark.parametrize(
    ("expected", "found", "path", "message"),
    [
        ({"y": 1}, {"y": 2.5}, ("y",), "expected 1, found 2.5"),
        ({"n": 1000000}, {"n": 1000001}, ("n",), "expected 1000000, found 1000001"),
        ({"y": True}, {"y": 1}, ("y",), "expected true, found 1"),
        ({"y": 1}, {"y": True}, ("y",), "expected 1, found true"),
        ({"y": "1"}, {"y": 1}, ("y",), 'expected "1", found 1'),
        ({"y": "é"}, {"y": "e"}, ("y",), 'expected "é", found "e"'),
        ({"y": 1}, {"y": None}, ("y",), "expected 1, found null"),
        ({"y": None}, {"y": 0}, ("y",), "expected null, found 0"),
        ({"Y": 1}, {"y": 1, "z": 1}, ("Y",), "expected 1, found nothing; there is y, z"),
        ({"y": 1}, {}, ("y",), "expected 1, found nothing; there is no field at all"),
        ({"y.2": 1}, {"y": [1, 2]}, ("y.2",), "expected 1, found nothing; there is y"),
        ({"y": [1, 2]}, {"y": [1]}, ("y",), "expected a list of 2, found one of 1: [1]"),
        ({"y": [1, {"a": 2}]}, {"y": [1, {"a": 3}]}, ("y", 1, "a"), "expected 2, found 3"),
        ({"y": {"a": 1}}, {"y": 5}, ("y",), 'expected {"a": 1}, found 5'),
    ],
)
def test_differs(expected, found, path, message):
    assert list(differences(expected, found, 1e-6)) == [(path, message)]


@pytest.mark.parametrize(
    ("time", "speed", "events", "outputs"),
    [
        ("{field: t, unit: s}", "", "[{x: 0}, {x: 0}, {x: 0}]", [(100, 0), (1, 1), (1, 2)]),
        ("{field: t, unit: s}", "start: 7, every: 30", "[{x: 0}, {x: 0}]", [(100, 7), (30, 37)]),
        ("{field: t, unit: ms}", "every: 500", "[{x: 0}, {x: 0}]", [(100, 0), (0.5, 500)]),
        (
            "{field: t, unit: s}",
            "every: 5",
            "[{x: 0}, {x: 0, t: 100}, {x: 0}]",
            [(100, 0), (100, 100), (5, 105)],
        ),
        (
            "{field: t, unit: s, resolution: ms}",
            "every: 0.1",
            "[{x: 0}, {x: 0}, {x: 0}, {x: 0}]",
            [(100, 0), (0.1, 100), (0.1, 200), (0.1, 300)],
        ),
        ("{field: t, unit: ns}", "start: 1700000000000000000", "[{x: 0}]", [(100, 1700000000000000000)]),
        ("{field: m.at.t, unit: s}", "", "[{x: 0}, {x: 0, m: {b: 1}}, {x: 0}]", [(100, 0), (1, 1), (1, 2)]),
        (
            "{field: t, unit: rfc3339}",
            "start: 1700000000, every: 0.25",
            "[{x: 0}, {x: 0}, {x: 0, t: '2023-11-14T23:13:21+01:00'}, {x: 0}]",
            [
                (100, 1700000000000000),
                (0.25, 1700000000250000),
                (0.75, 1700000001000000),
                (0.25, 1700000001250000),
            ],
        ),
    ],
)
def test_virtual_time(tmp_path, time, speed, events, outputs):
    expected = [{"dt": [0, dt], "at": at} for dt, at in outputs]
    text = STAMPED.replace("TIME", time).replace("INPUT", events)
    file = tmp_path / "p.yaml"
    file.write_text(text.replace("OUTPUT", str(expected).replace("'", "")).replace("SPEED", speed))
    (case,) = collect(file)
    assert run_case(case) == []


def test_collects_a_folder_in_order(tmp_path):
    for name in ("b.yaml", "a.yaml", "c/d.yaml", ".hidden/e.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(SUM + "tests: [{name: t, input: [{x: 1}], output: [{y: 1}]}]")
    (tmp_path / "none.yaml").write_text("just: [some, file]")
    names = [str(case).removeprefix(f"{tmp_path}/") for case in collect(tmp_path)]
    assert names == ["a.yaml: t", "b.yaml: t", "c/d.yaml: t"]
