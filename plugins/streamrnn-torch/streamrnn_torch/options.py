"""The options of the backends `torch` and `torch_module`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from streamrnn.layers.options import LayersConfig, Options

Dtype = Literal["float32", "float64", "bfloat16", "float16"]
DEVICES = r"^(cpu|mps|cuda(:\d+)?)$"
NARROW = (
    "Type of the computation, to which weights are converted; state and outputs of the two narrow types are "
    "handed over as float32."
)
WHERE = "Where the model runs and the state lives: cpu, cuda, cuda:1 or mps."
THREADS = "PyTorch's threads in the process; more pay only for wide models."
COMPILE = "Compile the model with torch.compile, which takes a minute and a C++ compiler."


class TorchConfig(LayersConfig):
    """Layers computed by PyTorch."""

    dtype: Dtype = Field("float32", description=NARROW)
    device: str = Field("cpu", pattern=DEVICES, description=WHERE)
    threads: int = Field(1, ge=1, le=1024, description=THREADS)
    compile: bool = Field(False, description=COMPILE)


class StateOption(Options):
    """One tensor of a key's state, as the module takes it."""

    name: str = Field(min_length=1, description="a name of its own")
    shape: list[Annotated[int, Field(ge=1)]] = Field(description="lengths of its axes but that of the rows")
    batch_axis: int = Field(0, ge=0, description="where the rows are in what the module takes and returns")
    dtype: Literal["float32", "float64", "int64", "int32", "bool"] = Field(
        "float32", description="type of its numbers; float32 follows the model's `dtype`"
    )
    init: float | list[Any] = Field(0.0, description="its initial value: a number, or nested lists")


class SequenceOption(Options):
    """How whole sequences go through a module."""

    method: str = Field(
        "forward", min_length=1, description="the module's method: inputs to outputs, no state"
    )
    time_axis: Literal[0, 1] = Field(1, description="where its inputs and outputs have their axis of time")


class TorchModuleConfig(Options):
    """A module of one's own, `step(x, state)` or `forward(x, state)`, both returning (y, state)."""

    module: str | None = Field(
        None,
        pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$",
        description="Where the module is made: `package.module:Name`, a class or a function; the folder of "
        "the pipeline file is searched first.",
    )
    args: dict[str, Any] = Field(default_factory=dict, description="Arguments of the class or function.")
    path: str | None = Field(
        None,
        min_length=1,
        description="Its weights, as safetensors or a pickled state_dict; without `module` a whole program, "
        ".pt of torch.jit.save or .pt2 of torch.export.save.",
    )
    state: list[StateOption] | None = Field(
        None,
        min_length=1,
        description="The state's tensors; left out: those of the module's `initial_state(batch)`, else "
        "those of the one recurrent layer in it.",
    )
    state_as: Literal["tensor", "tuple", "dict"] | None = Field(
        None, description="How `state` is passed; one tensor as it is and several as a tuple if left out."
    )
    time_axis: Literal[0, 1] | None = Field(
        None, description="Where inputs and outputs have an axis of time, if they have one."
    )
    outputs: list[str] | None = Field(
        None, min_length=1, description="Names for outputs returned as a tuple, or one for a single tensor."
    )
    sequence: SequenceOption | None = Field(
        None,
        description="How the module answers whole sequences, for `verify`, such as `{method: forward, "
        "time_axis: 1}`; left out: by its axis of time, or step by step.",
    )
    dtype: Dtype = Field("float32", description=NARROW)
    device: str = Field("cpu", pattern=DEVICES, description=WHERE)
    threads: int = Field(1, ge=1, le=1024, description=THREADS)
    compile: bool = Field(False, description=COMPILE)
