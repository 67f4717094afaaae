"""`streamrnn schema`: what editors check pipeline files against."""

from __future__ import annotations

import click


@click.command("schema")
@click.option("--format", "style", type=click.Choice(["json"]), default="json", help="There is one.")
def command(style: str) -> None:
    """Print the JSON Schema of pipeline files, with the options of every installed component.

    Redirect it to streamrnn.schema.json and begin a pipeline file with the line
    `# yaml-language-server: $schema=streamrnn.schema.json`.
    """
    import json

    from streamrnn.config.schema import pipeline_schema
    from streamrnn.registry import Registry

    registry = Registry()
    registry.load_all()
    click.echo(json.dumps(pipeline_schema(registry), indent=1, ensure_ascii=False))
    for reason in registry.failures.values():
        click.echo(f"{reason}; its options are left out", err=True)
