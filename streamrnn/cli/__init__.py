"""The command line: data on stdout, all else on stderr.

Exit codes: 0 fine, 1 findings of lint, test or verify, 2 usage or config, 3 model or state, 4 source or sink.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module

import click

from streamrnn import __version__
from streamrnn.errors import StreamrnnError

COMMANDS = {
    "run": "Serve a pipeline until its source ends.",
    "serve": "Serve many pipelines in one process, steered without a restart.",
    "top": "Show how the pipelines of a running daemon are doing.",
    "tap": "Show events and outputs of a running pipeline as they pass.",
    "reset": "Let keys of a running pipeline begin anew.",
    "reload": "Let a running daemon read its files again.",
    "candidate": "Show how the answers of a pipeline's candidate differ from those of its model.",
    "why": "Show how the state of a key came about, event by event.",
    "lint": "Find every mistake in pipeline files, without loading a model.",
    "dry-run": "Load a pipeline's model and show how it is understood, without reading an event.",
    "test": "Run the tests: blocks of pipeline files.",
    "verify": "Compare a pipeline with an offline model over the same data.",
    "replay": "Serve recorded data once more and compare what comes with what came then.",
    "dlq": "Look into a file of refused events, and serve them once more through a mended pipeline.",
    "export": "Write a pipeline's model as an ONNX file, checked against the model.",
    "state": "Look into the commits of a pipeline, reset keys, take states from one to another.",
    "list": "Show the installed components.",
    "create": "Print a pipeline file to start from.",
    "echo": "Print a pipeline file with its defaults and environment filled in.",
    "schema": "Print the JSON Schema of pipeline files, for editors.",
}


class LazyCommands(click.Group):
    """Imports a command's module when it is called, so that --help costs nothing."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which a newcomer meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The `command` of the module of that name."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"streamrnn.cli.{cmd_name.replace('-', '_')}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Summaries from the table above, without importing what they summarise."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyCommands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="streamrnn")
def cli() -> None:
    """Serve recurrent models over event streams: one state per key, one output per event."""


def main() -> None:
    """The entry point: a `StreamrnnError` becomes its message and its exit code."""
    try:
        code = cli.main(prog_name="streamrnn", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except StreamrnnError as error:
        click.echo(str(error), err=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # Whoever read our output has left; nothing may be written to it when Python shuts down.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(4)
