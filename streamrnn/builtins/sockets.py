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
_LISTEN = (
    "`tcp://host:port`, `tcp://[ipv6]:port` or `unix:path`, or a list of them; a path is relative to the "
    "pipeline file, and nobody but this user can connect to it"
)
_REMOTE = "whether an address may be one that other machines can reach"
_PENDING_BYTES = 1 << 20


def _addresses(listen: Any) -> list[Address]:
    return [parse(text) for text in ([listen] if isinstance(listen, str) else listen or [])]


class _Listening(BaseModel):
    """What both ends know of listening; to be reached from elsewhere needs to be asked for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def addresses(self) -> list[Address]:
        """Where to listen."""
        return _addresses(getattr(self, "listen", None))

    @field_validator("allow_remote", check_fields=False)
    @classmethod
    def _is_asked_for(cls, allowed: bool, info: ValidationInfo) -> bool:
        remote = [address for address in _addresses(info.data.get("listen")) if not address.is_local]
        if remote and not allowed:
            raise ValueError(
                f"expected true, since {remote[0]} can be reached from other machines, without encryption or "
                f"password; write allow_remote: true, or listen at tcp://127.0.0.1:{remote[0].port}"
            )
        return allowed


class SocketSourceConfig(_Listening):
    """Events from the clients of a socket."""

    checkpoint_note: ClassVar[str] = (
        "what clients sent cannot be read again: what followed the last commit of a run that dies is lost"
    )
    listen: Listen = Field(description=_LISTEN)
    allow_remote: bool = Field(False, validate_default=True, description=_REMOTE)
    max_connections: int = Field(1000, ge=1, description="clients at once; more are turned away")
    idle_s: float | None = Field(
        600, gt=0, description="seconds after which a client that sends nothing is closed; null never does"
    )
    line_s: float = Field(
        30, gt=0, description="seconds within which a record must be complete, else its client is closed"
    )
    max_pending_bytes: int = Field(
        _PENDING_BYTES,
        ge=1,
        description="bytes of answers that wait for a client to read them; beyond, nothing is read from it",
    )
    stall_s: float = Field(
        30, gt=0, description="seconds after which a client that takes none of its answers is closed"
    )
    until: Literal["never", "last_connection_closed"] = Field(
        "never", description="when the source ends: never, or once clients came and the last of them has left"
    )


class SocketSinkConfig(_Listening):
    """Outputs to clients of a socket."""

    checkpoint_note: ClassVar[str] = (
        "what was sent cannot be taken back: outputs after the last commit of a run that dies come once more"
    )
    to: Literal["sender", "subscribers"] = Field(
        description="`sender` answers each event to the client of the `socket` source that sent it, "
        'a refused one with {"refused": {"number": 3, "reason": "..."}}; `subscribers` sends every output to '
        "all who are connected to `listen`"
    )
    listen: Listen | None = Field(None, description=f"for `subscribers`: {_LISTEN}")
    allow_remote: bool = Field(False, validate_default=True, description=_REMOTE)
    max_connections: int = Field(1000, ge=1, description="subscribers at once; more are turned away")
    max_pending_bytes: int = Field(
        _PENDING_BYTES, ge=1, description="bytes that wait for a subscriber; one that leaves more is closed"
    )

    @model_validator(mode="after")
    def _listens_for_subscribers(self) -> SocketSinkConfig:
        if self.to == "subscribers" and self.listen is None:
            raise ValueError("to: subscribers needs listen: where they connect, such as tcp://127.0.0.1:9001")
        fields = type(self).model_fields.items()
        unused = sorted(name for name, f in fields if name != "to" and getattr(self, name) != f.default)
        if self.to == "sender" and unused:
            named = ", ".join(unused)
            raise ValueError(
                f"to: sender uses the clients of the source and takes no {named}; remove it here"
            )
        return self


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
