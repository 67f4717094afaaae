"""The options of the `http` and `websocket` sources and sinks."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from streamrnn.builtins import sockets
from streamrnn.hookspecs import Component


class HttpSourceConfig(sockets.DurableListening):
    """Events from the bodies of HTTP requests."""

    operational: ClassVar[frozenset[str]] = frozenset(
        {
            "allow_origins",
            "max_connections",
            "max_body_bytes",
            "max_pending_bytes",
            "idle_s",
            "request_s",
            "stall_s",
            "max_backlog",
            "max_producers",
            "keep_bytes",
            "keep_s",
            "tls",
        }
    )
    listen: sockets.Listen = Field(description=sockets.LISTEN)
    path: str = Field(
        "/events",
        pattern=r"^/[^\s?#]*$",
        description="the path that events are sent to; others are refused",
    )
    tls: sockets.Tls | None = Field(None, description=sockets.TLS)
    allow_remote: bool = Field(False, validate_default=True, description=sockets.REMOTE)
    allow_origins: list[str] = Field(
        [],
        description="web pages that may post, by their origin, such as `https://shop.example`; browsers say "
        "from which a request is, and those of others are refused",
    )
    max_connections: int = Field(1000, ge=1, description="connections at once; more are turned away")
    max_body_bytes: int = Field(
        1 << 20, ge=1, description="size of a body, or a message, up to which it is not refused"
    )
    max_pending_bytes: int = Field(
        sockets.PENDING_BYTES,
        ge=1,
        description="bytes of answers that wait for a client to read them; beyond, nothing is read from it",
    )
    idle_s: float = Field(60, gt=0, description="seconds after which a connection without requests is closed")
    request_s: float = Field(
        30, gt=0, description="seconds within which a request must be complete, else its connection is closed"
    )
    stall_s: float = Field(
        30, gt=0, description="seconds after which a client that takes none of its answers is closed"
    )
    durability: Literal["memory", "log"] = Field(
        "memory",
        description="`log` writes events to a log on the disk, and answers 202 with their positions; nothing "
        "is lost then or, with a producer's name and number, served twice. With `memory`, what was received "
        "is lost if the run dies",
    )
    log: str | None = Field(None, min_length=1, description=f"with `durability: log`: {sockets.LOG}")
    keep_bytes: int | None = Field(
        sockets.KEEP_BYTES,
        ge=0,
        description="with `durability: log`: bytes beyond which what is served is removed",
    )
    keep_s: float | None = Field(
        None, gt=0, description="with `durability: log`: seconds after which what is served is removed"
    )
    max_backlog: int = Field(
        1_000_000, ge=1, description="records in the log that wait to be served; beyond, requests wait"
    )
    max_producers: int = Field(10_000, ge=1, description="names of producers that are remembered")

    @property
    def checkpoint_note(self) -> str | None:
        """See `SocketSourceConfig.checkpoint_note`."""
        if self.durability == "log":
            return None
        return (
            "what clients posted cannot be read again: what followed the last commit of a run that dies is "
            "lost; durability: log keeps it"
        )


class WebSocketSourceConfig(HttpSourceConfig):
    """Events from the messages of WebSockets."""

    idle_s: float = Field(
        600, gt=0, description="seconds after which a connection without messages is closed"
    )


class HttpSinkConfig(BaseModel):
    """Outputs as answers to the requests of the `http` or `websocket` source."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    checkpoint_note: ClassVar[str] = (
        "what was answered cannot be taken back, nor what was posted be had again"
    )


COMPONENTS = (
    Component(
        kind="source",
        name="http",
        config=HttpSourceConfig,
        build="streamrnn.sources.http:build",
        summary="events that clients post, such as web pages; needs streamrnn[http]",
        example='{listen: "tcp://127.0.0.1:8080"}',
    ),
    Component(
        kind="source",
        name="websocket",
        config=WebSocketSourceConfig,
        build="streamrnn.sources.http:build_websocket",
        summary="events that clients send over WebSockets; needs streamrnn[http]",
        example='{listen: "tcp://127.0.0.1:8081"}',
    ),
    Component(
        kind="sink",
        name="http",
        config=HttpSinkConfig,
        build="streamrnn.sinks.socket:build_answers",
        summary="answers to the requests of the http source",
    ),
    Component(
        kind="sink",
        name="websocket",
        config=HttpSinkConfig,
        build="streamrnn.sinks.socket:build_answers",
        summary="answers to the messages of the websocket source",
    ),
)
