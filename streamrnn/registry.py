"""Every component and observer there is: the built-in ones, and those of installed plugins.

Plugins are found by the entry-point group "streamrnn" and loaded one by one, by name, when a pipeline asks
for them: a broken one is reported and stops nobody else.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import pluggy

from streamrnn import builtins, hookspecs
from streamrnn.builtins.features import FeatureOptions
from streamrnn.config.problems import quoted, suggest
from streamrnn.errors import PluginError
from streamrnn.hookspecs import KINDS, Component, Kind

GROUP = "streamrnn"
CORE = "streamrnn"

_OWN_PACKAGES = {
    "onnx": "streamrnn-onnx",
    "torch": "streamrnn-torch",
    "kafka": "streamrnn-kafka",
    "kafka_log": "streamrnn-kafka",
    "otel": "streamrnn-otel",
}
"""Packages of this project by the type they provide, or the name of a plugin that only listens."""


class Registry:
    """Components by kind and name, each with the package it came from; `failures` by plugin name."""

    def __init__(self, entry_points: Iterable[metadata.EntryPoint] | None = None) -> None:
        self.hooks = pluggy.PluginManager("streamrnn")
        self.hooks.add_hookspecs(hookspecs)
        self.failures: dict[str, str] = {}
        self._components: dict[tuple[Kind, str], tuple[Component, str]] = {}
        self._entry_points = entry_points
        self._loaded: set[str] = set()
        self.add(builtins, CORE)

    def add(self, plugin: Any, package: str, name: str | None = None) -> None:
        """Register a module or object with hooks, under `name` (the package's, if left out).

        Raises `PluginError` and then leaves no trace of it.
        """
        if self.hooks.is_registered(plugin):
            return
        try:
            self.hooks.register(plugin, name=name or package)
            self._check_hooks(plugin, package)
            found = [
                component
                for answer in self.hooks.subset_hook_caller(
                    "streamrnn_components",
                    [other for other in self.hooks.get_plugins() if other is not plugin],
                )()
                for component in answer
            ]
            self._check_components(found, package)
        except Exception as error:
            if self.hooks.is_registered(plugin):
                self.hooks.unregister(plugin)
            if isinstance(error, PluginError):
                raise
            raise PluginError(f"plugin '{package}' failed: {type(error).__name__}: {error}") from error
        self._components |= {(c.kind, c.name): (c, package) for c in found}

    def load_for(self, types: Iterable[str], plugins: Collection[str] = ()) -> None:
        """Load the plugins that provide these types (an entry point has its type's name, or a prefix of it).

        `plugins` are loaded by their own names; one that fails is kept in `failures`.
        """
        known = {name for _, name in self._components}
        wanted = set(types) - known
        # Looking for plugins reads the metadata of every installed package, which takes its time.
        for point in self._points() if wanted or plugins else ():
            serves = any(name == point.name or name.startswith(point.name + "_") for name in wanted)
            if serves or point.name in plugins:
                self._load(point)
        for name in plugins:
            if name not in self._loaded and name not in self.failures:
                package = _OWN_PACKAGES.get(name)
                way = f"; it is in the package {package}: pip install {package}" if package else ""
                self.failures[name] = f"no plugin '{name}' is installed{way}"

    def load_all(self) -> None:
        """Load every installed plugin; those that fail are in `failures`."""
        for point in self._points():
            self._load(point)

    def resolve_model(self, uri: str, base_dir: Path) -> Path | None:
        """The local file of a model, by the first plugin that knows it; the core knows plain paths."""
        found: Path | None = self.hooks.hook.streamrnn_resolve_model(uri=uri, base_dir=base_dir)
        return found

    def backend(self, name: str) -> Component | None:
        """A backend by its type, loaded if a plugin provides it; None if there is none."""
        self.load_for([name])
        return self.find("backend", name)

    def find(self, kind: Kind, name: str) -> Component | None:
        """A component, or None."""
        found = self._components.get((kind, name))
        return found[0] if found else None

    def components(self, kind: Kind | None = None) -> list[tuple[Component, str]]:
        """All components (of a kind) with their packages, by kind and name."""
        order = sorted(self._components, key=lambda key: (KINDS.index(key[0]), key[1]))
        return [self._components[key] for key in order if kind in (None, key[0])]

    def names(self, kind: Kind) -> list[str]:
        """The names of a kind, sorted."""
        return [component.name for component, _ in self.components(kind)]

    def missing(self, kind: Kind, name: str) -> str:
        """Why there is no such component, and what to do."""
        absent = f"no {'reset rule' if kind == 'reset' else kind} {quoted(name)}"
        for plugin, reason in self.failures.items():
            if name == plugin or name.startswith(plugin + "_"):
                return f"{absent}: {reason}"
        text = f"{absent}; installed: {', '.join(self.names(kind))}"
        if package := _OWN_PACKAGES.get(name):
            return f"{text}; '{name}' is in the package {package}: pip install {package}"
        return text + suggest(name, self.names(kind))

    def _points(self) -> list[metadata.EntryPoint]:
        if self._entry_points is None:
            self._entry_points = metadata.entry_points(group=GROUP)
        return sorted(self._entry_points, key=lambda point: point.name)

    def _load(self, point: metadata.EntryPoint) -> None:
        if point.name in self._loaded or point.name in self.failures:
            return
        package = point.dist.name if point.dist else point.name
        try:
            self.add(point.load(), package, point.name)
            self._loaded.add(point.name)
        except PluginError as error:
            self.failures[point.name] = str(error)
        except (Exception, SystemExit) as error:
            text = f"plugin '{point.name}' cannot be loaded: {type(error).__name__}: {error}"
            self.failures[point.name] = text

    def _check_hooks(self, plugin: Any, package: str) -> None:
        specs = [name for name in vars(hookspecs) if name.startswith("streamrnn_")]
        for caller in self.hooks.get_hookcallers(plugin) or []:
            if not caller.has_spec():
                hint = suggest(caller.name, specs)
                raise PluginError(f"plugin '{package}' implements {caller.name}, which is no hook{hint}")

    def _check_components(self, found: list[Component], package: str) -> None:
        seen: dict[tuple[Kind, str], str] = {key: owner for key, (_, owner) in self._components.items()}
        for component in found:
            if component.kind not in KINDS:
                raise PluginError(f"plugin '{package}': '{component.kind}' is no kind of component")
            if component.kind == "feature" and not issubclass(component.config, FeatureOptions):
                raise PluginError(
                    f"plugin '{package}': the options of feature '{component.name}' must be a subclass of "
                    "streamrnn.builtins.features.FeatureOptions"
                )
            key = (component.kind, component.name)
            if key in seen:
                raise PluginError(
                    f"{component.kind} '{component.name}' is provided by '{seen[key]}' and by '{package}'; "
                    "uninstall one of them"
                )
            seen[key] = package
