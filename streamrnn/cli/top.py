"""`streamrnn top`: how the pipelines of a running daemon are doing, again and again."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from streamrnn.cli.asking import Client, asks, client

if TYPE_CHECKING:
    from rich.table import Table

_WIDTH = 140
_COLORS = {"serving": "green", "waiting": "red", "loading": "yellow"}


@click.command("top")
@click.option(
    "--every", "every_s", type=click.FloatRange(0.1), default=1.0, show_default=True, metavar="SECONDS"
)
@click.option("--once", is_flag=True, help="Show it once, over one such time, as where there is no terminal.")
@click.option(
    "--check", is_flag=True, help="Only end with 0 if no pipeline hangs; for a container's health check."
)
@click.option("--format", "style", type=click.Choice(["text", "json"]), default="text")
@asks
def command(every_s: float, once: bool, check: bool, style: str, **admin: Any) -> None:
    """Show for every pipeline of a running daemon what it does, how fast, and how far behind it is."""
    from streamrnn.context import SystemClock

    asked, clock = client(**admin), SystemClock()
    if check:
        asked.get("livez")
        return
    if style == "json":
        click.echo(json.dumps(asked.get("pipelines")["pipelines"], indent=1))
        return
    from rich.console import Console
    from rich.live import Live

    before, before_s = _seen(asked), clock.monotonic()
    if once or not sys.stdout.isatty():
        clock.sleep(every_s)
        Console(width=None if sys.stdout.isatty() else _WIDTH).print(
            table(_seen(asked), before, clock.monotonic() - before_s)
        )
        return
    with Live(table(before, before, 1.0), screen=True, auto_refresh=False) as live:
        while True:
            clock.sleep(every_s)
            now, now_s = _seen(asked), clock.monotonic()
            live.update(table(now, before, now_s - before_s), refresh=True)
            before, before_s = now, now_s


def _seen(asked: Client) -> dict[str, Any]:
    return {each["name"]: each for each in asked.get("pipelines")["pipelines"]}


def table(now: Mapping[str, Any], before: Mapping[str, Any], seconds: float) -> Table:
    """A row for each pipeline; rates are over the time between two looks."""
    from rich.table import Table
    from rich.text import Text

    made = Table(title="streamrnn", title_justify="left", expand=True, header_style="bold", box=None)
    made.add_column("pipeline", no_wrap=True)
    made.add_column("state", no_wrap=True)
    for heading in (
        "events/s",
        "events",
        "refused",
        "keys",
        "resets",
        "width",
        "p50 ms",
        "p99 ms",
        "behind",
        "commit",
    ):
        made.add_column(heading, justify="right", no_wrap=True)
    for name, it in now.items():
        style = _COLORS.get(it["state"], "dim")
        cells = _cells(it, before.get(name, it), seconds)
        made.add_row(Text(_safe(name)), Text(it["state"], style), *cells)
        if beside := it["candidate"]:
            made.add_row("", Text(_beside(beside), "cyan"))
        if it["error"]:
            made.add_row("", Text(_safe(it["error"].partition("\n")[0])[:70], "red"))
    return made


def _cells(it: Mapping[str, Any], before: Mapping[str, Any], seconds: float) -> list[str]:
    rate = max(0, it["events"] - before["events"]) / seconds
    width, age, commit = it["wave_width"], it["event_age_s"], it["commit"]
    return [
        f"{rate:,.0f}",
        f"{it['events']:,}",
        f"{sum(it['rejected'].values()):,}",
        f"{it['live_keys']:,}",
        f"{sum(count for cause, count in it['resets'].items() if cause != 'new'):,}",
        f"{width:.1f}" if width else "-",
        *(f"{it['serve_ms'][q]:g}" if q in it["serve_ms"] else "-" for q in ("p50", "p99")),
        _span(age) if age is not None else "-",
        f"{commit['number']}" if commit else "-",
    ]


def _beside(it: Mapping[str, Any]) -> str:
    if it["error"]:
        return f"candidate: {_safe(it['error'])[:60]}"
    return f"candidate: {it['share']:.0%} of the keys, {it['differing']:,} of {it['events']:,} differ"


def _span(seconds: float) -> str:
    """A time in its largest unit; of events that are ahead of the clock, none."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.1f} s"


def _safe(text: str) -> str:
    from streamrnn.daemon.logs import escaped

    return escaped(text)
