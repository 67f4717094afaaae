"""A sink that keeps what it is given."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from streamrnn.events import OutBlock
from streamrnn.hookspecs import Component, hookimpl

KEPT: dict[str, Tally] = {}


class TallyConfig(BaseModel):
    """Outputs into memory."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str = Field(description="under which they are kept")


class Tally:
    """The `tally` sink: the blocks it was given, and what else was asked of it."""

    def __init__(self) -> None:
        self.blocks: list[OutBlock] = []
        self.calls: list[str] = []

    def write(self, block: OutBlock) -> None:
        """See `Sink.write`."""
        self.blocks.append(block)

    def flush(self) -> None:
        """See `Sink.flush`."""
        self.calls.append("flush")

    def close(self) -> None:
        """See `Sink.close`."""
        self.calls.append("close")


def build(config: TallyConfig, context: Any) -> Tally:
    """Build from the YAML section."""
    KEPT[config.name] = Tally()
    return KEPT[config.name]


@hookimpl
def streamrnn_components() -> list[Component]:
    """What this plugin provides."""
    return [Component("sink", "tally", TallyConfig, "streamrnn_tally:build", "outputs into memory")]
