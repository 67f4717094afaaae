"""Everything streamrnn raises on purpose.

    StreamrnnError
    ├── ConfigError        a pipeline file, or what it asks for, is wrong        exit 2
    ├── OptionError        a component's options do not fit each other or files  exit 2
    ├── PluginError        a plugin is broken, missing or clashes with another   exit 2
    ├── ModelError         a model cannot be loaded, or broke its contract       exit 3
    ├── StateError         state that does not belong to this model or version   exit 3
    ├── SourceError        a source cannot be opened or read                     exit 4
    └── SinkError          a sink cannot be opened or written                    exit 4

A bad event raises none of these: it is refused with a reason and the stream goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class StreamrnnError(Exception):
    """Whatever stops a command; `exit_code` is what the process ends with."""

    exit_code = 1


@dataclass(frozen=True, order=True)
class Finding:
    """One mistake in a pipeline file: `line` and `column` count from 1, `path` is dotted."""

    file: str
    line: int
    column: int
    path: str
    message: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}:{self.column}: "
        return where + (f"{self.path}: {self.message}" if self.path else self.message)


class ConfigError(StreamrnnError):
    """All mistakes of one pipeline file at once, in `findings`."""

    exit_code = 2

    def __init__(self, findings: Sequence[Finding]) -> None:
        self.findings = tuple(sorted(findings))
        super().__init__("\n".join(str(finding) for finding in self.findings))


class OptionError(StreamrnnError):
    """What a component finds wrong with its own options, all of it at once.

    `problems` are pairs of a path inside the component's section, such as ("layers", 2, "weights"), and
    a message: what was expected, what was found, what to do.
    """

    exit_code = 2

    def __init__(self, *problems: tuple[tuple[str | int, ...], str]) -> None:
        self.problems = problems
        super().__init__("; ".join(f"{'.'.join(map(str, path))}: {text}" for path, text in problems))


class PluginError(StreamrnnError):
    """A plugin failed to load, or two provide the same component."""

    exit_code = 2


class ModelError(StreamrnnError):
    """A model's files, widths or answers are not what its description says."""

    exit_code = 3


class StateError(StreamrnnError):
    """A segment of state is damaged, of another model, or of another format."""

    exit_code = 3


class SourceError(StreamrnnError):
    """A source cannot be opened or read on."""

    exit_code = 4


class SinkError(StreamrnnError):
    """A sink cannot be opened or written on."""

    exit_code = 4
