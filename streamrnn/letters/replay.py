"""A file of refused events through a pipeline, once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamrnn.build import build_pipeline
from streamrnn.commit import manifest as m
from streamrnn.commit.job import described
from streamrnn.config.problems import problem
from streamrnn.errors import ConfigError, StateError
from streamrnn.letters.marks import Ending, hold
from streamrnn.letters.source import LetterSource

if TYPE_CHECKING:
    from streamrnn.config.spec import PipelineSpec
    from streamrnn.context import Context
    from streamrnn.errors import Finding
    from streamrnn.line import Parts
    from streamrnn.pipeline import Pipeline
    from streamrnn.registry import Registry


def build_letters(
    spec: PipelineSpec, registry: Registry, context: Context, letters: Path, code: str | None
) -> tuple[Pipeline, LetterSource]:
    """The pipeline with the refused events in `letters` as its source, those of one `code` if it is given.

    Keys begin with nothing, and what the sink and the file of refused events hold already stays. Raises what
    `build_pipeline` raises, `SourceError` for lines that are no refused events, `StateError` if the file is
    being replayed or was exchanged, `SinkError` if the outputs cannot be written behind what is there.
    """
    if found := list(_mistakes(spec, context, letters)):
        raise ConfigError(found)
    with ExitStack() as opened:
        marked = hold(context.fs, letters)
        opened.callback(marked.lock.close)
        partitioned = getattr(spec.source.options, "partitioned", False)
        source = LetterSource(context.fs, letters, marked.mark.done, code, partitioned)
        kept = spec.file.checkpoint.keep if spec.file.checkpoint else 0
        context = replace(context, resuming=True, commits_kept=kept)
        pipeline = build_pipeline(spec, registry, context, source=source)
        opened.callback(pipeline.close, StateError("not started"))
        _check_fields(spec, pipeline.parts)
        marked.begin(pipeline.parts, _into(spec, context))
        pipeline.commits = Ending(marked, source, pipeline.parts)
        opened.pop_all()
    return pipeline, source


def _mistakes(spec: PipelineSpec, context: Context, letters: Path) -> Iterator[Finding]:
    """What of the pipeline would lose or mix up events."""
    dead_letter = spec.file.dead_letter
    if dead_letter is None:
        text = "expected a file for the events that are refused again, found none"
        yield problem(spec.tree, (), f"dead_letter: {text}")
    elif context.path(dead_letter.path).resolve() == letters.resolve():
        text = f"expected another file than that to replay, found {dead_letter.path}: replay a copy of it"
        yield problem(spec.tree, ("dead_letter", "path"), text)
    config = spec.file.checkpoint
    if config is not None and m.commit_numbers(context.fs.names(context.path(config.dir))):
        text = (
            "the commits in it say how long the outputs are, and the next run would cut what a replay adds; "
            "expected none: leave `checkpoint` out, and give sink and dead_letter paths of their own"
        )
        yield problem(spec.tree, ("checkpoint", "dir"), text)
    if spec.decode.component.name == "csv" and getattr(spec.decode.options, "header", None) is True:
        text = "refused events are records without the header of their file: name the columns with `header`"
        yield problem(spec.tree, ("decode",), text)


def _check_fields(spec: PipelineSpec, parts: Parts) -> None:
    """Raise `ConfigError` if a field is read that was never part of a record."""
    paths = {*parts.event.fields, *spec.file.encode.include}
    given = sorted(paths & set(getattr(spec.source.options, "record_fields", ())))
    if given:
        text = f"refused events are kept without what a source adds to them; {', '.join(given)} is read"
        raise ConfigError([problem(spec.tree, ("source",), text)])


def _into(spec: PipelineSpec, context: Context) -> Mapping[str, Any]:
    """What a replay writes to, such that another pipeline's is told from it."""
    what = described(spec)
    return {"folder": str(context.base_dir), "sink": what["sink"], "dead_letter": what["dead_letter"]}
