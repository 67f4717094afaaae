"""Activations as PyTorch defines them, on C-contiguous arrays [n, width], rows independent of each other.

Every function takes an array and returns one of the same shape and dtype, which may be the same array
overwritten. Overflow is avoided by the form of the formula or ends in the right limit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

SELU_ALPHA = 1.6732632423543772  # Klambauer et al. 2017, arXiv:1706.02515
SELU_SCALE = 1.0507009873554805


def identity(x: Array) -> Array:
    """x."""
    return x


def relu(x: Array) -> Array:
    """max(x, 0)."""
    return np.maximum(x, 0, out=x)


def leaky_relu(x: Array) -> Array:
    """x where positive, else 0.01 x."""
    return np.maximum(x, 0.01 * x, out=x)


def elu(x: Array) -> Array:
    """x where positive, else exp(x) - 1."""
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


def selu(x: Array) -> Array:
    """scale * (x where positive, else alpha * (exp(x) - 1))."""
    y: Array = SELU_SCALE * np.where(x > 0, x, SELU_ALPHA * np.expm1(np.minimum(x, 0)))
    return y


def tanh(x: Array) -> Array:
    """tanh(x)."""
    return np.tanh(x, out=x)


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), accurate for small results too."""
    small = np.exp(-np.abs(x))
    y: Array = np.where(x >= 0, 1, small) / (1 + small)
    return y


def silu(x: Array) -> Array:
    """x * sigmoid(x)."""
    return x * sigmoid(x)


def gelu_tanh(x: Array) -> Array:
    """0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))): GELU(approximate="tanh"), arXiv:1606.08415."""
    y: Array = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))
    return y


def softplus(x: Array) -> Array:
    """log(1 + exp(x))."""
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def softmax(x: Array) -> Array:
    """exp(x) / sum(exp(x)) over a row."""
    x -= x.max(axis=1, keepdims=True)
    np.exp(x, out=x)
    x /= x.sum(axis=1, keepdims=True)
    return x


def log_softmax(x: Array) -> Array:
    """x - log(sum(exp(x))) over a row."""
    x -= x.max(axis=1, keepdims=True)
    x -= np.log(np.exp(x).sum(axis=1, keepdims=True))
    return x


ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {
    function.__name__: function
    for function in (
        identity, relu, leaky_relu, elu, selu, tanh, sigmoid, silu, gelu_tanh, softplus, softmax, log_softmax,
    )
}  # fmt: skip
