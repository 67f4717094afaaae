from __future__ import annotations

import logging
import math
import sys
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import pytest

from streamrnn.build import build_pipeline
from streamrnn.config.load import load_pipeline
from streamrnn.context import Context
from streamrnn.errors import ConfigError, PluginError
from streamrnn.hookspecs import hookimpl
from streamrnn.pipeline import run
from streamrnn.registry import Registry
from streamrnn.testing import ORIGIN, run_pipeline

PLUGINS = Path(__file__).parent / "plugins"
ALL_SIX = """
source: {type: counter, events: 6, keys: 2}
decode: {type: jsonl}
event:
  key: key
  inputs:
    x: [{field: n}]
    day: [{field: hour, hour_of_day: true}]
reset: [{type: streak, field: n, times: 2}]
model: {type: opaque}
encode:
  type: pipe_separated
  include: [key, n]
  fields: {y: {type: output, output: y}, steps: {type: meta, name: steps}}
sink: {type: tally, name: six}
"""
AFFINE = """
source: {type: stdin}
decode: {type: jsonl}
event: {key: k, inputs: {x: [{field: x}]}}
model: {type: formula, state: {H: 0}, update: {H: "2*H + x"}, output: {y: "-H + 5"}}
encode: {type: jsonl}
sink: {type: stdout}
"""


def install(monkeypatch: pytest.MonkeyPatch, *names: str) -> Registry:
    """A registry in a world where just these distributions of tests/plugins are installed."""
    for name in names:
        monkeypatch.syspath_prepend(PLUGINS / name)
    found = metadata.distributions(path=[str(PLUGINS / name) for name in names])
    return Registry([point for each in found for point in each.entry_points])


def served(text: str, registry: Registry, context: Context | None = None) -> None:
    context = context or Context()
    spec = load_pipeline(text, "p.yaml", registry, context, {})
    run(build_pipeline(spec, registry, context), lambda: False, lambda report: None)


def circle(hour: int) -> float:
    return math.sin(hour * math.pi / 12) + math.cos(hour * math.pi / 12)


def test_a_pipeline_of_plugins_only(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = ["counter", "tally", "pipe_separated", "hour_of_day", "streak", "opaque"]
    served(ALL_SIX, install(monkeypatch, *kinds))
    tally = import_module("streamrnn_tally").KEPT["six"]
    state, steps, expected = {"k0": 8.0, "k1": 8.0}, {"k0": 0, "k1": 0}, []
    for n in range(1, 7):
        key = f"k{n % 2}"
        if steps[key] == 2:
            state[key], steps[key] = 8.0, 0
        state[key] = state[key] / 2 + n + circle(n)
        steps[key] += 1
        expected.append((key, n, state[key], steps[key]))
    found = [line.split("|") for block in tally.blocks for line in block.buffer.decode().splitlines()]
    assert [(key, int(n), int(steps)) for key, n, _, steps in found] == [(k, n, s) for k, n, _, s in expected]
    assert [float(y) for _, _, y, _ in found] == pytest.approx([y for _, _, y, _ in expected], rel=1e-5)
    assert tally.calls == ["flush", "close"]
    assert [key for block in tally.blocks for key in block.keys] == [key for key, *_ in expected]


def test_plugins_are_found_on_the_path_and_loaded_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("counter", "tally", "broken"):
        monkeypatch.syspath_prepend(PLUGINS / name)
    monkeypatch.delitem(sys.modules, "streamrnn_tally", raising=False)
    registry = Registry()
    registry.load_for(["counter", "stdin"])
    assert ("counter" in registry.names("source"), "tally" in registry.names("sink")) == (True, False)
    assert "streamrnn_tally" not in sys.modules
    assert registry.failures == {}


def test_a_codec_reads_and_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = install(monkeypatch, "pipe_separated")
    text = AFFINE.replace("decode: {type: jsonl}", "decode: {type: pipe_separated, columns: [k, x]}")
    outputs, rejected = run_pipeline(text, ["a|3", "b|4", "a", "a|5", "a|"], registry=registry)
    assert outputs == [{"y": 2.0}, {"y": 1.0}, {"y": -6.0}]
    assert [(event.number, event.reason) for event in rejected] == [
        (3, "expected 2 fields, found 1"),
        (5, "x: missing; `missing:` can give a value for it"),
    ]


def test_a_feature_is_as_wide_as_it_says_and_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = install(monkeypatch, "hour_of_day")
    text = AFFINE.replace("{field: x}", "{field: x, hour_of_day: true}").replace("+ x", "+ x[0] + 3*x[1]")
    outputs, rejected = run_pipeline(
        text, [{"k": 1, "x": 6}, {"k": 2, "x": 12}, {"k": 1, "x": 25}], registry=registry
    )
    assert [output["y"] for output in outputs] == pytest.approx([4.0, 8.0])
    assert [event.reason for event in rejected] == ["x: expected an hour from 0 to 24, found 25"]
    wrong = AFFINE.replace("[{field: x}]", "[{field: x, hour_of_day: 24}]")
    with pytest.raises(ConfigError, match=r"event\.inputs\.x\.0\.hour_of_day: expected"):
        load_pipeline(wrong, "p.yaml", registry, Context(), {})


def test_a_rule_keeps_columns_across_resets_and_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = install(monkeypatch, "streak")
    text = AFFINE + "reset: [{type: streak, field: s, times: 2}, {type: every, events: 3}]\n"
    text += "limits: {max_batch_events: 2}\n"
    text = text.replace(
        "encode: {type: jsonl}", "encode: {type: jsonl, fields: {c: {type: meta, name: cause}}}"
    )
    events: list[Any] = [
        {"k": 1, "x": 1} | ({"s": 1} if flag else {}) for flag in (1, 0, 0, 0, 1, 0, 1, 1, 0)
    ]
    outputs, _ = run_pipeline(text, events, registry=registry)
    assert [output["c"] for output in outputs] == [
        ["new"], [], [], ["every"], [], ["streak"], [], [], ["streak"],
    ]  # fmt: skip


def test_a_backend_with_states_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = install(monkeypatch, "opaque")
    text = AFFINE.replace(AFFINE.splitlines()[4], "model: {type: opaque}") + "limits: {max_keys: 3000}\n"
    events: list[Any] = [{"k": i % 1500, "x": i} for i in range(3000)] + [{"k": 0, "x": 1e308}] * 3
    outputs, rejected = run_pipeline(text, events, registry=registry)
    expected = [4.0 + i for i in range(1500)] + [(4.0 + i) / 2 + 1500 + i for i in range(1500)]
    assert [output["y"] for output in outputs] == [*expected, 1e308, 1.5e308, 1.75e308]
    assert rejected == []


def test_the_model_is_checked_where_only_the_loaded_one_can_say(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = install(monkeypatch, "opaque")
    text = AFFINE.replace(AFFINE.splitlines()[4], "model: {type: opaque}")
    text = text.replace(
        "encode: {type: jsonl}", "encode: {type: jsonl, fields: {a: {type: argmax, output: z}}}"
    )
    spec = load_pipeline(text, "p.yaml", registry, Context(), {})
    with pytest.raises(
        ConfigError, match=r"encode\.fields\.a\.output: the model has no output 'z'; it has: y"
    ):
        build_pipeline(spec, registry, Context())


def test_what_is_wrong_with_a_plugin_is_told_and_stops_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = install(monkeypatch, "broken", "clash", "counter", "misspelt", "streak")
    before = Registry([]).components()
    registry.load_all()
    assert registry.failures == {
        "broken": "plugin 'broken' cannot be loaded: ModuleNotFoundError: No module named "
        "'a_library_that_is_not_installed'",
        "clash": "codec 'jsonl' is provided by 'streamrnn' and by 'streamrnn-clash'; uninstall one of them",
        "misspelt": "plugin 'streamrnn-misspelt' implements streamrnn_batch_dnoe, which is no hook; "
        "did you mean 'streamrnn_batch_done'?",
    }
    added = [(c.kind, c.name, package) for c, package in registry.components() if (c, package) not in before]
    assert added == [("source", "counter", "streamrnn-counter"), ("reset", "streak", "streamrnn-streak")]


def test_a_broken_plugin_is_named_where_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = install(monkeypatch, "broken")
    why = (
        "plugin 'broken' cannot be loaded: ModuleNotFoundError: No module named "
        "'a_library_that_is_not_installed'"
    )
    text = "plugins: [broken]\n" + AFFINE.replace("type: stdin", "type: broken")
    with pytest.raises(ConfigError) as caught:
        load_pipeline(text, "p.yaml", registry, Context(), {})
    assert str(caught.value).splitlines() == [
        f"p.yaml:1:11: plugins.0: {why}",
        f"p.yaml:3:16: source.type: no source 'broken': {why}",
    ]


def test_an_observer_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    registry, text = install(monkeypatch, "observer"), "plugins: [observer]\nname: watched\n" + AFFINE
    lines = [{"k": 1, "x": 1}, "{", {"k": 2, "x": "a"}, {"k": 2, "x": 2}]
    run_pipeline(text + "limits: {max_batch_events: 3}", lines, registry=registry)
    told = import_module("streamrnn_observer").TOLD
    assert told == [
        ("started", "watched", "formula", "batch_invariant"),
        ("rejected", ORIGIN.partition, [(2, told[1][2][0][1]), (3, 'x: expected a number, found "a"')]),
        ("batch", 3, 1, 1, 2),
        ("batch", 1, 1, 2, 0),
        ("stopped", None),
    ]


class Raising:
    @hookimpl
    def streamrnn_batch_done(self) -> None:
        raise RuntimeError("no more, please")


class Counting:
    def __init__(self) -> None:
        self.batches = 0

    @hookimpl
    def streamrnn_batch_done(self) -> None:
        self.batches += 1


def test_an_observer_that_raises_is_disabled_and_the_stream_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    registry, counting = Registry([]), Counting()
    registry.add(Raising(), "raising")
    registry.add(counting, "counting")
    text = AFFINE + "limits: {max_batch_events: 1}"
    with caplog.at_level(logging.WARNING):
        outputs, _ = run_pipeline(text, [{"k": 1, "x": 1}] * 3, registry=registry, context=Context())
    assert (len(outputs), counting.batches) == (3, 3)
    assert caplog.messages == ["observer 'raising' raised RuntimeError: no more, please; it is disabled"]


def test_two_plugins_of_one_package_and_one_under_two_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(PLUGINS / "counter")
    monkeypatch.syspath_prepend(PLUGINS / "tally")
    (dist,) = metadata.distributions(path=[str(PLUGINS / "counter")])
    points = [
        metadata.EntryPoint(name, f"streamrnn_{module}", "streamrnn")._for(dist)  # type: ignore[attr-defined]
        for name, module in (("counter", "counter"), ("count", "counter"), ("tally", "tally"))
    ]
    registry = Registry(points)
    registry.load_all()
    assert registry.failures == {}
    assert {package for c, package in registry.components() if c.name in ("counter", "tally")} == {dist.name}


def test_a_plugin_that_is_refused_leaves_no_trace() -> None:
    class WrongArgument:
        @hookimpl
        def streamrnn_batch_done(self, nonsense: int) -> None: ...

    registry, before = Registry([]), Registry([]).components()
    with pytest.raises(PluginError, match="plugin 'wrong' failed: PluginValidationError"):
        registry.add(WrongArgument(), "wrong")
    assert registry.components() == before
    assert [name for name, _ in registry.hooks.list_name_plugin()] == ["streamrnn"]
