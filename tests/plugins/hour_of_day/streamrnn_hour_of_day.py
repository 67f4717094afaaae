"""A feature that bends the day into a circle."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from streamrnn.builtins.features import FeatureOptions
from streamrnn.features.encoders import numbers
from streamrnn.hookspecs import Component, hookimpl


class HourOfDay(FeatureOptions):
    """Sine and cosine of an hour from 0 to 24."""

    hour_of_day: Literal[True]

    def width(self, fields: int) -> int:
        """Sine and cosine."""
        return 2


class Circle:
    """The `hour_of_day` feature."""

    def encode(self, column: Any, refused: dict[int, str]) -> NDArray[np.float64]:
        """See `Feature.encode`."""
        hours = numbers(column, "hour", refused)
        for i in np.flatnonzero((hours < 0) | (hours > 24)).tolist():
            refused.setdefault(i, f"expected an hour from 0 to 24, found {column[i]}")
        angle = hours * (2 * np.pi / 24)
        return np.stack([np.sin(angle), np.cos(angle)], axis=1)


def build(config: HourOfDay, context: Any) -> Circle:
    """Build from the YAML item."""
    return Circle()


@hookimpl
def streamrnn_components() -> list[Component]:
    """What this plugin provides."""
    return [Component("feature", "hour_of_day", HourOfDay, build, "an hour as a point on a circle")]
