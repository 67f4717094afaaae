"""The two ends of the line that need no other package: standard streams and files."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from streamrnn.builtins.logs import Durable
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


class StdinConfig(Durable):
    """Events from standard input, as soon as they arrive."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    operational: ClassVar[frozenset[str]] = frozenset({"keep_bytes", "keep_s"})

    durability: Literal["memory", "log"] = Field(
        default="memory",
        description="`log` writes what a pipe gives to a log on the disk before it is served, so that it "
        "can be served again after a crash.",
    )
    log: str | None = Field(
        default=None,
        min_length=1,
        description="With `durability: log`: the folder of the log, relative to the pipeline file; made if "
        "it is missing.",
    )
    keep_bytes: int | None = Field(
        default=1 << 30,
        ge=0,
        description="With `durability: log`: bytes beyond which what is served is removed.",
    )
    keep_s: float | None = Field(
        default=None,
        gt=0,
        description="With `durability: log`: seconds after which what is served is removed.",
    )

    @property
    def checkpoint_note(self) -> str | None:
        """What commits cannot do for it."""
        if self.durability == "log":
            return "what a pipe holds when a run dies is lost; what was taken from it is in the log"
        return (
            "a pipe cannot be read again: what came after the last commit of a run that dies is not served; "
            "a file as standard input is gone on with, and durability: log keeps what a pipe gave"
        )


class FileSourceConfig(BaseModel):
    """Events from files: one after the other, each to its end, or followed as they grow."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    path: FilePaths = Field(
        description="A file or a list of them, relative to the pipeline file. `*`, `?` and `[abc]` stand for "
        "parts of a name and `**` for folders in between; `[[]` is the bracket itself. Files of one pattern "
        "are read in the order of their names, patterns in the order given. The list is settled at the "
        "start, unless files are followed."
    )
    compression: Literal["auto", "none", "gzip"] = Field(
        default="auto",
        description="How files are compressed; `auto` takes those whose name ends in `.gz` for gzip. "
        "Positions are those of the decompressed bytes.",
    )
    max_ratio: float = Field(
        default=1000,
        gt=1,
        description="How many times its size a gzip file may expand to, beyond its first MiB; a file that "
        "exceeds it stops the pipeline.",
    )
    follow: bool = Field(
        default=False,
        description="Whether to wait for more at the end of a file, and for files that do not exist yet; the "
        "pipeline then runs until it is stopped. Files that are renamed, replaced, cut or rewritten are told "
        "apart; new files of a pattern are begun in the order of their names.",
    )
    start: Literal["start", "end"] = Field(
        default="start",
        alias="from",
        description="With `follow`, where to begin in the files that exist: at the `start`, or with the line "
        "in which the file ends. Files that come later are read from their start.",
    )
    rotate_wait_s: float = Field(
        default=1.0,
        ge=0,
        le=3600,
        description="With `follow`, for how many seconds a file that was replaced must not have grown before "
        "the file that took its name is read; a deleted one is waited for as long.",
    )

    @property
    def again(self) -> FileSourceConfig:
        """See docs/plugins.md."""
        return self.model_copy(update={"start": "start"})

    if_lost: Literal["refuse", "skip"] = Field(
        default="refuse",
        description="With `follow` and `checkpoint`, what to do if a file that was being read is gone at the "
        "next start, and no copy of it is there: `refuse` to start, or `skip` the rest of it.",
    )
    operational: ClassVar[frozenset[str]] = frozenset({"if_lost", "rotate_wait_s"})
    """Options that do not decide what state and positions mean."""

    @model_validator(mode="after")
    def _fits_together(self) -> FileSourceConfig:
        if not self.follow:
            if self.start == "end":
                raise ValueError("expected follow: true beside from: end, found follow: false")
            return self
        packed = [path for path in self.paths if self.is_compressed(path)]
        if packed:
            raise ValueError(
                f"expected plain text to follow, found gzip: {packed[0]}; what is missing at the end of a "
                "gzip file cannot be told from what is still to come, so set follow to false"
            )
        return self

    @property
    def paths(self) -> list[str]:
        """The paths and patterns, be it one or many."""
        return [self.path] if isinstance(self.path, str) else self.path

    def is_compressed(self, name: str) -> bool:
        """Whether a file of this name is to be decompressed."""
        return self.compression == "gzip" or (self.compression == "auto" and name.endswith(".gz"))


class StdoutConfig(BaseModel):
    """Outputs to standard output, batch by batch."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    checkpoint_note: ClassVar[str] = (
        "what was written cannot be taken back: what followed the last commit of a run that dies comes again"
    )


class RotationConfig(BaseModel):
    """When a file of outputs is full, and how many are kept."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_bytes: int | None = Field(
        default=None,
        ge=1,
        description="Size a file does not exceed, except with a single record that is longer.",
    )
    max_age_s: float | None = Field(
        default=None,
        gt=0,
        description="Seconds from a file's first record after which the next one begins a new file.",
    )
    keep: int = Field(ge=1, le=10_000, description="How many full files stay; older ones are deleted.")

    @model_validator(mode="after")
    def _has_a_condition(self) -> RotationConfig:
        if self.max_bytes is None and self.max_age_s is None:
            raise ValueError("expected max_bytes, max_age_s or both, found neither")
        return self


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
    rotate: RotationConfig | None = Field(
        default=None,
        description="When to begin a new file, between two records: `max_bytes` and `max_age_s` say when one "
        "is full, `keep` how many full ones stay. The last full file has `.1` behind its name, the one "
        "before it `.2`; with `checkpoint` a full file keeps its number, and the first is `.0000000001`. "
        "Without `rotate` one file takes everything.",
    )

    @property
    def written_paths(self) -> tuple[str, ...]:
        """See docs/plugins.md."""
        return (self.path,)


COMPONENTS = (
    Component(
        kind="source",
        name="stdin",
        config=StdinConfig,
        build="streamrnn.sources.stdin:build",
        summary="events from standard input",
        example="{}",
    ),
    Component(
        kind="source",
        name="file",
        config=FileSourceConfig,
        build="streamrnn.sources.file:build",
        summary="events from one file or many, each to its end or followed as it grows",
        example="{path: data/events-*.jsonl}",
    ),
    Component(
        kind="sink",
        name="stdout",
        config=StdoutConfig,
        build="streamrnn.sinks.stdout:build",
        summary="outputs to standard output",
        example="{}",
    ),
    Component(
        kind="sink",
        name="file",
        config=FileSinkConfig,
        build="streamrnn.sinks.file:build",
        summary="outputs to a file",
        example="{path: out/scores.jsonl}",
    ),
)
