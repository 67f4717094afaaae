"""`streamrnn test`: the examples in pipeline files, run."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from streamrnn.errors import StreamrnnError
from streamrnn.pipeline_tests import pipeline_files, read_cases, run_case

if TYPE_CHECKING:
    from streamrnn.pipeline_tests import Case


@dataclass
class Tally:
    """What has been counted so far; `exit_code` is the highest of those that apply."""

    passed: int = 0
    failed: int = 0
    without: int = 0
    exit_code: int = 0

    def fail(self, title: str, lines: Sequence[str], exit_code: int) -> None:
        """One more failure, with what is to be said of it."""
        click.echo(f"FAIL {title}")
        for line in lines:
            click.echo(f"     {line}")
        self.failed += 1
        self.exit_code = max(self.exit_code, exit_code)

    def __str__(self) -> str:
        files = "file" if self.without == 1 else "files"
        without = f", {self.without} {files} without tests" if self.without else ""
        return f"{self.passed} passed, {self.failed} failed{without}"


@click.command("test")
@click.argument("paths", nargs=-1, type=click.Path(exists=True, path_type=Path), metavar="[FILE|FOLDER]...")
@click.option("-k", "part", default="", metavar="TEXT", help="Only tests with this in their name.")
def command(paths: tuple[Path, ...], part: str) -> None:
    """Run the `tests:` of pipeline files.

    Of a folder, all *.yaml files in it and below; without arguments, those in the current folder. Each test
    gets a pipeline of its own, and nothing is read or written but the model.

    Ends with 1 if a test fails, 2 if a file is wrong or cannot be read, 3 if a model cannot be loaded; the
    highest that applies.
    """
    tally, chosen = Tally(), 0
    for file in _files(paths):
        try:
            cases = read_cases(file)
        except StreamrnnError as error:
            tally.fail(str(file), str(error).splitlines(), error.exit_code)
            continue
        tally.without += not cases
        for case in cases:
            if part in case.test.name:
                chosen += 1
                _run(case, tally)
    if part and not chosen and not tally.failed:
        raise click.UsageError(f"no test has '{part}' in its name")
    click.echo(str(tally))
    sys.exit(tally.exit_code)


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    """The files that the arguments mean; each once, in their order."""
    listed = (
        [file for path in paths for file in pipeline_files(path)] if paths else sorted(Path().glob("*.yaml"))
    )
    if not listed:
        raise click.UsageError("there is no *.yaml file" + ("" if paths else "; name a file or a folder"))
    yield from dict.fromkeys(listed)


def _run(case: Case, tally: Tally) -> None:
    try:
        mismatches = run_case(case)
    except StreamrnnError as error:
        tally.fail(str(case), str(error).splitlines(), error.exit_code)
        return
    if mismatches:
        tally.fail(str(case), mismatches, 1)
        return
    click.echo(f"ok   {case}")
    tally.passed += 1
