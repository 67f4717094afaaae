"""`streamrnn replay`: recorded data through a pipeline once more."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from streamrnn.cli.threads import one_thread

if TYPE_CHECKING:
    from streamrnn.config.spec import PipelineSpec
    from streamrnn.context import Context
    from streamrnn.replay.replay import Replay

_FILE = click.Path(exists=True, dir_okay=False)


@click.command("replay")
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--input", "inputs", multiple=True, type=_FILE,
              help="Recorded data, in order; by default the files of the pipeline's source.")  # fmt: skip
@click.option("--outputs", type=_FILE,
              help="What came of it then; by default the file of the pipeline's sink.")  # fmt: skip
@click.option(
    "--until",
    "last",
    metavar="BYTE|TIME",
    help="The last event: the byte at which its record stands (NAME:BYTE where there are several files), or "
    "its time, as 2026-01-31T12:00:00Z or, as events have it, time:1769860800.",
)
@click.option("--from-commit", "commit", type=click.Path(exists=True), metavar="DIR",
              help="Begin with the newest commit in DIR, or with DIR/commit-NUMBER.json.")  # fmt: skip
@click.option("--tolerance", type=click.FloatRange(min=0),
              help="Compare values; numbers may differ by this times (1 + their size).")  # fmt: skip
@click.option("--print", "prints", is_flag=True, help="Write the outputs of the replay to standard output.")
@click.option("--inspect", "key", help="Show what is known of this key at the end, as `state inspect` does.")
@click.option("--format", "style", type=click.Choice(["text", "json"]), default="text")
def command(
    file: str,
    inputs: tuple[str, ...],
    outputs: str | None,
    last: str | None,
    commit: str | None,
    tolerance: float | None,
    prints: bool,
    key: str | None,
    style: str,
) -> None:
    """Serve recorded data as the pipeline in FILE would, and compare what comes with what came then.

    The pipeline's outputs, refused events and commits are not touched, its observers hear nothing, no clock
    is asked. Ends with 1 if an output differs, 2 if a file is wrong, 3 if a model or a commit is, 4 if the
    data cannot be read. The report goes to standard error with --print, so that outputs stand alone.
    """
    one_thread()
    from streamrnn.config.open import open_pipeline
    from streamrnn.config.recorded import recorded
    from streamrnn.replay.begin import begin, obey, read_commit
    from streamrnn.replay.play import play, play_beside
    from streamrnn.replay.replay import build_replay
    from streamrnn.replay.until import until

    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
    spec, registry, context = open_pipeline(file)
    path = Path(outputs) if outputs else _own_outputs(spec, context, needed=not prints and key is None)
    beginning = read_commit(Path(commit), context) if commit else None
    with ExitStack() as opened:
        replay = build_replay(recorded(spec, registry, inputs, follows=False), registry, context, spec)
        opened.callback(replay.close)
        if last:
            replay.until = until(last, replay.parts, spec.ticks_per_s)
        if beginning is not None:
            begin(beginning, replay.parts, spec, context)
        if beginning is not None or not inputs:
            obey(replay, beginning, spec, context)
        write = sys.stdout.buffer.write if prints else None
        if path is None:
            report = play(replay, write)
        else:
            before = beginning.output if beginning else None
            report = play_beside(replay, spec, context, path, before, tolerance, write)
        sys.stdout.flush()
        since = str(beginning) if beginning else "the beginning"
        told = json.dumps(report.data(), indent=1) if style == "json" else "\n".join(report.lines(since))
        click.echo(told, err=prints)
        for line in _inspected(replay, spec, key) if key is not None else ():
            click.echo(line, err=prints)
    if report.comparison.different:
        sys.exit(1)


def _own_outputs(spec: PipelineSpec, context: Context, needed: bool) -> Path | None:
    """The file that the pipeline's sink writes. Raises `SinkError` if it is `needed` and there is none."""
    from streamrnn.errors import SinkError

    path, options = None, spec.sink.options
    if spec.sink.component.name == "file" and getattr(options, "rotate", None) is None:
        path = context.path(options.path)  # type: ignore[attr-defined]
    if path is not None and context.fs.status(path) is not None:
        return path
    if not needed:
        return None
    found = f"no file {path}" if path else f"a sink of type {spec.sink.component.name}"
    raise SinkError(
        f"sink: expected a file of outputs to compare with, found {found}; name one with --outputs, or see "
        "the outputs with --print"
    )


def _inspected(replay: Replay, spec: PipelineSpec, key: str) -> Iterator[str]:
    """What is known of a key at the end, in each partition that has it."""
    from streamrnn.commit.inspect import inspected
    from streamrnn.commit.job import described
    from streamrnn.commit.keys import states_of

    shards = replay.parts.shards
    manifest = {"number": 0, "events": shards.events, "pipeline": described(spec)}
    found = states_of(manifest, ((partition, [core.snapshot()]) for partition, core in shards.items()))
    if not any(key in states.rows for states in found):
        yield f"key '{key}' has no state at the end; {len(shards)} others have"
    for states in found:
        for name, value in inspected(states, key) if key in states.rows else ():
            if name != "commit":
                yield f"{name}\t{value}"
