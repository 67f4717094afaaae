"""The options of the `numpy` backend."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from streamrnn.hookspecs import Component
from streamrnn.layers.options import LayersConfig


class NumpyConfig(LayersConfig):
    """Layers computed with numpy on the CPU."""

    dtype: Literal["float32", "float64"] = Field(
        "float32", description="Type of the computation, state and outputs; weights are converted to it."
    )
    tile_rows: Literal[1, 8] | None = Field(
        None,
        description="Rows multiplied together, never more and never fewer. Left out, products of any number "
        "of rows are used as far as this machine's BLAS is found to keep their bits. Each choice gives its "
        "own last bits, so state is bound to it.",
    )


COMPONENTS = (
    Component(
        "backend",
        "numpy",
        config=NumpyConfig,
        build="streamrnn.backends.layers:build",
        describe="streamrnn.layers.plan:describe",
        offline="streamrnn.backends.offline_layers:build",
        summary="recurrent layers from a YAML list, weights from safetensors or inline, on the CPU",
        example="{layers: [{type: rnn, hidden: 1, activation: identity, "
        "weights: {weight_ih_l0: [[1.0]], weight_hh_l0: [[2.0]]}}]}",
    ),
)
