"""The options of the `torch` backend."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from streamrnn.layers.options import LayersConfig


class TorchConfig(LayersConfig):
    """Layers computed by PyTorch."""

    dtype: Literal["float32", "float64", "bfloat16", "float16"] = Field(
        "float32",
        description="Type of the computation, to which weights are converted; state and outputs of the two "
        "narrow types are handed over as float32.",
    )
    device: str = Field(
        "cpu",
        pattern=r"^(cpu|mps|cuda(:\d+)?)$",
        description="Where the model runs and the state lives: cpu, cuda, cuda:1 or mps.",
    )
    threads: int = Field(
        1, ge=1, le=1024, description="PyTorch's threads in the process; more pay only for wide models."
    )
    compile: bool = Field(
        False, description="Compile the step with torch.compile, which takes a minute and a C++ compiler."
    )
