"""The contract of a model over whole sequences: what a pipeline's answers are verified against."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from streamrnn.backend import Arrays, TensorSpec


class Offline(Protocol):
    """A model as it was trained and tested: all events between two resets in one call.

    Subclass it for the defaults. Nothing is kept between calls.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def sequence(self, x: Arrays, zeros: bool = False) -> Arrays:
        """The answers [t, *shape] to t >= 1 events of one key, x [t, *shape], beginning anew.

        `zeros` begins with a state of zeros instead of the model's own initial state.
        """
        ...

    def variants(self) -> Iterable[Variant]:
        """The same model with one mistake each that conversions often make, likely ones first."""
        return ()

    def close(self) -> None:
        """Called once after the last sequence; calling it again does nothing."""
        return None


@dataclass(frozen=True)
class Variant:
    """A model as it would be if something were otherwise.

    `text` says what is otherwise, as the cause that it would be: "gate order: the weights of 'rnn' ...".
    """

    text: str
    model: Offline


PYTORCH_LSTM, PYTORCH_GRU = ("i", "f", "g", "o"), ("r", "z", "n")
ONNX_LSTM, ONNX_GRU = ("i", "o", "f", "g"), ("z", "r", "n")
"""The order of the gates in a weight, block by block: i input, f forget, g candidate (c), o output; r reset,
z update, n candidate (h)."""
_KNOWN = {
    PYTORCH_LSTM: "PyTorch's and Keras's",
    ONNX_LSTM: "ONNX's",
    ("i", "g", "f", "o"): "TensorFlow's",
    PYTORCH_GRU: "PyTorch's",
    ONNX_GRU: "ONNX's and Keras's",
}


@dataclass(frozen=True)
class GateOrder:
    """A weight whose gates stand in the order `stored`, while the model reads them in the order `read`."""

    stored: tuple[str, ...]
    read: tuple[str, ...]

    @property
    def blocks(self) -> list[int]:
        """For each gate that is read, the block of the weight in which it is."""
        return [self.stored.index(gate) for gate in self.read]

    def text(self, where: str) -> str:
        """As a cause; `where` names the layers."""
        stored, read = (
            ", ".join(order) + (f" ({_KNOWN[order]})" if order in _KNOWN else "")
            for order in (self.stored, self.read)
        )
        return f"gate order: the weights of {where} have their gates as {stored}, but are read as {read}"


def gate_orders(read: Sequence[str]) -> Iterator[GateOrder]:
    """Every other order in which the gates may have been stored, those of well-known libraries first."""
    others = [order for order in permutations(read) if order != tuple(read)]
    for order in sorted(others, key=lambda order: order not in _KNOWN):
        yield GateOrder(order, tuple(read))
