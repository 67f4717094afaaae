"""Trying a reading on random numbers: are rows apart, does the state fit, is a sequence its steps?

What files say of axes may be wrong or missing, so nothing is served that has not been seen to hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from streamrnn.backend import TensorSpec
from streamrnn.core.probe import draw, pick
from streamrnn.errors import ModelError
from streamrnn_onnx.axes import Layout, Reading
from streamrnn_onnx.backend import OnnxBackend, to_graph
from streamrnn_onnx.graph import mixing, shown
from streamrnn_onnx.loops import LOOPS
from streamrnn_onnx.plan import Plan, description
from streamrnn_onnx.recurrent import Cells, attribute

if TYPE_CHECKING:
    from streamrnn.backend import Arrays
    from streamrnn_onnx.graph import Port

_STEPS, _ROWS = 5, 3
_TOLERANCE = {"float16": (2e-2, 1e-2)}
"""Relative and absolute, for rounding; others are held to 1e-3 and 1e-5."""
_QUANTIZED = 0.1
_BOUNDED = ("Tanh", "Sigmoid")


class RefutedError(Exception):
    """What a reading claims does not hold; the message says what was seen."""


class FailedError(RefutedError):
    """The graph does not run as the reading has it."""


@dataclass(frozen=True)
class Proven:
    """A reading that held, and the layouts of the outputs.

    `scans`: sequences may be given in one call; `compared`: one was, and equals its steps.
    """

    plan: Plan
    outputs: Mapping[str, Layout]
    scans: bool
    compared: bool = False


class Prover:
    """Tries the readings of a plan in a session; `original` is one of the graph before state was exposed."""

    def __init__(self, plan: Plan, session: Any, original: Any = None) -> None:
        self.plan, self.session, self.original = plan, session, original
        self.mixes = bool(mixing(plan.graph.proto.graph))
        self.rng = np.random.default_rng(0)

    def prove(self, reading: Reading) -> Proven:
        """Raises `RefutedError` or `ModelError`."""
        plan = self.plan.chosen(reading)
        outputs = self._output_layouts(plan, reading)
        proven = Proven(plan, outputs, reading.has_steps)
        model = self.backend(proven)
        if reading.fixed_rows != 1 and not self.mixes:
            self._check_rows(model)
        if plan.unused:
            self._check_states_matter(model)
        repeated = any(constant.rows is not None for constant in plan.constants)
        whole = (reading.has_steps or self.original is not None) and not repeated and not plan.forgets
        if whole:
            self._check_steps(model, proven)
        return Proven(plan, outputs, self._may_scan(proven), whole and reading.has_steps)

    def backend(self, proven: Proven) -> OnnxBackend:
        """The model as it will be served, without a fingerprint."""
        return OnnxBackend(
            proven.plan,
            proven.outputs,
            description(proven.plan, proven.outputs, ""),
            self.session,
            proven.scans,
        )

    def _output_layouts(self, plan: Plan, reading: Reading) -> dict[str, Layout]:
        """From the shapes of answers to calls of different sizes; also checks that the states keep theirs."""
        rows = (2, 3) if reading.fixed_rows is None else (reading.fixed_rows,)
        steps = (1, 2) if reading.has_steps else (1,)
        seen = {(n, t): self._shapes(plan, reading, n, t) for n in rows for t in steps}
        first = rows[0], steps[0]
        layouts = {}
        for name, port in plan.outputs.items():
            shapes = {call: shapes[port.name] for call, shapes in seen.items()}
            row_axis = _moving(port, shapes, first, (rows[-1], 1), "rows")
            step_axis = _moving(port, shapes, first, (rows[0], steps[-1]), "steps")
            size = shapes[first]
            if reading.fixed_rows is not None:
                fixed = [a for a, length in enumerate(size) if length == rows[0] and a != step_axis]
                row_axis = fixed[0] if fixed else None
            if row_axis is None and reading.fixed_rows != 1:
                raise RefutedError(f"the output '{port.name}' {shown(size)} has no axis of the rows")
            sizes = tuple(0 if axis in (row_axis, step_axis) else length for axis, length in enumerate(size))
            layouts[name] = Layout(port, sizes, row_axis, step_axis)
        return layouts

    def _shapes(self, plan: Plan, reading: Reading, n: int, t: int) -> dict[str, tuple[int, ...]]:
        """The shapes of all outputs for a call of n rows and t steps; states must keep theirs."""
        feeds = {}
        for layout in reading.inputs:
            spec = TensorSpec(layout.port.name, (t, *layout.shape), layout.port.dtype)
            drawn = draw(spec, n, self.rng)
            feeds[layout.port.name] = to_graph(drawn if layout.steps is not None else drawn[:, :1], layout)
        for layout in reading.states:
            shape = tuple(n if axis == layout.rows else size for axis, size in enumerate(layout.sizes))
            feeds[layout.port.name] = np.zeros(shape, layout.port.dtype)
        for constant in plan.constants:
            value = constant.value
            feeds[constant.port.name] = value if constant.rows is None else np.repeat(value, n, constant.rows)
        names = [output.name for output in self.session.get_outputs()]
        try:
            found = dict(zip(names, self.session.run(names, feeds), strict=True))
        except Exception as error:
            raise FailedError(
                f"a call of {n} rows and {t} steps fails: {' '.join(str(error).split())[:300]}"
            ) from error
        for pair in plan.pairs:
            before, after = feeds[pair.input.name], found[pair.output.name]
            if before.shape != after.shape or before.dtype != after.dtype:
                raise RefutedError(
                    f"the state '{pair.input.name}' goes in as {before.dtype} {shown(before.shape)} and "
                    f"comes out of '{pair.output.name}' as {after.dtype} {shown(after.shape)}"
                )
        return {name: np.shape(array) for name, array in found.items()}

    def _draw(self, model: OnnxBackend, n: int, t: int) -> Arrays:
        return {s.name: draw(TensorSpec(s.name, (t, *s.shape), s.dtype), n, self.rng) for s in model.inputs}

    def _states(self, model: OnnxBackend, n: int) -> Arrays:
        """Initial states of n keys, moved a little where they are numbers."""
        states = {}
        for tensor in model.state.tensors:
            initial = tensor.initial if not hasattr(tensor.initial, "input") else 0
            array = np.broadcast_to(np.asarray(initial, tensor.dtype), (n, *tensor.shape))
            if array.dtype.kind == "f":
                array = array + 0.3 * self.rng.standard_normal(array.shape).astype(tensor.dtype)
            states[tensor.name] = np.moveaxis(array, 0, tensor.batch_axis)
        return states

    def _check_rows(self, model: OnnxBackend) -> None:
        n = min(_ROWS, model.max_rows or _ROWS)
        x, state = self._draw(model, n, 1), self._states(model, n)
        together = model.step(state, {name: array[:, 0] for name, array in x.items()})
        for row in range(n):
            own = {
                t.name: state[t.name][(slice(None),) * t.batch_axis + (slice(row, row + 1),)]
                for t in model.state.tensors
            }
            alone = model.step(own, {name: array[row : row + 1, 0] for name, array in x.items()})
            for tensor in model.state.tensors:
                rows = np.moveaxis(together[0][tensor.name], tensor.batch_axis, 0)[row : row + 1]
                _compare(
                    np.moveaxis(alone[0][tensor.name], tensor.batch_axis, 0), rows, tensor.name, "rows mix"
                )
            for name, array in alone[1].items():
                _compare(array, together[1][name][row : row + 1], name, "rows mix")

    def _check_states_matter(self, model: OnnxBackend) -> None:
        """That each state decides the answer or the next state, whatever branch the graph takes."""
        n = model.max_rows or 1
        x = {name: array[:, 0] for name, array in self._draw(model, n, 1).items()}
        state, other = self._states(model, n), self._states(model, n)
        before = model.step(state, x)
        for tensor in model.state.tensors:
            after = model.step({**state, tensor.name: other[tensor.name]}, x)
            same = all(
                np.array_equal(array, again[name])
                for array_of, again in zip(before, after, strict=True)
                for name, array in array_of.items()
            )
            if same and np.dtype(tensor.dtype).kind == "f":
                nodes = ", ".join(self.plan.unused)
                raise RefutedError(
                    f"the state '{tensor.name}' changes nothing: {nodes} begins anew each time"
                )

    def _check_steps(self, model: OnnxBackend, proven: Proven) -> None:
        n = model.max_rows or 2
        # Numbers that are scaled by the largest of a call come out otherwise in a longer call.
        tolerance = _QUANTIZED if self.mixes else None
        steps = _STEPS if proven.plan.readings[0].has_steps else 1
        x = self._draw(model, n, steps)
        for layout in proven.plan.readings[0].inputs:
            if layout.steps is None:
                x[layout.port.name][:] = x[layout.port.name][:, :1]
        state = self._states(model, n) if self.original is None else _initial(model, n)
        whole, last = self._whole(proven, state, x, n)
        for k in range(steps):
            try:
                state, y = model.step(state, pick(x, (slice(None), k)))
            except ModelError as error:
                raise RefutedError(f"a single step fails: {error}") from error
            what = f"step {k + 1} of a sequence is not that step alone"
            for name, layout in proven.outputs.items():
                if layout.steps is not None or k == steps - 1:
                    at = k if layout.steps is not None else 0
                    _compare(y[name], whole[name][:, at], name, what, tolerance)
        for name, array in last.items():
            what = "the state after a sequence is not that after its steps"
            _compare(state[name], array, name, what, tolerance)

    def _whole(self, proven: Proven, state: Arrays, x: Arrays, n: int) -> tuple[Arrays, Arrays]:
        """The sequence in one call: of the original graph, where there is one, else of this one."""
        given = {
            layout.port.name: x[layout.port.name] if layout.steps is not None else x[layout.port.name][:, :1]
            for layout in proven.plan.readings[0].inputs
        }
        model = self.backend(proven)
        try:
            if self.original is None:
                last, whole = model.call(state, given)
                return whole, last
            return model.outputs_of(self.original, given, n), {}
        except ModelError as error:
            raise RefutedError(f"a sequence fails: {error}") from error

    def _may_scan(self, proven: Proven) -> bool:
        """Whether scan can be offered: it must see at every step whether the state is finite.

        Only bounded recurrent nodes cannot hide what is not: their h and c stay finite while inputs do.
        """
        reading, cells = proven.plan.readings[0], Cells(proven.plan.graph)
        everywhere = all(layout.steps is not None for layout in (*reading.inputs, *proven.outputs.values()))
        bounded = all(cells.feeds(pair.input.name) for pair in proven.plan.pairs) and all(
            _is_bounded(node) for node in cells.nodes
        )
        repeated = any(constant.rows is not None for constant in proven.plan.constants)
        known = everywhere and bounded and not repeated and not self.mixes
        return reading.has_steps and known and not proven.plan.forgets


def _is_bounded(node: Any) -> bool:
    if node.op_type in LOOPS:
        return False
    activations = attribute(node, "activations", [])
    names = [a.decode() if isinstance(a, bytes) else str(a) for a in activations]  # type: ignore[attr-defined]
    return all(name.capitalize() in _BOUNDED for name in names)


def _moving(
    port: Port,
    shapes: Mapping[Any, tuple[int, ...]],
    first: tuple[int, int],
    other: tuple[int, int],
    what: str,
) -> int | None:
    """The one axis that grows from the first call to the other."""
    before, after = shapes[first], shapes[other]
    if len(before) != len(after):
        raise RefutedError(f"the rank of the output '{port.name}' depends on the number of {what}")
    moved = [axis for axis, sizes in enumerate(zip(before, after, strict=True)) if sizes[0] != sizes[1]]
    expected = (first[0], other[0]) if what == "rows" else (first[1], other[1])
    if len(moved) > 1 or any((before[axis], after[axis]) != expected for axis in moved):
        raise RefutedError(
            f"the output '{port.name}' is {shown(before)} for {expected[0]} {what} and {shown(after)} for "
            f"{expected[1]}"
        )
    return moved[0] if moved else None


def _initial(model: OnnxBackend, n: int) -> Arrays:
    states = {}
    for t in model.state.tensors:
        array = np.broadcast_to(np.asarray(t.initial, t.dtype), (n, *t.shape))
        states[t.name] = np.moveaxis(array, 0, t.batch_axis)
    return states


def _compare(found: Any, expected: Any, name: str, what: str, tolerance: float | None = None) -> None:
    """Raises `RefutedError` where numbers are further apart than rounding explains.

    That is measured by the largest number of the same place in any row, so that a large feature excuses no
    small one.
    """
    relative, absolute = _TOLERANCE.get(str(expected.dtype), (1e-3, 1e-5))
    if found.shape == expected.shape and np.array_equal(np.isfinite(found), np.isfinite(expected)):
        wide, other = (np.where(np.isfinite(a), a, 0).astype(np.float64) for a in (expected, found))
        scale = np.abs(wide).max(axis=0, initial=0)
        gap = np.abs(wide - other)
        if (gap <= (tolerance or relative) * scale + (tolerance or absolute)).all():
            return
        raise RefutedError(f"{what}: '{name}' differs by up to {gap.max():.2g}")
    raise RefutedError(f"{what}: '{name}' differs")
