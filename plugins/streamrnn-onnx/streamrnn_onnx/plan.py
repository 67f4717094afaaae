"""From options and graph to a plan: what is data, state and constant, and every reading of the axes left.

`describe` and `build` share it, so what `lint` accepts is what runs. Weights are not looked at.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from streamrnn.backend import Description, FirstInput, StateSpec, StateTensor, TensorSpec
from streamrnn.config.problems import suggest
from streamrnn.errors import OptionError
from streamrnn_onnx.axes import EXPOSED, Layout, Reading, find_readings
from streamrnn_onnx.config import First, OnnxConfig
from streamrnn_onnx.constants import ELEMENTS_MAX
from streamrnn_onnx.graph import KNOWN_TYPES, Graph, Port, shown, title
from streamrnn_onnx.hidden import find_hidden
from streamrnn_onnx.pairing import Pair, Problem, pair_states
from streamrnn_onnx.recurrent import Cells, unfit
from streamrnn_onnx.surgery import expose

if TYPE_CHECKING:
    from numpy.typing import NDArray

DTYPES = frozenset(KNOWN_TYPES.values())


@dataclass(frozen=True, slots=True)
class Constant:
    """A graph input that never changes; `rows` is the axis along which it is repeated, if any."""

    port: Port
    value: NDArray[Any]
    rows: int | None


@dataclass(frozen=True, slots=True)
class Plan:
    """A graph understood. `original` is the graph before state was exposed, if any was."""

    graph: Graph
    data: tuple[Port, ...]
    pairs: tuple[Pair, ...]
    constants: tuple[Constant, ...]
    outputs: Mapping[str, Port]
    readings: tuple[Reading, ...]
    original: Graph | None = None
    changes: tuple[str, ...] = ()
    forgets: bool = False
    unused: tuple[str, ...] = ()
    """Nodes that would forget, in branches of an If that must be seen not to be taken."""

    def chosen(self, reading: Reading) -> Plan:
        """The same with one reading left."""
        return replace(self, readings=(reading,))


def plan_model(config: OnnxConfig, given: Mapping[str, TensorSpec], graph: Graph) -> Plan:
    """Understand a graph. Raises `OptionError` with all that is wrong or open to doubt."""
    cells = Cells(graph)
    problems = [*_option_problems(config, given, graph)]
    pairs, unpaired = pair_states(config, graph, cells, given)
    problems += unpaired
    problems += _unfit_nodes(cells)
    exposed, changes, original, forgets = list[Pair](), list[str](), None, False
    hidden = [] if problems else find_hidden(cells, {pair.name for pair in pairs})
    unused = {title(cells.nodes[one.number]) for one in hidden if one.replaced}
    hidden = [one for one in hidden if not one.replaced]
    if hidden:
        if config.hidden_state == "forget" or config.state == []:
            forgets = True
        elif stuck := [one.why for one in hidden if one.why]:
            problems += [
                ((), f"{why}, so it forgets between events; {_FORGET}") for why in dict.fromkeys(stuck)
            ]
        else:
            try:
                original = graph
                graph, exposed, changes = expose(graph, cells, hidden)
            except ValueError as error:
                problems.append(((), f"{error}; {_FORGET}"))
    if problems:
        raise OptionError(*problems)
    loops = [title(cells.nodes[one.number]) for one in hidden if exposed and one.begins]
    planner = _Planner(config, given, graph, [*pairs, *exposed], loops)
    return planner.plan(original, changes, forgets, unused)


_FORGET = "write hidden_state: forget if it is meant to"


def _unfit_nodes(cells: Cells) -> list[Problem]:
    reasons = [reason for node in cells.nodes if (reason := unfit(node))]
    return [((), reason) for reason in dict.fromkeys(reasons)]


def _option_problems(config: OnnxConfig, given: Mapping[str, TensorSpec], graph: Graph) -> Iterator[Problem]:
    """Names that the graph does not have, or has for something else."""
    inputs = [port.name for port in graph.inputs]
    all_inputs = [*inputs, *graph.defaults]
    for section, names in (("constants", config.constants), ("inputs", config.inputs)):
        for name in names:
            if name not in all_inputs:
                hint = suggest(name, inputs) or ";"
                yield (section, name), f"the graph has no input '{name}'{hint} it has: {', '.join(inputs)}"
    for name in config.constants.keys() & given.keys():
        yield ("constants", name), f"'{name}' is also in event.inputs; leave it out of one of them"
    outputs = [port.name for port in graph.outputs]
    for name, output in (config.outputs or {}).items():
        if output not in outputs:
            hint = suggest(output, outputs) or ";"
            text = f"the graph has no output '{output}'{hint} it has: {', '.join(outputs)}"
            yield ("outputs", name), text


class _Planner:
    """The rest of the plan, once it is known which inputs are state."""

    def __init__(
        self,
        config: OnnxConfig,
        given: Mapping[str, TensorSpec],
        graph: Graph,
        pairs: Sequence[Pair],
        loops: Sequence[str],
    ) -> None:
        self.config, self.given, self.graph, self.pairs = config, given, graph, pairs
        self.loops = loops
        self.problems: list[Problem] = []

    def plan(
        self, original: Graph | None, changes: Sequence[str], forgets: bool, unused: Collection[str]
    ) -> Plan:
        config, states = self.config, {pair.name for pair in self.pairs}
        exposed = any(pair.how == EXPOSED for pair in self.pairs)
        data = [p for p in self.graph.inputs if p.name not in states and p.name not in config.constants]
        outputs = self._outputs()
        for port in (*data, *(pair.input for pair in self.pairs), *outputs.values()):
            if port.dtype not in DTYPES:
                self.problems.append((("path",), f"'{port.name}' holds {port.dtype}, which cannot be served"))
        widths = {name: spec.width for name, spec in self.given.items()}
        found = list[Reading]()
        if not self.problems:
            found, problems = find_readings(config, data, self.pairs, widths)
            self.problems += problems
        if self.loops and config.hidden_state is None:
            found = self._through_time(found)
        for reading in found:
            for layout in (*reading.inputs, *reading.states):
                if prod(layout.shape) > ELEMENTS_MAX:
                    text = f"'{layout.port.name}' {shown(layout.shape)} has more than {ELEMENTS_MAX} numbers"
                    self.problems.append((("path",), text))
            self._check_states(reading)
            if exposed and config.hidden_state is None:
                self._check_one_step(reading)
        constants = [made for made in map(self._constant, config.constants.items()) if made]
        if self.problems:
            raise OptionError(*dict.fromkeys(self.problems))
        return Plan(
            self.graph, tuple(data), tuple(self.pairs), tuple(constants), outputs, tuple(found), original,
            tuple(changes), forgets, tuple(sorted(unused)),
        )  # fmt: skip

    def _outputs(self) -> dict[str, Port]:
        ports = {port.name: port for port in self.graph.outputs}
        if self.config.outputs is not None:
            return {name: ports[output] for name, output in self.config.outputs.items()}
        states = {pair.output.name for pair in self.pairs}
        # A graph that gives nothing but its state is asked for that.
        return {name: port for name, port in ports.items() if name not in states} or ports

    def _check_states(self, reading: Reading) -> None:
        for place, (pair, layout) in enumerate(zip(self.pairs, reading.states, strict=True)):
            options = pair.options
            path = ("state", place) if self.config.state else ()
            if options.dtype is not None and options.dtype != pair.input.dtype:
                text = f"expected {pair.input.dtype}, the graph's own, found {options.dtype}"
                self.problems.append(((*path, "dtype"), text))
            if options.shape is not None and tuple(options.shape) != layout.shape:
                text = f"expected {shown(layout.shape)}, the graph's own, found {shown(tuple(options.shape))}"
                self.problems.append(((*path, "shape"), text))
            if isinstance(options.init, First):
                spec = self.given.get(options.init.first)
                if spec is None or spec.width != max(1, int(np.prod(layout.shape))):
                    text = f"expected an input of event.inputs as wide as the state {shown(layout.shape)}"
                    self.problems.append(((*path, "init", "first"), f"{text}, found '{options.init.first}'"))
            elif isinstance(options.init, list):
                self._check_init(options.init, layout, (*path, "init"))

    def _through_time(self, readings: Sequence[Reading]) -> list[Reading]:
        """The readings that can show that a loop's steps are events, and not a computation within one."""
        kept = [reading for reading in readings if reading.has_steps]
        if readings and not kept:
            text = (
                f"{self.loops[0]} begins with constants in every call, and no input has a free axis of "
                "steps that could show whether its steps are events; write hidden_state: forget if an event "
                "is all of them, expose if it goes on where the key's last event ended"
            )
            self.problems.append(((), text))
        return kept

    def _check_one_step(self, reading: Reading) -> None:
        """An event of several steps is a window, or a part of a stream: only the first forgets rightly."""
        for layout in reading.inputs:
            if layout.steps is not None and not self.config.constants:
                continue  # that its steps are events is seen when the model is loaded
            given = self.given.get(layout.port.name)
            several = sum(size > 1 for size in layout.shape) > 1
            open_steps = layout.steps is None and any(
                not isinstance(dim, int) and axis != layout.rows and layout.sizes[axis] > 1
                for axis, dim in enumerate(layout.port.dims or ())
            )
            if given is not None and given.width == prod(layout.shape) and (several or open_steps):
                text = (
                    f"an event's '{layout.port.name}' is {shown(layout.shape)}, maybe several steps, and the "
                    "graph's recurrent nodes begin anew in every call; write hidden_state: forget if an "
                    "event is a whole window, expose if it goes on where the key's last event ended"
                )
                self.problems.append(((), text))

    def _check_init(self, init: Any, layout: Layout, path: tuple[str | int, ...]) -> None:
        try:
            found = shown(np.array(init, layout.port.dtype).shape)
        except (ValueError, TypeError, OverflowError):
            found = "lists that are no tensor"
        if found != shown(layout.shape):
            self.problems.append((path, f"expected nested lists of {shown(layout.shape)}, found {found}"))

    def _constant(self, item: tuple[str, Any]) -> Constant | None:
        name, value = item
        port = self.graph.input(name)
        if port is None or port.dtype not in DTYPES:
            return None
        path = ("constants", name)
        try:
            array = np.array(value)
            kept = array.astype(port.dtype)
            if not np.array_equal(kept, array) and kept.dtype.kind != "f":
                raise ValueError
        except (ValueError, TypeError, OverflowError):
            self.problems.append((path, f"expected numbers that {port.dtype} can hold, found {value}"))
            return None
        return self._spread(port, kept, path)

    def _spread(self, port: Port, value: NDArray[Any], path: tuple[str, str]) -> Constant | None:
        """The constant in the graph's shape; one number fills any, and free axes are taken for the rows."""
        dims = port.dims
        if dims is None or value.ndim == len(dims):
            return Constant(port, value, None)
        free = [axis for axis, dim in enumerate(dims) if not isinstance(dim, int)]
        if value.ndim > 0 or len(free) > 1:
            self.problems.append((path, f"expected {shown(dims)}, found {shown(value.shape)}"))
            return None
        shape = [dim if isinstance(dim, int) else 1 for dim in dims]
        return Constant(port, np.full(shape, value), free[0] if free else None)


def describe_plan(plan: Plan, fingerprint: str = "") -> Description | None:
    """What the model is, or None if that is only known once it has run."""
    if len(plan.readings) != 1:
        return None
    reading = plan.readings[0]
    layouts = {name: output_layout(port, reading) for name, port in plan.outputs.items()}
    found = {name: layout for name, layout in layouts.items() if layout is not None}
    if len(found) != len(layouts):
        return None
    return description(plan, found, fingerprint)


def description(plan: Plan, outputs: Mapping[str, Layout], fingerprint: str) -> Description:
    """What a model of one reading is, with the layouts of its outputs."""
    reading = plan.readings[0]
    return Description(
        tuple(
            TensorSpec(layout.port.name, event_shape(layout), layout.port.dtype) for layout in reading.inputs
        ),
        tuple(TensorSpec(name, layout.shape, layout.port.dtype) for name, layout in outputs.items()),
        StateSpec(tuple(map(_tensor, plan.pairs, reading.states)), fingerprint),
    )


def event_shape(layout: Layout) -> tuple[int, ...]:
    """The shape of an input without axes of size 1, which are for the graph alone."""
    return tuple(size for size in layout.shape if size != 1) or layout.shape[:1]


def _tensor(pair: Pair, layout: Layout) -> StateTensor:
    init = pair.options.init
    initial: Any = 0.0 if init == "zeros" else FirstInput(init.first) if isinstance(init, First) else init
    if isinstance(initial, list):
        initial = np.array(initial, pair.input.dtype)
    return StateTensor(
        pair.name, layout.shape, pair.input.dtype, batch_axis=layout.rows or 0, initial=initial
    )


def output_layout(port: Port, reading: Reading) -> Layout | None:
    """Where rows and steps are in an output, as far as its symbols tell it without doubt."""
    if port.dims is None:
        return None
    ways = {"rows": reading.inputs + reading.states, "steps": reading.inputs}
    axes: dict[str, int | None] = {}
    for role, layouts in ways.items():
        symbols = {
            layout.port.dims[getattr(layout, role)]
            for layout in layouts
            if layout.port.dims and getattr(layout, role) is not None
        }
        named = {symbol for symbol in symbols if isinstance(symbol, str)}
        places = [axis for axis, dim in enumerate(port.dims) if dim in named]
        if len(places) > 1 or (symbols and not named and role == "steps"):
            return None
        axes[role] = places[0] if places else None
    rows, steps = axes["rows"], axes["steps"]
    if reading.fixed_rows is not None:
        fixed = [axis for axis, dim in enumerate(port.dims) if dim == reading.fixed_rows]
        if reading.fixed_rows > 1 and len(fixed) != 1:
            return None
        rows = fixed[0] if fixed else None
    elif rows is None:
        return None
    sizes = [0 if axis in (rows, steps) else dim for axis, dim in enumerate(port.dims)]
    if not all(isinstance(size, int) for size in sizes):
        return None
    return Layout(port, tuple(int(size or 0) for size in sizes), rows, steps)
