"""The encode stage: from the core's outputs to the named columns of an output record."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from streamrnn.events import picker

if TYPE_CHECKING:
    from streamrnn.events import Array, Batch, Column, Columns, IntArray, Outputs


@dataclass(slots=True)
class Answered:
    """What a made field can draw from: the core's outputs and the batch they answer."""

    outputs: Outputs
    batch: Batch
    cause_names: Sequence[str]


Make = Callable[[Answered], "Column"]


@dataclass
class EncodeStage:
    """Passed-on fields first, then made ones, in the order of the file."""

    include: tuple[str, ...]
    made: Mapping[str, Make]

    def columns(self, answered: Answered, decoded: Columns, records: IntArray) -> dict[str, Column]:
        """Columns of equal length, one entry per output.

        `records` int64 [m] says which decoded record each event of the batch is.
        """
        accepted = answered.outputs.accepted
        pick = picker(records[accepted])
        columns = {path: pick(decoded.fields[path]) for path in self.include}
        for name, make in self.made.items():
            columns[name] = make(answered)
        return columns


def output(name: str) -> Make:
    """A model output: a number, or a list of them."""

    def make(answered: Answered) -> Column:
        y, flat = answered.outputs.y[name], _flat(answered, name)
        return flat[:, 0] if flat.shape[1] == 1 else y if y.ndim == 2 else _shortest(y).tolist()

    return make


def argmax(name: str, labels: Sequence[str] | None) -> Make:
    """The place of the largest number, or its label; of equal ones the first."""

    def make(answered: Answered) -> Column:
        best = _flat(answered, name).argmax(axis=1)
        return best if labels is None else [labels[i] for i in best.tolist()]

    return make


def top_k(name: str, k: int, labels: Sequence[str] | None, scores: bool) -> Make:
    """The k largest, largest first; of equal ones the first."""

    def make(answered: Answered) -> Column:
        y = _flat(answered, name)
        # Sorted backwards twice, so that equal ones keep their order and any dtype will do.
        order = y.shape[1] - 1 - np.argsort(y[:, ::-1], axis=1, kind="stable")[:, : -k - 1 : -1]
        named: list[list[Any]] = order.tolist()
        if labels is not None:
            named = [[labels[i] for i in row] for row in named]
        if not scores:
            return named
        values = _shortest(np.take_along_axis(y, order, axis=1))
        return [
            [{"label": label, "score": score} for label, score in zip(*pair, strict=True)]
            for pair in zip(named, values.tolist(), strict=True)
        ]

    return make


def threshold(name: str, above: float) -> Make:
    """Whether an output is above a bound; a list of answers where it has several numbers."""

    def make(answered: Answered) -> Column:
        over: Array = _flat(answered, name) > above
        return over[:, 0] if over.shape[1] == 1 else over

    return make


def meta(name: str) -> Make:
    """What the engine knows of an event."""

    def make(answered: Answered) -> Column:
        outputs, batch = answered.outputs, answered.batch
        if name == "steps":
            return outputs.steps
        if name == "cause":
            return _cause_lists(outputs.cause, answered.cause_names)
        source = {"key": batch.keys, "time": batch.time, "position": batch.positions}[name]
        assert source is not None
        return picker(outputs.accepted)(source)

    return make


def _cause_lists(causes: IntArray, names: Sequence[str]) -> list[list[str]]:
    """Bits as names; few different sets occur, so each is spelled once."""
    distinct, place = np.unique(causes, return_inverse=True)
    spelled = [[name for bit, name in enumerate(names) if c >> bit & 1] for c in distinct.tolist()]
    return [spelled[i] for i in place.tolist()]


def _shortest(values: Array) -> Array:
    """Numbers that print as briefly as their dtype allows, once they are Python's."""
    if values.dtype != np.float32:
        return values
    from streamrnn.codecs.shortest import shortest

    return shortest(values)


def _flat(answered: Answered, name: str) -> Array:
    y = answered.outputs.y[name]
    return y.reshape(len(y), math.prod(y.shape[1:]))
