"""Loop and Scan nodes: the variables that they carry from one step of their body to the next."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from streamrnn_onnx.graph import KNOWN_TYPES, inner_reads

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto, ValueInfoProto

LOOPS = ("Loop", "Scan")
_LOOP_LEAD = 2
"""Before its variables a Loop has the number of its steps and its condition."""
_READS_ONE_STEP = ("Gather", "SequenceAt")
_SIZES = ("Shape", "Size")

DependsOn = Callable[[str], Collection[str]]
"""The graph inputs whose numbers decide a value outside of the loop."""


@dataclass(frozen=True)
class Carrier:
    """A Loop or Scan node; variable i is called `v<i>`, counted as its outputs are, from 0."""

    node: NodeProto
    body: GraphProto
    lead: int
    count: int

    @property
    def _body_lead(self) -> int:
        return 1 if self.lead else 0

    def slots(self) -> dict[str, tuple[int, int]]:
        """Of the variables that a step changes: the places among the node's inputs and outputs."""
        return {f"v{i}": (self.lead + i, i) for i in range(self.count) if self._changes(i)}

    def type_of(self, letter: str) -> str | None:
        """What the body says that a variable holds: numpy's word, "other", or None if it says nothing."""
        kind = self._given(_number(letter)).type
        if not kind.WhichOneof("value"):
            return None
        element = kind.tensor_type.elem_type
        return KNOWN_TYPES.get(element, "other") if kind.HasField("tensor_type") else "other"

    def obstacle(self, carried: Collection[str], depends_on: DependsOn) -> str | None:
        """Why steps one at a time, given `carried`, may not be the whole loop; or None.

        A step must know its place in the loop by nothing but the numbers that it reads there.
        """
        if any(self._scan_directions()):
            return "runs over its steps from the last to the first"
        if self.lead and self._stops_by_numbers(carried, depends_on):
            return "stops where numbers tell it to"
        tainted = self._decided_by_place(carried, depends_on)
        given = [f"v{i}" for i in range(self.count) if f"v{i}" in carried]
        for letter in given:
            if self._next(_number(letter)) in tainted:
                return f"computes {letter} from what it does not carry on, such as the number of the step"
        scanned = self.body.output[self._body_lead + self.count :]
        if any(value.name in tainted for value in scanned):
            return "answers by what it does not carry on, such as the number of the step"
        return None

    def _given(self, i: int) -> ValueInfoProto:
        value: ValueInfoProto = self.body.input[self.lead + i]
        return value

    def _next(self, i: int) -> str:
        name: str = self.body.output[self._body_lead + i].name
        return name

    def _changes(self, i: int) -> bool:
        makers, name = _makers(self.body), self._next(i)
        while name in makers and makers[name].op_type == "Identity":
            name = makers[name].input[0]
        return name != self._given(i).name

    def _scan_directions(self) -> list[int]:
        found = (a.ints for a in self.node.attribute if a.name == "scan_input_directions")
        return [direction for ints in found for direction in ints]

    def _stops_by_numbers(self, carried: Collection[str], depends_on: DependsOn) -> bool:
        """Whether data or the given variables decide how many steps there are."""
        if any(depends_on(name) for name in self.node.input[:_LOOP_LEAD] if name):
            return True
        formal = {value.name: place for place, value in enumerate(self.body.input)}
        makers, own = _makers(self.body), {tensor.name for tensor in self.body.initializer}
        waiting, seen = [self.body.output[0].name], set[str]()
        while waiting:
            name = waiting.pop()
            if name in seen or name in own:
                continue
            seen.add(name)
            if name in formal:
                i = formal[name] - self.lead
                if i >= 0 and (f"v{i}" in carried or depends_on(self.node.input[self.lead + i])):
                    return True
                waiting += [self._next(i)] if i >= 0 else []
            elif name in makers:
                node = makers[name]
                waiting += [] if node.op_type in _SIZES else [*filter(None, node.input), *inner_reads(node)]
            elif depends_on(name):
                return True
        return False

    def _decided_by_place(self, carried: Collection[str], depends_on: DependsOn) -> set[str]:
        """What the body makes from the number of the step, or from variables that are not given."""
        changing = {f"v{i}" for i in range(self.count) if self._changes(i)}
        tainted = {value.name for value in self.body.input[: min(self.lead, 1)]}
        tainted |= {self._given(_number(letter)).name for letter in changing - set(carried)}
        outside = {
            self._given(i).name: self.node.input[self.lead + i]
            for i in range(self.count)
            if f"v{i}" not in changing
        }
        for node in self.body.node:
            reads = {name for name in (*node.input, *inner_reads(node)) if name}
            if node.op_type in _SIZES or tainted.isdisjoint(reads):
                continue
            # The step's own part of the data, not of a table that tells steps apart.
            reads_data = node.op_type in _READS_ONE_STEP and node.input[0] not in tainted
            if not reads_data or not depends_on(outside.get(node.input[0], node.input[0])):
                tainted |= set(node.output)
        return tainted


def carrier(node: NodeProto, opset: int) -> Carrier | None:
    """The node with its variables, or None for any other node and for the Scan of opset 8, which has rows."""
    body = next((a.g for a in node.attribute if a.name == "body" and a.HasField("g")), None)
    if body is None or node.op_type not in LOOPS:
        return None
    lead = _LOOP_LEAD if node.op_type == "Loop" else 0
    count = len(node.input) - lead
    if node.op_type == "Scan":
        count -= next((a.i for a in node.attribute if a.name == "num_scan_inputs"), 0)
        if opset < 9:
            return None
    body_lead = 1 if lead else 0
    if count < 0 or len(body.input) < lead + count or len(body.output) < body_lead + count:
        return None
    return Carrier(node, body, lead, count)


def _number(letter: str) -> int:
    return int(letter[1:])


def _makers(graph: GraphProto) -> Mapping[str, NodeProto]:
    return {name: node for node in graph.node for name in node.output if name}
