"""What may stand beside `type: kafka_log` and `type: kafka` in a pipeline file."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, ClassVar, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from streamrnn_kafka.field_names import field_problem

_TOPIC = r"^[A-Za-z0-9._-]{1,249}$"


def _ascending(partitions: list[int]) -> list[int]:
    if sorted(set(partitions)) != partitions:
        raise ValueError(f"expected ascending numbers, found {partitions}")
    return partitions


Partitions = Annotated[
    list[Annotated[int, Field(ge=0)]], Field(min_length=1, max_length=10_000), AfterValidator(_ascending)
]
Compression = Literal["none", "gzip", "snappy", "lz4", "zstd"]
Isolation = Literal["read_committed", "read_uncommitted"]


class _Options(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class SourceOptions(_Options):
    """What both sources have."""

    partitioned: ClassVar[bool] = True
    topic: str = Field(pattern=_TOPIC, description="The topic to read.")
    start: Literal["earliest", "latest"] = Field(
        default="earliest",
        alias="from",
        description="Where to begin in each partition: at its first record, or behind its last.",
    )
    from_offset: int | None = Field(
        default=None, ge=0, description="The offset to begin at in each partition, in place of `from`."
    )
    from_time: AwareDatetime | None = Field(
        default=None,
        description="The time whose first record to begin at, such as 2026-01-31T12:00:00Z, in place of "
        "`from`.",
    )
    isolation: Isolation = Field(
        default="read_committed",
        description="Whether records of transactions count before these are committed, and of those that "
        "never are.",
    )
    max_value_bytes: int = Field(
        default=1 << 20, ge=1, description="Size of a value up to which a record is not refused."
    )

    @model_validator(mode="after")
    def _begins_once(self) -> SourceOptions:
        given = {"from", "start", "from_offset", "from_time"} & self.model_fields_set
        if len(given) > 1:
            raise ValueError("expected one of from, from_offset and from_time, found several")
        return self

    def field_problem(self, path: str) -> str | None:
        """What is wrong with a field of the event, if it is Kafka's to know."""
        return field_problem(path)

    @property
    def from_timestamp(self) -> int | None:
        """`from_time` in milliseconds since 1970."""
        return None if self.from_time is None else _milliseconds(self.from_time)


class KafkaLogSourceConfig(SourceOptions):
    """Events from the log files of a topic, as Kafka keeps them."""

    path: str = Field(
        min_length=1, description="The folder in which each partition has one of its own, `TOPIC-NUMBER`."
    )
    partitions: Partitions | None = Field(
        default=None, description="The numbers of the partitions to read; without them all that are there."
    )
    follow: bool = Field(
        default=False,
        description="Whether to wait for more behind the last record; the pipeline then runs until it is "
        "stopped. Without it a run ends where the log ended when the first run began.",
    )
    compacted: bool = Field(
        default=False,
        description="Whether the topic is compacted, so that offsets may be missing between others.",
    )

    @property
    def again(self) -> KafkaLogSourceConfig:
        """See docs/plugins.md of the core."""
        return self.model_copy(update={"start": "earliest"})


Brokers = Annotated[
    str,
    Field(
        pattern=r"^[^\s,:]+:[0-9]+(,[^\s,:]+:[0-9]+)*$",
        description="One or more brokers of the cluster as host:port, with commas between them.",
    ),
]


class Tls(_Options):
    """The section `tls` of an end that connects to brokers."""

    ca: str | None = Field(
        default=None,
        min_length=1,
        description="File with the authorities one of which must have signed the brokers' certificates; "
        "left out, those of this machine.",
    )
    cert: str | None = Field(
        default=None,
        min_length=1,
        description="File with the certificate to show to brokers, if they want one.",
    )
    key: str | None = Field(
        default=None,
        min_length=1,
        description="File with that certificate's private key, without a password.",
    )

    @model_validator(mode="after")
    def _has_both(self) -> Tls:
        if (self.cert is None) != (self.key is None):
            raise ValueError("expected cert and key together, found one of them")
        return self

    def files(self) -> dict[str, str]:
        """The file of each option that names one."""
        named = {"ca": self.ca, "cert": self.cert, "key": self.key}
        return {option: file for option, file in named.items() if file is not None}


class Sasl(_Options):
    """The section `sasl`: as whom to connect."""

    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        description="How the password is proven; `PLAIN` sends it, and needs `tls` beyond this machine."
    )
    username: str = Field(min_length=1, description="Who this is.")
    password: SecretStr | None = Field(
        default=None, min_length=1, description="A reference to the password, such as `${KAFKA_PASSWORD}`."
    )
    password_file: str | None = Field(
        default=None, min_length=1, description="File whose one line is the password, in place of `password`."
    )

    @model_validator(mode="after")
    def _has_one(self) -> Sasl:
        if (self.password is None) == (self.password_file is None):
            found = "neither" if self.password is None else "both"
            raise ValueError(f"expected password or password_file, found {found}")
        return self


class ClusterOptions(_Options):
    """How brokers are reached."""

    secrets: ClassVar = (("sasl", "password"),)

    brokers: Brokers
    tls: Tls | None = Field(
        default=None,
        description="TLS 1.2 or newer; files are PEM, relative to the pipeline file. `{}` trusts the "
        "authorities of this machine.",
    )
    sasl: Sasl | None = Field(default=None, description="As whom to connect.")

    @property
    def needed_files(self) -> dict[tuple[str, ...], str]:
        """Files without which it cannot start, by the option that names them."""
        tls = {("tls", option): file for option, file in (self.tls.files() if self.tls else {}).items()}
        if self.sasl is None or self.sasl.password_file is None:
            return tls
        return {**tls, ("sasl", "password_file"): self.sasl.password_file}

    @field_validator("sasl")
    @classmethod
    def _keeps_its_password(cls, sasl: Sasl | None, info: ValidationInfo) -> Sasl | None:
        hosts = [broker.rpartition(":")[0] for broker in info.data.get("brokers", "").split(",")]
        bare = sasl is not None and sasl.mechanism == "PLAIN" and info.data.get("tls") is None
        if bare and not all(host == "localhost" or host.startswith("127.") for host in hosts):
            raise ValueError(
                "mechanism PLAIN would send the password in plain text to another machine; add tls, or use "
                "SCRAM-SHA-512"
            )
        return sasl


class KafkaSourceConfig(ClusterOptions, SourceOptions):
    """Events from a topic on a broker."""

    operational: ClassVar = frozenset({"brokers", "tls", "sasl", "session_timeout_s"})

    group: str | None = Field(
        default=None,
        min_length=1,
        description="The group to be a member of: partitions are shared among its members and their state "
        "goes with them, through the folder of `checkpoint`. Without it this run alone reads the topic.",
    )
    partitions: Partitions | None = Field(
        default=None,
        description="The numbers of the partitions to read; without them, and without `group`, all of them.",
    )
    session_timeout_s: float = Field(
        default=10,
        ge=1,
        le=1800,
        description="Seconds without a sign of life after which a member's partitions go to others.",
    )

    @model_validator(mode="after")
    def _is_given_or_chosen(self) -> KafkaSourceConfig:
        if self.group is not None and self.partitions is not None:
            raise ValueError("expected group or partitions, found both; a group shares out all partitions")
        return self

    @property
    def needs_checkpoint(self) -> tuple[str, str] | None:
        """The option that needs commits, and why."""
        return (
            ("group", "the state of a partition goes with it from member to member") if self.group else None
        )

    @property
    def brings_commits(self) -> bool:
        """Whether commits are made by the group rather than by the pipeline alone."""
        return self.group is not None


class KafkaSinkConfig(ClusterOptions):
    """Outputs to a topic on a broker."""

    operational: ClassVar = frozenset({"brokers", "tls", "sasl", "compression", "transaction_timeout_s"})

    topic: str = Field(pattern=_TOPIC, description="The topic to write; it must exist.")
    delivery: Literal["exactly_once", "at_least_once"] = Field(
        default="exactly_once",
        description="`exactly_once` needs a source `kafka` with a group on the same brokers: outputs and "
        "positions are committed in one transaction. `at_least_once` writes what followed the last commit "
        "of a run that dies once more, with the same content.",
    )
    partition: Literal["same", "by_key"] = Field(
        default="same",
        description="Whether an output goes to the partition of the number its event came from (0 if that "
        "is not Kafka), or to one chosen by its key, as Kafka's own clients choose.",
    )
    compression: Compression = Field(default="none", description="How batches are compressed.")
    transaction_timeout_s: float = Field(
        default=60,
        ge=1,
        le=900,
        description="Seconds after which the broker aborts a transaction that was not committed; at least "
        "three times `checkpoint.every_s`.",
    )


class KafkaLogSinkConfig(_Options):
    """Outputs to log files of a topic, as Kafka keeps them."""

    operational: ClassVar = frozenset({"compression", "segment_bytes", "retention_bytes"})

    path: str = Field(
        min_length=1, description="The folder in which each partition gets one of its own, `TOPIC-NUMBER`."
    )
    topic: str = Field(pattern=_TOPIC, description="The topic to write.")
    compression: Compression = Field(default="none", description="How batches are compressed.")
    segment_bytes: int = Field(
        default=1 << 30,
        ge=1024,
        le=2**31 - 1,
        description="Size of a file of records at which a new one begins: none is larger, unless a single "
        "batch is, and a batch of outputs is one of records.",
    )
    retention_bytes: int | None = Field(
        default=None,
        ge=1024,
        description="Size of a partition over which its oldest files are deleted; without it all are kept.",
    )

    @property
    def written_paths(self) -> tuple[str, ...]:
        """See docs/plugins.md of the core."""
        return (self.path,)


def _milliseconds(time: datetime) -> int:
    seconds = int(time.replace(microsecond=0).timestamp())
    return seconds * 1000 + time.microsecond // 1000
