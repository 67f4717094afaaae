"""`streamrnn tap`: events and outputs of a running pipeline as they pass."""

from __future__ import annotations

import json
from typing import Any

import click

from streamrnn.cli.asking import asks, client, shown


@click.command("tap")
@click.argument("pipeline")
@click.option("--key", help="Only outputs of this key.")
@click.option("--per-s", type=click.FloatRange(1, 10_000), default=100, show_default=True,
              help="Events a second at most; of more, a sample.")  # fmt: skip
@click.option("--seconds", type=click.FloatRange(min=0.1), help="Stop by itself after so long.")
@click.option("--count", type=click.IntRange(min=1), help="Stop after so many events.")
@click.option("--format", "style", type=click.Choice(["text", "json"]), default="text")
@asks
def command(
    pipeline: str,
    key: str | None,
    per_s: float,
    seconds: float | None,
    count: int | None,
    style: str,
    **admin: Any,
) -> None:
    """Show events of PIPELINE and what was answered, from now on.

    The pipeline waits for nobody: what a listener is too slow to take is left out.
    """
    lines = client(**admin).lines("pipelines", pipeline, "tap", key=key, per_s=per_s, seconds=seconds)
    seen = 0
    for event in lines:
        if event is None:
            continue
        click.echo(json.dumps(event) if style == "json" else _text(event))
        seen += 1
        if count is not None and seen >= count:
            return


def _text(event: dict[str, Any]) -> str:
    answer = f"refused: {event['refused']}" if "refused" in event else event["output"]
    return shown(f"{event['event']}  ->  {answer}")
