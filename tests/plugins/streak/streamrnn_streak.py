"""A reset rule that counts on across resets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from streamrnn.builtins.resets import RuleOptions
from streamrnn.hookspecs import Component, hookimpl
from streamrnn.rules import Now, Previous


class StreakConfig(RuleOptions):
    """Reset after the event with which a field was set so many times in all."""

    field: str = Field(description="path of the field")
    times: int = Field(ge=1, description="how many events that have it")


class Streak:
    """The `streak` rule."""

    when = "after"
    recursive = True
    previous_fields = ()
    columns: ClassVar = {"seen": "int64"}

    def __init__(self, config: StreakConfig) -> None:
        self.name, self.to = config.name or "streak", config.to
        self.field, self.times = config.field, config.times
        self.fields = (config.field,)

    def fires(self, now: Now, previous: Previous, columns: Mapping[str, Any]) -> Any:
        """See `ResetRule.fires`."""
        is_set = np.array([value is not None for value in now.fields[self.field]], np.bool_)
        columns["seen"][:] += is_set
        return is_set & (columns["seen"] % self.times == 0)


def build(config: StreakConfig, ticks_per_s: int) -> Streak:
    """Build from the YAML section."""
    return Streak(config)


@hookimpl
def streamrnn_components() -> list[Component]:
    """What this plugin provides."""
    return [Component("reset", "streak", StreakConfig, build, "a field was set so many times in all")]
