"""`streamrnn state`: the commits of a pipeline, without its model."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import click

if TYPE_CHECKING:
    from streamrnn.commit.keys import KeyStates

_NAMED = 5
"""So many keys are named in what is kept of a reset."""
_F = TypeVar("_F", bound=Callable[..., Any])


@click.group("state")
def command() -> None:
    """Look into DIR, the `checkpoint.dir` of a pipeline, or change what is in it.

    `reset` and `import` make a commit of their own, from which the next run goes on, in a folder that no run
    is using; source and outputs stay where they are. The others change nothing.
    """


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
    """The model's state of KEY, by tensor; "initial" or "zeros" if its next event begins anew."""
    click.echo(json.dumps(_load_partition(folder, commit, partition).state(key)))


@command.command("inspect")
@_of_a_commit
@_of_a_partition
@click.argument("key")
def inspect(folder: str, commit: int | None, partition: str | None, key: str) -> None:
    """All that is known of KEY: its state, its columns, its last event, when and why it was last reset."""
    from streamrnn.commit.inspect import inspected

    for line in inspected(_load_partition(folder, commit, partition), key):
        click.echo("\t".join(line))


@command.command("verify")
@click.argument("folder", metavar="DIR", type=click.Path(file_okay=False, exists=True))
def verify(folder: str) -> None:
    """Whether every commit is as it was written, and which were made by an edit; exit 1 if one is not."""
    from streamrnn.commit.keys import verified
    from streamrnn.context import FileSystem

    found = list(verified(FileSystem(), Path(folder)))
    for number, wrong, edited in found:
        click.echo("\t".join([f"commit {number}", wrong or "whole", *[edited] * bool(edited)]))
    if not found:
        click.echo(f"{folder}: no commits", err=True)
    if not found or any(wrong for _, wrong, _ in found):
        sys.exit(1)


@command.command("export")
@_of_a_commit
def export(folder: str, commit: int | None) -> None:
    """All keys as JSON lines, sorted, after a line that says what their states mean.

    Equal for two runs that served the same events. `import` reads it again.
    """
    from streamrnn.commit.exports import exported

    for record in exported(_load(folder, commit)):
        click.echo(json.dumps(record, sort_keys=True))


@command.command("diff")
@click.argument("folder", metavar="DIR", type=click.Path(file_okay=False, exists=True))
@click.argument("before", type=int)
@click.argument("after", type=int)
@click.option("--to", metavar="DIR", type=click.Path(file_okay=False, exists=True),
              help="The folder that AFTER is in, if not the same.")  # fmt: skip
def diff(folder: str, before: int, after: int, to: str | None) -> None:
    """Keys that came, went or changed between the commits BEFORE and AFTER.

    Of a change the tensors of the state that moved, then the columns, each set with commas. How many there
    are is told on standard error.
    """
    from collections import Counter

    from streamrnn.commit.moved import moved

    old, new = _load(folder, before), _load(to or folder, after)
    counts = Counter[str]()
    for found in moved(old, new):
        counts[found.what] += 1
        named = [*[found.partition] * bool(found.partition), json.dumps(found.key), found.what]
        detail = [",".join(found.tensors) or "-", ",".join(found.columns) or "-"]
        click.echo("\t".join([*named, *(detail if found.what == "changed" else [])]))
    keys = sum(len(states.rows) for states in new)
    told = ", ".join(f"{counts[what]} {what}" for what in ("came", "went", "changed"))
    click.echo(f"{told}; commit {after} has {keys} keys", err=True)


@command.command("reset")
@click.argument("folder", metavar="DIR", type=click.Path(file_okay=False, exists=True))
@click.argument("keys", metavar="[KEY]...", nargs=-1)
@click.option("--glob", "pattern", help="All keys like this: * is any text, ? any one character.")
@click.option("--all", "every", is_flag=True, help="All keys.")
@_of_a_partition
@click.option("--dry-run", is_flag=True, help="Only list the keys that it would reset.")
def reset(
    folder: str, keys: tuple[str, ...], pattern: str | None, every: bool, partition: str | None, dry_run: bool
) -> None:
    """Let keys begin anew: KEY..., or all of --glob, or --all.

    As a reset by a control message: the next event of each finds the state the model begins with and has
    `control` among its causes. What rules compare with (the key's largest time, the value `on_change` keeps)
    stays. A key that has no state begins anew anyway and is refused here.
    """
    from streamrnn.commit import edit
    from streamrnn.context import Context

    if bool(keys) + bool(pattern) + every != 1:
        raise click.UsageError("expected KEY..., --glob or --all, and only one of them")
    with edit.editing(Path(folder), Context()) as editing:
        states = edit.of_partition(editing.keys, partition)
        if keys:
            chosen = edit.named(states, keys)
        else:
            chosen = edit.matching(states, "*" if every else pattern or "")
        count = sum(map(len, chosen.values()))
        if dry_run:
            for key in sorted({key for found in chosen.values() for key in found}):
                click.echo(json.dumps(key))
            click.echo(f"{count} keys would be reset", err=True)
            return
        told = "--all" if every else f"--glob {pattern}" if pattern else ", ".join(keys[:_NAMED])
        why = f"reset of {count} keys: {told}{', ...' if len(keys) > _NAMED else ''}"
        asked: dict[str, Any] = {"all": True} if every else {"glob": pattern} if pattern else {"keys": keys}
        if partition is not None:
            asked["partition"] = partition
        if every:
            number = editing.reset_all(why, list(states), asked)
        else:
            number = editing.reset(chosen, why, asked)
    click.echo(f"{count} keys reset; commit {number} is what the next run goes on from")


@command.command("import")
@click.argument("folder", metavar="DIR", type=click.Path(file_okay=False, exists=True))
@click.argument("file", type=click.File("rb"))
def import_(folder: str, file: BinaryIO) -> None:
    """Take over the keys in FILE, which `export` wrote: of this folder, at whichever commit, or of another.

    A key that is there becomes what FILE says of it; one that is not is added, as if it had been heard last.
    All others stay. The pipelines must agree in model, keys, time, inputs and rules; nothing is imported if
    anything does not fit. FILE may be -, and may be cut down to some of its lines after the first.
    """
    from streamrnn.commit import exports
    from streamrnn.commit.edit import editing
    from streamrnn.context import Context
    from streamrnn.errors import StateError

    with editing(Path(folder), Context()) as held:
        lines = exports.read(file.name, file, list(held.keys.values()))
        if not lines:
            raise StateError(f"{file.name}: no key in it; nothing was imported")
        there = sum(line.key in held.keys[line.partition].rows for line in lines)
        number = held.import_lines(lines, f"import of {len(lines)} keys: {file.name}")
    added = len(lines) - there
    click.echo(f"{there} keys replaced, {added} added; commit {number} is what the next run goes on from")


def _load_partition(folder: str, commit: int | None, partition: str | None) -> KeyStates:
    from streamrnn.commit.keys import load_partition
    from streamrnn.context import FileSystem

    return load_partition(FileSystem(), Path(folder), commit, partition)


def _load(folder: str, commit: int | None) -> list[KeyStates]:
    from streamrnn.commit.keys import load
    from streamrnn.context import FileSystem

    return load(FileSystem(), Path(folder), commit)
