"""State that recurrent nodes keep to themselves, made inputs and outputs of the graph.

A node whose initial state is absent or constant begins anew in every call. Exposed, it begins where the last
call ended, and its constant is the state of a key after a reset.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from streamrnn_onnx.axes import EXPOSED
from streamrnn_onnx.config import StateOptions
from streamrnn_onnx.constants import Beginnings, check_elements
from streamrnn_onnx.graph import KNOWN_TYPES, Graph, Port, inner_reads, read_graph, title
from streamrnn_onnx.hidden import Hidden
from streamrnn_onnx.pairing import Pair
from streamrnn_onnx.recurrent import STATES, Cells, value_at

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import GraphProto, NodeProto


@dataclass(frozen=True, slots=True)
class _Tensor:
    """A state's sizes with None for any number of rows, their axis, ONNX's type, and the first value."""

    sizes: tuple[int | None, ...]
    rows: int
    element: int
    initial: NDArray[Any]


def expose(graph: Graph, cells: Cells, hidden: Sequence[Hidden]) -> tuple[Graph, list[Pair], list[str]]:
    """A copy of the graph with these states as inputs and outputs; also what was changed, in words.

    Raises `ValueError` for an initial state that cannot be computed.
    """
    import onnx

    model = onnx.ModelProto()
    model.CopyFrom(graph.proto)
    own = {id(node): place for place, node in enumerate(graph.proto.graph.node)}
    taken = {name for node in model.graph.node for name in (*node.input, *node.output)}
    taken |= {value.name for value in (*model.graph.input, *model.graph.output)}
    beginnings = Beginnings(graph, cells)
    made, changes = list[tuple[str, str, _Tensor]](), list[str]()
    for one in hidden:
        old = cells.nodes[one.number]
        node = model.graph.node[own[id(old)]]
        name = _unused(f"{node.name or f'{node.op_type.lower()}{one.number}'}.{one.letter}", taken)
        place, out = cells.states[one.number][one.letter]
        _set(node.input, place, name)
        after = value_at(node.output, out) or _unused(f"{name}.next", taken)
        _set(node.output, out, after)
        if one.begins is None:
            tensor = _of_node(model.graph, graph, node, one, beginnings)
        else:
            tensor = _of_variable(one, title(old))
        _add(model.graph, name, after, tensor)
        made.append((name, after, tensor))
        changes.append(f"{one.letter} of {title(old)} begins as the input '{name}' and ends as an output")
    _prune(model.graph)
    exposed = read_graph(model)
    return exposed, [_pair(exposed, *names) for names in made], changes


def _of_variable(one: Hidden, where: str) -> _Tensor:
    import onnx

    assert one.begins is not None
    (axis,) = one.begins.row_axes
    row = one.begins.row(axis)
    if row is None:
        shape = one.begins.value.shape
        raise ValueError(f"{where} begins with a variable {shape} that differs from row to row")
    element = onnx.helper.np_dtype_to_tensor_dtype(row.dtype)
    return _Tensor(one.begins.sizes, axis, element, row)


def _of_node(made: GraphProto, graph: Graph, node: NodeProto, one: Hidden, beginnings: Beginnings) -> _Tensor:
    after = graph.output(value_at(node.output, STATES[node.op_type][one.letter][1]))
    sizes, element = _sizes_and_type(made, node, after)
    axis, known = sizes.index(None), [size for size in sizes if size is not None]
    if not one.value:
        check_elements(prod(known), f"{one.letter} of {title(node)}")
        return _Tensor(sizes, axis, element, np.zeros(known, KNOWN_TYPES.get(element, "float32")))
    begins = beginnings.of(one.value)
    row = begins.row(axis) if len(begins.sizes) == len(sizes) and begins.free in ([], [axis]) else None
    if row is None:
        shape = begins.value.shape
        raise ValueError(f"{title(node)} begins with a state {shape} that differs from row to row")
    return _Tensor(sizes, axis, element, row)


def _prune(graph: GraphProto) -> None:
    """Take out what made the initial states, now that nobody reads them."""
    makers = {name: node for node in graph.node for name in node.output if name}
    needed: set[str] = set()
    waiting = [value.name for value in graph.output]
    while waiting:
        name = waiting.pop()
        node = makers.get(name)
        if name not in needed and node is not None:
            waiting += [*node.input, *inner_reads(node)]
        needed.add(name)
    kept = [node for node in graph.node if not needed.isdisjoint(node.output)]
    if len(kept) < len(graph.node):
        del graph.node[:]
        graph.node.extend(kept)


def _pair(graph: Graph, name: str, after: str, tensor: _Tensor) -> Pair:
    before, output = graph.input(name), graph.output(after)
    assert before is not None, name
    assert output is not None, after
    options = StateOptions(
        input=name,
        output=after,
        batch_axis=tensor.rows,
        init=np.asarray(tensor.initial, np.float64).tolist() if np.any(tensor.initial) else "zeros",
    )
    return Pair(before, output, EXPOSED, options)


def _unused(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def _set(names: Any, place: int, name: str) -> None:
    while len(names) <= place:
        names.append("")
    names[place] = name


def _sizes_and_type(
    graph: GraphProto, node: NodeProto, after: Port | None
) -> tuple[tuple[int | None, ...], int]:
    """The sizes of a state with None for its rows, and its ONNX element type."""
    if "h" not in STATES[node.op_type]:
        assert after is not None, node.name
        sizes = [dim if isinstance(dim, int) else 0 for dim in after.dims or ()]
        return (None, *sizes[1:]), next(n for n, dtype in KNOWN_TYPES.items() if dtype == after.dtype)
    size = next((a.i for a in node.attribute if a.name == "hidden_size"), 0)
    for tensor in graph.initializer:
        if tensor.name == node.input[2]:
            return (1, None, size or tensor.dims[2]), tensor.data_type
    for value in (*graph.value_info, *graph.input):
        if value.name in (node.input[2], node.input[0]) and value.type.tensor_type.elem_type:
            return (1, None, size), value.type.tensor_type.elem_type
    return (1, None, size), 1


def _add(graph: GraphProto, before: str, after: str, tensor: _Tensor) -> None:
    import onnx

    graph.input.append(onnx.helper.make_tensor_value_info(before, tensor.element, tensor.sizes))
    if after not in {value.name for value in graph.output}:
        graph.output.append(onnx.helper.make_tensor_value_info(after, tensor.element, tensor.sizes))
