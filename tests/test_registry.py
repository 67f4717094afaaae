from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import BaseModel

from streamrnn.errors import PluginError
from streamrnn.hookspecs import KINDS, Component, Kind, hookimpl
from streamrnn.registry import Registry


class Options(BaseModel):
    """No options."""


class Plugin:
    def __init__(self, answer: Any) -> None:
        self.answer = answer

    @hookimpl
    def streamrnn_components(self) -> Any:
        return self.answer


def named(name: str, kind: Any = "sink") -> Component:
    return Component(kind, name, Options, "nowhere:build", "for a test")


def listed(registry: Registry, kind: Kind | None = None) -> list[tuple[str, str, str]]:
    return [(c.kind, c.name, package) for c, package in registry.components(kind)]


class Point(SimpleNamespace):
    """An entry point of a package of the same name; `plugin` None fails at import."""

    name: str
    plugin: Any

    @property
    def dist(self) -> Any:
        return SimpleNamespace(name=f"dist-{self.name}")

    def load(self) -> Any:
        self.loads = getattr(self, "loads", 0) + 1
        if self.plugin is None:
            raise ImportError("no such library")
        return self.plugin


def registry_of(*points: Any) -> Registry:
    return Registry(points)


def test_the_built_in_ones_come_down_the_same_road() -> None:
    registry = Registry([])
    assert {package for _, _, package in listed(registry)} == {"streamrnn"}
    assert [registry.names(kind) for kind in KINDS] == [
        ["file", "http", "log", "socket", "stdin", "websocket"],
        ["file", "http", "log", "socket", "stdout", "websocket"],
        ["csv", "jsonl", "msgpack"],
        ["log1p", "one_hot", "scale", "standardize", "vector", "vocab"],
        ["age", "calendar", "control", "every", "gap", "on_change", "on_value", "source_end"],
        ["auto", "formula", "numpy"],
    ]


def test_every_component_can_be_built_and_says_what_it_is() -> None:
    for component, _ in Registry([]).components():
        assert callable(component.resolve("build"))
        assert component.describe is None or callable(component.resolve("describe"))
        assert component.summary
        assert component.config.__doc__


def test_a_plugin_adds_components() -> None:
    registry = Registry([])
    registry.add(Plugin([named("b"), named("a"), named("b", "source")]), "mine")
    assert [c for c in listed(registry) if c[2] == "mine"] == [
        ("source", "b", "mine"), ("sink", "a", "mine"), ("sink", "b", "mine"),
    ]  # fmt: skip
    assert registry.find("sink", "a") == named("a")
    assert registry.find("source", "a") is None


@pytest.mark.parametrize(
    ("plugin", "expected"),
    [
        (Plugin([named("jsonl", "codec")]), "codec 'jsonl' is provided by 'streamrnn' and by 'mine'; "),
        (Plugin([named("a"), named("a")]), "sink 'a' is provided by 'mine' and by 'mine'"),
        (Plugin([named("a", "snk")]), "plugin 'mine': 'snk' is no kind of component"),
        (Plugin([named("a", "feature")]), "plugin 'mine': the options of feature 'a' must be a subclass of"),
        (Plugin(["a"]), "plugin 'mine' failed: AttributeError"),
        (Plugin(5), "plugin 'mine' failed: TypeError"),
    ],
)  # fmt: skip
def test_a_plugin_that_is_refused_adds_nothing(plugin: Plugin, expected: str) -> None:
    registry, before = Registry([]), listed(Registry([]))
    with pytest.raises(PluginError) as caught:
        registry.add(plugin, "mine")
    assert str(caught.value).startswith(expected)
    assert listed(registry) == before
    registry.add(Plugin([named("a")]), "mine")
    assert registry.find("sink", "a") is not None


@pytest.mark.parametrize(
    ("types", "plugins", "loaded"),
    [
        ([], [], []),
        (["jsonl", "stdin"], [], []),
        (["acme"], [], ["acme"]),
        (["acme_socket", "acme_file"], [], ["acme"]),
        (["acmesocket"], [], []),
        ([], ["zeta"], ["zeta"]),
        (["zeta", "acme_x"], ["zeta"], ["acme", "zeta"]),
    ],
)
def test_only_what_is_asked_for_is_loaded(types: list[str], plugins: list[str], loaded: list[str]) -> None:
    points = [Point(name=name, plugin=Plugin([named(f"{name}_x")])) for name in ("zeta", "acme")]
    registry = registry_of(*points)
    for _ in range(2):
        registry.load_for(types, plugins)
    assert sorted(point.name for point in points if getattr(point, "loads", 0) == 1) == loaded
    assert [c for c in listed(registry) if c[2] != "streamrnn"] == [
        ("sink", f"{name}_x", f"dist-{name}") for name in loaded
    ]


def missing(registry: Registry, questions: Sequence[tuple[Kind, str]]) -> list[str]:
    return [registry.missing(kind, name) for kind, name in questions]


def test_why_there_is_no_such_component() -> None:
    registry = registry_of(Point(name="acme", plugin=None), Point(name="fine", plugin=Plugin([])))
    registry.load_for(["acme_x"], ["fine", "other"])
    assert registry.failures == {
        "acme": "plugin 'acme' cannot be loaded: ImportError: no such library",
        "other": "no plugin 'other' is installed",
    }
    assert missing(
        registry, [("codec", "jsnl"), ("reset", "gaps"), ("sink", "printer"), ("sink", "acme_x")]
    ) == [
        "no codec 'jsnl'; installed: csv, jsonl, msgpack; did you mean 'jsonl'?",
        "no reset rule 'gaps'; installed: age, calendar, control, every, gap, on_change, on_value, "
        "source_end; did you mean 'gap'?",
        "no sink 'printer'; installed: file, http, log, socket, stdout, websocket",
        "no sink 'acme_x': plugin 'acme' cannot be loaded: ImportError: no such library",
    ]


def test_a_package_of_this_project_that_is_not_installed_is_named():
    found = Registry(entry_points=[]).missing("backend", "onnx")
    assert found.endswith("'onnx' is in the package streamrnn-onnx: pip install streamrnn-onnx")


def test_so_is_one_that_only_listens():
    found = Registry(entry_points=[])
    found.load_for([], ["otel", "other"])
    assert found.failures == {
        "otel": "no plugin 'otel' is installed; it is in the package streamrnn-otel: "
        "pip install streamrnn-otel",
        "other": "no plugin 'other' is installed",
    }
