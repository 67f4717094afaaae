"""A module of one's own as a backend: rows and states go in and out, whatever it does between."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from streamrnn.backend import StateSpec, StateTensor
from streamrnn_torch.layers import ROWS, equal_groups, up
from streamrnn_torch.runtime import OnDevice, first_bad
from streamrnn_torch.slab import host

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamrnn.backend import Arrays, Description, TensorSpec
    from streamrnn_torch.module_wiring import Wiring
    from streamrnn_torch.options import TorchModuleConfig

    Array = NDArray[Any]
    IntArray = NDArray[np.int64]

Tensors = dict[str, torch.Tensor]


class TorchModule(OnDevice):
    """See `streamrnn.backend.Backend`; `digest` is that of the module's code and weights.

    Rows are filled up to multiples of four with copies of the last. The module gets copies of states and
    inputs, so that it may write to them.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        wiring: Wiring,
        digest: str,
        config: TorchModuleConfig,
        own_slab: bool | None = None,
    ) -> None:
        self.inputs, self.outputs = wiring.description.inputs, wiring.description.outputs
        self.state = _state(wiring.description, digest, config)
        self._settle(config, own_slab)
        if self._device.type != "cpu":
            module.to(self._device)
        self.wiring = wiring
        if config.compile:
            self.wiring = replace(wiring, call=torch.compile(wiring.call, dynamic=True))
        if wiring.scans:
            self.scan = self._scan

    @torch.inference_mode()
    def step(self, state: Arrays, x: Arrays) -> tuple[Arrays, Arrays]:
        """See `Backend.step`."""
        n = len(x[self.inputs[0].name])
        index = self._index(n)
        given = {
            spec.name: self._input(spec, x[spec.name]).index_select(0, index)[None] for spec in self.inputs
        }
        y, new = self.wiring.run(given, self._states(state, index))
        answers = {spec.name: host(y[spec.name][0, :n], spec.dtype) for spec in self.outputs}
        return self._given_back(new, n), answers

    @torch.inference_mode()
    def _scan(self, state: Arrays, x: Arrays, lens: IntArray) -> tuple[Arrays, Arrays, IntArray]:
        """See `Backend.scan`; inputs past a row's length are never read."""
        n, t = x[self.inputs[0].name].shape[:2]
        given = {spec.name: self._input(spec, x[spec.name]).transpose(0, 1) for spec in self.inputs}
        now = self._states(state, torch.arange(n, device=self._device))
        finite = torch.ones((t, n), dtype=torch.bool, device=self._device)
        told: Tensors = {}
        for rows, times in equal_groups(torch.from_numpy(np.array(lens, np.int64)).to(self._device)):
            part = {name: values[times, rows].contiguous() for name, values in given.items()}
            before = {s.name: now[s.name].index_select(s.batch_axis, rows) for s in self.state.tensors}
            y, new = self.wiring.run(part, before)
            for spec in self.outputs:
                if spec.name not in told:
                    told[spec.name] = y[spec.name].new_zeros((t, n, *spec.shape))
                told[spec.name][times, rows] = y[spec.name]
                finite[times, rows] &= _finite(y[spec.name], 2)
            for tensor in self.state.tensors:
                values = new[tensor.name]
                now[tensor.name].index_copy_(tensor.batch_axis, rows, values)
                # A state is only seen at the end of a call; the core asks `step` where in it.
                good = _finite(values.movedim(tensor.batch_axis, 0), 1) | ~finite[times, rows].all(dim=0)
                finite[times[-1], rows] &= good
        answers = {spec.name: host(told[spec.name].transpose(0, 1), spec.dtype) for spec in self.outputs}
        valid = np.arange(t) < np.asarray(lens)[:, None]
        return self._given_back(now, n), answers, first_bad(finite.cpu().numpy(), valid)

    def _index(self, n: int) -> torch.Tensor:
        return torch.arange(up(n, ROWS), device=self._device).clamp_(max=n - 1)

    def _input(self, spec: TensorSpec, x: Array) -> torch.Tensor:
        values = torch.from_numpy(np.ascontiguousarray(x, spec.dtype))
        return values.to(self._device, self._stored(spec.dtype))

    def _states(self, state: Arrays, index: torch.Tensor) -> Tensors:
        """Copies of the rows of `index`, in the types that the module computes in."""
        found = {}
        for tensor in self.state.tensors:
            values = state[tensor.name]
            if not isinstance(values, torch.Tensor):
                values = torch.from_numpy(values).to(self._device, self._stored(tensor.dtype))
            found[tensor.name] = values.index_select(tensor.batch_axis, index)
        return found

    def _given_back(self, state: Tensors, n: int) -> Arrays:
        """The first n rows of states, as the slab takes them."""
        cut = {t.name: state[t.name].narrow(t.batch_axis, 0, n) for t in self.state.tensors}
        if self.make_slab is not None:
            return cut
        return {t.name: host(cut[t.name], t.dtype) for t in self.state.tensors}


def _finite(values: torch.Tensor, lead: int) -> torch.Tensor:
    """Which of the leading axes' elements are finite throughout."""
    return torch.isfinite(values).reshape(*values.shape[:lead], -1).all(dim=-1)


def _state(description: Description, digest: str, config: TorchModuleConfig) -> StateSpec:
    def made(*said: Any) -> str:
        return hashlib.blake2b(json.dumps(said).encode(), digest_size=16).hexdigest()

    layout = [_layout(tensor) for tensor in description.state.tensors]
    inputs = [[spec.name, *spec.shape] for spec in description.inputs]
    meaning = made("torch module 1", digest, layout, inputs, config.time_axis)
    bits = made(meaning, config.dtype, config.device.partition(":")[0], config.compile)
    return replace(description.state, meaning=meaning, fingerprint=bits)


def _layout(tensor: StateTensor) -> list[Any]:
    initial = np.asarray(tensor.initial, np.float64).tolist()
    return [tensor.name, tensor.shape, tensor.dtype, tensor.batch_axis, initial]
