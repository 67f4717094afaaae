"""Planned layers as calls of PyTorch whose rows do not depend on the rows around them.

A value is [rows, width], with rows a multiple of `ROWS` and width at least the layer's: what lies behind it
is finite and meets weights of zero. In a scan the rows are time-major, t times n of them.

What was measured in float32 and float64 on a CPU held to AVX-512, AVX2 and SSE4 in turn, and is probed
again whenever a model is loaded: a product does not depend on the number of rows where rows and inner
length are multiples of 4, nor does a whole call of torch.lstm, gru or rnn, which also equals its single
steps. A function of single numbers does where their count is no multiple of 32, for what is left behind
full vectors is computed by other code. Packed sequences and the cells (`nn.LSTMCell`) give other bits than
the calls used here.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from streamrnn.layers.plan import (
    CellPlan,
    ConcatPlan,
    EmbeddingPlan,
    LayerPlan,
    LinearPlan,
    RecurrentPlan,
)
from streamrnn_torch.runtime import first_bad

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamrnn.layers.weights import Weight

Tensor = torch.Tensor
Tensors = dict[str, Tensor]
Weights = Mapping["Weight", Tensor]

ROWS = 4
INNER = 4
COLUMNS = 16
"""With `ROWS` rows this makes a multiple of 64 numbers."""

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "relu": torch.relu,
    "leaky_relu": functional.leaky_relu,
    "elu": functional.elu,
    "selu": torch.selu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "silu": functional.silu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "softplus": functional.softplus,
    "softmax": lambda x: torch.softmax(x, dim=1),
    "log_softmax": lambda x: torch.log_softmax(x, dim=1),
}
LAYERS: Mapping[str, Callable[..., nn.RNNBase]] = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}
GATES = {"rnn": 1, "lstm": 4, "gru": 3}
OVER_ROWS = ("softmax", "log_softmax")


def up(length: int, multiple: int) -> int:
    """The next multiple from `length` on."""
    return -(-length // multiple) * multiple


def as_wide(x: Tensor, width: int, wanted: int) -> Tensor:
    """The first `width` columns of x [rows, width or more], and zeros behind them up to `wanted`."""
    if x.shape[1] == wanted:
        return x
    grown = x.new_zeros((len(x), wanted))
    grown[:, :width] = x[:, :width]
    return grown


class Embedding:
    """Rows of a table, side by side."""

    def __init__(self, plan: EmbeddingPlan, weights: Weights) -> None:
        self.name, self.width, self._of = plan.name, plan.width, plan.of
        self._table = weights[plan.weight]

    def forward(self, values: Tensors) -> Tensor:
        """[rows, w * size] for indices [rows, w]."""
        return functional.embedding(values[self._of], self._table).flatten(1)


class Concat:
    """Sources side by side; `widths` are those of its sources, by name."""

    def __init__(self, plan: ConcatPlan, widths: Mapping[str, int]) -> None:
        self.name, self.width = plan.name, plan.width
        self._parts = [(of, widths[of]) for of in plan.of]

    def forward(self, values: Tensors) -> Tensor:
        """[rows, width]."""
        return torch.cat([values[of][:, :width] for of, width in self._parts], dim=1)


class Linear:
    """activation(x W^T + b)."""

    def __init__(self, plan: LinearPlan, weights: Weights, width: int) -> None:
        self.name, self.width, self._of, self._inputs = plan.name, plan.width, plan.of, width
        weight = weights[plan.weight]
        self._activation = ACTIVATIONS[plan.activation]
        columns = plan.width if plan.activation in OVER_ROWS else up(plan.width, COLUMNS)
        self._weight = weight.new_zeros((columns, up(width, INNER)))
        self._weight[: plan.width, :width] = weight
        self._bias = weight.new_zeros(columns)
        if plan.bias is not None:
            self._bias[: plan.width] = weights[plan.bias]

    def forward(self, values: Tensors) -> Tensor:
        """[rows, width or more]."""
        x = as_wide(values[self._of], self._inputs, self._weight.shape[1])
        return self._activation(functional.linear(x, self._weight, self._bias))


class Cell:
    """One part of a stack; `states` names h and c, `sizes` are their padded widths."""

    def __init__(self, plan: RecurrentPlan, cell: CellPlan, inputs: int, weights: Weights) -> None:
        self.kind, self.states = plan.kind, cell.states
        self.inputs = inputs
        projects = "weight_hr" in cell.weights
        width = up(cell.width, INNER)
        # PyTorch wants a projection to be narrower than the hidden state.
        hidden = up(max(cell.hidden, width + 1), INNER) if projects else width
        self.sizes = (width, hidden)[: len(cell.states)]
        self._true = (cell.width, cell.hidden)
        named = {name: weights[weight] for name, weight in cell.weights.items()}
        self._weights = self._packed(self._padded(named, hidden), hidden)
        self._biased = "bias_ih" in cell.weights
        name = f"rnn_{plan.activation}" if plan.kind == "rnn" else plan.kind
        self._call: Callable[..., Any] = getattr(torch, name)
        if projects:
            self._warm_up()

    def run(self, x: Tensor, states: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """All steps for [t, rows, inputs] and states [rows, size]: h at every step and the last states.

        What is returned is as wide as `sizes`.
        """
        t, rows = x.shape[:2]
        x = as_wide(x.flatten(0, 1), self.inputs, up(self.inputs, INNER)).view(t, rows, -1)
        wide = [state[None] for state in self.widen(states)]
        given = tuple(wide) if self.kind == "lstm" else wide[0]
        y, *new = self._call(x, given, self._weights, self._biased, 1, 0.0, False, False, False)
        return y, [state[0] for state in new]

    def widen(self, states: Sequence[Tensor]) -> list[Tensor]:
        """States as wide as the padded weights; the same tensors where they are."""
        return [as_wide(*each) for each in zip(states, self._true, self.sizes, strict=False)]

    def _warm_up(self) -> None:
        """Once, PyTorch warns that oneDNN does not compute projections; that is known and no fault."""
        x = self._weights[0].new_zeros((1, ROWS, self._weights[0].shape[1]))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.run(x, [x.new_zeros((ROWS, size)) for size in self.sizes])

    def _packed(self, weights: Tensors, hidden: int) -> list[Tensor]:
        """The weights as PyTorch's layer holds them: in the order of its calls, for cuDNN at one place."""
        like = weights["weight_ih"]
        options: dict[str, Any] = {"bias": "bias_ih" in weights, "device": like.device, "dtype": like.dtype}
        if "weight_hr" in weights:
            options["proj_size"] = self.sizes[0]
        if at_one_place := like.is_cuda and like.dtype == torch.bfloat16:
            options["dtype"] = torch.float16  # PyTorch puts no bfloat16 there, which is as long
        layer = LAYERS[self.kind](like.shape[1], hidden, **options)
        layer.load_state_dict({f"{name}_l0": weight for name, weight in weights.items()})
        layer.requires_grad_(False).flatten_parameters()
        if not at_one_place:
            return list(layer.all_weights[0])
        views = {name: weight.view(torch.bfloat16) for name, weight in layer.named_parameters()}
        for name, weight in weights.items():
            views[f"{name}_l0"].copy_(weight)
        return [views[name] for name in layer._all_weights[0]]

    def _padded(self, weights: Tensors, hidden: int) -> Tensors:
        """The weights with zeros added; padded units stay at zero for ever."""
        gates, (own, width), made = GATES[self.kind], (self._true[1], self.sizes[0]), Tensors()
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            if name in weights:
                part = weights[name].reshape(gates, own, -1)
                inner = {"weight_ih": up(self.inputs, INNER), "weight_hh": width}.get(name, 1)
                grown = part.new_zeros((gates, hidden, inner))
                grown[:, :own, : part.shape[2]] = part
                made[name] = grown.flatten(0, 1) if name.startswith("weight") else grown.flatten()
        if "weight_hr" in weights:
            made["weight_hr"] = made["weight_ih"].new_zeros((width, hidden))
            made["weight_hr"][: self._true[0], :own] = weights["weight_hr"]
        return made


class Recurrent:
    """Stacked cells, each a call of its own, so that h at every step is known for each."""

    def __init__(self, plan: RecurrentPlan, weights: Weights, inputs: int) -> None:
        self.name, self.width, self._of = plan.name, plan.width, plan.of
        self.cells = []
        for cell in plan.cells:
            self.cells.append(Cell(plan, cell, inputs, weights))
            inputs = cell.width

    def step(self, values: Tensors, state: Tensors, new_state: Tensors) -> Tensor:
        """The top cell's h [rows, width or more]; fills `new_state`."""
        x = values[self._of]
        for cell in self.cells:
            y, new = cell.run(x[None], [state[name] for name in cell.states])
            new_state.update(zip(cell.states, new, strict=True))
            x = y[0]
        return x

    def scan(self, values: Tensors, state: Tensors, new_state: Tensors, lens: Lengths) -> Tensor:
        """The top cell's h at every step [t * rows, width or more]; fills `new_state`."""
        x = values[self._of].view(lens.steps, lens.rows, -1)
        for cell in self.cells:
            states = [state[name] for name in cell.states]
            for kept in states:  # what came in so shows in the first step
                lens.check(kept)
            x, new = lens.run(cell, x, states)
            lens.check(x.flatten(0, 1))
            new_state.update(zip(cell.states, new, strict=True))
        return x.flatten(0, 1)


class Lengths:
    """The steps of each row of a scan, and which of them are found not finite.

    `lens` int64 [rows], each at least 1 and at most `steps`.
    """

    def __init__(self, lens: Tensor, steps: int) -> None:
        self.steps, self.rows = steps, len(lens)
        self._lens = lens
        self._equal = bool((lens == steps).all())
        # A third of a call may be padding before calls of equal lengths are the faster.
        self._full = 3 * int(lens.sum()) >= 2 * steps * len(lens)
        self._finite: Tensor | None = None

    def run(self, cell: Cell, x: Tensor, states: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """As `Cell.run`; the states are those after each row's last step, what y is behind it is anything."""
        if self._equal:
            return cell.run(x, states)
        if len(states) == 1 and self._full:
            # h at every step is the answer itself, so one call over all steps tells every row's last state.
            y, _ = cell.run(x, states)
            return y, [y[self._lens - 1, torch.arange(self.rows, device=y.device)]]
        return self._run_groups(cell, x, states)

    def check(self, values: Tensor) -> None:
        """Note what is not finite in values [t * rows, w], or [rows, w] of the first step."""
        if math.isfinite(values.sum().item()):  # many times as fast, and nothing else has a finite sum
            return
        good = torch.isfinite(values)
        if not good.all():
            if self._finite is None:
                self._finite = good.new_ones((self.steps, self.rows))
            found = good.all(dim=1).view(-1, self.rows)
            self._finite[: len(found)] &= found

    def bad_at(self, n: int) -> NDArray[np.int64]:
        """int64 [n]: the first step of each of the first n rows where something was not finite, else -1."""
        if self._finite is None:
            return np.full(n, -1)
        lens = self._lens[:n].cpu().numpy()
        return first_bad(self._finite[:, :n].cpu().numpy(), np.arange(self.steps) < lens[:, None])

    def _run_groups(self, cell: Cell, x: Tensor, states: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """By `equal_groups`; rows taken twice compute the same twice."""
        y = x.new_zeros((self.steps, self.rows, cell.sizes[0]))
        now = [state.clone() for state in cell.widen(states)]
        for rows, times in equal_groups(self._lens):
            steps, new = cell.run(x[times, rows], [state[rows] for state in now])
            y[times, rows] = steps
            for state, values in zip(now, new, strict=True):
                state[rows] = values
        return y, now


def equal_groups(lens: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Calls that bring rows of `lens` int64 [n] steps to their ends, each of rows with equally many steps.

    From one row's end to the next, those go on that have more. Yields rows [r], r a multiple of `ROWS`, where
    the last may be repeated, and the indices of their steps [k, 1].
    """
    start = 0
    for stop in torch.unique(lens).tolist():
        rows = torch.nonzero(lens >= stop).flatten()
        rows = torch.cat([rows, rows[-1:].expand(up(len(rows), ROWS) - len(rows))])
        yield rows, torch.arange(start, stop, device=lens.device)[:, None]
        start = stop


def load_layer(
    plan: LayerPlan, weights: Weights, widths: Mapping[str, int]
) -> Embedding | Concat | Linear | Recurrent:
    """A layer with its weights; `widths` by name are those of inputs and earlier layers."""
    match plan:
        case EmbeddingPlan():
            return Embedding(plan, weights)
        case ConcatPlan():
            return Concat(plan, widths)
        case LinearPlan():
            return Linear(plan, weights, widths[plan.of])
        case RecurrentPlan():
            return Recurrent(plan, weights, widths[plan.of])
