"""A module as an ONNX graph of one step: rows of any number, states as inputs and outputs."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from streamrnn.errors import ModelError, OptionError
from streamrnn_torch.module_loading import load_module
from streamrnn_torch.module_state import first_rows
from streamrnn_torch.module_wiring import Wiring, wire
from streamrnn_torch.runtime import DTYPES

if TYPE_CHECKING:
    from streamrnn.backend import StateTensor, TensorSpec
    from streamrnn.context import Context
    from streamrnn_torch.options import TorchModuleConfig

OPSET = 18
METADATA_KEY = "streamrnn.state"
_ROWS = 3
"""In the example that is traced: a number that no other axis should be taken for by chance."""


def export(config: TorchModuleConfig, given: Mapping[str, TensorSpec], context: Context) -> bytes:
    """The graph with its weights and the metadata that says what is state.

    Raises `OptionError` as loading the module does, and without the package onnx; `ModelError` if PyTorch
    cannot export it.
    """
    if find_spec("onnx") is None:
        raise OptionError((("type",), "exporting a module needs ONNX: pip install streamrnn-onnx"))
    module, _ = load_module(config, context)
    if isinstance(module, torch.jit.ScriptModule) or config.module is None:
        raise OptionError((("path",), "a whole program cannot be exported; name the `module` it was made of"))
    module.to(DTYPES[config.dtype])
    wiring = wire(module, config, given)
    step, example = _Step(module, wiring), _example(wiring, DTYPES[config.dtype])
    inputs, outputs = _names(wiring)
    reasons = []
    for name, run in exporters():
        try:
            with warnings.catch_warnings(), _silence(), torch.no_grad():
                warnings.simplefilter("ignore")  # what is wrong with a trace shows in the answers
                return _told(run(step, example, inputs, outputs), wiring)
        except Exception as error:
            reasons.append(f"{name}: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
    raise ModelError(f"PyTorch cannot export the module: {'; '.join(reasons)}")


@contextmanager
def _silence() -> Iterator[None]:
    """Nothing of what the exporter logs about packages that are not there."""
    log = logging.getLogger("torch.onnx")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


class _Step(nn.Module):
    """Inputs and states as separate tensors, to outputs and states."""

    def __init__(self, module: nn.Module, wiring: Wiring) -> None:
        super().__init__()
        self.module = module
        self._wiring = wiring

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """See the class."""
        described = self._wiring.description
        count = len(described.inputs)
        x = {spec.name: t[None] for spec, t in zip(described.inputs, tensors[:count], strict=True)}
        state = {s.name: t for s, t in zip(described.state.tensors, tensors[count:], strict=True)}
        y, new = self._wiring.run(x, state)
        # An output that is also a state, or an input, must be a value of its own.
        answers = [y[spec.name][0].clone() for spec in described.outputs]
        return (*answers, *(new[s.name].clone() for s in described.state.tensors))


def state_name(name: str) -> str:
    """What a state is called in the graph, where a module's outputs may have the same names."""
    return f"state.{name}"


def _names(wiring: Wiring) -> tuple[dict[str, int], dict[str, int]]:
    """Names of the graph's inputs and outputs, with the axis of their rows.

    Raises `OptionError` for an output named like an input.
    """
    described = wiring.description
    states = {state_name(s.name): s.batch_axis for s in described.state.tensors}
    inputs = {spec.name: 0 for spec in described.inputs}
    for spec in described.outputs:
        if spec.name in inputs:
            text = f"the output '{spec.name}' has the name of an input; return it under another"
            raise OptionError((("outputs",), text))
    outputs = {spec.name: 0 for spec in described.outputs}
    return {**inputs, **states}, {**outputs, **{f"{name}_next": axis for name, axis in states.items()}}


def _example(wiring: Wiring, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    described, generator = wiring.description, torch.Generator().manual_seed(0)
    found: list[torch.Tensor] = []
    for spec in described.inputs:
        if spec.dtype == "int64":
            found.append(torch.zeros((_ROWS, *spec.shape), dtype=torch.int64))
        else:
            found.append(torch.randn((_ROWS, *spec.shape), generator=generator).to(dtype))
    return (*found, *(first_rows(s, _ROWS, dtype) for s in described.state.tensors))


_Exporter = Callable[[nn.Module, tuple[torch.Tensor, ...], dict[str, int], dict[str, int]], bytes]


def exporters() -> Iterator[tuple[str, _Exporter]]:
    """PyTorch's exporters that are there, that which sees a branch on a number first."""
    if find_spec("onnxscript") is not None:
        yield "torch.export", _by_export
    yield "torch.jit.trace", _by_trace


def _by_export(
    step: nn.Module, example: tuple[torch.Tensor, ...], inputs: dict[str, int], outputs: dict[str, int]
) -> bytes:
    rows = torch.export.Dim("batch")
    shapes = {"tensors": tuple({axis: rows} for axis in inputs.values())}
    program: Any = torch.onnx.export(
        step.eval(), example, input_names=[*inputs], output_names=[*outputs], dynamic_shapes=shapes,
        dynamo=True, opset_version=OPSET, verbose=False,
    )  # fmt: skip
    stored: bytes = program.model_proto.SerializeToString()
    return stored


def _by_trace(
    step: nn.Module, example: tuple[torch.Tensor, ...], inputs: dict[str, int], outputs: dict[str, int]
) -> bytes:
    buffer = io.BytesIO()
    axes = {name: {axis: "batch"} for name, axis in (inputs | outputs).items()}
    torch.onnx.export(
        step.eval(), example, buffer, input_names=[*inputs], output_names=[*outputs], dynamic_axes=axes,
        dynamo=False, opset_version=OPSET,
    )  # fmt: skip
    return buffer.getvalue()


def _told(stored: bytes, wiring: Wiring) -> bytes:
    """The graph with the metadata that says what is state."""
    import onnx

    model = onnx.load_model_from_string(stored)
    said = [
        {
            "input": state_name(s.name),
            "output": f"{state_name(s.name)}_next",
            "batch_axis": s.batch_axis,
            "init": _initial(s),
        }
        for s in wiring.description.state.tensors
    ]
    model.metadata_props.add(key=METADATA_KEY, value=json.dumps(said))
    changed: bytes = model.SerializeToString()
    return changed


def _initial(state: StateTensor) -> Any:
    values = np.broadcast_to(np.asarray(state.initial, np.float64), state.shape)
    return "zeros" if not values.any() else values.tolist()
