"""State that recurrent nodes keep to themselves, made inputs and outputs of the graph.

A node whose initial state is absent or constant begins anew in every call. Exposed, it begins where the last
call ended, and its constant is the state of a key after a reset.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from streamrnn_onnx.axes import EXPOSED
from streamrnn_onnx.config import StateOptions
from streamrnn_onnx.constants import check_elements, compute
from streamrnn_onnx.graph import KNOWN_TYPES, Graph, Port, branches, inner_reads, read_graph, title
from streamrnn_onnx.pairing import Pair
from streamrnn_onnx.recurrent import SEQUENCE_LENS, STATES, Cells, unfit, value_at

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import GraphProto, NodeProto


@dataclass(frozen=True, slots=True)
class Hidden:
    """A state of a node that no graph input begins; `why` it cannot be exposed, or None.

    `replaced` says that it stands in a branch of an If whose other branch has such a node with a state that
    is given: what exporters make of "begin with zeros if no state was given".
    """

    number: int
    letter: str
    value: str
    why: str | None
    replaced: bool = False


def find_hidden(cells: Cells, kept: Collection[str]) -> list[Hidden]:
    """What begins anew in every call; `kept` are the graph inputs that are state, or may be."""
    outer = {id(node) for node in cells.graph.proto.graph.node}
    found = []
    for number, node in enumerate(cells.nodes):
        for letter, (place, after) in STATES[node.op_type].items():
            value = value_at(node.input, place)
            decided_by = cells.depends_on(value) if value else set()
            if decided_by.isdisjoint(kept):
                inner = id(node) not in outer
                why = _obstacle(node, decided_by, inner)
                if not why and "h" not in STATES[node.op_type] and not cells.graph.output(node.output[after]):
                    why = f"{title(node)} keeps its state to itself; export it as an output"
                found.append(Hidden(number, letter, value, why))
    return _with_replaced(cells, found)


def _with_replaced(cells: Cells, hidden: Sequence[Hidden]) -> list[Hidden]:
    paths = branches(cells.graph.proto.graph)
    own = [paths[id(node)] for node in cells.nodes]
    numbers = {one.number for one in hidden}
    carried = {branch for number, path in enumerate(own) if number not in numbers for branch in path}
    return [
        replace(one, replaced=any(a == b and x != y for a, x in own[one.number] for b, y in carried))
        for one in hidden
    ]


def _obstacle(node: NodeProto, decided_by: Collection[str], inner: bool) -> str | None:
    if decided_by:
        names = ", ".join(sorted(decided_by))
        return f"{title(node)} computes its initial state from {names}, anew with every event"
    if inner:
        return f"{title(node)} is inside an If, Loop or Scan"
    if "h" in STATES[node.op_type] and value_at(node.input, SEQUENCE_LENS):
        return f"{title(node)} is given sequence lengths"
    return unfit(node)


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
    made, changes = list[tuple[str, str, Any]](), list[str]()
    for one in hidden:
        old = cells.nodes[one.number]
        node = model.graph.node[own[id(old)]]
        name = _unused(f"{node.name or f'{node.op_type.lower()}{one.number}'}.{one.letter}", taken)
        place, out = STATES[node.op_type][one.letter]
        _set(node.input, place, name)
        after = value_at(node.output, out) or _unused(f"{name}.next", taken)
        _set(node.output, out, after)
        sizes, element = _sizes_and_type(model.graph, node, graph.output(after))
        _add(model.graph, name, after, sizes, element)
        made.append((name, after, _initial(graph, cells, one, sizes, element)))
        changes.append(f"{one.letter} of {title(old)} begins as the input '{name}' and ends as an output")
    _prune(model.graph)
    exposed = read_graph(model)
    return exposed, [_pair(exposed, *names) for names in made], changes


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


def _pair(graph: Graph, name: str, after: str, initial: Any) -> Pair:
    before, output = graph.input(name), graph.output(after)
    assert before is not None, name
    assert output is not None, after
    options = StateOptions(
        input=name,
        output=after,
        batch_axis=(before.dims or ()).index(None),
        init=np.asarray(initial, np.float64).tolist() if np.any(initial) else "zeros",
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


def _add(graph: GraphProto, before: str, after: str, sizes: Sequence[int | None], element: int) -> None:
    import onnx

    graph.input.append(onnx.helper.make_tensor_value_info(before, element, sizes))
    if after not in {value.name for value in graph.output}:
        graph.output.append(onnx.helper.make_tensor_value_info(after, element, sizes))


def _initial(
    graph: Graph, cells: Cells, one: Hidden, sizes: Sequence[int | None], element: int
) -> NDArray[Any]:
    """The constant that a node begins with, without the axis of the rows."""
    axis, node = sizes.index(None), cells.nodes[one.number]
    if not one.value:
        check_elements(prod(size for size in sizes if size is not None), f"{one.letter} of {title(node)}")
        return np.zeros([size for size in sizes if size is not None], KNOWN_TYPES.get(element, "float32"))
    value = compute(graph, cells, one.value)
    rows: NDArray[Any] = np.moveaxis(value, axis, 0) if value.ndim == len(sizes) else value
    if value.ndim != len(sizes) or not (rows == rows[:1]).all():
        raise ValueError(f"{title(node)} begins with a state {value.shape} that differs from row to row")
    return np.asarray(rows[0])
