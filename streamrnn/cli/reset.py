"""`streamrnn reset`: let keys of a running pipeline begin anew."""

from __future__ import annotations

from typing import Any

import click

from streamrnn.cli.asking import asks, client


@click.command("reset")
@click.argument("pipeline")
@click.argument("keys", metavar="[KEY]...", nargs=-1)
@click.option("--glob", "pattern", help="All keys like this: * is any text, ? any one character.")
@click.option("--all", "every", is_flag=True, help="All keys.")
@click.option("--partition", help="Only in this one of the source's partitions.")
@asks
def command(
    pipeline: str,
    keys: tuple[str, ...],
    pattern: str | None,
    every: bool,
    partition: str | None,
    **admin: Any,
) -> None:
    """Let keys of the running PIPELINE begin anew: KEY..., or all of --glob, or --all.

    The next event of each finds the state the model begins with, and has `control` among its causes. Of a
    pipeline that does not run, `streamrnn state reset` does the same.
    """
    if bool(keys) + bool(pattern) + every != 1:
        raise click.UsageError("expected KEY..., --glob or --all, and only one of them")
    found = client(**admin).post(
        "pipelines", pipeline, "reset", keys=list(keys) or None, glob=pattern, all=every or None,
        partition=partition,
    )  # fmt: skip
    click.echo(f"{found['keys']} keys reset")
