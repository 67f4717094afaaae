"""`streamrnn dlq`: a file of refused events, which `dead_letter` names."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from streamrnn.cli.run import WAITED_FOR
from streamrnn.cli.stopping import Stopping
from streamrnn.refusals import CODES, OTHER

if TYPE_CHECKING:
    from streamrnn.letters.reading import Letter
    from streamrnn.letters.source import LetterSource

_F = TypeVar("_F", bound=Callable[..., Any])
_BYTES_SHOWN = 4096


@click.group("dlq")
def command() -> None:
    """Look into FILE, the `dead_letter` of a pipeline, or serve what is in it once more."""


def _of_a_file(function: _F) -> _F:
    """The file, and which of its events."""
    codes = click.Choice([*CODES, OTHER])
    function = click.option("--code", type=codes, help="Only events that were refused for this.")(function)
    return click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))(function)


@command.command("ls")
@_of_a_file
def ls(file: Path, code: str | None) -> None:
    """How many events were refused, by code, source and partition, and where the first and the last stood."""
    from streamrnn.cli.table import print_table

    groups: dict[tuple[str, str, str], tuple[int, Letter, Letter]] = {}
    for letter in _letters(file, code):
        key = letter.code, letter.source, letter.partition
        count, first, _ = groups.get(key, (0, letter, letter))
        groups[key] = count + 1, first, letter
    headings = ("events", "code", "source", "partition", "first", "last")
    rows = [
        (str(count), *map(_printable, key), str(first.position), str(last.position))
        for key, (count, first, last) in sorted(groups.items(), key=lambda each: (-each[1][0], each[0]))
    ]
    print_table(headings, rows)
    click.echo(f"{sum(count for count, _, _ in groups.values()):,} refused events", err=True)


@command.command("show")
@_of_a_file
@click.option("--limit", type=click.IntRange(min=1), default=10, show_default=True, help="How many.")
def show(file: Path, code: str | None, limit: int) -> None:
    """Events in full: where each stood, why it was refused, its bytes, in hexadecimal if they are no text.

    Of more than 4,096 bytes the beginning is shown.
    """
    for index, letter in enumerate(islice(_letters(file, code), limit)):
        if index:
            click.echo()
        for name, value in _shown(letter):
            click.echo(f"{name:<10}{value}")


@command.command("replay")
@_of_a_file
@click.option("--through", "pipeline", required=True, metavar="PIPELINE", type=click.Path(dir_okay=False),
              help="The file of the mended pipeline; its source is not opened.")  # fmt: skip
def replay(file: Path, code: str | None, pipeline: str) -> None:
    """Serve the events in FILE through a mended pipeline, in their order, once.

    Outputs go to its sink, behind what that holds already, and what is refused again to its `dead_letter`.
    Keys begin with nothing. FILE.replayed keeps what was replayed: a second replay takes what came since, or
    what has another code; one that was stopped or killed is taken back by the next, and done anew.
    """
    from streamrnn.cli.threads import one_thread

    with Stopping(early_code=130) as stop:
        one_thread()
        done = _replay(file, code, pipeline, stop)
    if not done:
        click.echo("stopped; nothing of it counts, the next replay takes it back and begins anew", err=True)
        sys.exit(130)


def _replay(file: Path, code: str | None, through: str, stop: Stopping) -> bool:
    """Whether all of it was served."""
    from streamrnn.config.open import open_pipeline
    from streamrnn.deadline import deadline
    from streamrnn.letters.replay import build_letters
    from streamrnn.pipeline import run

    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
    spec, registry, context = open_pipeline(through)
    stop.grace_s = spec.file.limits.grace_s
    pipeline, source = build_letters(spec, registry, context, file.absolute(), code)
    stop.waiting = lambda: WAITED_FOR[pipeline.doing]
    stop.has_begun = True
    refused = 0

    def told(report: Any) -> None:
        nonlocal refused
        refused += len(report.rejected)

    with deadline(pipeline):
        run(pipeline, lambda: stop.asked, told)
    if source.has_ended:
        for line in _outcome(source, refused):
            click.echo(line, err=True)
    return source.has_ended


def _outcome(source: LetterSource, refused: int) -> Iterator[str]:
    count = source.served.total()
    yield f"{count:,} events replayed, {count - refused:,} of them served, {refused:,} refused again"
    if source.again:
        yield f"{source.again:,} events left out, which an earlier replay took"
    if source.cut:
        told = "of which only the beginning is there: take them from their source"
        yield f"{source.cut:,} events left out, {told}"


def _letters(file: Path, code: str | None) -> Iterator[Letter]:
    from streamrnn.context import FileSystem
    from streamrnn.letters.reading import read

    return (letter for _, letter in read(FileSystem(), file) if code in (None, letter.code))


def _shown(letter: Letter) -> Iterator[tuple[str, str]]:
    record = letter.record
    yield "source", _printable(letter.source)
    yield "partition", _printable(letter.partition)
    yield "record", f"{letter.number}, at {letter.position}"
    yield "code", letter.code
    yield "reason", _printable(letter.reason)
    size = f"{len(record):,} bytes" if letter.is_whole else f"the first {len(record):,} bytes"
    yield "bytes", size if len(record) <= _BYTES_SHOWN else f"{size}, the first {_BYTES_SHOWN:,} of them:"
    shown = record[:_BYTES_SHOWN]
    text = None if letter.raw is None else _printable(shown.decode(errors="ignore"))
    yield ("hex", shown.hex(" ")) if text is None else ("text", text)


def _printable(text: str) -> str:
    """On one line, without what would steer a terminal."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)
