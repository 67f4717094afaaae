"""`streamrnn list`: the installed components."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from streamrnn.hookspecs import KINDS

if TYPE_CHECKING:
    from streamrnn.hookspecs import Component, Kind

HEADINGS = ("kind", "name", "summary", "package")


@click.command("list")
@click.argument("kind", required=False, type=click.Choice(KINDS))
@click.option("--format", "style", type=click.Choice(["text", "json"]), default="text")
def command(kind: Kind | None, style: str) -> None:
    """Show what a pipeline file can name, all of it or one KIND, and the package it comes from.

    Plugins that cannot be loaded are told on standard error.
    """
    from streamrnn.registry import Registry

    registry = Registry()
    registry.load_all()
    found = registry.components(kind)
    if style == "json":
        import json

        click.echo(json.dumps([described(*each) for each in found], indent=1, ensure_ascii=False))
    else:
        _table([(c.kind, c.name, c.summary, package) for c, package in found])
    for reason in registry.failures.values():
        click.echo(reason, err=True)


def described(component: Component, package: str) -> dict[str, Any]:
    """A component in plain data; `example` is YAML."""
    return {
        "kind": component.kind,
        "name": component.name,
        "summary": component.summary,
        "package": package,
        "example": component.example,
        "options": options(component),
    }


def options(component: Component) -> dict[str, dict[str, Any]]:
    """A component's options by the name they have in a file: description, required, default."""
    from pydantic_core import to_jsonable_python

    found = {}
    for name, field in component.config.model_fields.items():
        required = field.is_required()
        default = None if required else field.get_default(call_default_factory=True, validated_data={})
        found[field.alias or name] = {
            "description": field.description or "",
            "required": required,
            "default": to_jsonable_python(default, by_alias=True, fallback=str),
        }
    return found


def _table(rows: list[tuple[str, ...]]) -> None:
    """On a terminal as wide as that, elsewhere as wide as the longest texts."""
    if not sys.stdout.isatty():
        widths = [max(map(len, column)) for column in zip(HEADINGS, *rows, strict=True)]
        for row in (HEADINGS, *rows):
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            click.echo("  ".join(cells).rstrip())
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*HEADINGS, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*[Text(cell) for cell in row])
    Console().print(table)
