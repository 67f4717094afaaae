"""`streamrnn lint`: every mistake in pipeline files, without loading a model."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple
from typing import TYPE_CHECKING

import click

from streamrnn.errors import ConfigError, Finding

if TYPE_CHECKING:
    from streamrnn.backend import Fact
    from streamrnn.config.spec import PipelineSpec
    from streamrnn.context import Context

_EXPLAIN = "Show how inputs, outputs and state of each model are understood."


@click.command("lint")
@click.argument("files", nargs=-1, required=True, type=click.Path(dir_okay=False))
@click.option("--format", "style", type=click.Choice(["text", "json", "github"]), default="text")
@click.option("--explain", is_flag=True, help=_EXPLAIN)
def command(files: tuple[str, ...], style: str, explain: bool) -> None:
    """Find every mistake in pipeline files; exit 1 if there is one."""
    from streamrnn.config.checks import file_problems
    from streamrnn.config.open import open_pipeline
    from streamrnn.config.problems import problem
    from streamrnn.explain import explain_file
    from streamrnn.registry import Registry

    registry, findings = Registry(), list[Finding]()
    facts: dict[str, list[Fact]] = {}
    for file in files:
        try:
            spec, _, context = open_pipeline(file, registry)
            findings += [problem(spec.tree, *found) for found in file_problems(spec, context)]
            if explain:
                facts[file] = explain_file(spec, context)
            if style == "text":
                _tell_promises(file, spec)
            if spec.model.component.name == "auto" and style == "text":
                _tell_choice(file, spec, context)
        except ConfigError as error:
            findings += error.findings
    if style == "json":
        _print_json(findings, facts if explain else None)
    else:
        _print(findings, facts, style)
    if findings:
        sys.exit(1)
    if style == "text":
        click.echo(f"no mistakes in {len(files)} file{'s' * (len(files) > 1)}", err=True)


def _print_json(findings: Sequence[Finding], facts: Mapping[str, Sequence[Fact]] | None) -> None:
    """The list of findings; with facts an object of both."""
    import json

    listed = [asdict(finding) for finding in findings]
    told = {file: [asdict(fact) for fact in found] for file, found in (facts or {}).items()}
    click.echo(json.dumps(listed if facts is None else {"findings": listed, "explained": told}, indent=1))


def _print(findings: Sequence[Finding], facts: Mapping[str, Sequence[Fact]], style: str) -> None:
    from streamrnn.cli.table import print_facts

    for finding in findings:
        click.echo(str(finding) if style == "text" else _github(finding))
    for file, found in facts.items() if style == "text" else ():
        if len(facts) > 1:
            click.echo(f"{file}:")
        print_facts([astuple(fact) for fact in found])


def _tell_promises(file: str, spec: PipelineSpec) -> None:
    """What commits cannot do for these ends, or what is lost without them."""
    asked = "checkpoint_note" if spec.file.checkpoint else "durability_note"
    for section, chosen in (("source", spec.source), ("sink", spec.sink)):
        if note := getattr(chosen.options, asked, None):
            click.echo(f"{file}: {section}: {note}", err=True)


def _tell_choice(file: str, spec: PipelineSpec, context: Context) -> None:
    """Which backend `auto` will try first."""
    from streamrnn.auto import candidates

    component, _ = next(candidates(spec.model.options, spec.given, context))  # type: ignore[arg-type]
    click.echo(f"{file}: type: auto takes {component.name}", err=True)


def _github(finding: Finding) -> str:
    """A workflow command that puts the finding beside its line."""
    text = f"{finding.path}: {finding.message}".replace("%", "%25").replace("\n", "%0A")
    return f"::error file={finding.file},line={finding.line},col={finding.column}::{text}"
