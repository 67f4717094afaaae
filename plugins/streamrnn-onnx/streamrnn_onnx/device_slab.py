"""The state of all keys in the memory of a provider's device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from streamrnn.backend import FirstInput, StateSpec, StateTensor
from streamrnn.limits import INITIAL
from streamrnn_onnx import device_graphs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamrnn_onnx.device import Device, DeviceArray

    Array = NDArray[Any]
    IntArray = NDArray[np.int64]
    BoolArray = NDArray[np.bool_]
    State = Mapping[str, DeviceArray]


class DeviceSlab:
    """A `Slab` of arrays [capacity, *shape] on a device; states are `DeviceArray`s."""

    def __init__(self, spec: StateSpec, capacity: int, device: Device) -> None:
        self.spec, self.capacity, self._device = spec, capacity, device
        self._names, self._forms = [tensor.name for tensor in spec.tensors], device_graphs.forms(spec)
        self._begun = {tensor.name: _begun(tensor) for tensor in spec.tensors}
        self._arrays = {t.name: device.zeros((capacity, *t.shape), t.dtype) for t in spec.tensors}

    def take(self, rows: IntArray, fresh: NDArray[np.int8], x: Mapping[str, Any]) -> dict[str, Any]:
        """See `Slab.take`."""
        anew = bool(np.any(fresh))
        feeds: dict[str, Any] = self._numbered("slab", self._arrays) | {"rows": _index(rows)}
        if anew:
            for place, tensor in enumerate(self.spec.tensors):
                begun, first = self._begun[tensor.name], np.zeros(len(rows), np.int64)
                if isinstance(tensor.initial, FirstInput) and (fresh == INITIAL).any():
                    given = np.asarray(x[tensor.initial.input], tensor.dtype).reshape(-1, *tensor.shape)
                    begun, first = np.concatenate([given, begun[1:]]), np.arange(len(rows))
                own, zero = np.arange(len(rows)), len(rows) + len(begun) - 1
                feeds[f"begun.{place}"] = begun
                feeds[f"among.{place}"] = np.choose(fresh, [own, len(rows) + first, zero])
        return self._run(device_graphs.taken(self._forms, anew), feeds)

    def narrow(self, state: State, start: int, stop: int) -> dict[str, Any]:
        """See `Slab.narrow`."""
        return {
            t.name: state[t.name][(slice(None),) * t.batch_axis + (slice(start, stop),)]
            for t in self.spec.tensors
        }

    def put(self, rows: IntArray, state: State, mask: BoolArray) -> None:
        """See `Slab.put`."""
        picks = np.flatnonzero(mask)
        if not len(picks):
            return
        feeds = self._numbered("slab", self._arrays) | self._numbered("state", state)
        feeds |= {"rows": _index(np.asarray(rows)[picks])[:, None], "picks": _index(picks)}
        into = self._numbered("result", self._arrays)
        session = self._device.session(device_graphs.stored(self._forms))
        self._device.run(session, list(into), feeds, into=into)

    def init(self, rows: IntArray, fresh: NDArray[np.int8]) -> None:
        """See `Slab.init`."""
        which = np.asarray(fresh) != INITIAL
        self.write(rows, {name: begun[which.astype(np.int64)] for name, begun in self._begun.items()})

    def healthy(self, state: State, max_norm: float | None) -> BoolArray:
        """See `Slab.healthy`."""
        return self._device.healthy(self.spec, state, max_norm)

    def read(self, rows: IntArray) -> dict[str, Array]:
        """See `Slab.read`."""
        if not len(rows):
            return {t.name: np.zeros((0, *t.shape), t.dtype) for t in self.spec.tensors}
        state = self.take(rows, np.zeros(len(rows), np.int8), {})
        return {
            t.name: np.ascontiguousarray(np.moveaxis(np.asarray(state[t.name]), t.batch_axis, 0))
            for t in self.spec.tensors
        }

    def write(self, rows: IntArray, tensors: Mapping[str, Array]) -> None:
        """See `Slab.write`."""
        state = {
            t.name: self._device.put(np.moveaxis(np.asarray(tensors[t.name], t.dtype), 0, t.batch_axis))
            for t in self.spec.tensors
        }
        self.put(rows, state, np.ones(len(rows), np.bool_))

    def grow(self, capacity: int) -> None:
        """See `Slab.grow`."""
        for name, array in self._arrays.items():
            more = self._device.zeros((capacity - self.capacity, *array.shape[1:]), array.dtype.name)
            self._arrays[name] = self._device.joined(array, more)
        self.capacity = capacity

    def _run(self, graph: bytes, feeds: Mapping[str, Any]) -> dict[str, Any]:
        results = [f"result.{place}" for place in range(len(self._names))]
        found = self._device.run(self._device.session(graph), results, feeds, results)
        return dict(zip(self._names, found.values(), strict=True))

    def _numbered(self, what: str, state: Mapping[str, Any]) -> dict[str, Any]:
        return {f"{what}.{place}": state[name] for place, name in enumerate(self._names)}


def _index(values: Any) -> IntArray:
    return np.ascontiguousarray(values, np.int64)


def _begun(tensor: StateTensor) -> Array:
    """[2, *shape]: the initial row and zeros."""
    begun = np.zeros((2, *tensor.shape), tensor.dtype)
    begun[0] = 0 if isinstance(tensor.initial, FirstInput) else tensor.initial
    return begun
