"""`streamrnn lint`: every mistake in pipeline files, without loading a model."""

from __future__ import annotations

import sys
from dataclasses import asdict

import click

from streamrnn.errors import ConfigError, Finding


@click.command("lint")
@click.argument("files", nargs=-1, required=True, type=click.Path(dir_okay=False))
@click.option("--format", "style", type=click.Choice(["text", "json", "github"]), default="text")
def command(files: tuple[str, ...], style: str) -> None:
    """Find every mistake in pipeline files; exit 1 if there is one."""
    from streamrnn.config.open import open_pipeline
    from streamrnn.registry import Registry

    registry, findings = Registry(), list[Finding]()
    for file in files:
        try:
            open_pipeline(file, registry)
        except ConfigError as error:
            findings += error.findings
    if style == "json":
        import json

        click.echo(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        for finding in findings:
            click.echo(str(finding) if style == "text" else _github(finding))
    if findings:
        sys.exit(1)
    if style == "text":
        click.echo(f"no mistakes in {len(files)} file{'s' * (len(files) > 1)}", err=True)


def _github(finding: Finding) -> str:
    """A workflow command that puts the finding beside its line."""
    text = f"{finding.path}: {finding.message}".replace("%", "%25").replace("\n", "%0A")
    return f"::error file={finding.file},line={finding.line},col={finding.column}::{text}"
