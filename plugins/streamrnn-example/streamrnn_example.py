"""A backend in a package of its own: exponential means that forget at different speeds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from streamrnn.backend import Backend, Description, StateSpec, StateTensor, TensorSpec
from streamrnn.context import Context
from streamrnn.errors import OptionError
from streamrnn.hookspecs import Component, hookimpl

Arrays = dict[str, Any]
Decay = Annotated[float, Field(ge=0, lt=1)]


class LeakyConfig(BaseModel):
    """What may stand beside `type: leaky` in a pipeline file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    decays: list[Decay] = Field(
        min_length=1, description="For each mean the share of its old value that an event leaves."
    )


class Leaky(Backend):
    """h' = decay * h + (1 - decay) * x and y = x - h', with x [n, 1], h and y [n, decays]."""

    def __init__(self, config: LeakyConfig, description: Description) -> None:
        import numpy as np  # not at the top: `lint` only describes, and starts faster without it

        self.decays = np.array(config.decays)
        self.inputs, self.outputs, self.state = description.inputs, description.outputs, description.state

    def step(self, state: Arrays, x: Arrays) -> tuple[Arrays, Arrays]:
        """One event for each of n keys."""
        value = x[self.inputs[0].name]
        h = self.decays * state["h"] + (1 - self.decays) * value
        return {"h": h}, {"y": value - h}


def describe(config: LeakyConfig, given: Mapping[str, TensorSpec], context: Context) -> Description:
    """What the model takes, gives and keeps, where `given` are the pipeline's inputs."""
    shapes = {name: spec.shape for name, spec in given.items()}
    if list(shapes.values()) != [(1,)]:
        raise OptionError((("type",), f"leaky needs one input of one number in event.inputs, found {shapes}"))
    size = (len(config.decays),)
    return Description(
        inputs=tuple(TensorSpec(name, (1,), "float64") for name in given),
        outputs=(TensorSpec("y", size, "float64"),),
        state=StateSpec((StateTensor("h", size, "float64"),), fingerprint=f"leaky {config.decays}"),
    )


def build(config: LeakyConfig, given: Mapping[str, TensorSpec], context: Context) -> Leaky:
    """The model itself; one that has files would read them here, by `context`."""
    return Leaky(config, describe(config, given, context))


@hookimpl
def streamrnn_components() -> list[Component]:
    """All that this package offers."""
    summary, example = "exponential means that forget at different speeds", "{decays: [0.9, 0.99]}"
    return [Component("backend", "leaky", LeakyConfig, build, summary, describe, example)]
