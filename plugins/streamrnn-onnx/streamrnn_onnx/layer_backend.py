"""The backend of a graph that was made of layers: indices are checked, for ONNX takes -1 for the last row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from streamrnn.errors import ModelError
from streamrnn_onnx.backend import OnnxBackend, run

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamrnn.backend import Arrays

    IntArray = NDArray[np.int64]


class OnnxLayers(OnnxBackend):
    """See `OnnxBackend`. `step` raises `ModelError` for an index that an embedding has no row for."""

    def step(self, state: Arrays, x: Arrays) -> tuple[Arrays, Arrays]:
        """See `Backend.step`: what `call` does for one step, without a plan to look into."""
        feeds = {t.name: np.ascontiguousarray(state[t.name]) for t in self.state.tensors}
        for spec in self.inputs:
            array = np.ascontiguousarray(x[spec.name], spec.dtype)
            if spec.high is not None:
                _check(spec.name, array, spec.high)
            feeds[spec.name] = array[None] if self.has_steps else array
        found = run(self._session, self._asked, feeds)
        y = {spec.name: found[spec.name][0] if self.has_steps else found[spec.name] for spec in self.outputs}
        return {name: found[after] for name, after in self._after.items()}, y

    def call(self, state: Arrays, x: Arrays) -> tuple[Arrays, Arrays]:
        """See `OnnxBackend.call`."""
        for spec in self.inputs:
            if spec.high is not None:
                _check(spec.name, x[spec.name], spec.high)
        return super().call(state, x)

    def _scan(self, state: Arrays, x: Arrays, lens: IntArray) -> tuple[Arrays, Arrays, IntArray]:
        """See `OnnxBackend.scan`; indices behind a row's end may be anything."""
        valid = np.arange(next(iter(x.values())).shape[1]) < np.asarray(lens)[:, None]
        known = {spec.name for spec in self.inputs if spec.high is not None}
        x = {name: np.where(valid[:, :, None], a, 0) if name in known else a for name, a in x.items()}
        return super()._scan(state, x, lens)


def _check(name: str, indices: Any, high: int) -> None:
    outside = (indices < 0) | (indices >= high)
    if outside.any():
        raise ModelError(
            f"expected indices from 0 to {high - 1}, found {indices[outside][0]} in '{name}'; make the vocab "
            "as long as the embedding has rows"
        )
