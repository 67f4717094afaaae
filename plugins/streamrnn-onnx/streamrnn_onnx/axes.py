"""Where the rows and the steps are in a graph's tensors: every reading that its sizes and symbols allow."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, product
from math import prod

from streamrnn_onnx.config import AxesOptions, OnnxConfig
from streamrnn_onnx.graph import Dim, Port, shown
from streamrnn_onnx.pairing import Pair, Problem

READINGS_MAX = 64
_BATCH_NAME = re.compile(r"b|n|bs|.*batch.*", re.IGNORECASE)
_TIME_NAME = re.compile(r"t|l|.*(time|seq|step|frame|len).*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Layout:
    """A graph tensor whose axes are known: `sizes` of all of them, 0 at the axes of rows and of steps.

    `rows` is None where the graph has no such axis; it then takes one row a call.
    """

    port: Port
    sizes: tuple[int, ...]
    rows: int | None
    steps: int | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes that belong to one event."""
        return tuple(s for axis, s in enumerate(self.sizes) if axis not in (self.rows, self.steps))

    def __str__(self) -> str:
        named = {self.rows: "rows", self.steps: "steps"}
        return shown(tuple(named.get(axis, size) for axis, size in enumerate(self.sizes)))


@dataclass(frozen=True, slots=True)
class Reading:
    """One way to understand all inputs and states; `fixed_rows` is the number of rows of every call."""

    inputs: tuple[Layout, ...]
    states: tuple[Layout, ...]
    fixed_rows: int | None

    def __str__(self) -> str:
        return _named(self.layouts)

    @property
    def layouts(self) -> tuple[Layout, ...]:
        """Those of the inputs, then those of the states."""
        return (*self.inputs, *self.states)

    @property
    def of_inputs(self) -> str:
        """The inputs alone, in words, or the states if there are none."""
        return _named(self.inputs or self.states)

    @property
    def has_steps(self) -> bool:
        """Whether sequences can be given in one call."""
        return any(layout.steps is not None for layout in self.inputs)


def _named(layouts: Sequence[Layout]) -> str:
    return ", ".join(f"{layout.port.name} {layout}" for layout in layouts)


def find_readings(
    config: OnnxConfig, data: Sequence[Port], pairs: Sequence[Pair], widths: Mapping[str, int]
) -> tuple[list[Reading], list[Problem]]:
    """Every reading that nothing in the file or in `widths` (of the pipeline's inputs) rules out."""
    problems: list[Problem] = [
        (("path",), f"the graph's {what} '{port.name}' says nothing of its axes; export it with shapes")
        for what, ports in (("input", data), ("state", [pair.input for pair in pairs]))
        for port in ports
        if port.dims is None
    ]
    if problems:
        return [], problems
    found = _fitting(config, data, pairs, widths)
    wide = [reading for reading in found if _is_as_wide(reading, widths)]
    # One reading of another width is told by what the features lack.
    found = _plainest(wide or found or _fitting(config, data, pairs, {}))
    if not wide and len(found) > 1:
        found = []
    if not found:
        return [], [((), _nothing_fits(data, pairs, widths))]
    return found, []


def _fitting(
    config: OnnxConfig, data: Sequence[Port], pairs: Sequence[Pair], widths: Mapping[str, int]
) -> list[Reading]:
    """The readings in which a symbol means the same everywhere, the first of each number of rows."""
    found: list[Reading] = []
    for rows in _row_counts(data, pairs):
        choices = [
            *([*_input_layouts(port, rows, config.inputs.get(port.name), widths)] for port in data),
            *([*_state_layouts(pair, rows)] for pair in pairs),
        ]
        for layouts in islice(product(*choices), READINGS_MAX):
            found.append(Reading(layouts[: len(data)], layouts[len(data) :], rows))
    return [reading for reading in found if _agree(reading)]


def _row_counts(data: Sequence[Port], pairs: Sequence[Pair]) -> list[int | None]:
    """None for any number of rows; a number where the sizes are fixed."""
    # An exposed state with a free axis takes any number of rows; a constant one has those of the graph.
    ports = [*data, *(pair.input for pair in pairs if pair.how != EXPOSED or not _free(pair.input))]
    free = bool(data) and all(map(_free, ports))
    if all(1 in (port.dims or ()) for port in ports):
        return [None, 1] if free else [1]
    if free:
        return [None]
    sizes = [{dim for dim in (port.dims or ())[:-1] if isinstance(dim, int)} for port in ports]
    # Without a free axis, the graph may know of no rows at all.
    return [*sorted(set.intersection(*sizes)), *([] if any(map(_free, ports)) else [1])] or [1]


EXPOSED = "exposed"
"""`Pair.how` of a state that a recurrent node kept to itself."""


def _free(port: Port) -> list[int]:
    return [axis for axis, dim in enumerate(port.dims or ()) if not isinstance(dim, int)]


def _row_axes(port: Port, rows: int | None, told: int | None) -> list[int | None]:
    dims = port.dims or ()
    if told is not None:
        return [told] if told < len(dims) and (not isinstance(dims[told], int) or dims[told] == rows) else []
    if rows is None:
        return list(_free(port))
    # The last axis is that of the numbers of a row.
    found: list[int | None] = [axis for axis, dim in enumerate(dims[:-1] or dims) if dim == rows]
    if rows == 1:
        # Which of several axes of size 1 holds the only row makes no difference.
        return found[:1] or [None]
    return found


def _input_layouts(
    port: Port, rows: int | None, told: AxesOptions | None, widths: Mapping[str, int]
) -> Iterator[Layout]:
    dims = port.dims or ()
    told = told or AxesOptions()
    for axis in _row_axes(port, rows, told.batch_axis):
        free = [other for other in _free(port) if other != axis]
        known = prod(dim for place, dim in enumerate(dims) if isinstance(dim, int) and place != axis)
        width = widths.get(port.name)
        steps: list[int | None] = [*free] if len(free) > 1 else [*free, None]
        if told.time_axis is not None or told.batch_axis is not None:
            steps = [told.time_axis]
        for step in steps:
            sized = [other for other in free if other != step]
            if step is not None and (step == axis or step >= len(dims)):
                continue
            if step is None and free and (width is None or width == known) and told.batch_axis is None:
                continue  # one number more or less: the free axis is that of the steps
            if len(sized) > 1 or (width is not None and sized and width % known):
                continue
            if not sized and free and width is not None and width != known:
                continue
            size = (width or known) // known if sized else 1
            yield _layout(port, axis, step, dict.fromkeys(sized, size))


def _state_layouts(pair: Pair, rows: int | None) -> Iterator[Layout]:
    port, options = pair.input, pair.options
    for axis in _row_axes(port, rows, options.batch_axis):
        others = [place for place in range(len(port.dims or ())) if place != axis]
        if options.shape is not None and len(options.shape) != len(others):
            continue
        sizes = dict(zip(others, options.shape or (), strict=False))
        after = pair.output.dims or ()
        for place in others:
            if place not in sizes and place in _free(port) and place < len(after):
                dim = after[place]
                sizes |= {place: dim} if isinstance(dim, int) else {}
        if all(place in sizes or place not in _free(port) for place in others):
            yield _layout(port, axis, None, sizes)


def _layout(port: Port, rows: int | None, steps: int | None, sizes: Mapping[int, int]) -> Layout:
    dims = port.dims or ()
    filled = (
        0 if axis in (rows, steps) else dim if isinstance(dim, int) else sizes.get(axis, 0)
        for axis, dim in enumerate(dims)
    )
    return Layout(port, tuple(filled), rows, steps)


def _agree(reading: Reading) -> bool:
    """Whether an axis' symbol means the same everywhere."""
    roles: dict[str, set[str]] = {}
    for layout in (*reading.inputs, *reading.states):
        for axis, dim in enumerate(layout.port.dims or ()):
            if isinstance(dim, str):
                role = "rows" if axis == layout.rows else "steps" if axis == layout.steps else "size"
                roles.setdefault(dim, set()).add(role)
    return all(len(found) == 1 for found in roles.values())


def _is_as_wide(reading: Reading, widths: Mapping[str, int]) -> bool:
    return all(
        prod(layout.shape) == widths.get(layout.port.name, prod(layout.shape)) for layout in reading.inputs
    )


def _plainest(readings: list[Reading]) -> list[Reading]:
    """Those in which rows have one symbol, if any, and of these the ones whose symbols say it best."""
    same = [reading for reading in readings if len(_symbols(reading, "rows")) <= 1]
    readings = same or readings
    best = max((_score(reading) for reading in readings), default=0)
    return [reading for reading in readings if _score(reading) == best]


def _symbols(reading: Reading, role: str) -> set[Dim]:
    layouts = (*reading.inputs, *reading.states)
    axes = [(layout.port.dims or (), getattr(layout, role)) for layout in layouts]
    found = {dims[axis] for dims, axis in axes if axis is not None and axis < len(dims)}
    return {dim for dim in found if dim is not None}


def _score(reading: Reading) -> int:
    score = 0
    for role, good, bad in (("rows", _BATCH_NAME, _TIME_NAME), ("steps", _TIME_NAME, _BATCH_NAME)):
        for symbol in _symbols(reading, role):
            if isinstance(symbol, str):
                score += bool(good.fullmatch(symbol)) - bool(bad.fullmatch(symbol))
    return score


def _nothing_fits(data: Sequence[Port], pairs: Sequence[Pair], widths: Mapping[str, int]) -> str:
    inputs = ", ".join(f"{port} for {widths.get(port.name, '?')} numbers" for port in data)
    states = ", ".join(str(pair.input) for pair in pairs)
    return (
        f"no reading of the axes fits the inputs {inputs or 'none'} and the states {states or 'none'}; write "
        "batch_axis (and shape) of each state, and batch_axis and time_axis under inputs"
    )
