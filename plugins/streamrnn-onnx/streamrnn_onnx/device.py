"""Arrays in the memory of a provider's device, and runs that take and leave them there."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cache
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from streamrnn_onnx import device_graphs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamrnn.backend import StateSpec
    from streamrnn_onnx.config import Provider

    Array = NDArray[Any]

MEMORY: Mapping[str, str] = {"cuda": "cuda", "tensorrt": "cuda"}
"""Providers whose memory is not the host's, with ONNX Runtime's name of it."""


class DeviceArray:
    """An array on a device; `reshape` is a view, an index along one axis a copy, `np.asarray` a copy here."""

    def __init__(self, device: Device, value: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.device, self.value, self.shape, self.dtype = device, value, shape, dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: tuple[Any, ...]) -> DeviceArray:
        """`array[:, ..., rows]`: rows, a slice or indices, of the last axis that is named."""
        axis, rows = len(key) - 1, key[-1]
        if isinstance(rows, slice):
            rows = np.arange(self.shape[axis])[rows]
        return self.device.picked(self, axis, rows)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.asarray(self.value.numpy().reshape(self.shape), dtype)

    def reshape(self, shape: Sequence[int]) -> DeviceArray:
        """The same numbers with other sizes."""
        return DeviceArray(self.device, self.value, tuple(shape), self.dtype)


class Device:
    """The memory in which a provider's sessions work. `provider: cpu` is for tests: all is as on a GPU."""

    def __init__(self, provider: Provider, index: int = 0) -> None:
        self.provider, self.index = provider, index
        self.memory = MEMORY.get(provider, "cpu")

    def run(
        self,
        session: Any,
        names: Sequence[str],
        feeds: Mapping[str, Any],
        stays: Collection[str] = (),
        into: Mapping[str, DeviceArray] | None = None,
    ) -> dict[str, Any]:
        """Values of the graph by name, those of `stays` as `DeviceArray`.

        Those of `into` are written over the array given there, which may be an input of the graph, too.
        Raises as ONNX Runtime does.
        """
        binding, into = session.io_binding(), into or {}
        for name, array in feeds.items():
            if isinstance(array, DeviceArray):
                binding.bind_input(name, *self._place(array))
            else:
                binding.bind_cpu_input(name, np.ascontiguousarray(array))
        for name in names:
            if name in into:
                binding.bind_output(name, *self._place(into[name]))
            else:
                binding.bind_output(name, self.memory if name in stays else "cpu", self.index)
        session.run_with_iobinding(binding)
        found = dict(zip(names, binding.get_outputs(), strict=True))
        return {
            name: self._array(value) if name in stays else value.numpy()
            for name, value in found.items()
            if name not in into
        }

    def put(self, array: Array) -> DeviceArray:
        """A copy of an array of the host."""
        import onnxruntime as ort  # type: ignore[import-untyped]

        array = np.ascontiguousarray(array)
        value = ort.OrtValue.ortvalue_from_numpy(array, self.memory, self.index)
        return DeviceArray(self, value, array.shape, array.dtype)

    def zeros(self, shape: Sequence[int], dtype: str) -> DeviceArray:
        """An array of zeros."""
        graph = self.session(device_graphs.zeros(np.dtype(dtype).name))
        return self._made(graph, {"shape": np.asarray(shape, np.int64)})

    def joined(self, first: DeviceArray, second: DeviceArray) -> DeviceArray:
        """Both, one behind the other along axis 0."""
        graph = self.session(device_graphs.joined(first.dtype.name, len(first.shape)))
        return self._made(graph, {"first": first, "second": second})

    def picked(self, array: DeviceArray, axis: int, index: Any) -> DeviceArray:
        """Some places along an axis."""
        graph = self.session(device_graphs.picked(array.dtype.name, len(array.shape), axis))
        return self._made(graph, {"array": array, "index": np.asarray(index, np.int64)})

    def merged(self, spec: StateSpec, where: Array, new: Mapping[str, Any], old: Mapping[str, Any]) -> Any:
        """States with the rows of `new` where bool [n] is true, else those of `old`."""
        names, forms = [tensor.name for tensor in spec.tensors], device_graphs.forms(spec)
        row = np.arange(len(where))
        feeds: dict[str, Any] = {"among": np.where(where, row, row + len(where))}
        for place, name in enumerate(names):
            feeds |= {f"new.{place}": new[name], f"old.{place}": old[name]}
        results = [f"result.{place}" for place in range(len(names))]
        found = self.run(self.session(device_graphs.merged(forms)), results, feeds, results)
        return dict(zip(names, found.values(), strict=True))

    def healthy(self, spec: StateSpec, state: Mapping[str, Any], max_norm: float | None) -> Array:
        """bool [n], or [1] without floats: see `Slab.healthy`; sums are made in float64."""
        floats = [place for place, tensor in enumerate(spec.tensors) if np.dtype(tensor.dtype).kind == "f"]
        if not floats:
            return np.ones(1, np.bool_)
        graph = device_graphs.flaws if max_norm is None else device_graphs.squares
        feeds = {f"state.{place}": state[spec.tensors[place].name] for place in floats}
        names = [f"result.{place}" for place in floats]
        sums = self.run(self.session(graph(device_graphs.forms(spec))), names, feeds)
        limit = 0 if max_norm is None else max_norm
        # A sum that is NaN is over any limit, too.
        return np.logical_and.reduce([np.sqrt(array) <= limit for array in sums.values()])

    def session(self, graph: bytes) -> Any:
        """A session of a graph of ours, made once."""
        return _session(graph, self.provider)

    def _made(self, session: Any, feeds: Mapping[str, Any]) -> DeviceArray:
        made: DeviceArray = self.run(session, ["result"], feeds, ["result"])["result"]
        return made

    def _array(self, value: Any) -> DeviceArray:
        shape = tuple(value.shape())
        return DeviceArray(self, value, shape, device_graphs.dtype_of(value.element_type()))

    def _place(self, array: DeviceArray) -> tuple[Any, ...]:
        """What binding takes; an array of another shape has the same place."""
        assert prod(array.shape) == prod(array.value.shape()), array.shape
        return self.memory, self.index, array.dtype.type, array.shape, array.value.data_ptr()


def device_of(provider: Provider) -> Device | None:
    """Where the states of a model live that this provider runs; None is the host."""
    return Device(provider) if provider in MEMORY else None


@cache
def _session(graph: bytes, provider: Provider) -> Any:
    from streamrnn_onnx.session import open_session

    return open_session(graph, [provider], 1).session
