"""A backend that ends its process, or never answers, at certain numbers: H' = H / 2 + x, y = H'."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from streamrnn.backend import Backend, Description, StateSpec, StateTensor, TensorSpec
from streamrnn.hookspecs import Component, hookimpl


class DeadlyConfig(BaseModel):
    """What may stand beside `type: deadly`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    kills: float | None = None
    hangs: float | None = None
    row_s: float = 0.0


class Deadly(Backend):
    """The `deadly` backend."""

    def __init__(self, config: DeadlyConfig, description: Description) -> None:
        self.config = config
        self.inputs, self.outputs, self.state = description.inputs, description.outputs, description.state

    def step(self, state: Mapping[str, Any], x: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """See `Backend.step`."""
        value = x["x"][:, 0]
        if self.config.kills is not None and (value == self.config.kills).any():
            os._exit(86)
        while self.config.hangs is not None and (value == self.config.hangs).any():
            time.sleep(0.01)
        if self.config.row_s:
            time.sleep(self.config.row_s * len(value))
        h = state["H"] / 2 + value
        return {"H": h}, {"y": h}


def describe(config: DeadlyConfig, given: Mapping[str, TensorSpec], context: Any) -> Description:
    """One input of one number."""
    inputs, outputs = (TensorSpec("x", (1,), "float64"),), (TensorSpec("y", (), "float64"),)
    return Description(inputs, outputs, StateSpec((StateTensor("H", (), "float64"),), fingerprint="deadly"))


def build(config: DeadlyConfig, given: Mapping[str, TensorSpec], context: Any) -> Deadly:
    """The model."""
    return Deadly(config, describe(config, given, context))


@hookimpl
def streamrnn_components() -> list[Component]:
    """What this plugin provides."""
    return [Component("backend", "deadly", DeadlyConfig, build, "kills or hangs", describe)]
