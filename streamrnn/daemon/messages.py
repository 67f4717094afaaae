"""What is said over the admin API: the bodies of requests and answers, by which they are checked and
described.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

Text = Annotated[str, StringConstraints(max_length=4096)]


class Message(BaseModel):
    """Unknown fields are mistakes."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Nothing(Message):
    """An empty object, or no body at all."""


class Reset(Message):
    """Which keys are to begin anew: exactly one of `keys`, `glob` and `all`."""

    keys: list[Text] | None = Field(None, min_length=1, max_length=10_000, description="these keys")
    glob: Text | None = Field(
        None, min_length=1, description="all keys like this; * is any text, ? one character"
    )
    all: Literal[True] | None = Field(None, description="all keys")
    partition: Text | None = Field(None, description="only in this partition of the source")

    @model_validator(mode="after")
    def _is_one_of_three(self) -> Reset:
        if sum(each is not None for each in (self.keys, self.glob, self.all)) != 1:
            raise ValueError("expected exactly one of keys, glob and all")
        return self


class ResetDone(Message):
    """How many keys begin anew."""

    keys: int


class Reload(Message):
    """What to do with states of another model; left out: as the file says, or `keep` if they fit."""

    state: Literal["keep", "reset", "warmup", "refuse"] | None = None


class Reloaded(Message):
    """What became of each pipeline, in words."""

    pipelines: dict[str, str]


class Committed(Message):
    """The number of the commit; null where the source keeps commits of its own."""

    commit: int | None


class KeyQuery(Message):
    """Of which key."""

    key: Text
    partition: Text | None = None


class TapQuery(Message):
    """What to listen to."""

    key: Text | None = Field(None, description="only outputs of this key")
    per_s: Annotated[float, Field(ge=1, le=10_000, strict=False)] = Field(
        100, description="events a second to show at most"
    )
    seconds: Annotated[float | None, Field(gt=0, le=86_400, strict=False)] = Field(
        None, description="when to stop by itself"
    )


class LettersQuery(Message):
    """How much of the file to look at."""

    last: Annotated[int, Field(ge=0, le=1000, strict=False)] = Field(10, description="refused events to show")


class KeyStates(Message):
    """All that is known of a key, by partition; the name of the only one is empty."""

    key: str
    partitions: dict[str, dict[str, Any]]


class Letters(Message):
    """Refused events: those counted since the daemon began, by code, and the last ones of the dead-letter
    file.
    """

    counted: dict[str, int]
    file: str | None
    last: list[dict[str, Any]]


class Commit(Message):
    """The last commit of a pipeline."""

    number: int
    events: int
    bytes: int
    duration_s: float


class Candidate(Message):
    """What the model beside has answered since it began in this process; `worst` by key."""

    model: str
    share: float
    events: int
    differing: int
    apart: int
    answered: int
    largest: float
    worst: dict[str, float]
    error: str


class Status(Message):
    """How a pipeline is doing. Counts are since the daemon began."""

    name: str
    file: str
    state: Literal["loading", "serving", "waiting", "ended", "stopped"]
    error: str
    failures: int
    doing: str | None
    source: str
    sink: str
    identity: dict[str, str]
    events: int
    outputs: int
    rejected: dict[str, int]
    resets: dict[str, int]
    live_keys: int
    held: int
    released_keys: int
    batches: int
    wave_width: float | None
    serve_ms: dict[str, float]
    event_age_s: float | None
    turn_age_s: float
    position: dict[str, int]
    commit: Commit | None
    candidate: Candidate | None
    taps: int


class Statuses(Message):
    """All pipelines."""

    pipelines: list[Status]


class Health(Message):
    """Whether it is well."""

    ok: bool


class Problem(Message):
    """Why something was not done."""

    error: str
