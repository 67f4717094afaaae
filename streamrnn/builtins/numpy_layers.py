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
    # Time against one product over all rows, [4..128, 128..512] matrices, float32, AVX2: one row at a time
    # takes 1.3 to 2.1 times as long for one row and 1.8 to 2.6 for 64 to 256 rows; eight take 3.1 to 6.4 and
    # 1.4 to 2.0. In whole LSTM steps with hidden 32 to 128, one row makes a single event 1.3 to 2.3 times as
    # fast as eight, for at most a quarter more in wide batches. Two and four rows are never best; sixteen is
    # not invariant.
    tile_rows: Literal[1, 8] = Field(
        1,
        description="Rows multiplied at a time: 1 is fastest for single events and few keys, 8 for wide "
        "batches of models with hidden 256 or more. Each gives its own last bits, so state is bound to it.",
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
