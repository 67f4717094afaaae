"""An ONNX graph as a backend: states and inputs put into its layout, answers taken out of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from streamrnn.backend import Backend, Description, Fact
from streamrnn.core.rows import all_finite
from streamrnn.errors import ModelError
from streamrnn_onnx.axes import Layout
from streamrnn_onnx.device_slab import DeviceSlab
from streamrnn_onnx.graph import mixing
from streamrnn_onnx.session import Stoppable, one_line, version
from streamrnn_onnx.stepping import Stepper, gate

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamrnn.backend import Arrays
    from streamrnn_onnx.device import Device
    from streamrnn_onnx.plan import Plan

    Array = NDArray[Any]
    IntArray = NDArray[np.int64]


class OnnxBackend(Backend):
    """A plan of one reading in a session; `scans` says that sequences go through the graph in one call.

    With a `device`, states stay in its memory, where a call may have any number of rows.
    """

    def __init__(
        self,
        plan: Plan,
        outputs: Mapping[str, Layout],
        description: Description,
        session: Any,
        scans: bool,
        facts: Sequence[Fact] = (),
        device: Device | None = None,
    ) -> None:
        self.inputs, self.outputs, self.state = description.inputs, description.outputs, description.state
        reading = plan.readings[0]
        self._fixed = reading.fixed_rows
        self.max_rows = 1 if mixing(plan.graph.proto.graph) else self._fixed
        self._inputs, self._states = reading.inputs, reading.states
        self._axes = {tensor.name: tensor.batch_axis for tensor in self.state.tensors}
        self._after = {pair.name: pair.output.name for pair in plan.pairs}
        self._answers = dict(outputs)
        self._constants = plan.constants
        asked = [*self._after.values(), *(layout.port.name for layout in outputs.values())]
        self._asked = list(dict.fromkeys(asked))
        self._session: Any = Stoppable(session)
        self._device = device if self.max_rows is None and self.state.tensors else None
        if (there := self._device) is not None:
            self.make_slab = lambda capacity: DeviceSlab(self.state, capacity, there)
        self.interrupt = self._interrupt
        self.libraries = {"onnxruntime": version()}
        self.scan = self._scan if scans else None
        self._stepper = self._short_way()
        self.explain = lambda: facts
        self.original: Any = None
        """A session of the graph before its hidden state was exposed, if there was any."""

    @cached_property
    def has_steps(self) -> bool:
        """Whether every input and output has an axis of steps."""
        return all(layout.steps is not None for layout in (*self._inputs, *self._answers.values()))

    def _interrupt(self, is_wanted: bool) -> None:
        """See `Backend.interrupt`."""
        self._session.stop(is_wanted)

    def close(self) -> None:
        """Let go of the session."""
        self._session = self._stepper = None

    def step(self, state: Arrays, x: Arrays) -> tuple[Arrays, Arrays]:
        """See `Backend.step`."""
        if self._stepper is not None:
            n = self._count(state, x)
            if n == (self._fixed or n):
                try:
                    return self._stepper.step(state, x, n)
                except Exception as error:
                    raise ModelError(one_line(error)) from error
        new_state, y = self.call(state, {name: array[:, None] for name, array in x.items()})
        return new_state, {name: array[:, 0] for name, array in y.items()}

    def _short_way(self) -> Stepper | None:
        """For graphs whose rows lie side by side, on the host."""
        shapes = {spec.name: spec.shape for spec in self.inputs}
        inputs = [gate(layout, layout.port.name, shapes[layout.port.name]) for layout in self._inputs]
        outputs = [gate(layout, name, layout.shape) for name, layout in self._answers.items()]
        on_host = self._session.get_providers()[0] == "CPUExecutionProvider"
        if not on_host or self._device is not None or None in inputs or None in outputs:
            return None
        states = {layout.port.name: layout for layout in self._states}
        return Stepper(
            self._session,
            [one for one in inputs if one],
            states,
            self._after,
            [one for one in outputs if one],
            lambda n: {one.port.name: _spread(one, n) for one in self._constants},
        )

    def _scan(self, state: Arrays, x: Arrays, lens: IntArray) -> tuple[Arrays, Arrays, IntArray]:
        """See `Backend.scan`: a call for each stretch in which no row ends."""
        n, t = len(lens), int(lens.max())
        y = {spec.name: np.empty((n, t, *spec.shape), spec.dtype) for spec in self.outputs}
        kept = last = state
        odd, start = np.zeros(n, np.bool_), 0
        for stop in np.unique(lens).tolist():
            part = {name: array[:, start:stop] for name, array in x.items()}
            # Rows that have ended run on, unheard: some operators answer fewer rows with other bits.
            state, answers = self.call(state, part)
            for name, array in answers.items():
                y[name][:, start:stop] = array
            bad = _not_finite(part, n) | _not_finite(answers, n) | self._bad_states(state, n)
            odd |= bad & (lens >= stop)
            last = self._merged(lens == stop, state, last)
            start = stop
        bad_at = np.full(n, -1)
        for row in np.flatnonzero(odd):
            bad_at[row] = self._first_bad(self._rows(kept, slice(row, row + 1)), x, int(row), int(lens[row]))
        return last, y, bad_at

    def _first_bad(self, state: Arrays, x: Arrays, row: int, length: int) -> int:
        """The first step of a row whose answer is not finite, or -1."""
        for k in range(length):
            state, y = self.step(state, {name: array[row : row + 1, k] for name, array in x.items()})
            if self._bad_states(state, 1)[0] or _not_finite(y, 1)[0]:
                return k
        return -1

    def _merged(self, where: NDArray[np.bool_], new: Arrays, old: Arrays) -> Arrays:
        """States with the rows of `new` where bool [n] is true, else those of `old`."""
        if where.all():
            return new
        if self._device is not None:
            merged: Arrays = self._device.merged(self.state, where, new, old)
            return merged
        return {
            t.name: np.where(
                where.reshape(-1, *(1,) * (len(t.shape) - t.batch_axis)), new[t.name], old[t.name]
            )
            for t in self.state.tensors
        }

    def _bad_states(self, state: Arrays, n: int) -> NDArray[np.bool_]:
        """bool [n]: whether a state of a row is not finite."""
        if self._device is not None:
            return ~self._device.healthy(self.state, state, None)
        return _not_finite({name: np.moveaxis(a, self._axes[name], 0) for name, a in state.items()}, n)

    def _rows(self, state: Arrays, at: Any) -> Arrays:
        return {name: state[name][(slice(None),) * axis + (at,)] for name, axis in self._axes.items()}

    def call(self, state: Arrays, x: Arrays) -> tuple[Arrays, Arrays]:
        """Inputs and outputs [n, t, *shape], through the graph once."""
        n = self._count(state, x)
        if self._fixed is not None and n < self._fixed:
            index = np.minimum(np.arange(self._fixed), n - 1)
            state, x = self._rows(state, index), {name: array[index] for name, array in x.items()}
        feeds = {layout.port.name: to_graph(x[layout.port.name], layout) for layout in self._inputs}
        for layout in self._states:
            array = state[layout.port.name]
            shape = array.shape if layout.rows is not None else array.shape[1:]
            feeds[layout.port.name] = self._dense(array).reshape(shape)
        for constant in self._constants:
            feeds[constant.port.name] = _spread(constant, self._fixed or n)
        found = self._found(self._session, self._asked, feeds)
        new_state = {}
        for layout in self._states:
            array = found[self._after[layout.port.name]]
            shape = array.shape if layout.rows is not None else (1, *array.shape)
            new_state[layout.port.name] = array.reshape(shape)
        y = {
            name: from_graph(np.asarray(found[layout.port.name]), layout)
            for name, layout in self._answers.items()
        }
        if n != (self._fixed or n):
            return self._rows(new_state, slice(0, n)), {name: array[:n] for name, array in y.items()}
        return new_state, y

    def _found(self, session: Any, names: list[str], feeds: Arrays) -> dict[str, Any]:
        """Values of a graph by name, next states where they are kept. Raises `ModelError` as `run` does."""
        return run(session, names, feeds, self._device, set(self._after.values()))

    def _dense(self, array: Any) -> Any:
        """A state as it may be bound."""
        return array if self._device is not None else np.ascontiguousarray(array)

    def outputs_of(self, session: Any, x: Arrays, n: int) -> Arrays:
        """The outputs [n, t, *shape] of another session of the same inputs and outputs, without state."""
        feeds = {layout.port.name: to_graph(x[layout.port.name], layout) for layout in self._inputs}
        feeds |= {constant.port.name: _spread(constant, n) for constant in self._constants}
        names = list(dict.fromkeys(layout.port.name for layout in self._answers.values()))
        found = run(session, names, feeds)
        return {name: from_graph(found[layout.port.name], layout) for name, layout in self._answers.items()}

    def _count(self, state: Arrays, x: Arrays) -> int:
        for array in x.values():
            return len(array)
        name, axis = next(iter(self._axes.items()))
        return int(state[name].shape[axis])


def run(
    session: Any, names: list[str], feeds: Arrays, device: Device | None = None, stays: Collection[str] = ()
) -> dict[str, Any]:
    """Values of the graph by name, those of `stays` on a `device`.

    Raises `ModelError` with what ONNX Runtime says.
    """
    if session is None:
        raise ModelError("the model is closed")
    try:
        if device is not None:
            return device.run(session, names, feeds, stays)
        return dict(zip(names, session.run(names, feeds), strict=True))
    except Exception as error:
        raise ModelError(one_line(error)) from error


def to_graph(array: Array, layout: Layout) -> Array:
    """[n, t, *] in the axes of the graph; n or t is 1 where it has none for it."""
    array = array.reshape(*array.shape[:2], *layout.shape)
    return np.ascontiguousarray(array.transpose(_order(layout)).reshape(_kept(array, layout)))


def from_graph(array: Array, layout: Layout) -> Array:
    """The reverse: [n, t, *shape]."""
    missing = (layout.rows is None) + (layout.steps is None)
    order = _order(layout)
    return array.reshape(*array.shape, *(1,) * missing).transpose(np.argsort(order))


@cache
def _order(layout: Layout) -> tuple[int, ...]:
    """For each axis of the graph its place in [n, t, *shape]; axes it does not have come last."""
    rest = iter(range(2, 2 + len(layout.shape)))
    places = {layout.rows: 0, layout.steps: 1}
    order = [places[axis] if axis in places else next(rest) for axis in range(len(layout.sizes))]
    return (*order, *(place for place in (0, 1) if place not in order))


def _kept(array: Array, layout: Layout) -> tuple[int, ...]:
    return tuple(array.shape[place] for place in _order(layout)[: len(layout.sizes)])


def _spread(constant: Any, n: int) -> Array:
    value: Array = constant.value
    return value if constant.rows is None else np.repeat(value, n, constant.rows)


def _not_finite(arrays: Mapping[str, Array], n: int) -> NDArray[np.bool_]:
    """bool [n]: whether a row of any array has a number that is not finite."""
    odd = np.zeros(n, np.bool_)
    for array in arrays.values():
        if array.dtype.kind == "f" and not all_finite(array):
            odd |= ~np.isfinite(array).reshape(n, -1).all(axis=1)
    return odd
