"""What a plugin can offer and hear: the hooks, and the declaration of a component."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pluggy

if TYPE_CHECKING:
    from pydantic import BaseModel

    from streamrnn.backend import TensorSpec
    from streamrnn.context import Context
    from streamrnn.events import Origin, Rejected, Report

hookspec = pluggy.HookspecMarker("streamrnn")
hookimpl = pluggy.HookimplMarker("streamrnn")

Kind = Literal["source", "sink", "codec", "feature", "reset", "backend"]
KINDS: tuple[Kind, ...] = ("source", "sink", "codec", "feature", "reset", "backend")


@dataclass(frozen=True)
class Component:
    """One thing that a pipeline file can name.

    `name` is what stands behind `type:` (for a feature: the key that names it), lower case with underscores.
    `config` declares its options; `summary` is one line for `list`. `build`, `describe` and `explain` are
    callables or "package.module:function", imported when first needed, so that declaring costs nothing.
    What `build` is called with depends on the kind; docs/plugins.md says how.
    """

    kind: Kind
    name: str
    config: type[BaseModel]
    build: Callable[..., Any] | str
    summary: str
    describe: Callable[..., Any] | str | None = None
    example: str = ""
    """The options of a small working use, as YAML in flow style; `create` and `schema` show it."""
    explain: Callable[..., Any] | str | None = None
    """For a backend, called as `describe`: the `Fact`s by which it understands a model."""
    offline: Callable[..., Any] | str | None = None
    """For a backend: makes the `streamrnn.offline.Offline` that `verify` compares with, from what `build` is
    given. Without it, that is the backend itself, one event after the other."""

    def resolve(self, what: Literal["build", "describe", "explain", "offline"]) -> Callable[..., Any]:
        """The callable behind one of these fields."""
        found = getattr(self, what)
        if isinstance(found, str):
            module, _, attribute = found.partition(":")
            found = getattr(import_module(module), attribute)
        return found  # type: ignore[no-any-return]


@dataclass(frozen=True)
class PipelineInfo:
    """What an observer is told about the pipeline."""

    name: str
    backend: str
    numerics: str


@hookspec
def streamrnn_components() -> Sequence[Component]:
    """Every component this plugin provides; all answers are collected, two of one name are refused."""
    return ()


@hookspec(firstresult=True)
def streamrnn_resolve_model(uri: str, base_dir: Path) -> Path | None:
    """The local file of a model named in a pipeline, or None to leave it to others.

    The core answers plain paths, after every plugin was asked.
    """


@hookspec(firstresult=True)
def streamrnn_export(options: BaseModel, given: Mapping[str, TensorSpec], context: Context) -> bytes | None:
    """The model with these options as an ONNX graph of one step, or None to leave it to others.

    The graph's metadata `streamrnn.state` lists its states; `given` are the pipeline's inputs.
    """


@hookspec
def streamrnn_pipeline_started(pipeline: PipelineInfo) -> None:
    """The pipeline is open; the first event has not been read."""


@hookspec
def streamrnn_batch_done(pipeline: PipelineInfo, report: Report) -> None:
    """A batch has been written to the sink. Once per batch, on the pipeline's thread: be quick."""


@hookspec
def streamrnn_events_rejected(pipeline: PipelineInfo, origin: Origin, rejected: Sequence[Rejected]) -> None:
    """Events of one batch were refused; called before `streamrnn_batch_done`, and only if there are any."""


@hookspec
def streamrnn_checkpoint_done(
    pipeline: PipelineInfo, number: int, events: int, bytes: int, duration_s: float
) -> None:
    """A commit is on the disk: its number, the events up to it, what was written for it and how long it took.

    Called on the pipeline's thread between two batches, some time after the moment that it holds.
    """


@hookspec
def streamrnn_pipeline_stopped(pipeline: PipelineInfo, error: BaseException | None) -> None:
    """The pipeline is closed; `error` is what ended it, None at a clean end."""
