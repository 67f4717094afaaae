"""`streamrnn dry-run`: everything that `run` does before its first event, and what came of it."""

from __future__ import annotations

import logging
import sys

import click

from streamrnn.cli.threads import one_thread


@click.command("dry-run")
@click.argument("file", type=click.Path(dir_okay=False))
def command(file: str) -> None:
    """Load the model of the pipeline in FILE, probe it, and show how it is understood and served.

    Neither the source nor the sink is opened, and nothing is written.
    """
    one_thread()
    from dataclasses import astuple, replace

    from streamrnn.cli.table import print_facts
    from streamrnn.config.open import open_pipeline
    from streamrnn.explain import explain_loaded, memory_fact
    from streamrnn.testing import built_unread

    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
    spec, registry, context = open_pipeline(file)
    parts = built_unread(spec, registry, context).parts
    try:
        facts = explain_loaded(spec, context, parts.backend, parts.verdict)
        if parts.candidate is not None and spec.candidate is not None:
            beside = replace(spec, model=spec.candidate)
            found = explain_loaded(beside, context, parts.candidate.backend, parts.candidate.verdict)
            facts += [replace(fact, part=f"candidate {fact.part}") for fact in found]
        facts.append(memory_fact(parts.shards))
    finally:
        for backend in parts.backends:
            backend.close()
    print_facts(map(astuple, facts))
