"""The options of `type: auto`: layers for whichever installed backend is fastest."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from streamrnn.hookspecs import Component
from streamrnn.layers.options import LayersConfig


class AutoConfig(LayersConfig):
    """Layers computed by the fastest installed backend whose answers do not depend on the batch."""

    dtype: Literal["float32", "float64"] = Field(
        "float32", description="Type of the computation, state and outputs; weights are converted to it."
    )


COMPONENTS = (
    Component(
        "backend",
        "auto",
        config=AutoConfig,
        build="streamrnn.auto:build",
        describe="streamrnn.layers.plan:describe",
        explain="streamrnn.auto:explain",
        offline="streamrnn.backends.offline_layers:build",
        summary="layers as for numpy, by the fastest installed backend that computes them",
        example="{layers: [{type: rnn, hidden: 1, activation: identity, "
        "weights: {weight_ih_l0: [[1.0]], weight_hh_l0: [[2.0]]}}]}",
    ),
)
