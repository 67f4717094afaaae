"""The state of all keys in the memory of a device: one tensor per state, one row per key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from streamrnn.backend import FirstInput, StateSpec, StateTensor
from streamrnn.limits import INITIAL

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]
    IntArray = NDArray[np.int64]
    BoolArray = NDArray[np.bool_]

Tensors = dict[str, torch.Tensor]


class DeviceSlab:
    """A `Slab` of tensors [capacity, *shape] on a device.

    `stored` gives the types in which tensors are kept and handed to the model, by name; `read` and `write`
    speak in the declared ones.
    """

    def __init__(
        self, spec: StateSpec, capacity: int, device: torch.device, stored: Mapping[str, torch.dtype]
    ) -> None:
        self.spec, self.capacity, self._device = spec, capacity, device
        self._initial = {t.name: self._tensor(_initial_row(t), stored[t.name]) for t in spec.tensors}
        self._tensors = {
            t.name: torch.zeros((capacity, *t.shape), dtype=stored[t.name], device=device)
            for t in spec.tensors
        }

    @torch.inference_mode()
    def take(self, rows: IntArray, fresh: NDArray[np.int8], x: Mapping[str, Any]) -> Tensors:
        """See `Slab.take`."""
        at, anew, state = self._index(rows), np.flatnonzero(fresh), {}
        for tensor in self.spec.tensors:
            taken = self._tensors[tensor.name][at]
            if len(anew):
                taken[self._index(anew)] = self._fresh_rows(tensor, fresh[anew])
                if isinstance(tensor.initial, FirstInput):
                    first = np.flatnonzero(fresh == INITIAL)
                    given = x[tensor.initial.input][first].reshape(-1, *tensor.shape)
                    taken[self._index(first)] = self._tensor(given, taken.dtype)
            state[tensor.name] = taken.movedim(0, tensor.batch_axis).contiguous()
        return state

    def narrow(self, state: Tensors, start: int, stop: int) -> Tensors:
        """See `Slab.narrow`."""
        return {t.name: state[t.name].narrow(t.batch_axis, start, stop - start) for t in self.spec.tensors}

    @torch.inference_mode()
    def put(self, rows: IntArray, state: Tensors, mask: BoolArray) -> None:
        """See `Slab.put`."""
        every = bool(mask.all())
        at = self._index(rows if every else rows[mask])
        for tensor in self.spec.tensors:
            values = state[tensor.name].movedim(tensor.batch_axis, 0)
            if not every:
                values = values[self._index(np.flatnonzero(mask))]
            kept = self._tensors[tensor.name]
            kept[at] = values.to(kept.dtype)

    @torch.inference_mode()
    def init(self, rows: IntArray, fresh: NDArray[np.int8]) -> None:
        """See `Slab.init`."""
        for tensor in self.spec.tensors:
            self._tensors[tensor.name][self._index(rows)] = self._fresh_rows(tensor, fresh)

    @torch.inference_mode()
    def healthy(self, state: Tensors, max_norm: float | None) -> BoolArray:
        """See `Slab.healthy`; the norm is taken in float64, on the host if the device has none."""
        ok = torch.ones(1, dtype=torch.bool, device=self._device)
        for tensor in self.spec.tensors:
            values = state[tensor.name]
            if values.is_floating_point():
                flat = values.movedim(tensor.batch_axis, 0).reshape(-1, tensor.width)
                ok = ok & torch.isfinite(flat).all(dim=1)
                if max_norm is not None:
                    wide = (flat.cpu() if self._device.type == "mps" else flat).double()
                    ok = ok & ((wide * wide).sum(dim=1).sqrt() <= max_norm).to(self._device)
        return np.asarray(ok.cpu().numpy())

    @torch.inference_mode()
    def read(self, rows: IntArray) -> dict[str, Array]:
        """See `Slab.read`."""
        at = self._index(rows)
        return {t.name: host(self._tensors[t.name][at], t.dtype) for t in self.spec.tensors}

    @torch.inference_mode()
    def write(self, rows: IntArray, tensors: Mapping[str, Array]) -> None:
        """See `Slab.write`."""
        for name, kept in self._tensors.items():
            kept[self._index(rows)] = self._tensor(tensors[name], kept.dtype)

    @torch.inference_mode()
    def grow(self, capacity: int) -> None:
        """See `Slab.grow`."""
        for name, kept in self._tensors.items():
            grown = torch.zeros((capacity, *kept.shape[1:]), dtype=kept.dtype, device=self._device)
            grown[: self.capacity] = kept
            self._tensors[name] = grown
        self.capacity = capacity

    def _index(self, rows: Any) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(rows, np.int64)).to(self._device)

    def _tensor(self, array: Array, dtype: torch.dtype) -> torch.Tensor:
        return torch.from_numpy(np.array(array)).to(self._device, dtype)

    def _fresh_rows(self, tensor: StateTensor, fresh: NDArray[np.int8]) -> torch.Tensor:
        initial = self._initial[tensor.name]
        rows = initial.new_zeros((len(fresh), *tensor.shape))
        rows[self._index(np.flatnonzero(fresh == INITIAL))] = initial
        return rows


def host(values: torch.Tensor, dtype: str) -> Array:
    """A tensor as a numpy array of the named type; it may share memory."""
    wanted: torch.dtype = getattr(torch, dtype)
    array: Array = values.to("cpu", wanted).numpy()
    return array


def _initial_row(tensor: StateTensor) -> Array:
    value = 0 if isinstance(tensor.initial, FirstInput) else tensor.initial
    return np.broadcast_to(np.asarray(value, tensor.dtype), tensor.shape)
