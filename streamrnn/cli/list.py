"""`streamrnn list`: the installed components."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from streamrnn.cli.table import print_table
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
        print_table(HEADINGS, [(c.kind, c.name, c.summary, package) for c, package in found])
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
