"""A slab beside a slab: what a wrapper keeps of each key, next to the state that its backend keeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from streamrnn.core.slab import HostSlab

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from streamrnn.backend import Slab, StateSpec
    from streamrnn.events import Array, BoolArray, IntArray


class SlabBeside:
    """A `Slab` of the tensors of `inner`, in that slab, and of those of `kept`, in the host's memory."""

    def __init__(self, inner: Slab, kept: StateSpec, capacity: int) -> None:
        self.capacity, self._inner, self._kept = capacity, inner, HostSlab(kept, capacity)
        self._names = {tensor.name for tensor in kept.tensors}

    def take(self, rows: IntArray, fresh: NDArray[np.int8], x: Mapping[str, Any]) -> dict[str, Any]:
        """See `Slab.take`."""
        return {**self._inner.take(rows, fresh, x), **self._kept.take(rows, fresh, x)}

    def narrow(self, state: Mapping[str, Any], start: int, stop: int) -> dict[str, Any]:
        """See `Slab.narrow`."""
        theirs, ours = self._parts(state)
        return {**self._inner.narrow(theirs, start, stop), **self._kept.narrow(ours, start, stop)}

    def put(self, rows: IntArray, state: Mapping[str, Any], mask: BoolArray) -> None:
        """See `Slab.put`."""
        theirs, ours = self._parts(state)
        self._inner.put(rows, theirs, mask)
        self._kept.put(rows, ours, mask)

    def init(self, rows: IntArray, fresh: NDArray[np.int8]) -> None:
        """See `Slab.init`."""
        self._inner.init(rows, fresh)
        self._kept.init(rows, fresh)

    def healthy(self, state: Mapping[str, Any], max_norm: float | None) -> BoolArray:
        """See `Slab.healthy`."""
        theirs, ours = self._parts(state)
        return self._inner.healthy(theirs, max_norm) & self._kept.healthy(ours, max_norm)

    def read(self, rows: IntArray) -> dict[str, Array]:
        """See `Slab.read`."""
        return {**self._inner.read(rows), **self._kept.read(rows)}

    def write(self, rows: IntArray, tensors: Mapping[str, Array]) -> None:
        """See `Slab.write`."""
        theirs, ours = self._parts(tensors)
        self._inner.write(rows, theirs)
        self._kept.write(rows, ours)

    def grow(self, capacity: int) -> None:
        """See `Slab.grow`."""
        self._inner.grow(capacity)
        self._kept.grow(capacity)
        self.capacity = capacity

    def _parts(self, state: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        return (
            {name: array for name, array in state.items() if name not in self._names},
            {name: array for name, array in state.items() if name in self._names},
        )
