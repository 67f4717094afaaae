"""The state of all keys in the host's memory: one array per tensor, one row per key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from streamrnn.backend import FirstInput, StateSpec, StateTensor
from streamrnn.core.rows import all_finite, lay, picked, put_rows, zeros
from streamrnn.limits import INITIAL

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamrnn.events import Array, BoolArray, IntArray


class HostSlab:
    """A `Slab` of numpy arrays [capacity, *shape]; rows move to a tensor's batch axis when they are taken."""

    def __init__(self, spec: StateSpec, capacity: int) -> None:
        self.spec, self.capacity = spec, capacity
        self._initial = {tensor.name: _initial_row(tensor) for tensor in spec.tensors}
        self._arrays = {t.name: zeros((capacity, *t.shape), t.dtype) for t in spec.tensors}

    def take(self, rows: IntArray, fresh: NDArray[np.int8], x: Mapping[str, Array]) -> dict[str, Array]:
        """See `Slab.take`."""
        anew = np.flatnonzero(fresh)
        state = {}
        for tensor in self.spec.tensors:
            array = self._arrays[tensor.name].take(rows, axis=0)
            if len(anew):
                array[anew] = self._fresh_rows(tensor, fresh[anew])
                if isinstance(tensor.initial, FirstInput):
                    first = np.flatnonzero(fresh == INITIAL)
                    array[first] = x[tensor.initial.input][first].reshape(-1, *tensor.shape)
            state[tensor.name] = _to_axis(array, tensor.batch_axis)
        return state

    def narrow(self, state: Mapping[str, Array], start: int, stop: int) -> dict[str, Array]:
        """See `Slab.narrow`."""
        return {
            tensor.name: state[tensor.name][(slice(None),) * tensor.batch_axis + (slice(start, stop),)]
            for tensor in self.spec.tensors
        }

    def put(self, rows: IntArray, state: Mapping[str, Array], mask: BoolArray) -> None:
        """See `Slab.put`."""
        every = bool(mask.all())
        for tensor in self.spec.tensors:
            array, kept = _rows_first(state[tensor.name], tensor.batch_axis), self._arrays[tensor.name]
            put_rows(kept, rows if every else rows[mask], array if every else array[mask])

    def init(self, rows: IntArray, fresh: NDArray[np.int8]) -> None:
        """See `Slab.init`."""
        for tensor in self.spec.tensors:
            self._arrays[tensor.name][rows] = self._fresh_rows(tensor, fresh)

    def healthy(self, state: Mapping[str, Array], max_norm: float | None) -> BoolArray:
        """See `Slab.healthy`; the norm is taken in float64."""
        ok: BoolArray = np.ones(1, np.bool_)
        for tensor in self.spec.tensors:
            array = state[tensor.name]
            # Asking row by row costs several times as much, and is rarely needed.
            if array.dtype.kind == "f" and (max_norm is not None or not all_finite(array)):
                rows = _rows_first(array, tensor.batch_axis)
                flat = rows.reshape(len(rows), tensor.width)
                ok = ok & np.isfinite(flat).all(axis=1)
                if max_norm is not None:
                    wide = np.ascontiguousarray(flat, np.float64)
                    with np.errstate(over="ignore"):  # a square too large to hold is over any norm
                        ok = ok & (np.sqrt((wide * wide).sum(axis=1)) <= max_norm)
        return ok

    def read(self, rows: IntArray) -> dict[str, Array]:
        """See `Slab.read`."""
        return {name: picked(array, rows) for name, array in self._arrays.items()}

    def write(self, rows: IntArray, tensors: Mapping[str, Array]) -> None:
        """See `Slab.write`."""
        for name, array in self._arrays.items():
            lay(array, rows, tensors[name])

    def grow(self, capacity: int) -> None:
        """See `Slab.grow`."""
        for name, array in self._arrays.items():
            grown = zeros((capacity, *array.shape[1:]), array.dtype)
            grown[: self.capacity] = array
            self._arrays[name] = grown
        self.capacity = capacity

    def _fresh_rows(self, tensor: StateTensor, fresh: NDArray[np.int8]) -> Array:
        rows = np.zeros((len(fresh), *tensor.shape), tensor.dtype)
        rows[fresh == INITIAL] = self._initial[tensor.name]
        return rows


def _initial_row(tensor: StateTensor) -> Any:
    value = 0 if isinstance(tensor.initial, FirstInput) else tensor.initial
    return np.broadcast_to(np.asarray(value, tensor.dtype), tensor.shape)


def _rows_first(array: Array, axis: int) -> Array:
    return array if axis == 0 else np.moveaxis(array, axis, 0)


def _to_axis(array: Array, axis: int) -> Array:
    return array if axis == 0 else np.ascontiguousarray(np.moveaxis(array, 0, axis))
