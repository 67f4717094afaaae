"""Draws docs/first_run.svg: a pipeline file, and a terminal in which it is linted, tested and run."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.syntax import Syntax
from rich.text import Text

ROOT = Path(__file__).resolve().parent.parent
PIPELINE = "pipelines/next_letter.yaml"
COMMANDS = (["lint", PIPELINE], ["test", PIPELINE], ["run", PIPELINE])


def streamrnn(arguments: list[str]) -> str:
    """What a command prints, both streams as on a terminal."""
    command = [sys.executable, "-m", "streamrnn", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True, text=True
    )
    return done.stdout.rstrip()


def yaml_lines() -> str:
    """The pipeline without its comments and its tests."""
    text = (ROOT / PIPELINE).read_text().split("\ntests:")[0]
    return "\n".join(line for line in text.splitlines() if not line.startswith("#"))


def main() -> None:
    """Run the commands for real and write the picture."""
    console = Console(record=True, width=92, file=io.StringIO(), force_terminal=True)
    console.print(Text(f"$ cat {PIPELINE}", style="bold green"))
    console.print(Syntax(yaml_lines(), "yaml", theme="nord", background_color="default"))
    for arguments in COMMANDS:
        console.print(Text(f"\n$ streamrnn {' '.join(arguments)}", style="bold green"))
        console.print(Text(streamrnn(arguments)))
    target = ROOT / "docs" / "first_run.svg"
    target.write_text(console.export_svg(title="streamrnn"))
    print(f"wrote {target.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
