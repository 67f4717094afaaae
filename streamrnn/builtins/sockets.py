"""The options of the `socket` source and sink."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)

from streamrnn.builtins.logs import Durable
from streamrnn.hookspecs import Component
from streamrnn.net.address import Address, parse


def _one_or_many(value: Any) -> str:
    return "many" if isinstance(value, list | tuple) else "one"


def _parsable(text: str) -> str:
    parse(text)
    return text


_Text = Annotated[str, AfterValidator(_parsable)]
Listen = Annotated[
    Annotated[_Text, Tag("one")] | Annotated[list[_Text], Field(min_length=1), Tag("many")],
    Discriminator(_one_or_many),
]
LISTEN = (
    "`tcp://host:port`, `tcp://[ipv6]:port` or `unix:path`, or a list of them; a path is relative to the "
    "pipeline file, and nobody but this user can connect to it"
)
REMOTE = "whether an address may be one that other machines can reach"
TLS = "TLS 1.2 or newer at `tcp://` addresses; files are PEM, relative to the pipeline file"
PENDING_BYTES = 1 << 20
LOG = "the folder of the log, relative to the pipeline file; made if it is missing"
KEEP_BYTES = 1 << 30
_KEPT = {"keep_bytes", "keep_s"}


def _addresses(listen: Any) -> list[Address]:
    return [parse(text) for text in ([listen] if isinstance(listen, str) else listen or [])]


class Tls(BaseModel):
    """The section `tls` of an end that listens."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    cert: str = Field(
        min_length=1,
        description="file with this side's certificate, and behind it those that lead to its authority",
    )
    key: str = Field(min_length=1, description="file with the certificate's private key, without a password")
    client_ca: str | None = Field(
        None,
        min_length=1,
        description="file with the authorities one of which must have signed a client's certificate; left "
        "out, clients need none",
    )
    handshake_s: float = Field(
        10, gt=0, description="seconds within which a client's handshake must be complete"
    )

    def files(self) -> dict[str, str]:
        """The file of each option that names one."""
        named = {"cert": self.cert, "key": self.key, "client_ca": self.client_ca}
        return {option: file for option, file in named.items() if file is not None}


class Listening(BaseModel):
    """What both ends know of listening; to be reached from elsewhere needs to be asked for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def addresses(self) -> list[Address]:
        """Where to listen."""
        return _addresses(getattr(self, "listen", None))

    @property
    def needed_files(self) -> dict[tuple[str, ...], str]:
        """Files without which it cannot start, by the option that names them; `lint` looks for them."""
        tls: Tls | None = getattr(self, "tls", None)
        return {("tls", option): file for option, file in (tls.files() if tls else {}).items()}

    @field_validator("tls", check_fields=False)
    @classmethod
    def _is_for_tcp(cls, tls: Tls | None, info: ValidationInfo) -> Tls | None:
        addresses = _addresses(info.data.get("listen"))
        if tls and addresses and not any(address.host for address in addresses):
            raise ValueError("expected a tcp:// address in listen, found none; UNIX sockets need no tls")
        return tls

    @field_validator("allow_remote", check_fields=False)
    @classmethod
    def _is_asked_for(cls, allowed: bool, info: ValidationInfo) -> bool:
        remote = [address for address in _addresses(info.data.get("listen")) if not address.is_local]
        if remote and not allowed:
            how = "" if info.data.get("tls") else ", without encryption or password"
            raise ValueError(
                f"expected true, since {remote[0]} can be reached from other machines{how}; write "
                f"allow_remote: true, or listen at tcp://127.0.0.1:{remote[0].port}"
            )
        return allowed


class DurableListening(Listening, Durable):
    """What sources have in common to which clients send."""

    log_fields: ClassVar[tuple[str, ...]] = (*Durable.log_fields, "log.producer", "log.seq")

    @property
    def durability_note(self) -> str | None:
        """What is not promised where there are no commits."""
        if self.durability == "log":
            return None
        return "durability: memory; what was received and not yet served is lost if the run dies"


class SocketSourceConfig(DurableListening):
    """Events from the clients of a socket."""

    operational: ClassVar[frozenset[str]] = frozenset(
        {
            "max_connections",
            "idle_s",
            "line_s",
            "max_pending_bytes",
            "stall_s",
            "max_backlog",
            "max_producers",
            "tls",
        }
        | _KEPT
    )
    listen: Listen = Field(description=LISTEN)
    tls: Tls | None = Field(None, description=TLS)
    allow_remote: bool = Field(False, validate_default=True, description=REMOTE)
    max_connections: int = Field(1000, ge=1, description="clients at once; more are turned away")
    idle_s: float | None = Field(
        600, gt=0, description="seconds after which a client that sends nothing is closed; null never does"
    )
    line_s: float = Field(
        30, gt=0, description="seconds within which a record must be complete, else its client is closed"
    )
    max_pending_bytes: int = Field(
        PENDING_BYTES,
        ge=1,
        description="bytes of answers that wait for a client to read them; beyond, nothing is read from it",
    )
    stall_s: float = Field(
        30, gt=0, description="seconds after which a client that takes none of its answers is closed"
    )
    until: Literal["never", "last_connection_closed"] = Field(
        "never", description="when the source ends: never, or once clients came and the last of them has left"
    )
    durability: Literal["memory", "log"] = Field(
        "memory",
        description="`log` writes what arrives to a log on the disk before it is acknowledged and served, so "
        "that nothing is lost or served twice; clients then speak a small protocol. With `memory`, what was "
        "received is lost if the run dies",
    )
    log: str | None = Field(None, min_length=1, description=f"with `durability: log`: {LOG}")
    keep_bytes: int | None = Field(
        KEEP_BYTES, ge=0, description="with `durability: log`: bytes beyond which what is served is removed"
    )
    keep_s: float | None = Field(
        None, gt=0, description="with `durability: log`: seconds after which what is served is removed"
    )
    max_backlog: int = Field(
        1_000_000, ge=1, description="records in the log that wait to be served; beyond, nothing is read"
    )
    max_producers: int = Field(10_000, ge=1, description="names of producers that are remembered")

    @property
    def checkpoint_note(self) -> str | None:
        """What commits cannot do for it."""
        if self.durability == "log":
            return None
        return (
            "what clients sent cannot be read again: what followed the last commit of a run that dies is "
            "lost; durability: log keeps it"
        )


class SocketSinkConfig(Listening):
    """Outputs to clients of a socket."""

    operational: ClassVar[frozenset[str]] = frozenset(
        {"max_connections", "max_pending_bytes", "emit", "tls"} | _KEPT
    )

    to: Literal["sender", "subscribers", "consumers"] = Field(
        description="`sender` answers each event to the client of the `socket` source that sent it, "
        'a refused one with {"refused": {"number": 3, "reason": "..."}}; `subscribers` sends every output to '
        "all who are connected to `listen`; `consumers` numbers outputs, keeps them in a log, and sends them "
        "to who connects and says from which on"
    )
    listen: Listen | None = Field(None, description=f"for `subscribers` and `consumers`: {LISTEN}")
    tls: Tls | None = Field(None, description=TLS)
    allow_remote: bool = Field(False, validate_default=True, description=REMOTE)
    max_connections: int = Field(1000, ge=1, description="subscribers at once; more are turned away")
    max_pending_bytes: int = Field(
        PENDING_BYTES,
        ge=1,
        description="bytes that wait for a subscriber; one that leaves more is closed. For a consumer, the "
        "rest waits in the log",
    )
    log: str | None = Field(None, min_length=1, description=f"for `consumers`: {LOG}")
    emit: Literal["immediate", "committed"] = Field(
        "immediate", description="for `consumers`: outputs at once, or only those that a commit holds"
    )
    keep_bytes: int | None = Field(
        KEEP_BYTES, ge=0, description="for `consumers`: bytes of the log beyond which the oldest are removed"
    )
    keep_s: float | None = Field(
        None, gt=0, description="for `consumers`: seconds after which outputs are removed"
    )

    @model_validator(mode="after")
    def _listens_for_subscribers(self) -> SocketSinkConfig:
        if self.to != "sender" and self.listen is None:
            raise ValueError(f"to: {self.to} needs listen: where they connect, such as tcp://127.0.0.1:9001")
        if (self.to == "consumers") != (self.log is not None) and self.to != "sender":
            found = f"to: {self.to}" if self.log else "no log"
            raise ValueError(f"expected to: consumers and log: DIR together, found {found}")
        fields = type(self).model_fields.items()
        unused = sorted(name for name, f in fields if name != "to" and getattr(self, name) != f.default)
        if self.to == "sender" and unused:
            named = ", ".join(unused)
            raise ValueError(
                f"to: sender uses the clients of the source and takes no {named}; remove it here"
            )
        return self

    @property
    def written_paths(self) -> tuple[str, ...]:
        """See docs/plugins.md."""
        return (self.log,) if self.log else ()

    @property
    def checkpoint_note(self) -> str | None:
        """See `SocketSourceConfig.checkpoint_note`."""
        if self.to == "consumers":
            return None
        text = "what was sent cannot be taken back: outputs after the last commit of a run that dies come"
        return f"{text} once more"

    @property
    def needs_checkpoint(self) -> tuple[str, str] | None:
        """See `LogSinkConfig.needs_checkpoint`."""
        if self.to != "consumers":
            return None
        return "to", "an output would not keep its number after a crash; add checkpoint: {dir: ...}"


COMPONENTS = (
    Component(
        kind="source",
        name="socket",
        config=SocketSourceConfig,
        build="streamrnn.sources.socket:build",
        summary="events from the clients of a TCP or UNIX socket",
        example='{listen: "tcp://127.0.0.1:9000"}',
    ),
    Component(
        kind="sink",
        name="socket",
        config=SocketSinkConfig,
        build="streamrnn.sinks.socket:build",
        summary="answers to the client that sent the event, or outputs to all subscribers",
        example='{to: subscribers, listen: "tcp://127.0.0.1:9001"}',
    ),
)
