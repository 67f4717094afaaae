"""Computing a value of the graph that depends on sizes alone, such as the zeros that a state begins with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from streamrnn_onnx.graph import Graph, read_graph, title
from streamrnn_onnx.recurrent import SIZES, Cells

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import NodeProto

    from streamrnn_onnx.graph import Dim

_OPERATORS = frozenset(
    {"Cast", "Concat", "Constant", "ConstantOfShape", "Expand", "Gather", "Identity", "Reshape"}
    | {"Slice", "Squeeze", "Transpose", "Unsqueeze"}
)
_ELEMENTWISE = frozenset({"Add", "Div", "Equal", "Max", "Min", "Mul", "Sub", "Where"})
_SHAPE_PLACE = {"ConstantOfShape": 0, "Expand": 1}
ELEMENTS_MAX = 1 << 24
"""Numbers in one state or input; far more than any that is kept for each of many keys."""
_OPEN_SIZES = 2, 3
"""Every free axis is taken to be the first of these, then the other; 1 would be stretched to fit anything."""


@dataclass(frozen=True, slots=True)
class Beginning:
    """A value for any number of rows: its `sizes` with None for those that follow free axes of the inputs.

    `fixed` are the axes that may be that of the rows where none is free.
    """

    sizes: tuple[int | None, ...]
    value: NDArray[Any]
    fixed: tuple[int, ...]

    @property
    def free(self) -> list[int]:
        """The axes that follow free axes of the graph's inputs."""
        return [axis for axis, size in enumerate(self.sizes) if size is None]

    @property
    def row_axes(self) -> Sequence[int]:
        """The axes that may be that of the rows."""
        return self.free or self.fixed

    def row(self, axis: int) -> NDArray[Any] | None:
        """The value of one row, without the axis of the rows; None if rows differ."""
        rows: NDArray[Any] = np.moveaxis(self.value, axis, 0)
        return np.asarray(rows[0]) if (rows == rows[:1]).all() else None


class Beginnings:
    """Computes values of a graph by ONNX's reference implementation, node by node.

    Of what the graph computes from its inputs only sizes are known, so that nothing heavy runs.
    """

    def __init__(self, graph: Graph, cells: Cells) -> None:
        self._graph, self._cells = graph, cells
        self._sizes: dict[int, Mapping[str, tuple[Dim, ...]]] = {}
        self._row_counts: set[Dim] = {1, *(dim for port in graph.inputs for dim in (port.dims or ())[:-1])}

    def of(self, name: str) -> Beginning:
        """Raises `ValueError` for operators that such a value does not need, or if it is too large.

        Also where its numbers or its rank depend on the sizes of the inputs.
        """
        small, large = (self._compute(name, size) for size in _OPEN_SIZES)
        if small.ndim != large.ndim:
            raise ValueError(f"the rank of the initial state '{name}' depends on the sizes of the inputs")
        pairs = zip(small.shape, large.shape, strict=True)
        sizes = tuple(a if a == b else None for a, b in pairs)
        kept = large
        for axis in (axis for axis, size in enumerate(sizes) if size is None):
            kept = np.take(kept, range(small.shape[axis]), axis)
            if (small.shape[axis], large.shape[axis]) != _OPEN_SIZES:
                raise ValueError(f"the initial state '{name}' is {small.shape} or {large.shape}")
        if not np.array_equal(kept, small):
            raise ValueError(f"the numbers of the initial state '{name}' depend on the sizes of the inputs")
        fixed = (axis for axis, length in enumerate(small.shape) if length in self._row_counts)
        return Beginning(sizes, small, tuple(fixed))

    def _compute(self, name: str, size: int) -> NDArray[Any]:
        order, values = self._order(name), dict[str, Any]()
        import onnx

        for tensor in self._graph.proto.graph.initializer:
            if any(tensor.name in node.input for node in order) or tensor.name == name:
                values[tensor.name] = onnx.numpy_helper.to_array(tensor)
        for node in order:
            if node.op_type in SIZES:
                values[node.output[0]] = self._size_of(node, size)
            else:
                values |= self._run(node, values, name)
        if name not in values:
            raise ValueError(f"the initial state '{name}' cannot be computed")
        return np.asarray(values[name])

    def _order(self, name: str) -> list[NodeProto]:
        """The nodes that a value needs, each after those that it needs itself; none behind sizes."""
        found: dict[int, NodeProto] = {}
        waiting: list[tuple[str, bool]] = [(name, False)]
        begun: set[str] = set()
        while waiting:
            value, ready = waiting.pop()
            node = self._cells.producer(value)
            if node is None:
                continue
            if ready:
                found.setdefault(id(node), node)
            elif value not in begun:
                begun.add(value)
                waiting.append((value, True))
                if node.op_type not in SIZES:
                    waiting += [(read, False) for read in node.input if read]
        return list(found.values())

    def _size_of(self, node: NodeProto, size: int) -> NDArray[np.int64]:
        """The answer of Shape or Size, sizes that nobody knows taken to be those of free axes."""
        if size not in self._sizes:
            self._sizes[size] = _inferred_sizes(self._graph, size)
        dims = self._sizes[size].get(node.input[0])
        if dims is None:
            raise ValueError(f"{title(node)} asks for the sizes of a value whose rank is not known")
        known = [dim if isinstance(dim, int) else size for dim in dims]
        if node.op_type == "Size":
            return np.array(prod(known), np.int64)
        ends = {attribute.name: attribute.i for attribute in node.attribute}
        return np.array(known[ends.get("start", 0) : ends.get("end")], np.int64)

    def _run(self, node: NodeProto, values: dict[str, Any], name: str) -> dict[str, Any]:
        import onnx
        from onnx.reference import ReferenceEvaluator

        _check_operator(node, values, name)
        feeds = {read: values[read] for read in node.input if read in values}
        inputs = [onnx.helper.make_empty_tensor_value_info(read) for read in feeds]
        outputs = [onnx.helper.make_empty_tensor_value_info(out) for out in node.output if out]
        model = onnx.helper.make_model(
            onnx.helper.make_graph([node], "one", inputs, outputs),
            opset_imports=self._graph.proto.opset_import,
        )
        try:
            found = ReferenceEvaluator(model).run(None, feeds)
        except Exception as error:
            raise ValueError(
                f"the initial state '{name}' cannot be computed: {type(error).__name__}: {error}"
            ) from error
        return dict(zip((out for out in node.output if out), found, strict=True))


def _check_operator(node: NodeProto, values: Mapping[str, Any], name: str) -> None:
    """Raises `ValueError` for one that is not calm, or would make too many numbers."""
    if node.op_type not in _OPERATORS | _ELEMENTWISE:
        raise ValueError(f"the initial state '{name}' needs {title(node)}, which is not computed beforehand")
    feeds = [values[read] for read in node.input if read in values]
    check_elements(sum(value.size for value in feeds), name)
    if node.op_type in _ELEMENTWISE:
        try:
            check_elements(prod(np.broadcast_shapes(*(value.shape for value in feeds))), name)
        except ValueError as error:
            raise ValueError(f"the initial state '{name}': {title(node)}: {error}") from error
    place = _SHAPE_PLACE.get(node.op_type)
    if place is not None:
        wanted = values.get(node.input[place], np.zeros(0))
        check_elements(prod(int(size) for size in np.ravel(wanted)), name)


def _inferred_sizes(graph: Graph, size: int) -> Mapping[str, tuple[Dim, ...]]:
    """What is known of all values' sizes once each free axis of the inputs has this size."""
    import onnx

    model = onnx.ModelProto()
    model.CopyFrom(graph.proto)
    inputs = {port.name for port in graph.inputs}
    for value in model.graph.input:
        if value.name in inputs:
            for dim in value.type.tensor_type.shape.dim:
                if dim.dim_value <= 0:
                    dim.dim_value = size
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception as error:
        raise ValueError(f"the sizes of the graph's values cannot be found: {error}") from error
    inferred.graph.output.extend(inferred.graph.value_info)
    found = read_graph(inferred)
    known = {port.name: port.dims for port in (*found.inputs, *found.outputs) if port.dims is not None}
    return known | {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}


def check_elements(elements: int, name: str) -> None:
    """Raises `ValueError` for a state too large to be one for each key."""
    if elements > ELEMENTS_MAX:
        raise ValueError(f"the state '{name}' would take {elements} numbers, over {ELEMENTS_MAX}")
