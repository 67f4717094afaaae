"""`streamrnn run`: serve a pipeline until its source ends or a signal comes."""

from __future__ import annotations

import gc
import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import click

from streamrnn.cli.threads import one_thread


@click.command("run")
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--quiet", "-q", is_flag=True, help="No progress, no summary; refused events are still told.")
def command(file: str, quiet: bool) -> None:
    """Serve the pipeline in FILE until its source ends.

    SIGINT and SIGTERM finish what was read and end the run; a second one ends it at once.
    """
    one_thread()
    from streamrnn.cli.progress import Progress
    from streamrnn.commit.job import build_job
    from streamrnn.config.open import open_pipeline
    from streamrnn.pipeline import run

    level = logging.WARNING if quiet else logging.INFO
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
    logging.getLogger("streamrnn").setLevel(level)
    spec, registry, context = open_pipeline(file)
    stop = StopSignals()
    pipeline = build_job(spec, registry, context)
    if not quiet and pipeline.info.backend != spec.model.component.name:
        click.echo(f"type: {spec.model.component.name} takes {pipeline.info.backend}", err=True)
    with Progress(context.clock, sys.stderr, quiet, pipeline.commits) as progress, few_collections():
        run(pipeline, lambda: stop.asked, progress.told)


@contextmanager
def few_collections() -> Iterator[None]:
    """Let Python look for cycles rarely: a batch makes thousands of objects, and no cycle among them."""
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


class StopSignals:
    """Turns the first SIGINT or SIGTERM into a wish to stop, and lets the second one end the process."""

    def __init__(self) -> None:
        self.asked = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        for again in (signal.SIGINT, signal.SIGTERM):
            signal.signal(again, signal.SIG_DFL)
