"""The options of the `log` source and sink."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from streamrnn.hookspecs import Component
from streamrnn.log.rolling import Rolling

_PARTITION = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]


def _moment(text: str) -> str:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise ValueError(f"expected a time such as 2026-01-31T12:00:00Z, found '{text}'")
    return text


class Durable(BaseModel):
    """What sources have in common that write what arrives to a log if `durability: log` asks for it."""

    log_fields: ClassVar[tuple[str, ...]] = ("log.offset", "log.partition", "log.time")
    """What the log adds to a record."""

    if TYPE_CHECKING:  # each source describes them in its own words
        durability: Literal["memory", "log"]
        log: str | None

    @model_validator(mode="after")
    def _log_is_where_it_is_asked_for(self) -> Self:
        if (self.durability == "log") != (self.log is not None):
            found = "durability: memory" if self.log else "no log"
            raise ValueError(f"expected durability: log and log: DIR together, found {found}")
        return self

    @property
    def record_fields(self) -> tuple[str, ...]:
        """See docs/plugins.md."""
        return self.log_fields if self.durability == "log" else ()

    @property
    def written_paths(self) -> tuple[str, ...]:
        """See docs/plugins.md."""
        return (self.log,) if self.log else ()

    @property
    def needs_checkpoint(self) -> tuple[str, str] | None:
        """See `LogSinkConfig.needs_checkpoint`."""
        if self.durability == "memory":
            return None
        return "durability", "every run would serve the whole log anew; add checkpoint: {dir: ...}"


class From(BaseModel):
    """An offset or a time to begin at."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    offset: int | None = Field(None, ge=0, description="The offset of the first record, in each partition.")
    time: Annotated[str, AfterValidator(_moment)] | None = Field(
        None, description="A time with its zone, such as 2026-01-31T12:00:00Z."
    )

    @model_validator(mode="after")
    def _is_one(self) -> From:
        if (self.offset is None) == (self.time is None):
            raise ValueError("expected offset or time, found " + ("neither" if self.time is None else "both"))
        return self

    @property
    def time_us(self) -> int:
        """Microseconds since 1970 of `time`."""
        assert self.time is not None
        return round(datetime.fromisoformat(self.time).timestamp() * 1_000_000)


def _named_or_at(value: Any) -> str:
    return "named" if isinstance(value, str) else "at"


class LogSourceConfig(BaseModel):
    """Events from the partitions of a log."""

    partitioned: ClassVar[bool] = True
    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str = Field(min_length=1, description="The folder of the log, relative to the pipeline file.")
    partitions: list[_PARTITION] | None = Field(
        default=None,
        min_length=1,
        description="Which partitions to read, in this order; all of them if left out, numbers first.",
    )
    follow: bool = Field(
        default=False,
        description="Whether to wait for more, and for new partitions; the pipeline then runs until it is "
        "stopped. Otherwise each partition is read to its end, one after the other.",
    )
    start: Annotated[
        Annotated[Literal["earliest", "latest"], Tag("named")] | Annotated[From, Tag("at")],
        Discriminator(_named_or_at),
    ] = Field(
        default="earliest",
        description="Where to begin without a commit: at the first record there is, behind the last one, at "
        "`{offset: 7}`, or `{time: ...}`, with the first file that was written to since then.",
    )
    records: Literal["plain", "enveloped"] = Field(
        default="plain",
        description="What lines are: records, or as in an ingest log, "
        '`{"time": ..., "value": record}`. A `start` at a time then goes by the time in the lines.',
    )

    @property
    def again(self) -> LogSourceConfig:
        """See docs/plugins.md."""
        return self if self.start != "latest" else self.model_copy(update={"start": "earliest"})

    @property
    def record_fields(self) -> tuple[str, ...]:
        """See docs/plugins.md."""
        own = ("log.offset", "log.partition")
        return own if self.records == "plain" else (*own, "log.time", "log.producer", "log.seq")


class LogSinkConfig(BaseModel):
    """Outputs to a log."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    operational: ClassVar[frozenset[str]] = frozenset(
        {"emit", "segment_bytes", "segment_s", "keep_bytes", "keep_s"}
    )

    path: str = Field(
        min_length=1,
        description="The folder of the log, relative to the pipeline file; made if it is missing.",
    )
    emit: Literal["immediate", "committed"] = Field(
        default="immediate",
        description="What readers are to have: outputs at once, or only those that a commit holds. Without "
        "`checkpoint` there are no commits to wait for.",
    )
    segment_bytes: int = Field(default=64 << 20, ge=1, description="Size at which the next file is begun.")
    segment_s: float | None = Field(
        default=None, gt=0, description="Seconds from a file's first record after which the next is begun."
    )
    keep_bytes: int | None = Field(
        default=None, ge=0, description="Bytes of each partition beyond which its oldest files are removed."
    )
    keep_s: float | None = Field(
        default=None, gt=0, description="Seconds after its last record at which a full file is removed."
    )

    @property
    def written_paths(self) -> tuple[str, ...]:
        """See docs/plugins.md."""
        return (self.path,)

    @property
    def needs_checkpoint(self) -> tuple[str, str] | None:
        """The option that makes no sense without commits, and why."""
        if self.emit == "immediate" and self.keep_bytes is self.keep_s is None:
            return None
        option = "emit" if self.emit == "committed" else "keep_s" if self.keep_bytes is None else "keep_bytes"
        return option, "it goes by what is committed; add checkpoint: {dir: ...}, or leave it out"

    def rolling(self) -> Rolling:
        """When files are full, and which stay."""
        return Rolling(self.segment_bytes, self.segment_s, self.keep_bytes, self.keep_s)


COMPONENTS = (
    Component(
        kind="source",
        name="log",
        config=LogSourceConfig,
        build="streamrnn.sources.log:build",
        summary="events from a log: folders of partitions, each of files of lines",
        example="{path: data/orders}",
    ),
    Component(
        kind="sink",
        name="log",
        config=LogSinkConfig,
        build="streamrnn.sinks.log:build",
        summary="outputs to a log, partition by partition",
        example="{path: out/scores}",
    ),
)
