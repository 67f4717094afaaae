"""The backend of a graph that was made of layers: indices are checked, for ONNX takes -1 for the last row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from streamrnn.core.rows import all_finite
from streamrnn.errors import ModelError
from streamrnn_onnx.backend import OnnxBackend, run
from streamrnn_onnx.layer_graph import LENS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamrnn.backend import Arrays

    IntArray = NDArray[np.int64]


class OnnxLayers(OnnxBackend):
    """See `OnnxBackend`. `step` raises `ModelError` for an index that an embedding has no row for.

    A graph that scans is told after how many steps each row ends, so that a scan is one call.
    """

    def step(self, state: Arrays, x: Arrays) -> tuple[Arrays, Arrays]:
        """See `Backend.step`: what `call` does for one step, without a plan to look into."""
        feeds = self._checked(x)
        if self.has_steps:
            feeds = {name: array[None] for name, array in feeds.items()}
        found = self._run(state, feeds, 1)
        y = {spec.name: found[spec.name][0] if self.has_steps else found[spec.name] for spec in self.outputs}
        return self._after_of(found), y

    def _scan(self, state: Arrays, x: Arrays, lens: IntArray) -> tuple[Arrays, Arrays, IntArray]:
        """See `Backend.scan`; indices behind a row's end may be anything."""
        n, t = next(iter(x.values())).shape[:2]
        valid = np.arange(t) < np.asarray(lens)[:, None]
        known = {spec.name for spec in self.inputs if spec.high is not None}
        x = {name: np.where(valid[:, :, None], a, 0) if name in known else a for name, a in x.items()}
        feeds = {name: np.ascontiguousarray(a.swapaxes(0, 1)) for name, a in self._checked(x).items()}
        found = self._run(state, feeds, lens)
        y = {spec.name: found[spec.name].swapaxes(0, 1) for spec in self.outputs}
        new_state, bad_at = self._after_of(found), np.full(n, -1)
        # What is not finite once shows in every state behind it, and so in the last: activations are tanh.
        if not all(map(all_finite, found.values())):
            for row in range(n):
                first = self._rows(state, slice(row, row + 1))
                bad_at[row] = self._first_bad(first, x, row, int(lens[row]))
        return new_state, y, bad_at

    def _run(self, state: Arrays, feeds: Arrays, lens: IntArray | int) -> Arrays:
        """All that is asked of the graph for inputs of one or several steps."""
        for tensor in self.state.tensors:
            feeds[tensor.name] = np.ascontiguousarray(state[tensor.name])
        if self.scan is not None:
            rows = next(iter(feeds.values())).shape[1]
            feeds[LENS] = np.full(rows, lens, np.int32)
        return run(self._session, self._asked, feeds)

    def _checked(self, x: Arrays) -> Arrays:
        feeds = {spec.name: np.ascontiguousarray(x[spec.name], spec.dtype) for spec in self.inputs}
        for spec in self.inputs:
            if spec.high is not None:
                _check(spec.name, feeds[spec.name], spec.high)
        return feeds

    def _after_of(self, found: Arrays) -> Arrays:
        return {name: found[after] for name, after in self._after.items()}


def _check(name: str, indices: Any, high: int) -> None:
    outside = (indices < 0) | (indices >= high)
    if outside.any():
        raise ModelError(
            f"expected indices from 0 to {high - 1}, found {indices[outside][0]} in '{name}'; make the vocab "
            "as long as the embedding has rows"
        )
