"""A model of layers over whole sequences, and what it would be with the gates of its cells read otherwise."""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from streamrnn.backends.layer_plan import LayerPlan, ModelPlan, RecurrentPlan, plan_model
from streamrnn.backends.layers import NumpyBackend, WeightLoader
from streamrnn.errors import OptionError
from streamrnn.offline import PYTORCH_GRU, PYTORCH_LSTM, Offline, Variant, gate_orders

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamrnn.backend import Arrays, TensorSpec
    from streamrnn.backends.layer_weights import Weight
    from streamrnn.builtins.numpy_layers import NumpyConfig
    from streamrnn.context import Context

    Array = NDArray[Any]
    Change = Callable[[Array], Array]
    Place = tuple[int, int]

GATES = {"lstm": PYTORCH_LSTM, "gru": PYTORCH_GRU}


def build(config: NumpyConfig, given: Mapping[str, TensorSpec], context: Context) -> LayersOffline:
    """The offline model of the same options as the backend's. Raises what the backend's `build` does."""
    try:
        stored = context.fs.read_bytes(context.model_path(config.path)) if config.path is not None else b""
    except OSError as error:
        raise OptionError((("path",), f"cannot read {config.path}: {error.strerror or error}")) from error
    plan = plan_model(config, given, io.BytesIO(stored) if config.path is not None else None)
    return LayersOffline(plan, config, stored)


class LayersOffline(Offline):
    """All steps of a sequence at once, as `NumpyBackend.scan` does them."""

    def __init__(self, plan: ModelPlan, config: NumpyConfig, stored: bytes) -> None:
        self._plan, self._config, self._stored = plan, config, stored
        self._loader = WeightLoader(stored, config, plan)
        self._backend = NumpyBackend(plan, self._loader)
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
        layers = self._plan.layers
        for kind in GATES:
            places = [
                (at, stack)
                for at, layer in enumerate(layers)
                if isinstance(layer, RecurrentPlan) and layer.kind == kind
                for stack in range(len(layer.cells))
            ]
            groups = [places] if places else []
            for group in [*groups, *([place] for place in places if len(places) > 1)]:
                yield from self._reordered(kind, group)
            if kind == "gru" and places:
                yield from self._other_grus(places)

    def _reordered(self, kind: str, group: Sequence[Place]) -> Iterator[Variant]:
        where = _names(self._plan.layers, group)
        for order in gate_orders(GATES[kind]):
            yield Variant(order.text(where), self._changed(group, _in_order(order.blocks)))

    def _other_grus(self, places: Sequence[Place]) -> Iterator[Variant]:
        where = _names(self._plan.layers, places)
        at = {place for place, _ in places}
        flipped = [_flipped(layer) if i in at else layer for i, layer in enumerate(self._plan.layers)]
        text = f"reset gate: {where} needs the other value of reset_after"
        yield Variant(text, self._with(flipped))
        for order in gate_orders(PYTORCH_GRU):
            both = f"{text}; {order.text(where)}"
            yield Variant(both, self._changed(places, _in_order(order.blocks), flipped))
        text = f"update gate: that of {where} lets the new state in where PyTorch's keeps the old one"
        yield Variant(text, self._changed(places, _negated_update))

    def _changed(
        self, group: Collection[Place], change: Change, layers: Sequence[LayerPlan] | None = None
    ) -> LayersOffline:
        """The model with the weights of some cells changed."""
        changed: list[LayerPlan] = []
        for at, layer in enumerate(layers or self._plan.layers):
            if isinstance(layer, RecurrentPlan):
                cells = tuple(
                    replace(cell, weights=self._weights(cell.weights, change)) if (at, i) in group else cell
                    for i, cell in enumerate(layer.cells)
                )
                changed.append(replace(layer, cells=cells))
            else:
                changed.append(layer)
        return self._with(changed)

    def _weights(self, weights: Mapping[str, Weight], change: Change) -> dict[str, Weight]:
        return {
            name: weight
            if name == "weight_hr"  # it has no gates
            else replace(
                weight, dtype="inline", values=tuple(change(self._loader.load(weight)).ravel().tolist())
            )
            for name, weight in weights.items()
        }

    def _with(self, layers: Sequence[LayerPlan]) -> LayersOffline:
        return LayersOffline(replace(self._plan, layers=tuple(layers)), self._config, self._stored)


def _in_order(blocks: Sequence[int]) -> Change:
    def change(array: Array) -> Array:
        return array.reshape(len(blocks), -1)[list(blocks)].reshape(array.shape)

    return change


def _negated_update(array: Array) -> Array:
    """sigmoid(-a) = 1 - sigmoid(a)."""
    blocks = array.reshape(3, -1).copy()
    blocks[PYTORCH_GRU.index("z")] *= -1
    return blocks.reshape(array.shape)


def _flipped(layer: LayerPlan) -> LayerPlan:
    assert isinstance(layer, RecurrentPlan)
    return replace(layer, reset_after=not layer.reset_after)


def _names(layers: Sequence[LayerPlan], group: Sequence[Place]) -> str:
    """Layers by name; of one cell of several, its place in the stack."""
    if len(group) == 1:
        ((at, stack),) = group
        layer = layers[at]
        stacked = isinstance(layer, RecurrentPlan) and len(layer.cells) > 1
        return f"'{layer.name}'" + (f", cell {stack}," if stacked else "")
    return ", ".join(dict.fromkeys(f"'{layers[at].name}'" for at, _ in group))
