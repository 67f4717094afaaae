"""Computing a value of the graph that depends on sizes alone, such as the zeros that a state begins with."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from streamrnn_onnx.graph import KNOWN_TYPES, Graph, title
from streamrnn_onnx.recurrent import Cells

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import NodeProto

_OPERATORS = frozenset(
    {"Cast", "Concat", "Constant", "ConstantOfShape", "Expand", "Gather", "Identity", "Reshape", "Shape"}
    | {"Slice", "Squeeze", "Transpose", "Unsqueeze"}
)
_ELEMENTWISE = frozenset({"Add", "Div", "Equal", "Max", "Min", "Mul", "Sub", "Where"})
_SHAPE_PLACE = {"ConstantOfShape": 0, "Expand": 1}
ELEMENTS_MAX = 1 << 24
"""Numbers in one state or input; far more than any that is kept for each of many keys."""


def compute(graph: Graph, cells: Cells, name: str) -> NDArray[Any]:
    """A value for one row and one step, by ONNX's reference implementation, node by node.

    Raises `ValueError` for operators that such a value does not need, and for one that is too large.
    """
    import onnx

    order, values = _order(cells, name), dict[str, Any]()
    for tensor in graph.proto.graph.initializer:
        if any(tensor.name in node.input for node in order) or tensor.name == name:
            values[tensor.name] = onnx.numpy_helper.to_array(tensor)
    for port in graph.inputs:
        if port.dtype in KNOWN_TYPES.values() and any(port.name in node.input for node in order):
            sizes = [dim if isinstance(dim, int) else 1 for dim in port.dims or ()]
            check_elements(prod(sizes), name)
            values[port.name] = np.zeros(sizes, port.dtype)
    for node in order:
        values |= _run(graph, node, values, name)
    if name not in values:
        raise ValueError(f"the initial state '{name}' cannot be computed")
    return np.asarray(values[name])


def _order(cells: Cells, name: str) -> list[NodeProto]:
    """The nodes that a value needs, each after those that it needs itself."""
    found: dict[int, NodeProto] = {}
    waiting: list[tuple[str, bool]] = [(name, False)]
    begun: set[str] = set()
    while waiting:
        value, ready = waiting.pop()
        node = cells.producer(value)
        if node is None:
            continue
        if ready:
            found.setdefault(id(node), node)
        elif value not in begun:
            begun.add(value)
            waiting.append((value, True))
            waiting += [(read, False) for read in node.input if read]
    return list(found.values())


def _run(graph: Graph, node: NodeProto, values: dict[str, Any], name: str) -> dict[str, Any]:
    import onnx
    from onnx.reference import ReferenceEvaluator

    if node.op_type not in _OPERATORS | _ELEMENTWISE:
        raise ValueError(f"the initial state '{name}' needs {title(node)}, which is not computed beforehand")
    feeds = {read: values[read] for read in node.input if read in values}
    check_elements(sum(value.size for value in feeds.values()), name)
    if node.op_type in _ELEMENTWISE:
        try:
            check_elements(prod(np.broadcast_shapes(*(value.shape for value in feeds.values()))), name)
        except ValueError as error:
            raise ValueError(f"the initial state '{name}': {title(node)}: {error}") from error
    place = _SHAPE_PLACE.get(node.op_type)
    if place is not None:
        wanted = values.get(node.input[place], np.zeros(0))
        check_elements(prod(int(size) for size in np.ravel(wanted)), name)
    inputs = [onnx.helper.make_empty_tensor_value_info(read) for read in feeds]
    outputs = [onnx.helper.make_empty_tensor_value_info(out) for out in node.output if out]
    model = onnx.helper.make_model(
        onnx.helper.make_graph([node], "one", inputs, outputs), opset_imports=graph.proto.opset_import
    )
    try:
        found = ReferenceEvaluator(model).run(None, feeds)
    except Exception as error:
        raise ValueError(
            f"the initial state '{name}' cannot be computed: {type(error).__name__}: {error}"
        ) from error
    return dict(zip((out for out in node.output if out), found, strict=True))


def check_elements(elements: int, name: str) -> None:
    """Raises `ValueError` for a state too large to be one for each key."""
    if elements > ELEMENTS_MAX:
        raise ValueError(f"the state '{name}' would take {elements} numbers, over {ELEMENTS_MAX}")
