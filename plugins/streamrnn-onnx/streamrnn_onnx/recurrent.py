"""The recurrent nodes of a graph: which input begins their state, and which output ends it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from streamrnn_onnx.graph import Graph, all_nodes, inner_reads, title
from streamrnn_onnx.loops import Carrier, carrier

if TYPE_CHECKING:
    from onnx import NodeProto

SEQUENCE_LENS = 4
_H = {"h": (5, 1)}
_PAST = {"past": (3, 1)}
STATES: Mapping[str, Mapping[str, tuple[int, int]]] = {
    "LSTM": {"h": (5, 1), "c": (6, 2)},
    "DynamicQuantizeLSTM": {"h": (5, 1), "c": (6, 2)},
    "GRU": _H,
    "RNN": _H,
    "CausalConvWithState": _PAST,
    "LinearAttention": _PAST,
}
"""The operators with state: for each of their states the place of its input and of its output."""
_RESHAPING = {
    *("Cast", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose"),
    *("Unsqueeze", "Concat"),
}
"""Operators that move numbers about and change none; all but Concat read numbers from their first input."""
SIZES = ("Shape", "Size")
"""Operators that ask for sizes alone."""

Slot = tuple[int, str]
"""A recurrent node by its number among them, and the name of its state."""


@dataclass(frozen=True)
class Cells:
    """The recurrent nodes of a graph, loops among them, and how values flow to and from them.

    `states` has for each node the places of its states, as `STATES`; `carriers` the loop that it is, if any.
    """

    graph: Graph
    nodes: tuple[NodeProto, ...] = field(init=False)
    states: tuple[Mapping[str, tuple[int, int]], ...] = field(init=False)
    carriers: tuple[Carrier | None, ...] = field(init=False)

    def __post_init__(self) -> None:
        opset = max((o.version for o in self.graph.proto.opset_import if not o.domain), default=0)
        found: list[tuple[NodeProto, Mapping[str, tuple[int, int]], Carrier | None]] = []
        for node in all_nodes(self.graph.proto.graph):
            if node.op_type in STATES:
                found.append((node, STATES[node.op_type], None))
            elif (loop := carrier(node, opset)) and (slots := loop.slots()):
                found.append((node, slots, loop))
        for place, name in enumerate(("nodes", "states", "carriers")):
            object.__setattr__(self, name, tuple(each[place] for each in found))

    def feeds(self, name: str) -> frozenset[Slot]:
        """The initial states that a value reaches with its numbers unchanged."""
        slots: set[Slot] = set()
        waiting, seen = [name], {name}
        while waiting:
            value = waiting.pop()
            slots |= self._initial_slots.get(value, set())
            for node in self._consumers.get(value, ()):
                if node.op_type in _RESHAPING and (node.input[0] == value or node.op_type == "Concat"):
                    fresh = set(node.output) - seen - {""}
                    seen |= fresh
                    waiting += fresh
        return frozenset(slots)

    def sources(self, name: str) -> frozenset[Slot]:
        """The final states that a value is made of with its numbers unchanged."""
        slots: set[Slot] = set()
        waiting, seen = [name], {name}
        while waiting:
            value = waiting.pop()
            slots |= self._final_slots.get(value, set())
            node = self._producers.get(value)
            if node is not None and node.op_type in _RESHAPING:
                read = node.input if node.op_type == "Concat" else node.input[:1]
                waiting += [other for other in read if other not in seen]
                seen |= set(read)
        return frozenset(slots)

    def depends_on(self, name: str) -> set[str]:
        """The graph inputs whose numbers decide a value; those of which only the size is asked do not."""
        waiting, seen = [name], {name}
        while waiting:
            value = waiting.pop()
            node = self._producers.get(value)
            if node is None or node.op_type in SIZES:
                continue
            fresh = (set(node.input) | inner_reads(node)) - seen
            seen |= fresh
            waiting += fresh
        return seen & {port.name for port in self.graph.inputs}

    def producer(self, name: str) -> NodeProto | None:
        """The node that computes a value."""
        return self._producers.get(name)

    @cached_property
    def _initial_slots(self) -> Mapping[str, set[Slot]]:
        return self._slots(before=True)

    @cached_property
    def _final_slots(self) -> Mapping[str, set[Slot]]:
        return self._slots(before=False)

    def _slots(self, before: bool) -> Mapping[str, set[Slot]]:
        slots: dict[str, set[Slot]] = defaultdict(set)
        for number, node in enumerate(self.nodes):
            for letter, (place, after) in self.states[number].items():
                if value := value_at(node.input, place) if before else value_at(node.output, after):
                    slots[value].add((number, letter))
        return slots

    @cached_property
    def _consumers(self) -> Mapping[str, list[NodeProto]]:
        consumers: dict[str, list[NodeProto]] = defaultdict(list)
        for node in all_nodes(self.graph.proto.graph):
            for value in node.input:
                consumers[value].append(node)
        return consumers

    @cached_property
    def _producers(self) -> Mapping[str, NodeProto]:
        return {value: node for node in all_nodes(self.graph.proto.graph) for value in node.output if value}


def value_at(names: Sequence[str], place: int) -> str:
    """The name at a place of a node's inputs or outputs; empty where there is none."""
    return names[place] if place < len(names) else ""


def attribute(node: NodeProto, name: str, default: object) -> object:
    """The value of a node's attribute."""
    import onnx

    for found in node.attribute:
        if found.name == name:
            value = onnx.helper.get_attribute_value(found)
            return value.decode() if isinstance(value, bytes) else value
    return default


def unfit(node: NodeProto) -> str | None:
    """Why a recurrent node cannot be served one event after the other, or None."""
    direction = attribute(node, "direction", "forward")
    if direction != "forward":
        return (
            f"{title(node)} runs {direction}: its backward pass begins at the end of a stream that has none"
        )
    if attribute(node, "layout", 0):
        return f"{title(node)} has layout=1, which ONNX Runtime does not run; export it with layout=0"
    return None
