"""The backend of a graph that was made of layers: indices are checked, for ONNX takes -1 for the last row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from streamrnn.errors import ModelError
from streamrnn_onnx.backend import OnnxBackend

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamrnn.backend import Arrays

    IntArray = NDArray[np.int64]


class OnnxLayers(OnnxBackend):
    """See `OnnxBackend`. `step` raises `ModelError` for an index that an embedding has no row for."""

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
