"""Segments of a batch, and how they are laid out for few, wide calls of the model.

A segment is what a row's events between two resets make; segments do not depend on each other, even those
of one row, since all but the first start from a fresh state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

CALL_STEPS = 80
"""Steps of one row that take about as long as calling a small model."""

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamrnn.core.boundaries import Boundaries
    from streamrnn.core.links import Links
    from streamrnn.events import BoolArray, IntArray


@dataclass
class Segments:
    """The s segments of a batch, longest first, so that those still running are always the first ones.

    `begins` int64 [s] is where each starts in sorted order, `lengths` int64 [s]; `rows` int64 [s] its slab
    row; `fresh` int8 [s] how it starts; `kept` bool [s] whether its last state is the row's.
    `order` int64 [n] maps sorted order to the batch; `starts` int64 [s] are the begins in rising order.
    """

    order: IntArray
    starts: IntArray
    begins: IntArray
    lengths: IntArray
    rows: IntArray
    fresh: NDArray[np.int8]
    kept: BoolArray

    def __post_init__(self) -> None:
        ended = np.bincount(self.lengths).cumsum()
        self._running: list[int] = (len(self.lengths) - ended).tolist()

    @cached_property
    def start_of(self) -> IntArray:
        """int64 [n], sorted: where the segment of each event starts."""
        return self.starts.repeat(steps_between(self.starts, len(self.order)))

    @cached_property
    def place(self) -> IntArray:
        """int64 [n], sorted: each event's place in its segment, from 0."""
        return np.arange(len(self.order)) - self.start_of

    def events(self, k: int, start: int, stop: int) -> IntArray:
        """Batch indices of the k-th events of segments start..stop."""
        begins = self.begins[start:stop]
        return self.order[begins + k if k else begins]

    def running(self, k: int) -> int:
        """How many segments have more than k events."""
        return self._running[k] if k < len(self._running) else 0


def cut(links: Links, bounds: Boundaries) -> Segments:
    """The segments of a batch."""
    if bounds.quiet:
        return _runs(links, bounds)
    starts = np.flatnonzero(links.starts | (bounds.fresh != 0))
    run = np.searchsorted(links.begins, starts, side="right") - 1
    kept = np.append(run[1:] != run[:-1], True)
    lengths = steps_between(starts, len(links.order))
    longest = _longest_first(lengths)
    begins, rows = starts[longest], links.rows[run[longest]]
    return Segments(links.order, starts, begins, lengths[longest], rows, bounds.fresh[begins], kept[longest])


def _runs(links: Links, bounds: Boundaries) -> Segments:
    """The segments of a batch in which nothing is reset: all events of each row."""
    begins, rows = links.begins, links.rows
    lengths = steps_between(begins, len(links.order))
    fresh, kept = bounds.fresh[: len(rows)], np.ones(len(rows), np.bool_)
    if not links.distinct:
        mixed = links.mixed
        longest = np.argsort(-lengths[:mixed], kind="stable")
        begins, lengths, rows = (
            np.concatenate([of[:mixed][longest], of[mixed:]]) for of in (begins, lengths, rows)
        )
    return Segments(links.order, links.begins, begins, lengths, rows, fresh, kept)


def steps_between(starts: IntArray, n: int) -> IntArray:
    """From each start to the next, the last one to n."""
    lengths = np.empty_like(starts)
    np.subtract(starts[1:], starts[:-1], out=lengths[:-1])
    lengths[-1] = n - starts[-1]
    return lengths


def _longest_first(lengths: IntArray) -> IntArray:
    """Indices, equal lengths in their order. Most segments are single events: only the others are sorted."""
    single = lengths == 1
    several = np.flatnonzero(~single)
    several = several[np.argsort(-lengths[several], kind="stable")]
    return np.concatenate([several, np.flatnonzero(single)])


def stretches(lengths: Sequence[int]) -> list[int]:
    """How many steps of segments, `lengths` falling, to scan at a time, each time those that still run.

    A stretch goes on to where the next segment ends if padding those that ended costs no more than a call.
    """
    found, done, width = list[int](), 0, len(lengths)
    while width:
        last = width - 1
        while last and (lengths[last - 1] - lengths[last]) * (width - last) <= CALL_STEPS:
            last -= 1
        found.append(lengths[last] - done)
        done, width = lengths[last], last
    return found
