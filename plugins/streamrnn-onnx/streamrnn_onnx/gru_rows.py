"""A GRU made of single operators: a wide step takes half of the operator's time, a sequence several times it.

ONNX Runtime's operator computes two of its three activations one number after the other. Its answers have
other last bits than these, so that a model is made of one or of the other, for steps and sequences alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from onnx import TensorProto, helper

from streamrnn_onnx.activations import Nodes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]


class Graph(Nodes, Protocol):
    """Where nodes of several outputs are added to as well."""

    nodes: list[Any]


class _Body:
    """The nodes of one step in a `Scan`; constants are those of the graph around it."""

    rank = 2

    def __init__(self, around: Nodes) -> None:
        self.nodes: list[Any] = []
        self.constant = around.constant

    def add(self, op: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        """See `Nodes.add`."""
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name


@dataclass(frozen=True)
class GruRows:
    """The cell r, z = sigmoid(W x + R h), n = tanh(Wn x + r (Rn h)), h' = n + z (h - n) in float32.

    `weights` are a cell's by PyTorch's names and in its order of gates, r, z, n. With `reset_after` the reset
    is applied to Rn h and its bias, else to h (PyTorch, `nn.GRU`; Keras, `reset_after`).
    """

    weights: Mapping[str, Array]
    hidden: int
    reset_after: bool
    name: str

    def from_input(self, graph: Nodes, x: str) -> list[str]:
        """What r, z and n take from x [rows, width], with all biases that can be added there."""
        w, last = self.weights["weight_ih"], 2 * self.hidden
        bias, inner = (self.weights.get(part, np.zeros(len(w), w.dtype)) for part in ("bias_ih", "bias_hh"))
        added = bias + inner
        if self.reset_after:
            added[last:] = bias[last:]
        blocks = zip("rzn", self._blocks(w), self._blocks(added), strict=True)
        return [
            self._product(graph, x, weight, self._constant(graph, f"{gate}:b", b), f"{gate}:x")
            for gate, weight, b in blocks
        ]

    def step(self, graph: Nodes, h: str, given: Sequence[str], after: str) -> str:
        """The next h [rows, hidden], named `after`, from the one before and what `from_input` tells."""
        name, (reset, update, new) = self.name, self._blocks(self.weights["weight_hh"])
        r, z = (
            graph.add("Sigmoid", [self._product(graph, h, weight, add, f"{gate}:h")], f"{name}/{gate}")
            for gate, weight, add in (("r", reset, given[0]), ("z", update, given[1]))
        )
        if self.reset_after:
            bias = ""
            if "bias_hh" in self.weights:
                bias = self._constant(graph, "n:hb", self._blocks(self.weights["bias_hh"])[2])
            kept = graph.add("Mul", [r, self._product(graph, h, new, bias, "n:h")], f"{name}/n:r")
            total = graph.add("Add", [kept, given[2]], f"{name}/n:sum")
        else:
            kept = graph.add("Mul", [r, h], f"{name}/h:r")
            total = self._product(graph, kept, new, given[2], "n:sum")
        n = graph.add("Tanh", [total], f"{name}/n")
        change = graph.add("Mul", [z, graph.add("Sub", [h, n], f"{name}/change")], f"{name}/part")
        return graph.add("Add", [n, change], after)

    def scan(self, graph: Graph, h: str, given: Sequence[str]) -> str:
        """The h of every step, [steps, rows, hidden] as all of `given`; `h` [rows, hidden] is the first."""
        body, name = _Body(graph), self.name
        before, *slices = f"{name}/before", *(f"{name}/{gate}:step" for gate in "rzn")
        after = self.step(body, before, slices, f"{name}/after")
        told = body.add("Identity", [after], f"{name}/told")
        ports = [
            helper.make_tensor_value_info(port, TensorProto.FLOAT, [None, self.hidden])
            for port in (before, *slices, after, told)
        ]
        inner = helper.make_graph(body.nodes, f"{name}/body", ports[:4], ports[4:])
        every = f"{name}/all"
        node = helper.make_node(
            "Scan", [h, *given], [f"{name}/last", every], name=name, body=inner, num_scan_inputs=3
        )
        graph.nodes.append(node)
        return every

    def _blocks(self, array: Array) -> list[Array]:
        return np.split(array, 3)

    def _product(self, graph: Nodes, x: str, weight: Array, added: str, part: str) -> str:
        """x W^T, and what is `added` to it."""
        stored = self._constant(graph, f"{part}:w", weight.T)
        return graph.add("Gemm", [x, stored, added][: 3 if added else 2], f"{self.name}/{part}")

    def _constant(self, graph: Nodes, part: str, values: Array) -> str:
        return graph.constant(f"{self.name}/{part}", values)
