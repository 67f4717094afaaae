"""The `tests:` of pipeline files; `streamrnn test` runs them, and so does pytest:

@pytest.mark.parametrize("case", collect("pipelines"), ids=str)
def test_pipelines(case):
    assert run_case(case) == []
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from streamrnn.config import model as m
from streamrnn.config import yaml_tree
from streamrnn.config.load import load_pipeline
from streamrnn.config.problems import found as kind_of
from streamrnn.config.problems import problem, suggest
from streamrnn.config.spec import PipelineSpec
from streamrnn.context import Context
from streamrnn.errors import ConfigError, Finding
from streamrnn.events import Mark
from streamrnn.matching import TreePath, differences
from streamrnn.registry import Registry
from streamrnn.testing import ORIGIN, Item, quiet_context, serve

MISMATCHES_SHOWN = 10
MARKS = ("source_end",)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Case:
    """One test of one file; `index` is its place in the file's `tests`."""

    spec: PipelineSpec
    registry: Registry
    context: Context
    index: int

    @property
    def test(self) -> m.Test:
        """What the file says."""
        return self.spec.file.tests[self.index]

    def at(self, path: TreePath, message: str) -> str:
        """A message with the line in the file; `path` begins at the test."""
        line, column = self.spec.tree.mark(("tests", self.index, *path))
        return f"{self.spec.tree.file}:{line}:{column}: {message}"

    def __str__(self) -> str:
        return f"{self.spec.tree.file}: {self.test.name}"


def collect(path: str | Path, env: Mapping[str, str] | None = None) -> list[Case]:
    """All tests of a file, or of the `*.yaml` files in a folder and those inside it.

    Raises `ConfigError` for the first file that cannot be read or is wrong.
    """
    return [case for file in pipeline_files(Path(path)) for case in read_cases(file, env)]


def pipeline_files(path: Path) -> list[Path]:
    """The path itself, or the `*.yaml` files below it, sorted; nothing in hidden folders."""
    if not path.is_dir():
        return [path]
    below = (file.relative_to(path) for file in path.rglob("*.yaml"))
    return sorted(path / file for file in below if not any(part.startswith(".") for part in file.parts))


def read_cases(file: Path, env: Mapping[str, str] | None = None) -> list[Case]:
    """The tests of one file. One without `tests` has none and is not looked at any further.

    Raises `ConfigError` for a file that cannot be read or is wrong. `env` is the environment for `${VAR}`,
    by default that of the process.
    """
    name = str(file)
    try:
        text = file.read_bytes()
    except OSError as error:
        raise ConfigError([Finding(name, 1, 1, "", f"cannot read it: {error.strerror}")]) from error
    if "tests" not in yaml_tree.load(text, name).data:
        return []
    registry = Registry()
    context = quiet_context(
        base_dir=file.parent.absolute(), models=registry.resolve_model, backends=registry.backend
    )
    spec = load_pipeline(text, name, registry, context, os.environ if env is None else env)
    findings = [
        problem(spec.tree, ("tests", index, *path), message)
        for index, test in enumerate(spec.file.tests)
        for path, message in _item_problems(test)
    ]
    if findings:
        raise ConfigError(findings)
    return [Case(spec, registry, context, index) for index in range(len(spec.file.tests))]


def run_case(case: Case) -> list[str]:
    """Run one test with a newly built pipeline; what differs, a line each with its place in the file.

    Raises `ModelError` or `ConfigError` where the pipeline cannot be built.
    """
    test = case.test
    if test.output is None and test.rejected is None:
        return [case.at((), "expects nothing; write output: or rejected:")]
    items = _items(test, case.spec.file.event.time)
    sink = serve(case.spec, items, case.registry, case.context, observed=False)
    found = list(_refusals(case, {event.number: event.reason for event in sink.rejected}))
    if not found and test.output is not None:
        found = list(_outputs(case, sink.records, sink.positions))
    more = len(found) - MISMATCHES_SHOWN
    return found if more <= 0 else [*found[:MISMATCHES_SHOWN], f"and {more} more"]


def _refusals(case: Case, refused: Mapping[int, str]) -> Iterator[str]:
    """Events refused against expectation, and the other way round; `refused` has reasons by number."""
    wanted = {entry["event"]: i for i, entry in enumerate(case.test.rejected or [])}
    for number, reason in refused.items():
        if number not in wanted:
            yield case.at(
                ("input", number - 1), f"event {number}: expected an output, found it refused: {reason}"
            )
    for number, i in wanted.items():
        part = (case.test.rejected or [])[i].get("reason", "")
        if number not in refused:
            yield case.at(("rejected", i), f"event {number}: expected it refused, found it served")
        elif part not in refused[number]:
            text = f"event {number}: expected a reason with '{part}', found '{refused[number]}'"
            yield case.at(("rejected", i, "reason"), text)


def _outputs(case: Case, records: list[Any], positions: list[int]) -> Iterator[str]:
    """What differs between the outputs and the expected entries, taken in order."""
    expected = case.test.output or []
    if len(expected) != len(records):
        answered = ", ".join(str(position + 1) for position in positions) or "none"
        text = f"expected {len(expected)} outputs, found {len(records)} (events {answered})"
        yield case.at(("output",), text)
    for i, (entry, record, position) in enumerate(zip(expected, records, positions, strict=False)):
        for path, message in differences(entry, record, case.test.tolerance):
            where = ".".join(map(str, path))
            yield case.at(("output", i, *path), f"event {position + 1}: {where}: {message}")


def _items(test: m.Test, time: m.Time | None) -> list[Item]:
    clock = _Clock(time, test) if time is not None else None
    items: list[Item] = []
    for entry in test.input:
        if "$mark" in entry:
            items.append(Mark(entry["$mark"], ORIGIN))
        elif "$raw" in entry:
            items.append(entry["$raw"])
        else:
            items.append(clock.stamped(entry) if clock is not None else entry)
    return items


class _Clock:
    """The time of events that have none: `every` after the event before, whichever way that got its own.

    Lines and marks take no time. With rfc3339 it counts seconds since 1970.
    """

    def __init__(self, time: m.Time, test: m.Test) -> None:
        self._path = time.field.split(".")
        self._rfc3339 = time.unit == "rfc3339"
        self._every = _whole(test.every)
        self._base, self._count = _whole(test.start), 0
        """The next time is `base + every * count`: no sum of roundings."""

    def stamped(self, event: dict[str, Any]) -> dict[str, Any]:
        """The event with its time."""
        inner: Any = event
        for name in self._path[:-1]:
            inner = inner.get(name, {}) if isinstance(inner, dict) else None
        if not isinstance(inner, dict):
            return event
        if self._path[-1] in inner:
            self._set(inner[self._path[-1]])
            return event
        now = self._base + self._every * self._count
        self._count += 1
        return _with(event, self._path, _rfc3339(now) if self._rfc3339 else _whole(now))

    def _set(self, value: Any) -> None:
        if self._rfc3339 and isinstance(value, str):
            try:
                value = (datetime.fromisoformat(value) - _EPOCH).total_seconds()
            except (ValueError, TypeError):  # no time, or without a zone: the pipeline refuses it
                return
        if type(value) in (int, float):
            self._base, self._count = value, 1


def _whole(number: float) -> float:
    """An integer where it is one, so that large times keep all their digits."""
    return int(number) if float(number).is_integer() else number


def _rfc3339(seconds: float) -> str:
    try:
        return (_EPOCH + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")
    except OverflowError:  # beyond the years 1 to 9999: the pipeline refuses this text
        return str(seconds)


def _with(event: dict[str, Any], path: list[str], value: Any) -> dict[str, Any]:
    """The event with one more field; the one given stays as it is."""
    name, *rest = path
    return {**event, name: _with(event.get(name, {}), rest, value) if rest else value}


def _item_problems(test: m.Test) -> Iterator[tuple[TreePath, str]]:
    """What is wrong with a test, whatever the pipeline does."""
    for i, entry in enumerate(test.input):
        yield from ((("input", i, *path), message) for path, message in _entry_problems(entry))
    seen: set[int] = set()
    for i, entry in enumerate(test.rejected or []):
        number = entry.get("event")
        for name in sorted(entry.keys() - {"event", "reason"}):
            yield ("rejected", i, name), f"unknown option '{name}'{suggest(name, ('event', 'reason'))}"
        if type(number) is not int or not 1 <= number <= len(test.input) or "$mark" in test.input[number - 1]:
            text = f"expected the number of an event, 1 to {len(test.input)}, found {kind_of(number)}"
            yield ("rejected", i, "event"), text
        elif number in seen:
            yield ("rejected", i, "event"), f"event {number} a second time"
        else:
            seen.add(number)
        if not isinstance(entry.get("reason", ""), str):
            yield ("rejected", i, "reason"), f"expected a text, found {kind_of(entry['reason'])}"


def _entry_problems(entry: dict[str, Any]) -> Iterator[tuple[TreePath, str]]:
    special = [name for name in entry if name in ("$mark", "$raw")]
    if not special:
        only = next(iter(entry), "") if len(entry) == 1 else ""
        hint = suggest(only, ("$mark", "$raw")) if only.startswith("$") else ""
        if hint:
            yield (only,), f"expected an event, $mark or $raw, found '{only}'{hint}"
        return
    name = special[0]
    if len(entry) > 1:
        yield (), f"expected {name} alone, found it beside {', '.join(key for key in entry if key != name)}"
    elif name == "$mark" and entry[name] not in MARKS:
        yield (name,), f"expected {' or '.join(MARKS)}, found {kind_of(entry[name])}"
    elif not isinstance(entry[name], str):
        yield (name,), f"expected a text, found {kind_of(entry[name])}"
