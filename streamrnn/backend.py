"""The contract of a model: named inputs and outputs, a described state, and a pure step.

A backend never sees keys, batches, resets, time or files of state. Rows are independent events of
different keys; what it returns for a row may depend on that row alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Arrays = dict[str, Any]
    IntArray = NDArray[np.int64]
    BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class TensorSpec:
    """A named tensor of one event: `shape` has no batch axis, () is a scalar.

    `high` is for integers that are looked up: valid ones are 0 <= i < high.
    """

    name: str
    shape: tuple[int, ...] = ()
    dtype: str = "float32"
    high: int | None = None

    @property
    def width(self) -> int:
        """Numbers in one event's tensor."""
        size = 1
        for length in self.shape:
            size *= length
        return size


@dataclass(frozen=True)
class FirstInput:
    """Initial state taken from the first event after a reset: the model input of this name, as it is."""

    input: str


@dataclass(frozen=True)
class StateTensor(TensorSpec):
    """One tensor of a key's state.

    `batch_axis` is where the rows are in the arrays that step takes and returns. `initial` is a number,
    nested tuples or an array of `shape`, or `FirstInput`.
    """

    batch_axis: int = 0
    initial: Any = 0.0


@dataclass(frozen=True)
class StateSpec:
    """All tensors of a key's state, and what their numbers belong to.

    `fingerprint` is a digest of everything that decides the bits: weights, options, formulas, tiles.
    `meaning` is one of what any backend would make of the same model: weights, layers and layout; "" if the
    backend cannot say. Under an equal fingerprint a state is taken over as it is; under an equal meaning
    alone it is too, with a note, since the model then computes the same with other last bits.
    """

    tensors: tuple[StateTensor, ...] = ()
    fingerprint: str = ""
    meaning: str = ""


@dataclass(frozen=True)
class Description:
    """What a model takes, gives and keeps, as far as it is known without loading it."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    state: StateSpec = field(default_factory=StateSpec)


@dataclass(frozen=True)
class Fact:
    """One line of how a model was understood, for a person.

    `part` is what it is about (input, output, state, constant, ...), `tensor` type and shape where there is
    one, `meaning` what it is taken for and by what that was found.
    """

    part: str
    name: str
    tensor: str = ""
    meaning: str = ""


class Backend(Protocol):
    """A loaded model.

    Built once per process from its config, `open`ed once, then stepped on one thread until `close`.
    Subclass it for the defaults. An exception from `step` refuses the events that cause it.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    state: StateSpec
    label: str = ""
    """What to call it where its type in the file does not say it: which backend `auto` took."""

    max_rows: int | None = None
    """The most rows one call may carry; None is any number. A model exported with a fixed batch says 1."""

    scan: Callable[[Arrays, Arrays, IntArray], tuple[Arrays, Arrays, IntArray]] | None = None
    """`scan(state, x, lens) -> (state, y, bad_at)`: several events of a key in one call, or None.

    `x` and `y` are [n, t, *shape], `lens` int64 [n] with 1 <= lens <= t; steps past a row's length must not
    touch its state, their y is ignored. It must equal that many calls of `step` bit for bit. `bad_at`
    int64 [n] is the first step whose state or output is not finite, -1 if none.
    """

    ragged: bool = False
    """Whether padding costs a scan next to nothing, so that lengths in one may differ a lot."""

    make_slab: Callable[[int], Slab] | None = None
    """`make_slab(capacity)`: a slab of the backend's own, for states that live on a device."""

    explain: Callable[[], Sequence[Fact]] | None = None
    """`explain()`: what loading has shown of the model beside inputs, outputs and state, or None."""

    interrupt: Callable[[bool], None] | None = None
    """`interrupt(True)`, called on another thread, makes the call that is under way raise, and all after it
    until `interrupt(False)`; None if it cannot be done."""

    libraries: Mapping[str, str] = MappingProxyType({})
    """Versions, by name, of the libraries beside numpy that compute the answers: another one may make other
    last bits, which a run that goes on from a commit tells."""

    def open(self, device: str = "cpu", threads: int = 1) -> None:
        """Called once before the first step."""
        return None

    def step(self, state: Arrays, x: Arrays) -> tuple[Arrays, Arrays]:
        """One event for each of n independent rows.

        `state` maps a tensor's name to its array with n rows at its batch axis, `x` an input's name to
        [n, *shape]; returns new arrays and never writes to its arguments. n >= 1.
        """
        ...

    def close(self) -> None:
        """Called once after the last step; calling it again does nothing."""
        return None


class Slab(Protocol):
    """The state of all keys, a row each. It only stores; to the core its arrays are opaque but for `shape`.

    `rows` are distinct int64 indices unless said otherwise.
    """

    capacity: int

    def take(self, rows: IntArray, fresh: NDArray[np.int8], x: Mapping[str, Any]) -> Arrays:
        """A copy of the state of `rows` (repeats allowed), with an initial one where `fresh` is not 0.

        `fresh` int8: 0 carried, 1 initial, 2 zeros. `x` are the inputs of the same events, for `FirstInput`.
        """
        ...

    def narrow(self, state: Arrays, start: int, stop: int) -> Arrays:
        """Rows start..stop of a state that take or step returned."""
        ...

    def put(self, rows: IntArray, state: Arrays, mask: BoolArray) -> None:
        """Store the rows of `state` where `mask` is true."""
        ...

    def init(self, rows: IntArray, fresh: NDArray[np.int8]) -> None:
        """Set rows to their initial (1) or zero (2) state; a `FirstInput` tensor is zero until its event."""
        ...

    def healthy(self, state: Arrays, max_norm: float | None) -> BoolArray:
        """bool [n]: all numbers finite and, for each tensor, the Euclidean norm at most `max_norm`."""
        ...

    def read(self, rows: IntArray) -> dict[str, NDArray[Any]]:
        """The state of `rows` as numpy arrays with the rows at axis 0."""
        ...

    def write(self, rows: IntArray, tensors: Mapping[str, NDArray[Any]]) -> None:
        """The reverse of `read`."""
        ...

    def grow(self, capacity: int) -> None:
        """Room for more rows; what is stored stays."""
        ...
