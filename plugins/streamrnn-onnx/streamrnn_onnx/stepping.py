"""The short way of one step: views instead of transpositions, and for few rows buffers that stay bound.

Measured for a GRU 16 to 64 on one core: of one row `run` takes 11 us, bound buffers 7 with their copies; from
64 rows on the two are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from streamrnn_onnx.axes import Layout

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamrnn.backend import Arrays

BOUND_ROWS = 32


@dataclass(frozen=True, slots=True)
class Gate:
    """A graph tensor of one step, in which the numbers of a row lie side by side.

    `core` is the name on our side; `shape` are the sizes that belong to one row there.
    """

    graph: str
    core: str
    before: tuple[int, ...]
    after: tuple[int, ...]
    has_rows: bool
    shape: tuple[int, ...]
    dtype: str

    def sizes(self, n: int) -> tuple[int, ...]:
        """The graph's sizes for n rows."""
        return (*self.before, n, *self.after) if self.has_rows else (*self.before, *self.after)


def gate(layout: Layout, core: str, shape: tuple[int, ...]) -> Gate | None:
    """The gate for rows of `shape`; None where a transposition is needed."""
    sizes = tuple(1 if axis == layout.steps else size for axis, size in enumerate(layout.sizes))
    rows = len(sizes) if layout.rows is None else layout.rows
    if layout.rows is not None and prod(sizes[:rows]) != 1:
        return None
    has_rows = layout.rows is not None
    return Gate(layout.port.name, core, sizes[:rows], sizes[rows + 1 :], has_rows, shape, layout.port.dtype)


class Stepper:
    """One step of n rows in a session of the host; states go in and out in the graph's own layout."""

    def __init__(
        self,
        session: Any,
        inputs: Sequence[Gate],
        states: Mapping[str, Layout],
        after: Mapping[str, str],
        outputs: Sequence[Gate],
        constants: Callable[[int], Arrays],
    ) -> None:
        self._session, self._inputs, self._states, self._outputs = session, inputs, states, outputs
        self._after, self._constants = after, constants
        self._names = list(dict.fromkeys([*after.values(), *(gate.graph for gate in outputs)]))
        self._bound: dict[int, _Bound] = {}
        self._binds = True

    def step(self, state: Arrays, x: Arrays, n: int) -> tuple[Arrays, Arrays]:
        """See `Backend.step`."""
        if n <= BOUND_ROWS and self._binds:
            bound = self._bound.get(n) or self._bind(n)
            if bound is not None:
                return bound.step(state, x)
        feeds = self._constants(n)
        for gate in self._inputs:
            feeds[gate.graph] = np.ascontiguousarray(x[gate.core]).reshape(gate.sizes(n))
        for name, layout in self._states.items():
            feeds[name] = np.ascontiguousarray(state[name]).reshape(_sizes(layout, n))
        found = dict(zip(self._names, self._session.run(self._names, feeds), strict=True))
        new_state = {name: found[self._after[name]].reshape(state[name].shape) for name in self._states}
        return new_state, {gate.core: found[gate.graph].reshape(n, *gate.shape) for gate in self._outputs}

    def _bind(self, n: int) -> _Bound | None:
        """Buffers for n rows, tried once: a file that declares wrong sizes can only be `run`."""
        bound = self._buffers(n)
        try:
            bound.run()
        except Exception:
            self._binds = False
            return None
        self._bound[n] = bound
        return bound

    def _buffers(self, n: int) -> _Bound:
        arrays = self._constants(n)
        views: list[tuple[str, NDArray[Any]]] = []
        for gate in self._inputs:
            arrays[gate.graph] = np.zeros(gate.sizes(n), gate.dtype)
            views.append((gate.core, arrays[gate.graph].reshape(n, *gate.shape)))
        states: list[tuple[str, NDArray[Any], NDArray[Any]]] = []
        results: Arrays = {}
        for name, layout in self._states.items():
            arrays[name] = np.zeros(_sizes(layout, n), layout.port.dtype)
            results[self._after[name]] = out = np.zeros_like(arrays[name])
            # A graph without rows has states of one row, which we keep with an axis in front.
            lead = () if layout.rows is not None else (1,)
            states.append(
                (name, arrays[name].reshape(lead + arrays[name].shape), out.reshape(lead + out.shape))
            )
        answers: list[tuple[str, NDArray[Any]]] = []
        for gate in self._outputs:
            out = results.setdefault(gate.graph, np.zeros(gate.sizes(n), gate.dtype))
            answers.append((gate.core, out.reshape(n, *gate.shape)))
        return _Bound(self._session, arrays, results, views, states, answers)


class _Bound:
    """Buffers of one number of rows, bound to the session's inputs and outputs."""

    def __init__(
        self, session: Any, arrays: Arrays, results: Arrays, views: Any, states: Any, answers: Any
    ) -> None:
        self._session, self._views, self._states, self._answers = session, views, states, answers
        self._kept = arrays, results
        self._binding = session.io_binding()
        for bind, bound in ((self._binding.bind_input, arrays), (self._binding.bind_output, results)):
            for name, array in bound.items():
                bind(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)

    def run(self) -> None:
        """From what is in the buffers into the others. Raises as ONNX Runtime does."""
        self._session.run_with_iobinding(self._binding)

    def step(self, state: Arrays, x: Arrays) -> tuple[Arrays, Arrays]:
        """See `Backend.step`."""
        for name, view in self._views:
            view[...] = x[name]
        for name, before, _ in self._states:
            before[...] = state[name]
        self.run()
        return {name: after.copy() for name, _, after in self._states}, {
            name: view.copy() for name, view in self._answers
        }


def _sizes(layout: Layout, n: int) -> tuple[int, ...]:
    return tuple(n if axis == layout.rows else size for axis, size in enumerate(layout.sizes))
