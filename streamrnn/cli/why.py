"""`streamrnn why`: how the state of a key came about."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from streamrnn.cli.asking import asks, client, shown
from streamrnn.cli.threads import one_thread

if TYPE_CHECKING:
    from streamrnn.replay.why import Step, Why


@click.command("why")
@click.argument("pipeline", metavar="FILE|PIPELINE")
@click.argument("key")
@click.argument("position", metavar="[BYTE|TIME]", required=False)
@click.option(
    "--input",
    "inputs",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False),
    help="Recorded data, in order; by default the files of the pipeline's source.",
)
@click.option(
    "--from-commit",
    "commit",
    type=click.Path(exists=True),
    metavar="DIR",
    help="Begin with the newest commit in DIR, or with DIR/commit-NUMBER.json.",
)
@click.option("--last", type=click.IntRange(1), default=50, show_default=True, help="Events to show at most.")
@click.option("--format", "style", type=click.Choice(["text", "json"]), default="text")
@asks
def command(
    pipeline: str,
    key: str,
    position: str | None,
    inputs: tuple[str, ...],
    commit: str | None,
    last: int,
    style: str,
    **admin: Any,
) -> None:
    """Show the events of KEY since its last reset, up to the one at a BYTE of the data, or a TIME.

    For each: the event, why the key was reset there, the mean of every gate, the size of the state, and
    the output as it was written. PIPELINE is a file, or the name of one that a daemon runs; what it has read
    is replayed here.
    """
    one_thread()
    from streamrnn.config.open import open_pipeline
    from streamrnn.config.recorded import recorded
    from streamrnn.replay.begin import begin, obey, read_commit
    from streamrnn.replay.replay import build_replay
    from streamrnn.replay.until import until
    from streamrnn.replay.why import Why, gates_of

    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
    file = pipeline if Path(pipeline).exists() else client(**admin).get("pipelines", pipeline)["file"]
    spec, registry, context = open_pipeline(file)
    replay = build_replay(recorded(spec, registry, inputs, follows=False), registry, context, spec)
    with closing(replay):
        if position:
            replay.until = until(position, replay.parts, spec.ticks_per_s)
        beginning = read_commit(Path(commit), context) if commit else None
        if beginning is not None:
            begin(beginning, replay.parts, spec, context)
        if beginning is not None or not inputs:
            obey(replay, beginning, spec, context)
        found = Why(replay, key, last, gates_of(spec, context))
        found.play()
    if style == "json":
        click.echo(json.dumps([step.data() for step in found.steps]))
    else:
        for line in _lines(found):
            click.echo(shown(line))
    if not found.steps:
        sys.exit(1)


def _lines(found: Why) -> Iterator[str]:
    if not found.steps:
        yield f"key '{found.key}' has no event there"
        return
    if found.dropped:
        yield f"{found.dropped} events since the reset are not shown; --last shows more"
    for step in found.steps:
        yield from _step(step)


def _step(step: Step) -> Iterator[str]:
    import numpy as np

    reset = f"  reset: {', '.join(step.causes)}" if step.causes else ""
    yield f"{step.steps}. record {step.number}, byte {step.position}{reset}"
    yield f"   event   {step.event}"
    if step.gates:
        means = (f"{name} {float(np.mean(gate)):.3f}" for name, gate in step.gates.items())
        yield f"   gates   {', '.join(means)}"
    sizes = []
    for name, tensor in step.state.items():
        flat = np.asarray(tensor, np.float64).reshape(-1)
        sizes.append(f"{name} {flat[0]:g}" if flat.size == 1 else f"|{name}| {np.linalg.norm(flat):.4g}")
    yield f"   state   {', '.join(sizes)}"
    yield f"   output  {step.output}"
