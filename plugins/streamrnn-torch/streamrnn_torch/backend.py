"""A model of planned layers on a device of PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from streamrnn.errors import ModelError
from streamrnn_torch.layers import ROWS, Lengths, Recurrent, load_layer, up
from streamrnn_torch.runtime import OnDevice
from streamrnn_torch.slab import host

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamrnn.backend import Arrays, TensorSpec
    from streamrnn.layers.loading import LoadedModel
    from streamrnn_torch.options import TorchConfig

    Array = NDArray[Any]
    IntArray = NDArray[np.int64]

Tensors = dict[str, torch.Tensor]

CALLS = "torch layers 1"
"""Part of the fingerprint: counts up when the same weights would give other bits."""


class TorchLayers(OnDevice):
    """See `streamrnn.backend.Backend`.

    With `own_slab`, the default where the device is not the CPU, the state lives on the device.
    Raises `ModelError` for weights that are not finite in the model's type.
    """

    def __init__(self, model: LoadedModel, config: TorchConfig, own_slab: bool | None = None) -> None:
        description = model.plan.description
        self.inputs, self.outputs = description.inputs, description.outputs
        self.state = model.state(CALLS, config.dtype, config.device.partition(":")[0], config.compile)
        self._settle(config, own_slab)
        self._load(model)
        self._run: Callable[[Tensors, Tensors], tuple[Tensors, Tensors]] = self._step
        if config.compile:
            self._run = torch.compile(self._step, dynamic=True)

    @torch.no_grad()
    def _load(self, model: LoadedModel) -> None:
        weights = {}
        for weight, array in model.weights.items():
            weights[weight] = self._tensor(array, self._dtype)
            if not torch.isfinite(weights[weight]).all():
                raise ModelError(f"{weight.name}: expected numbers that {self._dtype} can hold, found others")
        widths = {spec.name: spec.width for spec in self.inputs}
        self._layers = []
        for plan in model.plan.layers:
            self._layers.append(load_layer(plan, weights, widths))
            widths[plan.name] = plan.width
        self._outputs = {name: (of, widths[of]) for name, of in model.plan.outputs.items()}

    @torch.inference_mode()
    def step(self, state: Arrays, x: Arrays) -> tuple[Arrays, Arrays]:
        """See `Backend.step`. Raises `ModelError` for an index that an embedding has no row for."""
        n = len(x[self.inputs[0].name])
        rows = up(n, ROWS)
        values = {spec.name: self._rows(self._checked(spec, x[spec.name]), rows) for spec in self.inputs}
        states = {t.name: self._rows(state[t.name], rows) for t in self.state.tensors}
        new_state, y = self._run(states, values)
        answers = {spec.name: host(y[spec.name][:n], spec.dtype) for spec in self.outputs}
        return self._given_back(new_state, n), answers

    def _step(self, state: Tensors, values: Tensors) -> tuple[Tensors, Tensors]:
        values, new_state = dict(values), Tensors()
        for layer in self._layers:
            if isinstance(layer, Recurrent):
                values[layer.name] = layer.step(values, state, new_state)
            else:
                values[layer.name] = layer.forward(values)
        return new_state, {name: values[of][:, :width] for name, (of, width) in self._outputs.items()}

    @torch.inference_mode()
    def scan(self, state: Arrays, x: Arrays, lens: IntArray) -> tuple[Arrays, Arrays, IntArray]:
        """See `Backend.scan`."""
        n, t = x[self.inputs[0].name].shape[:2]
        rows = up(n, ROWS)
        valid = np.arange(t) < np.asarray(lens)[:, None]
        values = {spec.name: self._sequence(spec, x[spec.name], valid, rows) for spec in self.inputs}
        states = {s.name: self._rows(state[s.name], rows) for s in self.state.tensors}
        lengths = Lengths(self._rows(np.asarray(lens, np.int64), rows, repeat=True), t)
        new_state: Tensors = {}
        for layer in self._layers:
            if isinstance(layer, Recurrent):
                values[layer.name] = layer.scan(values, states, new_state, lengths)
            else:
                values[layer.name] = layer.forward(values)
        y = {name: values[of][:, :width] for name, (of, width) in self._outputs.items()}
        for part in y.values():
            lengths.check(part)
        answers = {
            spec.name: host(y[spec.name].reshape(t, rows, -1)[:, :n].transpose(0, 1), spec.dtype)
            for spec in self.outputs
        }
        return self._given_back(new_state, n), answers, lengths.bad_at(n)

    def _given_back(self, state: Tensors, n: int) -> Arrays:
        """States as the slab takes them, true rows and widths only."""
        cut = {t.name: state[t.name][:n, : t.shape[0]] for t in self.state.tensors}
        if self.make_slab is not None:
            return cut
        return {t.name: host(cut[t.name], t.dtype) for t in self.state.tensors}

    def _checked(self, spec: TensorSpec, x: Array) -> Array:
        """Inputs in the declared type. Raises `ModelError` for indices that an embedding has no row for."""
        array = np.ascontiguousarray(x, spec.dtype)
        if spec.high is not None and ((array < 0) | (array >= spec.high)).any():
            wrong = array[(array < 0) | (array >= spec.high)][0]
            raise ModelError(
                f"expected indices from 0 to {spec.high - 1}, found {wrong} in {spec.name!r}; make the "
                "vocab as long as the embedding has rows"
            )
        return array

    def _sequence(self, spec: TensorSpec, x: Array, valid: Array, rows: int) -> torch.Tensor:
        """[n, t, w] to [t * rows, w], zeros past a row's length, where inputs may be anything."""
        kept = np.zeros((x.shape[1], rows, x.shape[2]), spec.dtype)
        np.copyto(kept[:, : len(x)], x.transpose(1, 0, 2), where=valid.T[:, :, None], casting="unsafe")
        return self._typed(torch.from_numpy(self._checked(spec, kept).reshape(-1, x.shape[2])))

    def _rows(self, given: Any, rows: int, repeat: bool = False) -> torch.Tensor:
        """[n, ...] on the device in the model's type, filled up to `rows` with zeros, or the last row."""
        n = given.shape[0]
        if rows > n:
            shape = (rows, *given.shape[1:])
            tensors = isinstance(given, torch.Tensor)
            filled = given.new_zeros(shape) if tensors else np.zeros(shape, given.dtype)
            filled[:n] = given
            if repeat:
                filled[n:] = given[-1]
            given = filled
        return self._typed(given if isinstance(given, torch.Tensor) else torch.from_numpy(given))

    def _typed(self, values: torch.Tensor) -> torch.Tensor:
        dtype = self._dtype if values.is_floating_point() else values.dtype
        return values.to(self._device, dtype).contiguous()

    def _tensor(self, array: Array, dtype: torch.dtype) -> torch.Tensor:
        return torch.from_numpy(np.array(array)).to(self._device, dtype)
