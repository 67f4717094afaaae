"""The options of the `numpy` backend: a list of layers, and where their weights are."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from streamrnn.hookspecs import Component

Activation = Literal[
    "identity",
    "relu",
    "leaky_relu",
    "elu",
    "selu",
    "tanh",
    "sigmoid",
    "silu",
    "gelu_tanh",
    "softplus",
    "softmax",
    "log_softmax",
]

Weights = Annotated[
    str | dict[str, Any],
    Field(
        description="Prefix of PyTorch's names in the file ('gru' finds gru.weight_ih_l0; '' where names "
        "have no prefix), or the weights themselves, by PyTorch's names without prefix."
    ),
]


class _Options(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _Layer(_Options):
    name: str | None = Field(
        None, min_length=1, description="Unique name; by default the weights' prefix, else type and index."
    )


class _OneInput(_Layer):
    of: str | None = Field(
        None,
        description="Model input or earlier layer to read; by default the previous layer, or the only input.",
    )


class _Recurrent(_OneInput):
    hidden: int = Field(ge=1, description="PyTorch's hidden_size.")
    layers: int = Field(1, ge=1, le=1000, description="Stacked layers, PyTorch's num_layers.")
    bidirectional: bool = Field(
        False, description="Always refused: the backward pass starts at the stream's end."
    )
    weights: Weights


class EmbeddingConfig(_OneInput):
    """A row of a table for each index; several indices give their rows side by side."""

    type: Literal["embedding"]
    weights: Weights


class ConcatConfig(_Layer):
    """Inputs and layers side by side."""

    type: Literal["concat"]
    of: list[str] = Field(min_length=1, description="Model inputs and earlier layers, in order.")


class RnnConfig(_Recurrent):
    """Elman network, PyTorch's nn.RNN."""

    type: Literal["rnn"]
    activation: Literal["tanh", "relu", "identity"] = Field("tanh", description="PyTorch's nonlinearity.")


class LstmConfig(_Recurrent):
    """PyTorch's nn.LSTM."""

    type: Literal["lstm"]
    proj: int | None = Field(None, ge=1, description="Size of the projected h, PyTorch's proj_size.")


class GruConfig(_Recurrent):
    """PyTorch's nn.GRU, or the form with the reset before the product."""

    type: Literal["gru"]
    reset_after: bool = Field(
        True,
        description="True: n = tanh(W_in x + b_in + r * (W_hn h + b_hn)), as PyTorch and cuDNN. "
        "False: n = tanh(W_in x + b_in + W_hn (r * h) + b_hn), as Cho et al. 2014 (arXiv:1406.1078).",
    )


class LinearConfig(_OneInput):
    """PyTorch's nn.Linear and an activation."""

    type: Literal["linear"]
    out: int = Field(ge=1, description="Numbers in the output, PyTorch's out_features.")
    activation: Activation = Field("identity", description="Applied to the result.")
    weights: Weights


RecurrentConfig = RnnConfig | LstmConfig | GruConfig
LayerConfig = Annotated[
    EmbeddingConfig | ConcatConfig | RnnConfig | LstmConfig | GruConfig | LinearConfig,
    Field(discriminator="type"),
]


class NumpyConfig(_Options):
    """Layers computed with numpy on the CPU."""

    path: str | None = Field(
        None,
        min_length=1,
        description="A safetensors file of float32 or float64 weights; not needed if all are inline.",
    )
    layers: list[LayerConfig] = Field(
        min_length=1, description="The layers, each reading inputs or earlier layers."
    )
    outputs: dict[str, str] | None = Field(
        None, min_length=1, description="Output name to layer; by default y is the last layer."
    )
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
        describe="streamrnn.backends.layer_plan:describe",
        offline="streamrnn.backends.layer_variants:build",
        summary="recurrent layers from a YAML list, weights from safetensors or inline, on the CPU",
        example="{layers: [{type: rnn, hidden: 1, activation: identity, "
        "weights: {weight_ih_l0: [[1.0]], weight_hh_l0: [[2.0]]}}]}",
    ),
)
