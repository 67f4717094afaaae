"""The `numpy` backend: planned layers with their weights, stepped or scanned in batch-invariant form.

Activations between layers are [rows, width], C-contiguous. In a scan they are packed: the events of all rows
that run at the first step, then of those that run at the second, and so on, with the longest rows first.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from streamrnn.backend import Backend, TensorSpec
from streamrnn.backends.activations import ACTIVATIONS
from streamrnn.backends.blas import BLAS_LIMIT
from streamrnn.backends.cells import Cell, GruCell, LstmCell, MakeProduct, ResetBeforeGruCell, RnnCell
from streamrnn.backends.products import Product
from streamrnn.builtins.numpy_layers import NumpyConfig
from streamrnn.errors import ModelError
from streamrnn.layers.loading import LoadedModel
from streamrnn.layers.plan import (
    CellPlan,
    ConcatPlan,
    EmbeddingPlan,
    LayerPlan,
    LinearPlan,
    RecurrentPlan,
)
from streamrnn.layers.weights import Weight

if TYPE_CHECKING:
    from streamrnn.backend import Arrays
    from streamrnn.context import Context

    IntArray = NDArray[np.int64]

Array = NDArray[Any]

FORMULAS = "numpy layers 2"
"""Part of the fingerprint: counts up when the same weights would give other bits."""


def build(config: NumpyConfig, given: Mapping[str, TensorSpec], context: Context) -> NumpyBackend:
    """Load the weights. Raises `OptionError` as `describe` does, `ModelError` for weights not finite."""
    return NumpyBackend(LoadedModel(config, given, context), config.tile_rows)


class NumpyBackend(Backend):
    """A model of planned layers; see `streamrnn.backend.Backend`."""

    ragged = True

    def __init__(self, model: LoadedModel, tile_rows: int | None) -> None:
        plan, products = model.plan, list[Product]()

        def product(matrix: Array) -> Product:
            products.append(Product(matrix, tile_rows))
            return products[-1]

        self._layers = tuple(_load_layer(layer, model.weights, product) for layer in plan.layers)
        self._outputs = plan.outputs
        self.inputs = plan.description.inputs
        self.outputs = plan.description.outputs
        self.state = model.state(FORMULAS, [made.tile_rows for made in products])
        self._holds_limit = False

    def open(self, device: str = "cpu", threads: int = 1) -> None:
        """Hold BLAS at one thread, whatever `threads` says. Raises `ModelError` for a device but "cpu"."""
        if device != "cpu":
            raise ModelError(f"the numpy backend runs on device 'cpu', found {device!r}; use another backend")
        if not self._holds_limit:
            BLAS_LIMIT.hold()
            self._holds_limit = True

    def close(self) -> None:
        """Let go of the limit on BLAS."""
        if self._holds_limit:
            BLAS_LIMIT.release()
            self._holds_limit = False

    def step(self, state: Arrays, x: Arrays) -> tuple[Arrays, Arrays]:
        """See `Backend.step`. Raises `ModelError` for an index that an embedding has no row for."""
        values, new_state = self.values(state, x)
        return new_state, {name: values[layer] for name, layer in self._outputs.items()}

    def values(self, state: Arrays, x: Arrays) -> tuple[Arrays, Arrays]:
        """What every layer gives in a step, by its name, and the new state."""
        values = {spec.name: np.ascontiguousarray(x[spec.name], spec.dtype) for spec in self.inputs}
        new_state: Arrays = {}
        with _quiet():
            for layer in self._layers:
                if isinstance(layer, _Recurrent):
                    values[layer.name] = layer.step(values, state, new_state)
                else:
                    values[layer.name] = layer.forward(values)
        return values, new_state

    def scan(self, state: Arrays, x: Arrays, lens: IntArray) -> tuple[Arrays, Arrays, IntArray]:
        """See `Backend.scan`; bit for bit what that many calls of `step` give."""
        run = _Run(lens, next(iter(x.values())).shape[1])
        values = {spec.name: run.gather(x[spec.name], spec.dtype) for spec in self.inputs}
        new_state: Arrays = {}
        with _quiet():
            for layer in self._layers:
                if isinstance(layer, _Recurrent):
                    values[layer.name] = layer.scan(values, state, new_state, run)
                else:
                    values[layer.name] = layer.forward(values)
        flat = {name: values[layer] for name, layer in self._outputs.items()}
        for y in flat.values():
            run.check(y)
        return new_state, {name: run.scatter(y) for name, y in flat.items()}, run.bad_at()


def _quiet() -> np.errstate:
    """Not-finite numbers are reported as `bad_at`, or found by the guard, instead of as warnings."""
    return np.errstate(over="ignore", invalid="ignore", divide="ignore")


class _Run:
    """The rows of one scan, longest first, and what was found not finite in them.

    Their events are packed, step after step: `active` int is how many rows run at each step, `total` the sum.
    """

    def __init__(self, lens: IntArray, steps: int) -> None:
        self.rows, self._steps = len(lens), steps
        self.order = np.argsort(-lens, kind="stable")
        self._lens = lens[self.order]
        self._running = np.arange(steps)[:, None] < self._lens
        self.active: list[int] = [count for count in self._running.sum(axis=1).tolist() if count]
        self.total = sum(self.active)
        self._finite = np.ones((steps, self.rows), dtype=np.bool_)

    def gather(self, x: Array, dtype: str) -> Array:
        """[n, t, w] to [total, w]."""
        return np.ascontiguousarray(x[self.order].transpose(1, 0, 2)[self._running], dtype)

    def scatter(self, y: Array) -> Array:
        """[total, w] to [n, t, w], zeros past a row's length."""
        sorted_y = np.zeros((self._steps, self.rows, y.shape[1]), y.dtype)
        sorted_y[self._running] = y
        out = np.empty((self.rows, self._steps, y.shape[1]), y.dtype)
        out[self.order] = sorted_y.transpose(1, 0, 2)
        return out

    def restore(self, sorted_rows: Array) -> Array:
        """[n, size] in the caller's order."""
        out = np.empty_like(sorted_rows)
        out[self.order] = sorted_rows
        return out

    def check(self, values: Array) -> None:
        """Note the steps whose numbers are not all finite; values [total, w]."""
        finite = np.isfinite(values)
        if not finite.all():
            self._finite[self._running] &= finite.all(axis=1)

    def check_first(self, states: Array) -> None:
        """Note the rows that begin with a state that is not finite; states [n, size], longest first."""
        self._finite[0] &= np.isfinite(states).all(axis=1)

    def bad_at(self) -> IntArray:
        """int64 [n]: the first step of each row with something not finite, -1 if none."""
        bad = ~self._finite & self._running
        return self.restore(np.where(bad.any(axis=0), bad.argmax(axis=0), -1))


class _Recurrent:
    def __init__(self, plan: RecurrentPlan, cells: Sequence[Cell]) -> None:
        self.name = plan.name
        self._of = plan.of
        self._width = plan.width
        self._cells = [(cell, part.states) for cell, part in zip(cells, plan.cells, strict=True)]

    def step(self, values: Arrays, state: Arrays, new_state: Arrays) -> Array:
        """The top cell's h [n, width]; fills `new_state`."""
        x: Array = values[self._of]
        for cell, names in self._cells:
            old = tuple(np.ascontiguousarray(state[name]) for name in names)
            new = _advance(cell, x, old)
            new_state.update(zip(names, new, strict=True))
            x = new[0]
        return x

    def scan(self, values: Arrays, state: Arrays, new_state: Arrays, run: _Run) -> Array:
        """The top cell's h at every step [total, width]; fills `new_state`."""
        x: Array = values[self._of]
        for cell, names in self._cells:
            states = [np.ascontiguousarray(state[name][run.order]) for name in names]
            # h shows what is not finite in c, except a c that came in so: c' = f c + i g grows by 1 at most.
            for kept in states[1:]:
                run.check_first(kept)
            x = _unroll(cell, x, states, run.active, self._width)
            run.check(x)
            new_state.update((name, run.restore(kept)) for name, kept in zip(names, states, strict=True))
        return x


def _advance(cell: Cell, x: Array, old: tuple[Array, ...]) -> tuple[Array, ...]:
    """One step of one cell, as many rows at a time as have gates that fit into the cache."""
    rows = cell.rows
    if len(x) <= rows:
        return cell.advance(cell.project(x), *old)
    new = tuple(map(np.empty_like, old))
    for start in range(0, len(x), rows):
        some = slice(start, start + rows)
        parts = cell.advance(cell.project(x[some]), *(kept[some] for kept in old))
        for out, part in zip(new, parts, strict=True):
            out[some] = part
    return new


def _unroll(cell: Cell, x: Array, states: list[Array], active: list[int], width: int) -> Array:
    """All steps of one cell over x [total, inputs]: h [total, width]; `states` come to their last step."""
    history = np.empty((len(x), width), x.dtype)
    running, start = tuple(states), 0
    for gates in _projected(cell, x, active):
        if len(gates) < len(running[0]):
            _lay_down(states, running)
            running = tuple(kept[: len(gates)] for kept in running)
        running = cell.advance(gates, *running)
        history[start : start + len(gates)] = running[0]
        start += len(gates)
    _lay_down(states, running)
    return history


def _projected(cell: Cell, x: Array, active: list[int]) -> Iterator[Array]:
    """What `cell.project` gives for each step, projected for as many steps at once as it takes."""
    ends = list(accumulate(active))
    step = start = 0
    while step < len(active):
        after = max(bisect_right(ends, start + cell.rows), step + 1)
        gates, begin = cell.project(x[start : ends[after - 1]]), 0
        for count in active[step:after]:
            yield gates[begin : begin + count]
            begin += count
        step, start = after, ends[after - 1]


def _lay_down(states: list[Array], running: tuple[Array, ...]) -> None:
    for kept, now in zip(states, running, strict=True):
        kept[: len(now)] = now


class _Embedding:
    def __init__(self, plan: EmbeddingPlan, table: Array) -> None:
        self.name = plan.name
        self._of = plan.of
        self._table = table

    def forward(self, values: Arrays) -> Array:
        """Rows of the table for indices [n, w], side by side: [n, w * size]."""
        indices: IntArray = values[self._of]
        rows = len(self._table)
        outside = (indices < 0) | (indices >= rows)
        if outside.any():
            raise ModelError(
                f"{self.name}: expected indices from 0 to {rows - 1}, found {indices[outside][0]} in "
                f"{self._of!r}; make the vocab as long as the embedding has rows"
            )
        return self._table[indices].reshape(len(indices), -1)


class _Concat:
    def __init__(self, plan: ConcatPlan) -> None:
        self.name = plan.name
        self._of = plan.of

    def forward(self, values: Arrays) -> Array:
        """The sources side by side, [n, width]."""
        return np.concatenate([values[of] for of in self._of], axis=1)


class _Linear:
    def __init__(self, plan: LinearPlan, product: Product, bias: Array | None) -> None:
        self.name = plan.name
        self._of = plan.of
        self._product = product
        self._bias = bias
        self._activation = ACTIVATIONS[plan.activation]

    def forward(self, values: Arrays) -> Array:
        """activation(x W^T + b), [n, out]."""
        y = self._product(values[self._of])
        if self._bias is not None:
            y += self._bias
        return self._activation(y)


def _load_layer(
    plan: LayerPlan, weights: Mapping[Weight, Array], product: MakeProduct
) -> _Embedding | _Concat | _Recurrent | _Linear:
    match plan:
        case ConcatPlan():
            return _Concat(plan)
        case EmbeddingPlan():
            return _Embedding(plan, weights[plan.weight])
        case LinearPlan():
            bias = None if plan.bias is None else weights[plan.bias]
            return _Linear(plan, product(weights[plan.weight].T), bias)
        case RecurrentPlan():
            return _Recurrent(plan, [_load_cell(plan, cell, weights, product) for cell in plan.cells])


def _load_cell(
    plan: RecurrentPlan, cell: CellPlan, weights: Mapping[Weight, Array], product: MakeProduct
) -> Cell:
    named = {name: weights[weight] for name, weight in cell.weights.items()}
    if plan.kind == "rnn":
        return RnnCell(named, product, plan.activation)
    if plan.kind == "lstm":
        return LstmCell(named, product)
    return (GruCell if plan.reset_after else ResetBeforeGruCell)(named, product)
