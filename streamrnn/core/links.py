"""Order inside a batch: the events of each row one after the other, and what came before each of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamrnn.events import BoolArray, IntArray


_EVENT_BITS = 31
"""Enough for the events of any batch, and leaves as many for rows."""


@dataclass(slots=True)
class Links:
    """A batch sorted by row, log order kept within a row. All arrays are in this sorted order.

    `order` int64 [n] are indices into the batch; `begins` int64 [g] where each row's run starts and `rows`
    int64 [g] which row it is; `starts` bool [n] is true at the begins.
    """

    order: IntArray
    begins: IntArray
    rows: IntArray
    starts: BoolArray

    @property
    def distinct(self) -> bool:
        """Whether no row has two events."""
        return len(self.begins) == len(self.order)

    @property
    def lasts(self) -> IntArray:
        """Where each row's run ends, int64 [g], the last event itself."""
        return np.append(self.begins[1:], len(self.order)) - 1

    def shifted(self, values: NDArray[Any], carried: NDArray[Any]) -> NDArray[Any]:
        """What each event's predecessor in its row has: `values` [n] of it, `carried` [g] at a begin."""
        if self.distinct:
            return carried
        before = np.empty_like(values)
        before[1:] = values[:-1]
        before[self.begins] = carried
        return before


def link(rows: IntArray) -> Links:
    """Sort a batch by row; `rows` int64 [n], n >= 1."""
    n = len(rows)
    # A row's number and an event's in one integer: plain sorting is many times as fast as a stable one.
    order = (rows << _EVENT_BITS) | np.arange(n)
    order.sort()
    sorted_rows = order >> _EVENT_BITS
    order &= (1 << _EVENT_BITS) - 1
    starts = np.ones(n, np.bool_)
    np.not_equal(sorted_rows[1:], sorted_rows[:-1], out=starts[1:])
    begins = np.flatnonzero(starts)
    if len(begins) == n:
        # Nothing repeats: leave the batch as it came, which spares gathers all the way down.
        return Links(np.arange(n), begins, rows, starts)
    return Links(order, begins, sorted_rows[begins], starts)


def running_max(values: IntArray, chains: BoolArray) -> IntArray:
    """The largest value so far within each chain; a chain starts wherever `chains` [n] is true.

    One pass over ranks instead of values: a chain's ranks are lifted above all of the chain before it.
    """
    distinct, ranks = np.unique(values, return_inverse=True)
    lift = np.cumsum(chains) * len(distinct)
    largest: IntArray = distinct[np.maximum.accumulate(ranks + lift) - lift]
    return largest
