"""`streamrnn lint`: every mistake in pipeline files, without loading a model."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from streamrnn.errors import ConfigError, Finding

if TYPE_CHECKING:
    from streamrnn.config.spec import PipelineSpec
    from streamrnn.context import Context


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
            spec, _, context = open_pipeline(file, registry)
            if spec.model.component.name == "auto" and style == "text":
                _tell_choice(file, spec, context)
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


def _tell_choice(file: str, spec: PipelineSpec, context: Context) -> None:
    """Which backend `auto` will try first."""
    from streamrnn.auto import candidates

    component, _ = next(candidates(spec.model.options, spec.given, context))  # type: ignore[arg-type]
    click.echo(f"{file}: type: auto takes {component.name}", err=True)


def _github(finding: Finding) -> str:
    """A workflow command that puts the finding beside its line."""
    text = f"{finding.path}: {finding.message}".replace("%", "%25").replace("\n", "%0A")
    return f"::error file={finding.file},line={finding.line},col={finding.column}::{text}"
