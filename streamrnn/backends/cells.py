"""One step of RNN, LSTM and GRU in the split form: x W_x for any number of steps at once, then h W_h.

Weights come in PyTorch's layout. Formulas are those of torch.nn.RNN, LSTM and GRU, with sigmoid(a) written
as 0.5 tanh(0.5 a) + 0.5, so that one call of tanh serves several gates; the inner 0.5 is in the weights,
where it is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from streamrnn.backends.activations import ACTIVATIONS
from streamrnn.backends.products import Product

Array = NDArray[Any]
Weights = Mapping[str, Array]
"""weight_ih [gates*hidden, inputs], weight_hh [gates*hidden, h], bias_ih and bias_hh [gates*hidden]; for a
projection weight_hr [h, hidden]."""
MakeProduct = Callable[[Array], Product]
"""From a matrix [inputs, columns] to the product with it."""


GATES_MAX = 1 << 17
"""Numbers in the gates of one call: a quarter of a megabyte of float32, which the second-level cache holds
beside the weights."""


class Cell(Protocol):
    """The recurrent part of a layer; `states` are arrays [n, size], h first."""

    rows: int
    """How many rows to project and advance at a time, at most."""

    def project(self, x: Array) -> Array:
        """The share of the gates that depends on the input alone: x [n, inputs] to [n, gates*hidden].

        The next call overwrites it.
        """
        ...

    def advance(self, gates: Array, *states: Array) -> tuple[Array, ...]:
        """One step: new states from the projected input, which may be overwritten, and the old ones."""
        ...


class RnnCell:
    """h' = activation(W_ih x + b_ih + W_hh h + b_hh)."""

    def __init__(self, weights: Weights, product: MakeProduct, activation: str) -> None:
        self._input = _Projection(weights["weight_ih"].T, _bias(weights), product)
        self._recurrent = product(weights["weight_hh"].T)
        self._activation = ACTIVATIONS[activation]
        self.project, self.rows = self._input.project, self._input.rows

    def advance(self, gates: Array, *states: Array) -> tuple[Array, ...]:
        """See `Cell.advance`."""
        return (self._activation(gates + self._recurrent(states[0])),)


class LstmCell:
    """c' = f c + i g and h' = o tanh(c'), times W_hr if there is a projection."""

    def __init__(self, weights: Weights, product: MakeProduct) -> None:
        self._hidden = hidden = len(weights["weight_hh"]) // 4
        self._half = _half(weights)
        # From i, f, g, o to i, f, o, g: the three sigmoids side by side.
        arranged = {
            name: _arrange(weight, hidden, (0, 1, 3, 2), (0.5, 0.5, 0.5, 1.0))
            for name, weight in weights.items()
            if name != "weight_hr"
        }
        self._input = _Projection(arranged["weight_ih"].T, _bias(arranged), product)
        self._recurrent = product(arranged["weight_hh"].T)
        self._room = self._input.room()
        projected = weights.get("weight_hr")
        self._shrink = None if projected is None else product(projected.T)
        self.project, self.rows = self._input.project, self._input.rows

    def advance(self, gates: Array, *states: Array) -> tuple[Array, ...]:
        """See `Cell.advance`."""
        h, c = states
        size = self._hidden
        gates += self._recurrent(h, self._room)
        np.tanh(gates, out=gates)
        sigmoids = gates[:, : 3 * size]
        np.multiply(sigmoids, self._half, out=sigmoids)
        np.add(sigmoids, self._half, out=sigmoids)
        new_c = gates[:, size : 2 * size] * c
        new_c += gates[:, :size] * gates[:, 3 * size :]
        new_h = np.tanh(new_c)
        new_h *= gates[:, 2 * size : 3 * size]
        return (new_h if self._shrink is None else self._shrink(new_h)), new_c


class GruCell:
    """h' = (1 - z) n + z h, with n = tanh(W_in x + b_in + r (W_hn h + b_hn))."""

    def __init__(self, weights: Weights, product: MakeProduct) -> None:
        self._hidden = hidden = len(weights["weight_hh"]) // 3
        self._half = _half(weights)
        arranged = {
            name: _arrange(weight, hidden, (0, 1, 2), (0.5, 0.5, 1.0)) for name, weight in weights.items()
        }
        self._new_bias, bias = _split_bias(arranged, hidden)
        self._input = _Projection(arranged["weight_ih"].T, bias, product)
        self._recurrent = product(arranged["weight_hh"].T)
        self._room = self._input.room()
        self.project, self.rows = self._input.project, self._input.rows

    def advance(self, gates: Array, *states: Array) -> tuple[Array, ...]:
        """See `Cell.advance`."""
        (h,) = states
        size = self._hidden
        recurrent = self._recurrent(h, self._room)
        reset_update = recurrent[:, : 2 * size]
        reset_update += gates[:, : 2 * size]
        reset, update = _sigmoid_halves(reset_update, size, self._half)
        new = recurrent[:, 2 * size :] + self._new_bias
        new *= reset
        new += gates[:, 2 * size :]
        return (_mix(np.tanh(new, out=new), update, h),)


class ResetBeforeGruCell:
    """h' = (1 - z) n + z h, with n = tanh(W_in x + b_in + W_hn (r h) + b_hn).

    The form of Cho et al. 2014 (arXiv:1406.1078) and of Keras with reset_after=False; z as in PyTorch, where
    it keeps the old state.
    """

    def __init__(self, weights: Weights, product: MakeProduct) -> None:
        self._hidden = hidden = len(weights["weight_hh"]) // 3
        self._half = _half(weights)
        arranged = {
            name: _arrange(weight, hidden, (0, 1, 2), (0.5, 0.5, 1.0)) for name, weight in weights.items()
        }
        self._input = _Projection(arranged["weight_ih"].T, _bias(arranged), product)
        self._recurrent = product(arranged["weight_hh"][: 2 * hidden].T)
        self._recurrent_new = product(arranged["weight_hh"][2 * hidden :].T)
        self.project, self.rows = self._input.project, self._input.rows

    def advance(self, gates: Array, *states: Array) -> tuple[Array, ...]:
        """See `Cell.advance`."""
        (h,) = states
        size = self._hidden
        reset, update = _sigmoid_halves(gates[:, : 2 * size] + self._recurrent(h), size, self._half)
        new = self._recurrent_new(reset * h)
        new += gates[:, 2 * size :]
        return (_mix(np.tanh(new, out=new), update, h),)


class _Projection:
    def __init__(self, matrix: Array, bias: Array, product: MakeProduct) -> None:
        self._product = product(matrix)
        self._bias = bias
        self.rows = max(GATES_MAX // matrix.shape[1] & -8, 64)
        self._gates = self.room()

    def room(self) -> Array:
        """Memory for the gates of `rows` rows."""
        return np.empty((self.rows, len(self._bias)), self._bias.dtype)

    def project(self, x: Array) -> Array:
        """See `Cell.project`."""
        gates = self._product(x, self._gates)
        gates += self._bias
        return gates


def _arrange(weight: Array, hidden: int, order: Sequence[int], scale: Sequence[float]) -> Array:
    blocks = weight.reshape(len(order), hidden, -1)[list(order)]
    factors = np.array(scale, weight.dtype)
    scaled: Array = blocks * factors[:, None, None]
    return scaled.reshape(weight.shape)


def _bias(weights: Weights) -> Array:
    zeros = np.zeros(len(weights["weight_hh"]), weights["weight_hh"].dtype)
    total: Array = weights.get("bias_ih", zeros) + weights.get("bias_hh", zeros)
    return total


def _split_bias(weights: Weights, hidden: int) -> tuple[Array, Array]:
    """The bias inside the reset gate's product, and the sum of all others."""
    bias = _bias(weights)
    zeros = np.zeros_like(bias)
    bias[2 * hidden :] = weights.get("bias_ih", zeros)[2 * hidden :]
    return weights.get("bias_hh", zeros)[2 * hidden :], bias


def _half(weights: Weights) -> Array:
    """0.5 as an array, which numpy takes faster than a number."""
    return np.array(0.5, weights["weight_hh"].dtype)


def _sigmoid_halves(gates: Array, size: int, half: Array) -> tuple[Array, Array]:
    np.tanh(gates, out=gates)
    np.multiply(gates, half, out=gates)
    np.add(gates, half, out=gates)
    return gates[:, :size], gates[:, size:]


def _mix(new: Array, update: Array, h: Array) -> Array:
    """(1 - z) n + z h, as n + z (h - n)."""
    kept = h - new
    kept *= update
    kept += new
    return kept
