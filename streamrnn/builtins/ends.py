"""The two ends of the line that need no other package: standard streams, files and JSON Lines."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag

from streamrnn.hookspecs import Component


def _not_dash(path: str) -> str:
    if path == "-":
        raise ValueError(
            "expected the path of a file, found -; use type: stdin to read, type: stdout to write"
        )
    return path


def _one_or_many(value: Any) -> str:
    return "many" if isinstance(value, list | tuple) else "one"


FilePath = Annotated[str, Field(min_length=1), AfterValidator(_not_dash)]
FilePaths = Annotated[
    Annotated[FilePath, Tag("one")] | Annotated[list[FilePath], Field(min_length=1), Tag("many")],
    Discriminator(_one_or_many),
]
"""Told apart before they are checked, so that one mistake makes one message."""


class StdinConfig(BaseModel):
    """Events from standard input, as soon as they arrive."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class FileSourceConfig(BaseModel):
    """Events from files, one after the other, each to its end."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: FilePaths = Field(
        description="A file or a list of them, relative to the pipeline file. `*`, `?` and `[abc]` stand for "
        "parts of a name and `**` for folders in between; `[[]` is the bracket itself. Files of one pattern "
        "are read in the order of their names, patterns in the order given. The list is settled at the start."
    )


class StdoutConfig(BaseModel):
    """Outputs to standard output, batch by batch."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class FileSinkConfig(BaseModel):
    """Outputs to a file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: FilePath = Field(
        description="The file, relative to the pipeline file. Folders above it are made if they are missing."
    )
    if_exists: Literal["overwrite", "append", "refuse"] = Field(
        default="overwrite",
        description="What becomes of a file that is not empty: `overwrite` empties it at the start, "
        "`append` writes behind what it holds, `refuse` stops before the first event.",
    )


class JsonlConfig(BaseModel):
    """One JSON object per line."""

    model_config = ConfigDict(extra="forbid", frozen=True)


COMPONENTS = (
    Component(
        kind="source",
        name="stdin",
        config=StdinConfig,
        build="streamrnn.sources.stdin:build",
        summary="Events from standard input.",
        example="{}",
    ),
    Component(
        kind="source",
        name="file",
        config=FileSourceConfig,
        build="streamrnn.sources.file:build",
        summary="Events from one file or many, each to its end.",
        example="{path: data/events-*.jsonl}",
    ),
    Component(
        kind="sink",
        name="stdout",
        config=StdoutConfig,
        build="streamrnn.sinks.stdout:build",
        summary="Outputs to standard output.",
        example="{}",
    ),
    Component(
        kind="sink",
        name="file",
        config=FileSinkConfig,
        build="streamrnn.sinks.file:build",
        summary="Outputs to a file.",
        example="{path: out/scores.jsonl}",
    ),
    Component(
        kind="codec",
        name="jsonl",
        config=JsonlConfig,
        build="streamrnn.codecs.jsonl:build",
        summary="JSON Lines: one JSON object per line, UTF-8.",
        example="{}",
    ),
)
