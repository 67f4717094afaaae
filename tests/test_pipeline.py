from __future__ import annotations

import json
import random
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from streamrnn.build import build_pipeline
from streamrnn.config.load import load_pipeline
from streamrnn.context import Context, ManualClock
from streamrnn.errors import ConfigError, SinkError
from streamrnn.events import Mark, OutBlock, Report
from streamrnn.hookspecs import hookimpl
from streamrnn.pipeline import Pipeline, run
from streamrnn.registry import Registry
from streamrnn.testing import ORIGIN, WAIT, ListSink, ListSource, quiet_context, run_pipeline

SUM = """
source: {type: stdin}
decode: {type: jsonl}
event: {key: k, inputs: {x: [{field: x}]}}
model: {type: formula, state: {H: 0}, update: {H: "H + x"}, output: {y: H}}
encode:
  type: jsonl
  include: [k, x]
  fields:
    y: {type: output, output: y}
    cause: {type: meta, name: cause}
    position: {type: meta, name: position}
sink: {type: stdout}
"""
FILES = SUM.replace("{type: stdin}", '{type: file, path: "in/*.jsonl"}').replace(
    "{type: stdout}", "{type: file, path: out.jsonl}"
)


def built(text: str, context: Context, registry: Registry | None = None, **ends: Any) -> Pipeline:
    registry = registry or Registry([])
    spec = load_pipeline(text, "p.yaml", registry, context, {})
    return build_pipeline(spec, registry, context, **ends)


def events(*xs: float, key: str = "a") -> list[dict[str, Any]]:
    return [{"k": key, "x": x} for x in xs]


def fields(records: list[Any], *names: str) -> list[Any]:
    return [
        tuple(record[name] for name in names) if len(names) > 1 else record[names[0]] for record in records
    ]


def test_file_to_file_with_a_reset_between_two_files(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "1.jsonl").write_text('{"k":"a","x":1}\n{"k":"a","x":2}\n\n{"k":"b"}\n')
    (tmp_path / "in" / "2.jsonl").write_text('{"k":"a","x":4}\n{"k":"b","x":8}\n{"k":"a","x":16}')
    for rule, expected in (
        ("[]", [(1, ["new"]), (3, []), (7, []), (8, ["new"]), (23, [])]),
        ("[{type: source_end}]", [(1, ["new"]), (3, []), (4, ["source_end"]), (8, ["new"]), (20, [])]),
    ):
        text = FILES + f"reset: {rule}\ndead_letter: {{path: bad.jsonl}}\n"
        run(built(text, Context(base_dir=tmp_path)), lambda: False, lambda report: None)
        records = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
        assert fields(records, "y", "cause") == expected
        assert fields(records, "position") == [0, 16, 0, 16, 32]
        (bad,) = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
        assert bad == {
            "source": "file", "partition": "in/1.jsonl", "number": 4, "position": 33, "raw": '{"k":"b"}',
            "code": "missing_field",
            "reason": "x: missing; `missing:` can give a value for it",
        }  # fmt: skip


def test_the_order_of_the_outputs_is_that_of_the_input() -> None:
    rng, sums, expected, items = random.Random(1), dict[str, float](), [], list[Any]()
    for i in range(700):
        key, x = f"k{min(int(rng.expovariate(0.3)), 20)}", rng.choice([1, 2, 3, "bad"])
        items += [{"k": key, "x": x}] + [WAIT] * (i % 90 == 0)
        if x != "bad":
            sums[key] = sums.get(key, 0) + x
            expected.append((key, sums[key], i + 1 + sum(n % 90 == 0 for n in range(i)) - 1))
    outputs, rejected = run_pipeline(SUM + "limits: {max_batch_events: 64}\n", items)
    assert fields(outputs, "k", "y", "position") == expected
    assert len(rejected) + len(outputs) == 700
    assert [event.number for event in rejected] == sorted(event.number for event in rejected)


def test_marks_reset_all_keys_or_some() -> None:
    items = [
        *events(1, 1), *events(1, key="b"), Mark("control", ORIGIN, keys=("b", "unheard")),
        *events(1), *events(1, key="b"), Mark("control", ORIGIN), Mark("source_end", ORIGIN),
        *events(1), *events(1, key="b"),
    ]  # fmt: skip
    outputs, _ = run_pipeline(SUM, items)
    assert fields(outputs, "k", "y", "cause") == [
        ("a", 1, ["new"]), ("a", 2, []), ("b", 1, ["new"]),
        ("a", 3, []), ("b", 1, ["control"]),
        ("a", 1, ["control"]), ("b", 1, ["control"]),
    ]  # fmt: skip


def test_commands_are_handled_before_the_next_read() -> None:
    sink = ListSink()
    pipeline = built(SUM, quiet_context(), source=ListSource([*events(1), WAIT, *events(1)]), sink=sink)
    pipeline.run_once()
    pipeline.commands.append(Mark("control", ORIGIN))
    while pipeline.run_once() is not None:
        pass
    pipeline.close()
    assert fields(sink.records, "y", "cause") == [(1, ["new"]), (1, ["control"])]


def test_a_block_of_which_every_record_is_refused() -> None:
    items = [*events(1), WAIT, "{", '{"k": 1.5, "x": 1}', '{"k": "a", "x": "1"}', WAIT, *events(2)]
    reports: list[Report] = []
    sink = ListSink()
    pipeline = built(SUM, quiet_context(), source=ListSource(items), sink=sink)
    run(pipeline, lambda: False, reports.append)
    assert fields(sink.records, "y") == [1, 3]
    busy = [(r.events, r.outputs, r.live_keys, len(r.rejected)) for r in reports if r.events]
    assert busy == [(1, 1, 1, 0), (3, 0, 1, 3), (1, 1, 1, 0)]
    reasons = [event.reason for report in reports for event in report.rejected]
    assert reasons[1:] == [
        "k: expected a key, a text or an integer, found 1.5",
        'x: expected a number, found "1"',
    ]


def test_a_report_says_how_long_reading_serving_and_writing_took() -> None:
    clock = ManualClock()
    context = replace(quiet_context(), clock=clock)
    pipeline = built(SUM, context, source=ListSource([*events(1), WAIT, *events(2, 4)]), sink=ListSink())

    def slowed(call: Callable[..., Any], seconds: float) -> Callable[..., Any]:
        def slow(*given: Any) -> Any:
            clock.advance(seconds)
            return call(*given)

        return slow

    parts = pipeline.parts
    parts.source.read = slowed(parts.source.read, 1)  # type: ignore[method-assign]
    parts.decode = slowed(parts.decode, 2)
    parts.sink.write = slowed(parts.sink.write, 4)  # type: ignore[method-assign]
    reports = [pipeline.run_once() for _ in range(3)]
    pipeline.close()
    found = [(r.events, r.read_s, r.serve_s, r.write_s) for r in reports if r is not None]
    assert found == [(1, 1, 2, 4), (0, 1, 0, 0), (2, 1, 2, 4)]


def test_what_the_core_refuses_is_told_with_the_right_record() -> None:
    items = [{"k": "a", "x": 1e308}, "{", {"k": "a", "x": 1e308}, {"k": "a", "x": 1}, {"k": "b", "x": 2}]
    outputs, rejected = run_pipeline(SUM, items)
    assert fields(outputs, "k", "position") == [("a", 0), ("a", 3), ("b", 4)]
    assert [(event.number, event.raw) for event in rejected] == [(2, b"{"), (3, b'{"k":"a","x":1e+308}')] or [
        (event.number, json.loads(event.raw)) for event in rejected[1:]
    ] == [(3, {"k": "a", "x": 1e308})]


class Ends(ListSink):
    """A sink that writes down what is asked of it, and fails where it is told to."""

    def __init__(self, fail: str = "") -> None:
        super().__init__()
        self.calls: list[str] = []
        self.fail = fail

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if name == self.fail:
            raise SinkError(f"cannot {name}")

    def write(self, block: OutBlock) -> None:
        self._call("write")
        super().write(block)

    def flush(self) -> None:
        self._call("flush")

    def close(self) -> None:
        self._call("close")


class Stopped:
    def __init__(self) -> None:
        self.errors: list[str | None] = []

    @hookimpl
    def streamrnn_pipeline_stopped(self, error: BaseException | None) -> None:
        self.errors.append(error and str(error))


@pytest.mark.parametrize(
    ("fail", "calls", "error"),
    [
        ("", ["write", "write", "flush", "close"], None),
        ("write", ["write", "close"], "cannot write"),
        ("flush", ["write", "write", "flush", "close"], "cannot flush"),
        ("close", ["write", "write", "flush", "close"], "cannot close"),
    ],
)
def test_everything_is_closed_and_observers_hear_of_an_error(
    fail: str, calls: list[str], error: str | None
) -> None:
    registry, stopped, sink = Registry([]), Stopped(), Ends(fail)
    registry.add(stopped, "stopped")
    source = ListSource([*events(1), WAIT, *events(2)])
    pipeline = built(SUM, quiet_context(), registry, source=source, sink=sink)
    closed: list[str] = []
    for part in (pipeline.parts.backend, pipeline.parts.rejects):
        part.close = lambda close=part.close: closed.append("closed") or close()  # type: ignore[method-assign, func-returns-value, misc]
    with pytest.raises(SinkError, match=error) if error else nullcontext():
        run(pipeline, lambda: False, lambda report: None)
    pipeline.close()
    assert (sink.calls, stopped.errors, closed) == (calls, [error], ["closed"] * 2)


def test_a_stop_in_the_middle_flushes_what_was_read() -> None:
    sink, reports = Ends(), list[Report]()
    stopping: Callable[[], bool] = lambda: len(reports) == 2  # noqa: E731
    pipeline = built(SUM, quiet_context(), source=ListSource([*events(1), WAIT, *events(2)] * 9), sink=sink)
    run(pipeline, stopping, reports.append)
    assert (fields(sink.records, "y"), sink.calls) == ([1], ["write", "flush", "close"])


@pytest.mark.parametrize(
    ("items", "scaler", "expected"),
    [
        ("{fields: [x, z], standardize: {from: s.json}}", None, "0.standardize.from: expected a JSON file"),
        ("{fields: [x, z], standardize: {from: s.json}}", {"mean": [1, 2, 3], "std": [1, 1, 1]},
            "0.standardize: expected 2 means, one per number, found 3"),
        ("{fields: [x, z], standardize: {from: s.json}}", {"mean": [1], "std": [1]},
            "0.standardize: expected 2 means, one per number, found 1"),
        ("{field: x, then: [{standardize: {from: s.json}}]}, {field: z}", {"mean": [], "std": []},
            "0.then.0.standardize: expected 1 means, one per number, found 0"),
        ("{field: x}, {elapsed: s, then: [{standardize: {from: s.json}}]}", {"mean": [1, 2], "std": [1, 1]},
            "1.then.0.standardize: expected 1 means, one per number, found 2"),
        ("{field: x}, {elapsed: s, first: -1, then: [log1p]}", None,
            "1.first: expected a number that then can take, found -1"),
    ],
)  # fmt: skip
def test_what_only_shows_when_files_are_read(
    tmp_path: Path, items: str, scaler: dict[str, Any] | None, expected: str
) -> None:
    if scaler is not None:
        (tmp_path / "s.json").write_text(json.dumps(scaler))
    text = SUM.replace("{field: x}", items).replace("H + x", "H + sum(x)")
    text = text.replace("{key: k,", "{key: k, time: {field: t, unit: s},")
    with pytest.raises(ConfigError) as caught:
        built(text, Context(base_dir=tmp_path))
    (finding,) = caught.value.findings
    assert f"{finding.path}: {finding.message}".startswith(f"event.inputs.x.{expected}")


def test_an_elapsed_time_that_cannot_follow_is_refused() -> None:
    items = "{field: x}, {elapsed: s, then: [{scale: -1}, log1p]}"
    text = SUM.replace("{field: x}", items).replace("H + x", "H + sum(x)")
    text = text.replace("{key: k,", "{key: k, time: {field: t, unit: s},")
    outputs, rejected = run_pipeline(text, [{"k": "a", "x": 1, "t": t} for t in (0, 0, 5, 6)])
    assert fields(outputs, "y") == [1, 2]
    assert [event.number for event in rejected] == [3, 4]
