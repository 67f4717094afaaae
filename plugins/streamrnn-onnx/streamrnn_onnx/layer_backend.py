"""The backend of a graph that was made of layers: indices are checked, for ONNX takes -1 for the last row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from streamrnn.core.rows import all_finite
from streamrnn.errors import ModelError
from streamrnn_onnx.backend import OnnxBackend
from streamrnn_onnx.layer_graph import LENS
from streamrnn_onnx.session import Stoppable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamrnn.backend import Arrays, Description, Fact
    from streamrnn_onnx.axes import Layout
    from streamrnn_onnx.device import Device
    from streamrnn_onnx.plan import Plan

    IntArray = NDArray[np.int64]


class OnnxLayers(OnnxBackend):
    """See `OnnxBackend`. `step` raises `ModelError` for an index that an embedding has no row for.

    `session` has the graph of one step, which leaves out outputs that are states, `known` by name; `lead` are
    the sizes that its tensors have before those of rows.
    `sequences` has that of several, told after how many each row ends; None if there is no scan.
    """

    def __init__(
        self,
        plan: Plan,
        outputs: Mapping[str, Layout],
        description: Description,
        session: Any,
        sequences: Any,
        known: Mapping[str, str],
        lead: tuple[int, ...],
        facts: Sequence[Fact] = (),
        device: Device | None = None,
    ) -> None:
        super().__init__(plan, outputs, description, session, sequences is not None, facts, device)
        self._sequences, self._known, self._lead = sequences and Stoppable(sequences), known, lead
        asked = [spec.name for spec in self.outputs if spec.name not in known]
        self._step_asked = [*self._after.values(), *asked]

    def _interrupt(self, is_wanted: bool) -> None:
        super()._interrupt(is_wanted)
        if self._sequences is not None:
            self._sequences.stop(is_wanted)

    def close(self) -> None:
        """See `Backend.close`."""
        super().close()
        self._sequences = None

    def step(self, state: Arrays, x: Arrays) -> tuple[Arrays, Arrays]:
        """See `Backend.step`."""
        feeds, lead = {**self._checked(x), **self._states_of(state)}, self._lead
        if lead:
            feeds = {name: array.reshape((*lead, *array.shape)) for name, array in feeds.items()}
        found = self._found(self._session, self._step_asked, feeds)
        if lead:
            found = {name: array.reshape(array.shape[len(lead) :]) for name, array in found.items()}
        new_state = {name: found[after] for name, after in self._after.items()}
        known = self._known
        y = {s.name: new_state[known[s.name]] if s.name in known else found[s.name] for s in self.outputs}
        return new_state, {name: np.asarray(array) for name, array in y.items()}

    def _scan(self, state: Arrays, x: Arrays, lens: IntArray) -> tuple[Arrays, Arrays, IntArray]:
        """See `Backend.scan`; indices behind a row's end may be anything."""
        n, lens = len(lens), np.asarray(lens)
        for name in (spec.name for spec in self.inputs if spec.high is not None):
            valid = np.arange(x[name].shape[1]) < lens[:, None]
            x = {**x, name: np.where(valid[:, :, None], x[name], 0)}
        feeds = {name: np.ascontiguousarray(a.swapaxes(0, 1)) for name, a in self._checked(x).items()}
        feeds |= {**self._states_of(state), LENS: lens.astype(np.int32)}
        found = self._found(self._sequences, self._asked, feeds)
        new_state = {name: found[after] for name, after in self._after.items()}
        y = {spec.name: np.asarray(found[spec.name]) for spec in self.outputs}
        bad_at = np.full(n, -1)
        # Under tanh a state that is not finite stays so to the last step; outputs are there for every step.
        if not (all(map(all_finite, y.values())) and self._all_finite(new_state, n)):
            for row in range(n):
                first = self._rows(state, slice(row, row + 1))
                bad_at[row] = self._first_bad(first, x, row, int(lens[row]))
        return new_state, {name: array.swapaxes(0, 1) for name, array in y.items()}, bad_at

    def _all_finite(self, state: Arrays, n: int) -> bool:
        if self._device is not None:
            return not self._bad_states(state, n).any()
        return all(map(all_finite, state.values()))

    def _states_of(self, state: Arrays) -> Arrays:
        return {name: self._dense(state[name]) for name in self._after}

    def _checked(self, x: Arrays) -> Arrays:
        feeds = {spec.name: np.ascontiguousarray(x[spec.name], spec.dtype) for spec in self.inputs}
        for spec in self.inputs:
            if spec.high is not None:
                _check(spec.name, feeds[spec.name], spec.high)
        return feeds


def _check(name: str, indices: Any, high: int) -> None:
    outside = (indices < 0) | (indices >= high)
    if outside.any():
        raise ModelError(
            f"expected indices from 0 to {high - 1}, found {indices[outside][0]} in '{name}'; make the vocab "
            "as long as the embedding has rows"
        )
