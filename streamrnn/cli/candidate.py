"""`streamrnn candidate`: how the answers of a pipeline's candidate differ from those of its model."""

from __future__ import annotations

import json
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
    if found["error"]:
        click.echo(shown(f"it serves no more: {found['error']}"))
    click.echo(f"{found['events']:,} events compared, {found['differing']:,} differ, "
               f"{found['apart']:,} answered by one alone")  # fmt: skip
    click.echo(f"it answers for {found['share']:.2%} of the keys, {found['answered']:,} events so far")
    click.echo(f"largest distance {found['largest']:.6g}")
    for key, distance in found["worst"].items():
        click.echo(shown(f"{distance:.6g}\t{key}"))
