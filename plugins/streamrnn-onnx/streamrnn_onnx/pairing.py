"""Which graph inputs are state, and which outputs are their next values: as told, or found without doubt."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

from streamrnn.config.problems import suggest
from streamrnn_onnx.config import OnnxConfig, StateOptions
from streamrnn_onnx.graph import Graph, Port
from streamrnn_onnx.naming import alike
from streamrnn_onnx.recurrent import Cells

METADATA_KEY = "streamrnn.state"

Problem = tuple[tuple[str | int, ...], str]


@dataclass(frozen=True, slots=True)
class Pair:
    """One tensor of state; `how` says by what it was found."""

    input: Port
    output: Port
    how: str
    options: StateOptions

    @property
    def name(self) -> str:
        """The state's name: that of its input."""
        return self.input.name


def pair_states(
    config: OnnxConfig, graph: Graph, cells: Cells, given: Collection[str]
) -> tuple[list[Pair], list[Problem]]:
    """All states of a graph. `given` are the names of the pipeline's inputs."""
    if config.state is not None:
        return _told(config.state, graph, "as written", ("state",))
    if METADATA_KEY in graph.metadata:
        return _from_metadata(graph)
    taken = {*given, *config.constants}
    rest = [port for port in graph.inputs if port.name not in taken]
    return _Matcher(graph, cells, rest, strict=set(given) <= {port.name for port in graph.inputs}).pairs()


def _told(
    options: Sequence[StateOptions], graph: Graph, how: str, path: tuple[str | int, ...]
) -> tuple[list[Pair], list[Problem]]:
    pairs, problems = list[Pair](), list[Problem]()
    for place, one in enumerate(options):
        ports = graph.input(one.input), graph.output(one.output)
        sides = (
            ("input", one.input, ports[0], [*graph.inputs, *graph.defaults.values()]),
            ("output", one.output, ports[1], graph.outputs),
        )
        for side, name, port, known in sides:
            if port is None:
                names = [other.name for other in known]
                hint = suggest(name, names) or ";"
                text = f"the graph has no {side} '{name}'{hint} it has: {', '.join(names[:20])}"
                problems.append(((*path, place, side), text))
        if ports[0] and ports[1]:
            pairs.append(Pair(ports[0], ports[1], how, one))
    for side in ("input", "output"):
        counts = Counter(getattr(one, side) for one in options)
        problems += [
            ((*path, place, side), f"'{getattr(one, side)}' is that of another state too")
            for place, one in enumerate(options)
            if counts[getattr(one, side)] > 1
        ]
    return pairs, problems


def _from_metadata(graph: Graph) -> tuple[list[Pair], list[Problem]]:
    text = graph.metadata[METADATA_KEY]
    try:
        options = TypeAdapter(list[StateOptions]).validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        advice = "write `state` in the pipeline file instead"
        return [], [(("path",), f"the model's metadata '{METADATA_KEY}' {where}: {first['msg']}; {advice}")]
    pairs, problems = _told(options, graph, f"by the file's {METADATA_KEY}", ("path",))
    return pairs, [(("path",), f"the model's metadata '{METADATA_KEY}': {text}") for _, text in problems]


@dataclass
class _Matcher:
    """Finds for each input of `rest` the one output that can be its next value.

    With `strict` false, inputs without a partner may be meant as data under another name.
    """

    graph: Graph
    cells: Cells
    rest: Sequence[Port]
    strict: bool

    def pairs(self) -> tuple[list[Pair], list[Problem]]:
        found = {port.name: self._find(port) for port in self.rest}
        outputs = Counter(
            output.name for outputs, _ in found.values() if len(outputs) == 1 for output in outputs
        )
        pairs, doubts, unknown = list[Pair](), list[str](), list[Port]()
        for port in self.rest:
            outputs_of, how = found[port.name]
            if len(outputs_of) == 1 and outputs[outputs_of[0].name] == 1:
                output = outputs_of[0]
                pairs.append(Pair(port, output, how, StateOptions(input=port.name, output=output.name)))
            elif outputs_of or self.strict or how:
                doubts.append(self._doubt(port, outputs_of, how))
                unknown += [] if outputs_of or how else [port]
        if not doubts:
            return pairs, []
        return pairs, [((), "; ".join(doubts) + ". " + self._way_out(pairs, unknown))]

    def _find(self, port: Port) -> tuple[list[Port], str]:
        """The outputs that an input may become, and by what they were found or why there are none."""
        fitting = [output for output in self.graph.outputs if fits(port, output)]
        named = [output for output in fitting if alike(port.name, output.name)]
        fed = self.cells.feeds(port.name)
        sources = {output.name: self.cells.sources(output.name) for output in fitting}
        wired = [output for output in fitting if fed and sources[output.name] == fed]
        for output in named:
            if fed and sources[output.name] and sources[output.name] != fed:
                return [], (
                    f"by its name '{port.name}' becomes '{output.name}', but by the graph it begins "
                    f"{self._slots(fed)} and '{output.name}' ends {self._slots(sources[output.name])}"
                )
        if len(wired) > 1:
            both = [output for output in wired if output in named]
            return (both or wired), "by the graph and its name"
        if wired:
            return wired, "by its name and the graph" if wired[0] in named else "by the graph"
        return named, "by its name" if named else ""

    def _slots(self, slots: Collection[tuple[int, str]]) -> str:
        nodes = self.cells.nodes
        return " and ".join(
            f"{letter} of {nodes[n].op_type} '{nodes[n].name or n}'" for n, letter in sorted(slots)
        )

    def _doubt(self, port: Port, outputs: Sequence[Port], why: str) -> str:
        if outputs:
            names = " and ".join(f"'{output.name}'" for output in outputs)
            shared = "which others may be too" if len(outputs) == 1 else "either may be its next value"
            return f"the graph's input {port} is not in event.inputs, and {names} fits: {shared}"
        if why:
            return f"the graph's input {port} has two readings: {why}"
        fitting = [output.name for output in self.graph.outputs if fits(port, output)]
        near = f"none of those of its shape ({', '.join(fitting)})" if fitting else "none"
        return (
            f"the graph's input {port} is neither in event.inputs nor among constants, "
            f"and of the outputs {near} is its next value by name"
        )

    def _way_out(self, pairs: Sequence[Pair], unknown: Sequence[Port]) -> str:
        """A `state` to write; complete where order is all that may tell, but that is for a person to say."""
        known = {pair.input.name: pair.output.name for pair in pairs}
        in_order = self._in_order(unknown, set(known.values()))
        written = known | in_order
        entries = ", ".join(
            f"{{input: {_plain(port.name)}, output: {_plain(written.get(port.name, '...'))}}}"
            for port in self.rest
        )
        outputs = ", ".join(str(output) for output in self.graph.outputs)
        if in_order:
            return (
                f"If the next values come in the order of the inputs, write state: [{entries}]; the outputs "
                f"are {outputs}"
            )
        return f"Write state: [{entries}] with outputs out of {outputs}"

    def _in_order(self, unknown: Sequence[Port], taken: Collection[str]) -> dict[str, str]:
        """Inputs and outputs of a kind in their order, where there are as many of one as of the other."""
        found: dict[str, str] = {}
        for port in unknown:
            free = [
                output for output in self.graph.outputs if output.name not in taken and fits(port, output)
            ]
            alike = [other for other in unknown if any(fits(other, output) for output in free)]
            if free and len(alike) == len(free):
                found[port.name] = free[alike.index(port)].name
        return found if len(set(found.values())) == len(found) else {}


def fits(before: Port, after: Port) -> bool:
    """Whether shapes and types allow one to become the other; open sizes allow anything."""
    if before.dtype != after.dtype:
        return False
    if before.dims is None or after.dims is None:
        return True
    return len(before.dims) == len(after.dims) and all(
        not isinstance(a, int) or not isinstance(b, int) or a == b
        for a, b in zip(before.dims, after.dims, strict=True)
    )


_WORDS = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n", "nan", "inf"})


def _plain(name: str) -> str:
    """A name as YAML takes for a text; JSON's quotes are YAML's too."""
    bare = name.replace("_", "").isalnum() and name[0].isalpha() and name.lower() not in _WORDS
    return name if bare or name == "..." else json.dumps(name)
