"""`streamrnn run`: serve a pipeline until its source ends or a signal comes."""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from streamrnn.cli.stopping import Stopping
from streamrnn.cli.threads import one_thread

WAITED_FOR = {
    "read": ("the source, to give what it has", 4),
    "serve": ("the model, to answer a batch", 3),
    "write": ("the sink, to take outputs", 4),
    "commit": ("a commit, to be on the disk", 3),
    "close": ("both ends, to be closed", 4),
}
"""By what a pipeline is doing, what it waits for, and the code to exit with if that never comes."""


@click.command("run")
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--quiet", "-q", is_flag=True, help="No progress, no summary; refused events are still told.")
def command(file: str, quiet: bool) -> None:
    """Serve the pipeline in FILE until its source ends.

    SIGINT and SIGTERM finish what was read and end the run, within `limits.grace_s`; a second one ends it at
    once.
    """
    with Stopping() as stop:
        one_thread()
        _run(file, quiet, stop)


def _run(file: str, quiet: bool, stop: Stopping) -> None:
    from streamrnn.cli.progress import Progress
    from streamrnn.commit.job import build_job
    from streamrnn.config.open import open_pipeline
    from streamrnn.deadline import deadline
    from streamrnn.pipeline import run

    level = logging.WARNING if quiet else logging.INFO
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
    logging.getLogger("streamrnn").setLevel(level)
    spec, registry, context = open_pipeline(file)
    stop.grace_s = spec.file.limits.grace_s
    pipeline = build_job(spec, registry, context)
    stop.waiting = lambda: WAITED_FOR[pipeline.doing]
    stop.told = lambda: pipeline.parts.watch.signalled()
    if not quiet and pipeline.info.backend != spec.model.component.name:
        click.echo(f"type: {spec.model.component.name} takes {pipeline.info.backend}", err=True)
    if not quiet and pipeline.went_on:
        click.echo(pipeline.went_on, err=True)
    stop.has_begun = True
    told = Progress(context.clock, sys.stderr, quiet, pipeline.commits, len(pipeline.parts.shards))
    with told as progress, few_interruptions(), deadline(pipeline):
        run(pipeline, lambda: stop.asked, progress.told)
    if (beside := pipeline.parts.candidate) is not None and not quiet:
        from dataclasses import asdict

        from streamrnn.cli.candidate import compared

        assert spec.file.candidate is not None
        for line in compared(asdict(beside.tally), spec.file.candidate.share):
            click.echo(line, err=True)


@contextmanager
def few_interruptions() -> Iterator[None]:
    """Let Python look for cycles rarely: a batch makes thousands of objects, and no cycle among them.

    And let a thread beside the stream keep the interpreter for a millisecond at most.
    """
    before, interval_s = gc.get_threshold(), sys.getswitchinterval()
    sys.setswitchinterval(0.001)
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        sys.setswitchinterval(interval_s)
        gc.unfreeze()
