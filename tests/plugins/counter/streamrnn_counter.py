"""A source that counts."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from streamrnn.events import Block, Mark, Origin
from streamrnn.hookspecs import Component, hookimpl
from streamrnn.ports import EndOfStream, Framer


class CounterConfig(BaseModel):
    """Events {"n": 1, "key": "k1", "hour": 1}, {"n": 2, ...} and so on."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    events: int = Field(ge=0, description="how many")
    keys: int = Field(1, ge=1, description="how many keys take turns")


class Counter:
    """The `counter` source: all events, then a `source_end`."""

    def __init__(self, config: CounterConfig, framer: Framer) -> None:
        self._origin, self._framer, self._marked = Origin("counter", "n"), framer, False
        for n in range(1, config.events + 1):
            record = {"n": n, "key": f"k{n % config.keys}", "hour": n % 24}
            framer.feed(json.dumps(record).encode() + b"\n")
        framer.finish()

    def read(self, limit: int, wait_ms: int) -> Block | Mark | None:
        """See `Source.read`."""
        if frames := self._framer.take(limit):
            return frames.block(self._origin)
        if self._marked:
            raise EndOfStream
        self._marked = True
        return Mark("source_end", self._origin, self._framer.position)

    def position(self) -> Mapping[str, int]:
        """See `Source.position`."""
        return {"n": self._framer.position}

    def close(self) -> None:
        """See `Source.close`."""


def build(config: CounterConfig, context: Any, new_framer: Callable[..., Framer]) -> Counter:
    """Build from the YAML section."""
    return Counter(config, new_framer())


@hookimpl
def streamrnn_components() -> list[Component]:
    """What this plugin provides."""
    return [Component("source", "counter", CounterConfig, build, "events that count", example="{events: 3}")]
