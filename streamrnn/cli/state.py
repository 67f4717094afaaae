"""`streamrnn state`: the commits of a pipeline, without its model."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from streamrnn.commit.keys import KeyStates

_F = TypeVar("_F", bound=Callable[..., Any])


@click.group("state")
def command() -> None:
    """Look into DIR, the `checkpoint.dir` of a pipeline. Nothing in it is changed."""


def _of_a_commit(function: _F) -> _F:
    """The folder, and which commit in it."""
    function = click.option("--commit", type=int, help="Number of the commit; the newest if left out.")(
        function
    )
    return click.argument("folder", metavar="DIR", type=click.Path(file_okay=False, exists=True))(function)


_of_a_partition = click.option("--partition", help="Which of the source's partitions, if it has several.")


@command.command("ls")
@_of_a_commit
def ls(folder: str, commit: int | None) -> None:
    """The keys, and for each the events since its last reset, the number of its last event and its time."""
    found = _load(folder, commit)
    partitioned = any(states.partition for states in found)
    click.echo("\t".join([*["partition"] * partitioned, "key", "steps", "sequence", "last_time"]))
    for states in found:
        for key in sorted(states.rows):
            facts = states.facts(key)
            named = [*[states.partition] * partitioned, json.dumps(key)]
            click.echo("\t".join([*named, *(str(facts[n]) for n in ("steps", "sequence", "last_time"))]))


@command.command("get")
@_of_a_commit
@_of_a_partition
@click.argument("key")
def get(folder: str, commit: int | None, partition: str | None, key: str) -> None:
    """The model's state of KEY, by tensor."""
    click.echo(json.dumps(_load_partition(folder, commit, partition).state(key)))


@command.command("inspect")
@_of_a_commit
@_of_a_partition
@click.argument("key")
def inspect(folder: str, commit: int | None, partition: str | None, key: str) -> None:
    """What is known of KEY beside its state: last event, last reset, and resets its next event will show."""
    states = _load_partition(folder, commit, partition)
    for name, value in {"commit": states.number, **states.facts(key)}.items():
        click.echo(f"{name}\t{json.dumps(value, default=repr)}")


@command.command("verify")
@click.argument("folder", metavar="DIR", type=click.Path(file_okay=False, exists=True))
def verify(folder: str) -> None:
    """Whether every commit is as it was written; exit 1 if one is not."""
    from streamrnn.commit.keys import verified
    from streamrnn.context import FileSystem

    found = list(verified(FileSystem(), Path(folder)))
    for number, wrong in found:
        click.echo(f"commit {number}\t{wrong or 'whole'}")
    if not found:
        click.echo(f"{folder}: no commits", err=True)
    if not found or any(wrong for _, wrong in found):
        sys.exit(1)


@command.command("export")
@_of_a_commit
def export(folder: str, commit: int | None) -> None:
    """All keys as JSON lines, sorted: equal for two runs that served the same events."""
    from streamrnn.commit.keys import exported

    for record in exported(_load(folder, commit)):
        click.echo(json.dumps(record, sort_keys=True, default=repr))


@command.command("diff")
@click.argument("folder", metavar="DIR", type=click.Path(file_okay=False, exists=True))
@click.argument("before", type=int)
@click.argument("after", type=int)
def diff(folder: str, before: int, after: int) -> None:
    """Keys that came, went or changed between the commits BEFORE and AFTER, with the tensors that moved."""
    from streamrnn.commit.keys import moved

    for partition, key, what, tensors in moved(_load(folder, before), _load(folder, after)):
        click.echo("\t".join([*[partition] * bool(partition), json.dumps(key), what, *tensors]))


def _load_partition(folder: str, commit: int | None, partition: str | None) -> KeyStates:
    from streamrnn.commit.keys import load_partition
    from streamrnn.context import FileSystem

    return load_partition(FileSystem(), Path(folder), commit, partition)


def _load(folder: str, commit: int | None) -> list[KeyStates]:
    from streamrnn.commit.keys import load
    from streamrnn.context import FileSystem

    return load(FileSystem(), Path(folder), commit)
