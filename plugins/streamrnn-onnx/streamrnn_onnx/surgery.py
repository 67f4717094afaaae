"""State that recurrent nodes keep to themselves, made inputs and outputs of the graph.

A node whose initial state is absent or constant begins anew in every call. Exposed, it begins where the last
call ended, and its constant is the state of a key after a reset.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from streamrnn_onnx.axes import EXPOSED
from streamrnn_onnx.config import StateOptions
from streamrnn_onnx.graph import KNOWN_TYPES, Graph, Port, read_graph, title
from streamrnn_onnx.pairing import Pair
from streamrnn_onnx.recurrent import SEQUENCE_LENS, STATES, Cells, unfit, value_at

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import GraphProto, ModelProto, NodeProto


@dataclass(frozen=True, slots=True)
class Hidden:
    """A state of a node that no graph input begins; `why` it cannot be exposed, or None."""

    number: int
    letter: str
    value: str
    why: str | None


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
    return found


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
    exposed = read_graph(model)
    return exposed, [_pair(exposed, *names) for names in made], changes


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
    axis = sizes.index(None)
    if not one.value:
        return np.zeros([size for size in sizes if size is not None], KNOWN_TYPES.get(element, "float32"))
    value = _compute(graph, cells, one.value)
    rows: NDArray[Any] = np.moveaxis(value, axis, 0) if value.ndim == len(sizes) else value
    if value.ndim != len(sizes) or not (rows == rows[:1]).all():
        node = title(cells.nodes[one.number])
        raise ValueError(f"{node} begins with a state of shape {value.shape} that differs from row to row")
    return np.asarray(rows[0])


def _compute(graph: Graph, cells: Cells, name: str) -> Any:
    """A value that depends on nothing but sizes, by ONNX's own reference implementation for one row."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    needed, waiting = set[str](), [name]
    while waiting:
        value = waiting.pop()
        node = cells.producer(value)
        if value not in needed and node is not None:
            waiting += [read for read in node.input if read]
        needed.add(value)
    source = graph.proto
    model: ModelProto = onnx.ModelProto(ir_version=source.ir_version)
    model.opset_import.extend(source.opset_import)
    model.graph.name = "initial"
    model.graph.node.extend(n for n in source.graph.node if not needed.isdisjoint(n.output))
    model.graph.initializer.extend(t for t in source.graph.initializer if t.name in needed)
    read = [port for port in graph.inputs if port.name in needed]
    model.graph.input.extend(v for v in source.graph.input if v.name in {port.name for port in read})
    model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    feeds: dict[str, Any] = {}
    for port in read:
        sizes = [dim if isinstance(dim, int) else 1 for dim in port.dims or ()]
        feeds[port.name] = np.zeros(sizes, port.dtype)
    try:
        (found,) = ReferenceEvaluator(model).run(None, feeds)
    except Exception as error:
        raise ValueError(
            f"the initial state '{name}' cannot be computed: {type(error).__name__}: {error}"
        ) from error
    return np.asarray(found)
