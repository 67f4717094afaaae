"""The gates of recurrent layers in one step, by the textbook's formulas: for looking at, not for serving."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from streamrnn.backends.layers import NumpyBackend
from streamrnn.layers.plan import RecurrentPlan

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamrnn.backend import Arrays
    from streamrnn.layers.loading import LoadedModel

    Array = NDArray[Any]

NAMES = {"lstm": ("i", "f", "g", "o"), "gru": ("r", "z", "n"), "rnn": ()}
"""In the order of PyTorch's weights: input, forget, cell and output; reset, update and new."""


class Gates:
    """Of any backend's model of layers: what it is asked with is the model's own step, in float64."""

    def __init__(self, model: LoadedModel) -> None:
        self._model = model
        self._backend = NumpyBackend(model, getattr(model.config, "tile_rows", None))

    def of(self, state: Arrays, x: Arrays) -> dict[str, Array]:
        """Arrays [n, hidden] by "layer.gate", of stacked layers "layer.0.gate" and so on."""
        values, new_state = self._backend.values(state, x)
        found: dict[str, Array] = {}
        for layer in self._model.plan.layers:
            if not isinstance(layer, RecurrentPlan):
                continue
            below = values[layer.of]
            for i, cell in enumerate(layer.cells):
                place = f"{layer.name}.{i}" if len(layer.cells) > 1 else layer.name
                weights = {name: self._model.weights[weight] for name, weight in cell.weights.items()}
                gates = _gates(layer, weights, below, state[cell.states[0]])
                found |= {f"{place}.{name}": gate for name, gate in gates.items()}
                below = new_state[cell.states[0]]
        return found


def _gates(layer: RecurrentPlan, weights: Mapping[str, Array], x: Array, h: Array) -> dict[str, Array]:
    names = NAMES[layer.kind]
    if not names:
        return {}
    wide = {name: weight.astype(np.float64) for name, weight in weights.items()}
    given = x.astype(np.float64) @ wide["weight_ih"].T + wide.get("bias_ih", 0.0)
    before, own = h.astype(np.float64), wide["weight_hh"]
    kept = before @ own.T + wide.get("bias_hh", 0.0)
    of_x = dict(zip(names, np.split(given, len(names), axis=1), strict=True))
    of_h = dict(zip(names, np.split(kept, len(names), axis=1), strict=True))
    if layer.kind == "lstm":
        return {name: (np.tanh if name == "g" else _sigmoid)(of_x[name] + of_h[name]) for name in names}
    reset, update = (_sigmoid(of_x[name] + of_h[name]) for name in "rz")
    if layer.reset_after:
        new = np.tanh(of_x["n"] + reset * of_h["n"])
    else:
        size = h.shape[1]
        bias = wide["bias_hh"][2 * size :] if "bias_hh" in wide else 0.0
        new = np.tanh(of_x["n"] + (reset * before) @ own[2 * size :].T + bias)
    return {"r": reset, "z": update, "n": new}


def _sigmoid(a: Array) -> Array:
    half: Array = 0.5 * np.tanh(0.5 * a) + 0.5
    return half
