"""Tables on standard output: on a terminal as wide as that, elsewhere as wide as the longest texts."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

import click


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """One line a row; plain text where standard output is no terminal."""
    rows = [tuple(row) for row in rows]
    if not sys.stdout.isatty():
        widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
        for row in (headings, *rows):
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            click.echo("  ".join(cells).rstrip())
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*headings, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*[Text(cell) for cell in row])
    Console().print(table)


def print_facts(rows: Iterable[Sequence[str]]) -> None:
    """How a model is understood, as `streamrnn.backend.Fact` has it."""
    print_table(("part", "name", "tensor", "understood as"), rows)
