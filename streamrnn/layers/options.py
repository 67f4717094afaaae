"""The options of a model made of layers, the same for every backend that computes them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

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


class Options(BaseModel):
    """Unknown options are mistakes, and a number is not a text."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _Layer(Options):
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


class LayersConfig(Options):
    """A list of layers, and where their weights are."""

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
    dtype: str = Field("float32", description="Type of the computation; weights are converted to it.")

    @property
    def state_dtype(self) -> Literal["float32", "float64"]:
        """The type of state and outputs, one that numpy has; a narrower `dtype` fits in it exactly."""
        return "float64" if self.dtype == "float64" else "float32"
