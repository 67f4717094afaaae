"""State that no graph input begins: of recurrent nodes, and in the variables of loops."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from streamrnn_onnx.constants import Beginning, Beginnings
from streamrnn_onnx.graph import Branch, branches, shown, title
from streamrnn_onnx.loops import LOOPS, Carrier
from streamrnn_onnx.recurrent import SEQUENCE_LENS, STATES, Cells, unfit, value_at

if TYPE_CHECKING:
    from onnx import NodeProto

_FLOATS = ("float16", "float32", "float64")


@dataclass(frozen=True, slots=True)
class Hidden:
    """A state of a node that no graph input begins; `why` it cannot be exposed, or None.

    `replaced` says that it stands in a branch of an If whose other branch has such a node with a state that
    is given: what exporters make of "begin with zeros if no state was given". `begins` is known for the
    variables of loops, whose sizes nothing else tells.
    """

    number: int
    letter: str
    value: str
    why: str | None
    replaced: bool = False
    begins: Beginning | None = None


def find_hidden(cells: Cells, kept: Collection[str]) -> list[Hidden]:
    """What begins anew in every call; `kept` are the graph inputs that are state, or may be."""
    paths = branches(cells.graph.proto.graph)
    own = [paths[id(node)] for node in cells.nodes]
    beginnings = Beginnings(cells.graph, cells)
    found = list[Hidden]()
    carrying = set[Branch]()
    for number, loop in enumerate(cells.carriers):
        begun = {
            letter: value_at(cells.nodes[number].input, place)
            for letter, (place, _) in cells.states[number].items()
        }
        decided = {letter: cells.depends_on(name) if name else set() for letter, name in begun.items()}
        given = {letter for letter, by in decided.items() if not by.isdisjoint(kept)}
        if given:
            carrying |= set(own[number])
        if loop is None:
            found += [
                Hidden(number, letter, begun[letter], _obstacle(cells, number, letter, by, own[number]))
                for letter, by in decided.items()
                if letter not in given
            ]
        elif not any(branch.op_type in LOOPS for branch in own[number]):
            fresh = {letter: begun[letter] for letter, by in decided.items() if not by}
            hidden = list(_variables(beginnings, number, loop, fresh))
            found += _with_obstacles(cells, loop, hidden, given, inner=bool(own[number]))
    return [replace(one, replaced=_is_replaced(own[one.number], carrying)) for one in found]


def _is_replaced(path: Sequence[Branch], carrying: Collection[Branch]) -> bool:
    return any(a.node == b.node and a.name != b.name for a in path for b in carrying)


def _obstacle(
    cells: Cells, number: int, letter: str, decided_by: Collection[str], path: Sequence[Branch]
) -> str | None:
    node = cells.nodes[number]
    if decided_by:
        names = ", ".join(sorted(decided_by))
        return f"{title(node)} computes its initial state from {names}, anew with every event"
    if path:
        return _inside(node)
    if "h" in STATES[node.op_type] and value_at(node.input, SEQUENCE_LENS):
        return f"{title(node)} is given sequence lengths"
    why = unfit(node)
    after = STATES[node.op_type][letter][1]
    if not why and "h" not in STATES[node.op_type] and not cells.graph.output(value_at(node.output, after)):
        return f"{title(node)} keeps its state to itself; export it as an output"
    return why


def _inside(node: NodeProto) -> str:
    return f"{title(node)} is inside an If, Loop or Scan"


def _variables(beginnings: Beginnings, number: int, loop: Carrier, begun: dict[str, str]) -> Iterator[Hidden]:
    """The variables that may hold a row each: floating point, with one axis that may be that of the rows.

    Counters, and arrays that are filled step by step, are none of these.
    """
    for letter, name in begun.items():
        if loop.type_of(letter) not in (None, *_FLOATS):
            continue
        try:
            begins = beginnings.of(name)
        except ValueError as error:
            yield Hidden(number, letter, name, str(error))
            continue
        if begins.value.dtype.name not in _FLOATS or not begins.row_axes or len(begins.free) > 1:
            continue
        why = None
        if len(begins.row_axes) > 1:
            which = f"{letter} of {title(loop.node)} begins as {shown(begins.sizes)}"
            why = f"{which}, of which several axes may be that of the rows"
        yield Hidden(number, letter, name, why, begins=begins)


def _with_obstacles(
    cells: Cells, loop: Carrier, hidden: Sequence[Hidden], given: Collection[str], inner: bool
) -> list[Hidden]:
    """The same with what stands in the way of serving the loop step by step."""
    why = _inside(loop.node) if inner else None
    if not why and hidden:
        carried = {*given, *(one.letter for one in hidden)}
        obstacle = loop.obstacle(carried, cells.depends_on)
        why = f"{title(loop.node)} {obstacle}" if obstacle else None
    return [replace(one, why=one.why or why) for one in hidden]
