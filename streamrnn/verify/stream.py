"""A log as one pipeline file understands it: keys, boundaries and what the model is to see of each event.

It is read by the executable definition, one event at a time, so that it does not depend on the engine that
is being verified.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from streamrnn.backend import Backend, StateSpec, StateTensor, TensorSpec
from streamrnn.build import core_limits, reset_rules
from streamrnn.definition import Definition
from streamrnn.limits import cause_names
from streamrnn.stages import elapsed_features

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamrnn.backend import Arrays
    from streamrnn.config.spec import PipelineSpec
    from streamrnn.context import Context
    from streamrnn.events import Array, Batch, Block, BoolArray, IntArray, Mark

CARRIED, INITIAL, ZEROS = 0, 1, 2
"""How an event finds its state."""


@dataclass
class Log:
    """Where the records of the log stand; a record is known by its place among all, from 0."""

    blocks: list[tuple[int, str, IntArray, IntArray]] = field(default_factory=list)
    length: int = 0

    def add(self, block: Block) -> int:
        """Take in a block; the number of its first record."""
        first = self.length
        self.blocks.append((first, block.origin.partition, block.positions, block.numbers))
        self.length += len(block)
        return first

    def place(self, record: int) -> tuple[str, int, int]:
        """Partition, position in it, and number (from 1) of a record."""
        at = bisect_right(self.blocks, record, key=lambda block: block[0]) - 1
        first, partition, positions, numbers = self.blocks[at]
        return partition, int(positions[record - first]), int(numbers[record - first])


@dataclass(frozen=True)
class Stream:
    """n accepted events in log order; all columns have their length.

    `records` int64 says which record each is; `x` arrays [n, *shape] are what the model sees; `fresh` int8
    how it finds its state; `cause` int64 has the bits of what reset it, named by `cause_names`.
    """

    records: IntArray
    keys: Sequence[str]
    x: Arrays
    fresh: NDArray[np.int8]
    cause: IntArray
    cause_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.records)

    def by_key(self) -> list[IntArray]:
        """The events of each key, in order."""
        numbers: dict[str, int] = {}
        of = np.array([numbers.setdefault(key, len(numbers)) for key in self.keys], np.int64)
        order = np.argsort(of, kind="stable")
        return np.split(order, np.flatnonzero(np.diff(of[order])) + 1) if len(order) else []

    def segments(self) -> Iterator[IntArray]:
        """The events between two resets of a key, in order."""
        for events in self.by_key():
            yield from np.split(events, np.flatnonzero(self.fresh[events[1:]]) + 1)

    def take(self, index: IntArray) -> Stream:
        """Some of the events; whole beginnings of segments, or the result means nothing."""
        x = {name: array[index] for name, array in self.x.items()}
        keys = [self.keys[i] for i in index.tolist()]
        return replace(
            self,
            records=self.records[index],
            keys=keys,
            x=x,
            fresh=self.fresh[index],
            cause=self.cause[index],
        )

    def find(self, records: IntArray) -> tuple[BoolArray, IntArray]:
        """bool [m] which of these records are in it, and int64 [m] the events that they are."""
        at = np.minimum(np.searchsorted(self.records, records), max(len(self) - 1, 0))
        there = self.records[at] == records if len(self) else np.zeros(len(records), np.bool_)
        return there, at


class Listener(Backend):
    """In place of a model: keeps what it is shown, and how each event finds its state."""

    outputs = ()
    state = StateSpec((StateTensor("fresh", (), "int8", initial=INITIAL),))

    def __init__(self, inputs: tuple[TensorSpec, ...]) -> None:
        self.inputs = inputs
        self.seen: list[tuple[int, Arrays]] = []

    def step(self, state: Arrays, x: Arrays) -> tuple[Arrays, Arrays]:
        """See `Backend.step`; the state is a word about how the event before was left."""
        found = int(state["fresh"][0])
        # 1 was put there by a reset to the initial state, 0 by one to zeros, 3 by the event before.
        self.seen.append((CARRIED if found == 3 else found or ZEROS, x))
        return {"fresh": np.full(1, 3, np.int8)}, {}


class Reader:
    """Turns batches into a `Stream`, under the keys, resets, limits and inputs of one pipeline file."""

    def __init__(self, spec: PipelineSpec, context: Context, inputs: tuple[TensorSpec, ...]) -> None:
        rules, limits = reset_rules(spec), core_limits(spec)
        self.listener = Listener(inputs)
        self.cause_names = cause_names(rules, limits)
        self._definition = Definition(self.listener, rules, elapsed_features(spec, context), limits)
        self._keys: list[str] = []
        self._columns: list[tuple[IntArray, NDArray[np.int8], IntArray]] = []
        self._x: list[Mapping[str, Array]] = []

    def mark(self, mark: Mark) -> None:
        """See `Core.mark`."""
        self._definition.mark(mark)

    def add(self, batch: Batch, records: IntArray) -> tuple[dict[int, str], IntArray]:
        """Read a batch of these records: those refused with the reason, and the steps of the others."""
        answers = self._definition.process(batch)
        seen, self.listener.seen = self.listener.seen, []
        good = np.array([answer.refused is None for answer in answers], np.bool_)
        refused = {
            int(record): str(answer.refused)
            for record, answer in zip(records.tolist(), answers, strict=True)
            if answer.refused is not None
        }
        steps = np.array([answer.steps for answer in answers], np.int64)[good]
        if seen:
            self._keys += [key for key, kept in zip(batch.keys, good.tolist(), strict=True) if kept]
            fresh = np.array([fresh for fresh, _ in seen], np.int8)
            cause = np.array([answer.cause for answer in answers], np.int64)[good]
            self._columns.append((records[good], fresh, cause))
            names = seen[0][1]
            self._x.append({name: np.concatenate([x[name] for _, x in seen]) for name in names})
        return refused, steps

    def stream(self) -> Stream:
        """All that was read."""
        inputs = self.listener.inputs
        if not self._columns:
            empty = np.zeros(0, np.int64)
            x = {spec.name: np.zeros((0, *spec.shape), spec.dtype) for spec in inputs}
            return Stream(empty, [], x, empty.astype(np.int8), empty, self.cause_names)
        records, fresh, cause = (np.concatenate(column) for column in zip(*self._columns, strict=True))
        x = {spec.name: np.concatenate([part[spec.name] for part in self._x]) for spec in inputs}
        return Stream(records, self._keys, x, fresh, cause, self.cause_names)
