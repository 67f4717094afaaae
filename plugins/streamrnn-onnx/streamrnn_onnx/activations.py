"""Activations as nodes whose answers for a row do not depend on the other rows.

ONNX Runtime computes Log, Elu and Softplus in blocks of several numbers and what is left one by one, with
other bits. Where a logarithm is needed, rows are filled up to whole blocks; the others have equal forms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from streamrnn.backends.activations import SELU_ALPHA, SELU_SCALE

BLOCK = 16
"""Numbers of float32 in the widest block, that of AVX-512."""


class Nodes(Protocol):
    """Where nodes and constants are added to; each is known by its name. Values have `rank` axes."""

    rank: int

    def add(self, op: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        """A node with one output of the same name."""
        ...

    def constant(self, name: str, values: Any, dtype: str = "float32") -> str:
        """A constant, made once a name."""
        ...


Activation = Callable[[Nodes, str, str, int], str]
"""Adds the nodes for an input [..., width], and gives the name of the answer: (nodes, input, name, width)."""


def _one(op: str, **attributes: Any) -> Activation:
    def activation(nodes: Nodes, x: str, name: str, width: int) -> str:
        return nodes.add(op, [x], name, **attributes)

    return activation


def _identity(nodes: Nodes, x: str, name: str, width: int) -> str:
    return x


def _number(nodes: Nodes, value: float) -> str:
    return nodes.constant(f"number:{value!r}", value)


def _exp_below(nodes: Nodes, x: str, name: str) -> str:
    """exp(min(x, 0)) - 1."""
    low = nodes.add("Min", [x, _number(nodes, 0.0)], f"{name}/low")
    power = nodes.add("Exp", [low], f"{name}/exp")
    return nodes.add("Sub", [power, _number(nodes, 1.0)], f"{name}/below")


def _elu(nodes: Nodes, x: str, name: str, width: int) -> str:
    below = _exp_below(nodes, x, name)
    return nodes.add("Add", [nodes.add("Relu", [x], f"{name}/above"), below], name)


def _selu(nodes: Nodes, x: str, name: str, width: int) -> str:
    below = nodes.add("Mul", [_exp_below(nodes, x, name), _number(nodes, SELU_ALPHA)], f"{name}/alpha")
    both = nodes.add("Add", [nodes.add("Relu", [x], f"{name}/above"), below], f"{name}/both")
    return nodes.add("Mul", [both, _number(nodes, SELU_SCALE)], name)


def _silu(nodes: Nodes, x: str, name: str, width: int) -> str:
    return nodes.add("Mul", [x, nodes.add("Sigmoid", [x], f"{name}/gate")], name)


def _gelu_tanh(nodes: Nodes, x: str, name: str, width: int) -> str:
    square = nodes.add("Mul", [x, x], f"{name}/square")
    cubic = nodes.add("Mul", [square, _number(nodes, 0.044715)], f"{name}/cubic")
    factor = nodes.add("Add", [cubic, _number(nodes, 1.0)], f"{name}/factor")
    inner = nodes.add("Mul", [x, factor], f"{name}/inner")
    scaled = nodes.add("Mul", [inner, _number(nodes, math.sqrt(2 / math.pi))], f"{name}/scaled")
    gate = nodes.add(
        "Add", [nodes.add("Tanh", [scaled], f"{name}/tanh"), _number(nodes, 1.0)], f"{name}/gate"
    )
    half = nodes.add("Mul", [x, _number(nodes, 0.5)], f"{name}/half")
    return nodes.add("Mul", [half, gate], name)


def _softplus(nodes: Nodes, x: str, name: str, width: int) -> str:
    """max(x, 0) + log(1 + exp(-|x|))."""
    size = nodes.add("Neg", [nodes.add("Abs", [x], f"{name}/size")], f"{name}/minus")
    more = nodes.add("Add", [nodes.add("Exp", [size], f"{name}/exp"), _number(nodes, 1.0)], f"{name}/more")
    rest = _log(nodes, more, f"{name}/rest", width)
    return nodes.add("Add", [nodes.add("Relu", [x], f"{name}/above"), rest], name)


def _log(nodes: Nodes, x: str, name: str, width: int) -> str:
    """log of numbers over 0, in whole blocks."""
    short = -width % BLOCK
    if not short:
        return nodes.add("Log", [x], name)
    pads = nodes.constant(f"pads:{short}", [0] * (2 * nodes.rank - 1) + [short], "int64")
    filled = nodes.add("Pad", [x, pads, _number(nodes, 1.0)], f"{name}/filled")
    logs = nodes.add("Log", [filled], f"{name}/logs")
    limits = [nodes.constant(f"limit:{n}", [n], "int64") for n in (0, width, -1)]
    return nodes.add("Slice", [logs, *limits], name)


ACTIVATIONS: Mapping[str, Activation] = {
    "identity": _identity,
    "relu": _one("Relu"),
    "leaky_relu": _one("LeakyRelu", alpha=0.01),
    "elu": _elu,
    "selu": _selu,
    "tanh": _one("Tanh"),
    "sigmoid": _one("Sigmoid"),
    "silu": _silu,
    "gelu_tanh": _gelu_tanh,
    "softplus": _softplus,
    "softmax": _one("Softmax", axis=-1),
    "log_softmax": _one("LogSoftmax", axis=-1),
}
