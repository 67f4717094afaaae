"""From planned weights to arrays, and to digests of what a model means and of the bits it computes."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from streamrnn.errors import ModelError, OptionError
from streamrnn.layers.plan import EmbeddingPlan, LinearPlan, ModelPlan, RecurrentPlan, plan_model

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamrnn.backend import StateSpec, TensorSpec
    from streamrnn.context import Context
    from streamrnn.layers.options import LayersConfig
    from streamrnn.layers.weights import Weight

    Array = NDArray[Any]


class LoadedModel:
    """A planned model with its weights, by `weights[plan's weight]`, as arrays of `config.state_dtype`.

    Raises `OptionError` as `plan_model` does, and if the file cannot be read; `ModelError` for weights that
    are not finite in that type.
    """

    def __init__(self, config: LayersConfig, given: Mapping[str, TensorSpec], context: Context) -> None:
        stored = _read(config, context)
        self.config = config
        self.plan = plan_model(config, given, io.BytesIO(stored) if config.path is not None else None)
        digest = hashlib.blake2b(_said(self.plan, config).encode(), digest_size=16)
        self.weights: dict[Weight, Array] = {}
        for weight in planned_weights(self.plan):
            wide = _values(weight, stored)
            # As numbers, not as they are stored: 0.5 means the same in a file and in a list.
            digest.update(f"{weight.shape}".encode() + wide.astype(np.float64).tobytes())
            self.weights[weight] = _narrow(weight, wide, config.state_dtype)
        self.meaning = digest.hexdigest()

    def state(self, *options: Any) -> StateSpec:
        """The model's state; `options` is all that decides the bits besides what the model means."""
        said = json.dumps([self.meaning, *options], sort_keys=True)
        fingerprint = hashlib.blake2b(said.encode(), digest_size=16).hexdigest()
        return replace(self.plan.description.state, fingerprint=fingerprint, meaning=self.meaning)


def planned_weights(plan: ModelPlan) -> Iterator[Weight]:
    """Every weight that a model reads, in the order of its layers."""
    for layer in plan.layers:
        match layer:
            case EmbeddingPlan():
                yield layer.weight
            case LinearPlan():
                yield layer.weight
                if layer.bias is not None:
                    yield layer.bias
            case RecurrentPlan():
                for cell in layer.cells:
                    yield from (cell.weights[name] for name in sorted(cell.weights))


def _read(config: LayersConfig, context: Context) -> bytes:
    if config.path is None:
        return b""
    try:
        return context.fs.read_bytes(context.model_path(config.path))
    except OSError as error:
        raise OptionError((("path",), f"cannot read {config.path}: {error.strerror or error}")) from error


def _said(plan: ModelPlan, config: LayersConfig) -> str:
    """All that decides what the numbers of a state mean, but for the weights' own."""
    layers = config.model_dump(include={"layers"}, exclude={"layers": {"__all__": {"weights"}}})["layers"]
    names = [layer.name for layer in plan.layers]
    inputs = [[spec.name, *spec.shape] for spec in plan.description.inputs]
    state = [[tensor.name, tensor.dtype, *tensor.shape] for tensor in plan.description.state.tensors]
    absent = [_absent(layer) for layer in plan.layers]
    return json.dumps(["layers 1", layers, names, inputs, state, absent], sort_keys=True)


def _absent(layer: Any) -> Sequence[bool]:
    """Which optional weights a layer lacks, so that one layer's cannot pass for the next one's."""
    if isinstance(layer, RecurrentPlan):
        return ["bias_ih" not in cell.weights for cell in layer.cells]
    return [layer.bias is None] if isinstance(layer, LinearPlan) else []


def _values(weight: Weight, stored: bytes) -> Array:
    if weight.dtype == "inline":
        return np.array(weight.values, np.float64).reshape(weight.shape)
    dtype = "<f4" if weight.dtype == "F32" else "<f8"
    return np.frombuffer(stored[weight.start : weight.stop], dtype).reshape(weight.shape)


def _narrow(weight: Weight, wide: Array, dtype: str) -> Array:
    with np.errstate(over="ignore", invalid="ignore"):
        array = wide.astype(dtype)
    if not np.isfinite(array).all():
        raise ModelError(f"{weight.name}: expected finite {dtype} numbers, found others; train it again")
    return array
