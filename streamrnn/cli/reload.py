"""`streamrnn reload`: let a running daemon read its files again."""

from __future__ import annotations

import sys
from typing import Any

import click

from streamrnn.cli.asking import asks, client, shown


@click.command("reload")
@click.argument("pipeline", required=False)
@click.option(
    "--state",
    type=click.Choice(["keep", "reset", "warmup", "refuse"]),
    help="What becomes of states if the model has changed; else what its file says, or keep if they fit.",
)
@asks
def command(pipeline: str | None, state: str | None, **admin: Any) -> None:
    """Let the daemon go on as the file of PIPELINE says now, or all its files.

    What is wrong is refused, and goes on as it was; then it ends with 1.
    """
    path = ("pipelines", pipeline, "reload") if pipeline else ("reload",)
    told = client(**admin).post(*path, state=state)["pipelines"]
    for name, what in told.items():
        click.echo(shown(f"{name}: {what}"))
    if any(what.startswith("refused") for what in told.values()):
        sys.exit(1)
