"""A model file's graph in our words: its inputs, outputs and nodes, without its weights' numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto

Dim = int | str | None
"""A size, the symbol that stands for one, or neither."""

KNOWN_TYPES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    5: "int16",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float16",
    11: "float64",
}
"""ONNX's element types by number, for those that arrays in memory can have."""


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output of the graph; `dims` is None where not even the rank is known.

    `dtype` is numpy's word, or ONNX's own in capitals if numpy has none.
    """

    name: str
    dtype: str
    dims: tuple[Dim, ...] | None

    def __str__(self) -> str:
        return f"{self.name} ({self.dtype} {shown(self.dims)})"


@dataclass(frozen=True, slots=True)
class Graph:
    """What a model file says; `defaults` are the inputs that have a value unless one is given."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    defaults: Mapping[str, Port]
    metadata: Mapping[str, str]
    proto: ModelProto = field(repr=False)

    def input(self, name: str) -> Port | None:
        """The input of that name, one with a default value among them."""
        return next((port for port in self.inputs if port.name == name), self.defaults.get(name))

    def output(self, name: str) -> Port | None:
        """The output of that name."""
        return next((port for port in self.outputs if port.name == name), None)


def shown(dims: tuple[Any, ...] | None) -> str:
    """`[2, batch, ?]`."""
    if dims is None:
        return "[...]"
    return f"[{', '.join('?' if dim is None else str(dim) for dim in dims)}]"


def read_graph(model: ModelProto) -> Graph:
    """The graph of a parsed model."""
    graph = model.graph
    initialized = {tensor.name for tensor in graph.initializer}
    initialized |= {tensor.values.name for tensor in graph.sparse_initializer}
    ports = [_port(value) for value in graph.input]
    return Graph(
        tuple(port for port in ports if port.name not in initialized),
        tuple(_port(value) for value in graph.output),
        {port.name: port for port in ports if port.name in initialized},
        {entry.key: entry.value for entry in model.metadata_props},
        model,
    )


def _port(value: ValueInfoProto) -> Port:
    import onnx

    kind = value.type.WhichOneof("value") or "nothing"
    if kind != "tensor_type":
        return Port(value.name, kind.removesuffix("_type").upper(), None)
    tensor = value.type.tensor_type
    number = tensor.elem_type
    if number in KNOWN_TYPES:
        dtype = KNOWN_TYPES[number]
    else:
        known = number in onnx.TensorProto.DataType.values()
        dtype = onnx.TensorProto.DataType.Name(number) if known else f"TYPE {number}"
    dims = tuple(_dim(dim) for dim in tensor.shape.dim) if tensor.HasField("shape") else None
    return Port(value.name, dtype, dims)


def _dim(dim: Any) -> Dim:
    if dim.HasField("dim_value"):
        # Exporters of old wrote -1 or 0 for a size that is free.
        return int(dim.dim_value) if dim.dim_value > 0 else None
    return str(dim.dim_param) or None


def all_nodes(graph: GraphProto) -> Iterator[NodeProto]:
    """The nodes of a graph and of the graphs inside its nodes."""
    waiting = [graph]
    while waiting:
        for node in waiting.pop().node:
            yield node
            for attribute in node.attribute:
                waiting += [attribute.g] if attribute.HasField("g") else []
                waiting += attribute.graphs


@dataclass(frozen=True, slots=True)
class Branch:
    """A graph inside a node: which of all nodes that have one, its operator, and what it calls the graph."""

    node: int
    op_type: str
    name: str


def branches(graph: GraphProto) -> dict[int, tuple[Branch, ...]]:
    """For each node, by its `id` while that is held, the graphs inside nodes that it is in."""
    found: dict[int, tuple[Branch, ...]] = {}
    waiting: list[tuple[GraphProto, tuple[Branch, ...]]] = [(graph, ())]
    count = 0
    while waiting:
        graph, path = waiting.pop()
        for node in graph.node:
            found[id(node)] = path
            count += 1
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    branch = Branch(count, node.op_type, attribute.name)
                    waiting.append((attribute.g, (*path, branch)))
    return found


def inner_reads(node: NodeProto) -> set[str]:
    """What the graphs inside a node read and give: values of their own, and of the graphs around them."""
    found: set[str] = set()
    waiting = [attribute.g for attribute in node.attribute if attribute.HasField("g")]
    while waiting:
        graph = waiting.pop()
        found |= {value.name for value in graph.output}
        for inside in graph.node:
            found |= set(inside.input)
            waiting += [attribute.g for attribute in inside.attribute if attribute.HasField("g")]
    return found


def mixing(graph: GraphProto) -> list[NodeProto]:
    """The nodes that scale all rows of a call by the largest number in any of them."""
    return [node for node in all_nodes(graph) if node.op_type.startswith("DynamicQuantize")]


def title(node: NodeProto) -> str:
    """How to name a node to a person: `LSTM 'encoder/lstm'`, or by its output where it has no name."""
    if node.name:
        return f"{node.op_type} '{node.name}'"
    return f"{node.op_type} of '{next((name for name in node.output if name), '?')}'"
