"""The `numpy` backend: planned layers with their weights, stepped or scanned in batch-invariant form.

Activations between layers are [rows, width], C-contiguous. In a scan the rows are time-major, t times n of
them, with the longest rows first, so that the rows still running at a step are a prefix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from streamrnn.backend import Backend, TensorSpec
from streamrnn.backends.activations import ACTIVATIONS
from streamrnn.backends.cells import Cell, GruCell, LstmCell, ResetBeforeGruCell, RnnCell
from streamrnn.backends.tiles import BLAS_LIMIT, TiledMatrix
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

FORMULAS = "numpy layers 1"
"""Part of the fingerprint: counts up when the same weights would give other bits."""


def build(config: NumpyConfig, given: Mapping[str, TensorSpec], context: Context) -> NumpyBackend:
    """Load the weights. Raises `OptionError` as `describe` does, `ModelError` for weights not finite."""
    return NumpyBackend(LoadedModel(config, given, context), config.tile_rows)


class NumpyBackend(Backend):
    """A model of planned layers; see `streamrnn.backend.Backend`."""

    def __init__(self, model: LoadedModel, tile_rows: int) -> None:
        plan = model.plan
        self._layers = tuple(_load_layer(layer, model.weights, tile_rows) for layer in plan.layers)
        self._outputs = plan.outputs
        self.inputs = plan.description.inputs
        self.outputs = plan.description.outputs
        self.state = model.state(FORMULAS, tile_rows)
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
        values = {spec.name: np.ascontiguousarray(x[spec.name], spec.dtype) for spec in self.inputs}
        new_state: Arrays = {}
        with _quiet():
            for layer in self._layers:
                if isinstance(layer, _Recurrent):
                    values[layer.name] = layer.step(values, state, new_state)
                else:
                    values[layer.name] = layer.forward(values)
        return new_state, {name: values[layer] for name, layer in self._outputs.items()}

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
    """The rows of one scan, longest first, and what was found not finite in them."""

    def __init__(self, lens: IntArray, steps: int) -> None:
        self.rows = len(lens)
        self._steps = steps
        self.order = np.argsort(-lens, kind="stable")
        self._lens = lens[self.order]
        self._running = np.arange(steps)[:, None] < self._lens
        self.active: list[int] = [count for count in self._running.sum(axis=1).tolist() if count]
        self._finite = np.ones((steps, self.rows), dtype=np.bool_)

    def gather(self, x: Array, dtype: str) -> Array:
        """[n, t, w] to [t*n, w], zeros past a row's length, where indices may be anything."""
        sorted_x = x[self.order].transpose(1, 0, 2)
        kept = np.where(self._running[:, :, None], sorted_x, 0)
        return np.ascontiguousarray(kept, dtype).reshape(-1, x.shape[2])

    def scatter(self, y: Array) -> Array:
        """[t*n, w] to [n, t, w]."""
        out = np.empty((self.rows, self._steps, y.shape[1]), y.dtype)
        out[self.order] = y.reshape(self._steps, self.rows, -1).transpose(1, 0, 2)
        return out

    def restore(self, sorted_rows: Array) -> Array:
        """[n, size] in the caller's order."""
        out = np.empty_like(sorted_rows)
        out[self.order] = sorted_rows
        return out

    def check(self, values: Array) -> None:
        """Note the steps whose numbers are not all finite; values [t*n, w], or [n, w] for the first step."""
        finite = np.isfinite(values)
        if not finite.all():
            found = finite.all(axis=1).reshape(-1, self.rows)
            self._finite[: len(found)] &= found

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
            old = (np.ascontiguousarray(state[name]) for name in names)
            new = cell.advance(cell.project(x), *old)
            new_state.update(zip(names, new, strict=True))
            x = new[0]
        return x

    def scan(self, values: Arrays, state: Arrays, new_state: Arrays, run: _Run) -> Array:
        """The top cell's h at every step [t*n, width]; fills `new_state`."""
        x: Array = values[self._of]
        for cell, names in self._cells:
            states = [np.ascontiguousarray(state[name][run.order]) for name in names]
            # h shows what is not finite in c, except a c that came in so: c' = f c + i g grows by 1 at most.
            for kept in states[1:]:
                run.check(kept)
            x = _unroll(cell, cell.project(x), states, run, self._width)
            run.check(x)
            new_state.update((name, run.restore(kept)) for name, kept in zip(names, states, strict=True))
        return x


def _unroll(cell: Cell, gates: Array, states: list[Array], run: _Run, width: int) -> Array:
    """All steps of one cell: gates [t*n, ...] as projected, `states` brought to their last step."""
    history = np.zeros((len(gates) // run.rows, run.rows, width), gates.dtype)
    for active, here, out in zip(
        run.active, gates.reshape(len(history), run.rows, -1), history, strict=False
    ):
        if active == run.rows:
            states[:] = cell.advance(here, *states)
            out[:] = states[0]
            continue
        new = cell.advance(here[:active], *(kept[:active] for kept in states))
        out[:active] = new[0]
        for kept, value in zip(states, new, strict=True):
            kept[:active] = value
    return history.reshape(-1, width)


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
    def __init__(self, plan: LinearPlan, weight: Array, bias: Array | None, tile_rows: int) -> None:
        self.name = plan.name
        self._of = plan.of
        self._matrix = TiledMatrix(weight.T, tile_rows)
        self._bias = bias
        self._activation = ACTIVATIONS[plan.activation]

    def forward(self, values: Arrays) -> Array:
        """activation(x W^T + b), [n, out]."""
        y = self._matrix(values[self._of])
        if self._bias is not None:
            y += self._bias
        return self._activation(y)


def _load_layer(
    plan: LayerPlan, weights: Mapping[Weight, Array], tile_rows: int
) -> _Embedding | _Concat | _Recurrent | _Linear:
    match plan:
        case ConcatPlan():
            return _Concat(plan)
        case EmbeddingPlan():
            return _Embedding(plan, weights[plan.weight])
        case LinearPlan():
            bias = None if plan.bias is None else weights[plan.bias]
            return _Linear(plan, weights[plan.weight], bias, tile_rows)
        case RecurrentPlan():
            return _Recurrent(plan, [_load_cell(plan, cell, weights, tile_rows) for cell in plan.cells])


def _load_cell(plan: RecurrentPlan, cell: CellPlan, weights: Mapping[Weight, Array], tile_rows: int) -> Cell:
    named = {name: weights[weight] for name, weight in cell.weights.items()}
    if plan.kind == "rnn":
        return RnnCell(named, tile_rows, plan.activation)
    if plan.kind == "lstm":
        return LstmCell(named, tile_rows)
    return (GruCell if plan.reset_after else ResetBeforeGruCell)(named, tile_rows)
