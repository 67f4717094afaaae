"""The options of the `onnx` backend."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from streamrnn.layers.options import LayerConfig

Provider = Literal["cpu", "cuda", "tensorrt", "directml", "coreml"]
DType = Literal["float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool"]
Name = Annotated[str, Field(min_length=1)]
Axis = Annotated[int, Field(ge=0, le=15)]


class _Options(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, populate_by_name=True)


class First(_Options):
    """An initial state taken from the first event after a reset."""

    first: Name = Field(description="the input whose value becomes the state")


class StateOptions(_Options):
    """One tensor of state: a graph input, and the graph output that is its next value."""

    input: Name = Field(description="name of the graph input")
    output: Name = Field(description="name of the graph output that holds the next value")
    batch_axis: Axis | None = Field(
        default=None, description="axis of the rows; found in the graph if left out"
    )
    shape: list[Annotated[int, Field(ge=1)]] | None = Field(
        default=None, description="sizes without the batch axis; found in the graph if left out"
    )
    dtype: DType | None = Field(default=None, description="the graph's own, checked if it is written")
    init: float | list[Any] | Literal["zeros"] | First = Field(
        default="zeros",
        description="the value after a reset: zeros, a number, nested lists of `shape`, or {first: input}",
    )


class AxesOptions(_Options):
    """Where the axes of an input are, for a graph that does not tell."""

    batch_axis: Axis | None = Field(default=None, description="axis of the rows")
    time_axis: Axis | None = Field(default=None, description="axis of the steps of a sequence")


class OnnxConfig(_Options):
    """An ONNX model, one event of a key at a time."""

    path: Name | None = Field(
        default=None, description="the model's file; with `layers`, the safetensors file of their weights"
    )
    layers: list[LayerConfig] | None = Field(
        default=None,
        min_length=1,
        description="the layers, as those of the numpy backend, in place of a model's file",
    )
    dtype: Literal["float32"] | None = Field(
        default=None, description="type of the computation of `layers`, float32; a file has its own"
    )
    tuned_for: Literal["hot_keys", "many_keys"] = Field(
        default="hot_keys",
        description="what a GRU of `layers` is made for on the CPU: keys with many events in a batch, or "
        "many keys: a third faster there, several times slower with hot keys, and other last bits",
    )
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = Field(
        default=None, description="digest that the file must have"
    )
    providers: list[Provider] = Field(
        default=["cpu"],
        min_length=1,
        description="where to run, best first; the first that is installed is used",
    )
    threads: int = Field(default=1, ge=1, le=256, description="threads within one operator")
    state: list[StateOptions] | None = Field(
        default=None,
        description="all state tensors; left out, they are found in the file; [] says there is none",
    )
    hidden_state: Literal["expose", "forget"] | None = Field(
        default=None,
        description="what becomes of state that recurrent nodes keep to themselves: expose carries it from "
        "event to event, forget begins anew with each; by default exposed where an event is one step",
    )
    constants: dict[Name, bool | int | float | list[Any]] = Field(
        default_factory=dict, description="graph inputs that never change, by name"
    )
    inputs: dict[Name, AxesOptions] = Field(
        default_factory=dict, description="axes of graph inputs that the graph leaves open, by name"
    )
    outputs: dict[Name, Name] | None = Field(
        default=None,
        min_length=1,
        description="output name to graph output; by default all that are not state",
    )
    external_data: bool = Field(
        default=False, description="whether weights may lie in files of their own beside the model"
    )
    max_bytes: int = Field(
        default=1 << 30, ge=1, description="largest model, weights in files of their own included"
    )
    max_nodes: int = Field(
        default=100_000, ge=1, description="most nodes, those of subgraphs and functions included"
    )
    max_memory_bytes: int = Field(
        default=1 << 30, ge=1 << 28, description="memory that loading and a first step may take"
    )
    first_step_s: float = Field(
        default=4.0, gt=0, le=3600, description="longest time that loading and a first step may take"
    )

    @model_validator(mode="after")
    def _has_one_model(self) -> OnnxConfig:
        if self.layers is None:
            if self.path is None:
                raise ValueError("expected path, the file of a model, or layers, found neither")
            if self.dtype is not None:
                raise ValueError("expected dtype beside layers only; a model's file has its own types")
            if self.tuned_for != "hot_keys":
                raise ValueError(
                    "expected tuned_for beside layers only; a model's file has its own operators"
                )
            return self
        if self.tuned_for == "many_keys" and self.providers != ["cpu"]:
            raise ValueError("expected tuned_for: many_keys with the provider cpu alone")
        known = {"path", "layers", "outputs", "dtype", "providers", "threads", "tuned_for"}
        # What is written out as it is by default changes nothing, and `echo` writes all out.
        written = {name for name in self.model_fields_set if getattr(self, name) != _default(name)}
        if surplus := sorted(written - known):
            raise ValueError(f"expected layers without {', '.join(surplus)}, which is for a model's own file")
        return self


def _default(name: str) -> Any:
    return OnnxConfig.model_fields[name].get_default(call_default_factory=True)
