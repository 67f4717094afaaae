"""The fixed part of a pipeline file: its sections, in the order in which an event passes them.

What a section holds beside `type` belongs to the component that is named there.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from streamrnn.builtins.resets import LONGEST_S

Path = Annotated[str, StringConstraints(min_length=1)]

NOT_YET = ("shards", "workers")
"""Sections of later versions: refused, so that nobody believes they work."""


class Section(BaseModel):
    """Unknown options are mistakes, and a number is not a text."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, populate_by_name=True, defer_build=True
    )


class Typed(BaseModel):
    """A section whose `type` names a component; the rest are that component's options."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True, defer_build=True)
    type: str = Field(description="the name of a component; `streamrnn list` shows those installed")


class Time(Section):
    """Where an event's time is. The rules reckon in whole units of `resolution`."""

    field: Path = Field(description="path of the field")
    unit: Literal["s", "ms", "us", "ns", "rfc3339"] = Field(
        description="what the field counts since 1970 (s, ms, us, ns), or rfc3339 for a text"
    )
    resolution: Literal["s", "ms", "us", "ns"] | None = Field(
        None, description="the finest step that is told apart; the unit if left out, us for rfc3339"
    )

    TICKS: ClassVar[dict[str, int]] = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}

    @property
    def ticks_per_s(self) -> int:
        """Units of the rules' time in a second."""
        return self.TICKS[self.resolution or ("us" if self.unit == "rfc3339" else self.unit)]


class Event(Section):
    """What an event is: whose, when, and the model's inputs."""

    key: Path | list[Path] | None = Field(
        None, description="field or fields that say whose state it is; left out: one state for the stream"
    )
    time: Time | None = Field(None, description="the event's own time; rules with a time need it")
    inputs: dict[str, list[dict[str, Any]]] = Field(
        min_length=1, description="model inputs by name, each a list of features, in order"
    )


class Output(Section):
    """A model output as it is."""

    type: Literal["output"]
    output: str = Field(description="name of the model output")


class Argmax(Section):
    """The index of the largest number of an output, or its label."""

    type: Literal["argmax"]
    output: str = Field(description="name of the model output")
    labels: str | list[str] | None = Field(None, description="one per number; a text gives its characters")


class TopK(Section):
    """The k largest numbers of an output, largest first, as indices or labels; equal ones by lower index."""

    type: Literal["top_k"]
    output: str = Field(description="name of the model output")
    k: int = Field(ge=1, description="the number of entries to give")
    labels: str | list[str] | None = Field(None, description="one per number; a text gives its characters")
    scores: bool = Field(False, description="give {label, score} objects instead of labels")


class Threshold(Section):
    """True where an output is above a bound."""

    type: Literal["threshold"]
    output: str = Field(description="name of the model output")
    above: float = Field(allow_inf_nan=False, description="the number that must be exceeded")


class Meta(Section):
    """What the engine knows: the count of events since the reset, why it was reset, key, time, position."""

    type: Literal["meta"]
    name: Literal["steps", "cause", "key", "time", "position"] = Field(description="which of them")


EncodedField = Annotated[Output | Argmax | TopK | Threshold | Meta, Field(discriminator="type")]


class Encode(Typed):
    """What an output record carries; the codec's own options stand beside."""

    include: list[Path] = Field(default_factory=list, description="fields of the event to pass on")
    fields: dict[str, EncodedField] | None = Field(
        None, description="fields to make; left out: every model output under its own name"
    )


class Model(Typed):
    """What is stepped; the backend's own options stand beside."""

    context: dict[str, Annotated[int, Field(ge=1)]] = Field(
        default_factory=dict, description="by model input, how many of a key's last values to put in front"
    )


class Candidate(Section):
    """Another model that is given the same events."""

    model: Typed = Field(description="what is stepped; inputs and outputs must be those of `model`")
    share: float = Field(
        0.0, ge=0, le=1, description="part of the keys whose outputs are its own; with 0 it is only compared"
    )
    salt: str = Field("", description="other keys make up the share with another salt")
    state: Literal["keep", "reset", "warmup"] = Field(
        description="what its states begin as: those of `model`, none, or made of what the source has read"
    )
    tolerance: float = Field(
        1e-6, ge=0, description="outputs differ if numbers are further apart than this times (1 + their size)"
    )


class Limits(Section):
    """Ceilings. Every one has a name and a default."""

    max_keys: int = Field(1_000_000, ge=1, description="keys held at once")
    on_full: Literal["evict_oldest", "refuse"] = Field(
        "evict_oldest",
        description="what a new key does once there are so many: it takes the place of the one whose last "
        "event is oldest, or its events are refused",
    )
    idle_s: float | None = Field(None, gt=0, le=LONGEST_S, description="a key unheard for longer starts anew")
    max_ahead_s: float | None = Field(
        None, gt=0, le=LONGEST_S, description="how far an event may run ahead of the rest"
    )
    max_state_norm: float | None = Field(None, gt=0, description="the guard on each state tensor's norm")
    guard: Literal["keep_previous", "reset", "quarantine"] = Field(
        "keep_previous",
        description="what becomes of a key whose new state or output is not finite or over the norm: it "
        "keeps its state, begins anew, or has all events refused until it is reset",
    )
    remember_evicted: int = Field(1_000_000, ge=0, description="evicted keys that are told from new ones")
    max_key_bytes: int = Field(256, ge=1, description="longest key")
    max_value_bytes: int = Field(1024, ge=1, description="longest value that a rule keeps")
    max_line_bytes: int = Field(1_048_576, ge=16, description="longest record")
    max_batch_events: int = Field(4096, ge=1, le=65_536, description="most events served at once")
    step_deadline_s: float | None = Field(
        None,
        gt=0,
        le=86_400,
        description="longest that the model may take to answer what it is given at once",
    )
    max_memory_bytes: int | None = Field(
        None, ge=1, description="a pipeline does not start if its keys may come to need more"
    )
    disk_reserve_bytes: int = Field(
        33_554_432,
        ge=0,
        description="bytes to be left on each disk that is written to; with fewer, nothing is read",
    )
    grace_s: float = Field(
        10, gt=0, le=86_400, description="longest that a stop by SIGTERM or SIGINT may take"
    )


class State(Section):
    """Where the state of keys is while it is not asked for."""

    tiers: list[Literal["memory", "disk"]] = Field(
        ["memory"], description="`[memory, disk]` lets keys that are silent go to the disk"
    )
    hot_keys: int | None = Field(
        None, ge=4, description="with `[memory, disk]`, how many keys are in memory, those heard last"
    )
    dir: Path | None = Field(None, description="with `[memory, disk]`, a folder with room for all others")


class Duplicates(Section):
    """How an event that is read twice is known, and what becomes of it."""

    id: Path | list[Path] = Field(
        description="field or fields that no two events share, each a text or an integer"
    )
    remember: int = Field(
        100_000, ge=1, description="how many ids are known again, the last ones; each takes about 150 bytes"
    )
    then: Literal["dead_letter", "drop"] = Field(
        "dead_letter", description="drop counts it among the refused ones, and keeps nothing of it"
    )

    @property
    def paths(self) -> list[str]:
        """The fields of an id."""
        return [self.id] if isinstance(self.id, str) else self.id


class Order(Section):
    """In which order events are served, and which of them."""

    type: Literal["arrival", "event_time"] = Field(
        description="as they arrive, or by event.time as far as events may wait for earlier ones"
    )
    max_behind_s: float | None = Field(
        None,
        ge=0,
        le=LONGEST_S,
        description="for event_time: how far behind the largest time an event still finds its place; others "
        "wait as long as that",
    )
    late: Literal["accept", "dead_letter"] = Field(
        "accept", description="what becomes of an event that is further behind; accept serves it at once"
    )
    max_held_events: int = Field(100_000, ge=1, description="most events of a partition that wait")
    max_held_bytes: int = Field(1 << 26, ge=1, description="most bytes of their records")
    on_full: Literal["release", "dead_letter"] = Field(
        "release",
        description="beyond that: release serves the earliest of them before its time, dead_letter refuses "
        "the one that finds no room",
    )
    duplicates: Duplicates | None = Field(None, description="refuse events that were read before")

    ONLY_EVENT_TIME: ClassVar = ("max_behind_s", "late", "max_held_events", "max_held_bytes", "on_full")


class DeadLetter(Section):
    """Where refused events go; without it, their reasons go to the log."""

    path: Path = Field(description="a file of JSON lines: position, reason and raw bytes")


class Checkpoint(Section):
    """Where commits are kept, to go on from after a stop or a crash; without it every run begins anew."""

    dir: Path = Field(description="a folder for the commits of this pipeline alone; made if it is missing")
    every_s: float = Field(
        10, ge=0, description="seconds between two commits; 0 begins one when the last is done"
    )
    keep: int = Field(2, ge=1, le=100, description="how many commits stay, to fall back to a former one")
    model_change: Literal["refuse", "keep", "reset", "warmup"] = Field(
        "refuse",
        description="what becomes of states kept by another model: `keep` goes on with the same shapes, "
        "`reset` lets every key begin anew, `warmup` serves once more what the source has read",
    )


class Test(Section):
    """Events in, outputs out, on a clock of its own."""

    name: str = Field(description="what this example shows, in a few words")
    input: list[dict[str, Any]] = Field(
        min_length=1, description="events, or {$mark: source_end}, or {$raw: text} for a line as it is"
    )
    output: list[dict[str, Any]] | None = Field(
        None, description="what each output must contain; dotted names reach inside"
    )
    rejected: list[dict[str, Any]] | None = Field(
        None, description="refused events: {event: number from 1, reason: part of the reason}"
    )
    tolerance: float = Field(1e-6, ge=0, description="for numbers, absolute and relative")
    start: float = Field(0, description="time of the first event that has none, in the unit of event.time")
    every: float = Field(1, ge=0, description="time between events that have none, in the same unit")


class PipelineFile(Section):
    """A pipeline, from source to sink."""

    name: str | None = Field(None, description="shown in logs; the file's name if left out")
    plugins: list[str] = Field(default_factory=list, description="plugins to load beside those named by type")
    source: Typed = Field(description="where records come from, such as {type: stdin}")
    decode: Typed = Field(description="how records are read, such as {type: jsonl}")
    event: Event = Field(description="whose event it is, when it was, and the model's inputs")
    order: Order | None = Field(
        None, description="in which order events are served; as they arrive if left out"
    )
    reset: list[Typed] = Field(default_factory=list, description="when a key forgets")
    model: Model = Field(description="the model, such as {type: numpy, ...}")
    candidate: Candidate | None = Field(
        None, description="another model beside it: compared, or answering for a share of the keys"
    )
    encode: Encode = Field(description="what an output record carries, such as {type: jsonl}")
    sink: Typed = Field(description="where outputs go, such as {type: stdout}")
    dead_letter: DeadLetter | None = Field(None, description="where refused events go")
    checkpoint: Checkpoint | None = Field(None, description="where commits are kept, to go on after a stop")
    state: State = Field(default=State.model_construct(), description="where the state of silent keys is")
    limits: Limits = Field(default=Limits.model_construct(), description="ceilings")
    numerics: Literal["batch_invariant", "approximate"] | None = Field(
        None, description="batch_invariant refuses a model whose answers depend on the batch"
    )
    trust: Literal["code"] | None = Field(
        None, description="code lets a model run code of its own: Python modules, pickles, compiled programs"
    )
    tests: list[Test] = Field(default_factory=list, description="examples that must hold")
