"""`streamrnn candidate`: how the answers of a pipeline's candidate differ from those of its model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import click

from streamrnn.cli.asking import asks, client, shown


@click.command("candidate")
@click.argument("pipeline")
@click.option("--format", "style", type=click.Choice(["text", "json"]), default="text")
@asks
def command(pipeline: str, style: str, **admin: Any) -> None:
    """Show how the candidate of a running PIPELINE compares with its model, and for which keys most."""
    found = client(**admin).get("pipelines", pipeline)["candidate"]
    if style == "json":
        click.echo(json.dumps(found, indent=1))
        return
    if found is None:
        raise click.UsageError(f"{pipeline} has no section `candidate`, or serves nothing now")
    for line in compared(found, found["share"]):
        click.echo(shown(line))


def compared(found: Mapping[str, Any], share: float) -> Iterator[str]:
    """A tally of two models' answers, in words; the candidate answers for `share` of the keys."""
    if found["error"]:
        yield f"the candidate serves no more: {found['error']}"
    yield (
        f"{found['events']:,} events compared, {found['differing']:,} differ, "
        f"{found['apart']:,} answered by one alone"
    )
    yield f"the candidate answers for {share:.2%} of the keys, {found['answered']:,} events so far"
    yield f"largest distance {found['largest']:.6g}"
    for key, distance in found["worst"].items():
        yield f"{distance:.6g}\t{key}"
