"""A pipeline with recorded data in place of its source."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from streamrnn.config.spec import Chosen, PipelineSpec
from streamrnn.errors import ConfigError, Finding

if TYPE_CHECKING:
    from streamrnn.registry import Registry


def recorded(
    spec: PipelineSpec, registry: Registry, paths: tuple[str, ...], follows: bool = True
) -> PipelineSpec:
    """The pipeline with files as its source; with its own if none are given, which must end.

    Unless `follows`, files and logs that are followed, and logs that a source writes, are read as far as they
    go now. Raises `ConfigError` for a source without an end.
    """
    if paths:
        component = registry.find("source", "file")
        assert component is not None
        options = component.config.model_validate({"path": [_literal(path) for path in paths]})
        return replace(spec, source=Chosen(component, options, ("source",)))
    if not follows and (again := read_again(spec, registry)) is not None:
        ends = {"follow": False} if getattr(again.source.options, "follow", False) else {}
        options = again.source.options.model_copy(update=ends)
        return replace(again, source=replace(again.source, options=options))
    if spec.source.component.name in ("socket", "http", "websocket") or getattr(
        spec.source.options, "follow", False
    ):
        text = "expected data that ends; name some with --input"
        mark = spec.tree.mark(("source",))
        raise ConfigError([Finding(spec.tree.file, *mark, "source", text)])
    return spec


def read_again(spec: PipelineSpec, registry: Registry) -> PipelineSpec | None:
    """The pipeline with a source that gives from the beginning what its own has read; None if there is none.

    A log that a source writes is read itself. Options of other sources may say in `again` how they would be
    read from the beginning.
    """
    options = spec.source.options
    if log := log_of(spec):
        component = registry.find("source", "log")
        assert component is not None
        read = component.config.model_validate({"path": log, "records": "enveloped", "follow": True})
        return replace(spec, source=Chosen(component, read, ("source",)))
    again = getattr(options, "again", None)
    return None if again is None else replace(spec, source=replace(spec.source, options=again))


def log_of(spec: PipelineSpec) -> str | None:
    """The log that the source writes what arrives to, if it does."""
    options = spec.source.options
    return options.log if getattr(options, "durability", None) == "log" else None  # type: ignore[attr-defined]


def _literal(path: str) -> str:
    """A path as the file source reads it, whatever the pipeline's folder; `[` begins a pattern there."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in str(Path(path).absolute()))
