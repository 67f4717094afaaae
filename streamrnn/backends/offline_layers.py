"""A model of layers over whole sequences, and what it would be with the gates of its cells read otherwise."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from streamrnn.backends.layers import NumpyBackend
from streamrnn.layers.loading import LoadedModel
from streamrnn.layers.plan import LayerPlan, RecurrentPlan
from streamrnn.offline import PYTORCH_GRU, PYTORCH_LSTM, Offline, Variant, gate_orders

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamrnn.backend import Arrays, TensorSpec
    from streamrnn.context import Context
    from streamrnn.layers.options import LayersConfig

    Array = NDArray[Any]
    Change = Callable[[Array], Array]
    Place = tuple[int, int]

GATES = {"lstm": PYTORCH_LSTM, "gru": PYTORCH_GRU}


def build(config: LayersConfig, given: Mapping[str, TensorSpec], context: Context) -> OfflineLayers:
    """The offline model of any backend's `layers`. Raises `OptionError` or `ModelError` as `LoadedModel`."""
    return OfflineLayers(LoadedModel(config, given, context))


class OfflineLayers(Offline):
    """All steps of a sequence at once, by numpy, whichever backend serves the same layers."""

    def __init__(self, model: LoadedModel) -> None:
        self._model = model
        self._backend = NumpyBackend(model, getattr(model.config, "tile_rows", None))
        self.inputs, self.outputs = self._backend.inputs, self._backend.outputs

    def sequence(self, x: Arrays, zeros: bool = False) -> Arrays:
        """See `Offline.sequence`; the initial state of layers is zeros in any case."""
        length = len(next(iter(x.values())))
        state = {t.name: np.zeros((1, *t.shape), t.dtype) for t in self._backend.state.tensors}
        whole = {name: array[None] for name, array in x.items()}
        _, y, _ = self._backend.scan(state, whole, np.array([length]))
        return {name: array[0] for name, array in y.items()}

    def variants(self) -> Iterator[Variant]:
        """See `Offline.variants`: gates in another order in all cells of a kind, then in one cell at a time.

        For a GRU also the reset gate's other place and the update gate's other sense.
        """
        for kind, names in GATES.items():
            places = [
                (at, stack)
                for at, layer in enumerate(self._model.plan.layers)
                if isinstance(layer, RecurrentPlan) and layer.kind == kind
                for stack in range(len(layer.cells))
            ]
            groups = [places, *([place] for place in places if len(places) > 1)] if places else []
            for group in groups:
                for order in gate_orders(names):
                    yield Variant(
                        order.text(self._named(group)), self._changed(group, _in_order(order.blocks))
                    )
            if kind == "gru" and places:
                yield from self._other_grus(places)

    def _other_grus(self, places: Sequence[Place]) -> Iterator[Variant]:
        where, other = self._named(places), self._flipped({at for at, _ in places})
        text = f"reset gate: {where} needs the other value of reset_after"
        yield Variant(text, other)
        for order in gate_orders(PYTORCH_GRU):
            yield Variant(f"{text}; {order.text(where)}", other._changed(places, _in_order(order.blocks)))
        text = f"update gate: that of {where} lets the new state in where PyTorch's keeps the old one"
        yield Variant(text, self._changed(places, _negated_update))

    def _changed(self, group: Collection[Place], change: Change) -> OfflineLayers:
        """The model with the weights of some cells changed."""
        model = copy(self._model)
        model.weights = dict(model.weights)
        for at, layer in enumerate(model.plan.layers):
            for stack, cell in enumerate(layer.cells if isinstance(layer, RecurrentPlan) else ()):
                for name, weight in cell.weights.items():
                    if (at, stack) in group and name != "weight_hr":  # a projection has no gates
                        model.weights[weight] = change(model.weights[weight])
        return OfflineLayers(model)

    def _flipped(self, at: Collection[int]) -> OfflineLayers:
        """The model with the reset gate of some layers in its other place."""
        model = copy(self._model)
        layers: list[LayerPlan] = list(model.plan.layers)
        for i, layer in enumerate(layers):
            if isinstance(layer, RecurrentPlan) and i in at:
                layers[i] = replace(layer, reset_after=not layer.reset_after)
        model.plan = replace(model.plan, layers=tuple(layers))
        return OfflineLayers(model)

    def _named(self, group: Sequence[Place]) -> str:
        """Layers by name; of one cell of several, its place in the stack."""
        layers = self._model.plan.layers
        names = ", ".join(dict.fromkeys(f"'{layers[at].name}'" for at, _ in group))
        at, stack = group[0]
        layer = layers[at]
        single = len(group) == 1 and isinstance(layer, RecurrentPlan) and len(layer.cells) > 1
        return f"{names}, cell {stack}," if single else names


def _in_order(blocks: Sequence[int]) -> Change:
    def change(array: Array) -> Array:
        return array.reshape(len(blocks), -1)[list(blocks)].reshape(array.shape)

    return change


def _negated_update(array: Array) -> Array:
    """sigmoid(-a) = 1 - sigmoid(a)."""
    blocks = array.reshape(3, -1).copy()
    blocks[PYTORCH_GRU.index("z")] *= -1
    return blocks.reshape(array.shape)
