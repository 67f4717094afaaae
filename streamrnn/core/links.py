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
_EVENT = (1 << _EVENT_BITS) - 1
_SORTED_BELOW = 256
"""Events that are sorted in less time than it takes to find out which need it."""


@dataclass(slots=True)
class Links:
    """A batch with the events of each row side by side, in log order. All arrays are in this sorted order.

    `order` int64 [n] are indices into the batch; `begins` int64 [g] where each row's run starts and `rows`
    int64 [g] which row it is; `starts` bool [n] is true at the begins. Runs behind the first `mixed` ones are
    single events.
    """

    order: IntArray
    begins: IntArray
    rows: IntArray
    starts: BoolArray
    mixed: int

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


class Linker:
    """Sorts batches by row. Single events stay as they came: what is gathered for them lies in order."""

    def __init__(self) -> None:
        self._event = np.zeros(0, np.int32)
        """By row, an event of it in this batch; of rows that are not in it, anything."""

    def link(self, rows: IntArray, capacity: int) -> Links:
        """`rows` int64 [n], n >= 1, all of them below `capacity`."""
        n = len(rows)
        several = np.ones(n, np.bool_) if n < _SORTED_BELOW else self._several(rows, capacity)
        events = np.flatnonzero(several)
        # A row's number and an event's in one integer: plain sorting is many times as fast as a stable one.
        order = (rows[events] << _EVENT_BITS) | events
        order.sort()
        sorted_rows = order >> _EVENT_BITS
        order &= _EVENT
        starts = np.ones(n, np.bool_)
        np.not_equal(sorted_rows[1:], sorted_rows[:-1], out=starts[1 : max(1, len(order))])
        begins = np.flatnonzero(starts)
        if len(begins) == n:
            # Nothing repeats: leave the batch as it came, which spares gathers all the way down.
            return Links(np.arange(n), begins, rows, starts, 0)
        order = np.concatenate([order, np.flatnonzero(~several)])
        return Links(order, begins, rows[order[begins]], starts, len(begins) - (n - len(events)))

    def _several(self, rows: IntArray, capacity: int) -> BoolArray:
        """Whether an event is of a row that has several, bool [n]."""
        if capacity > len(self._event):
            self._event = np.zeros(capacity, np.int32)
        events = np.arange(len(rows), dtype=np.int32)
        self._event[rows] = events
        one = self._event[rows]  # whichever of the row's events it is
        others = np.flatnonzero(one != events)
        several = np.zeros(len(rows), np.bool_)
        several[others] = several[one[others]] = True
        return several


def running_max(values: IntArray, chains: BoolArray) -> IntArray:
    """The largest value so far within each chain; a chain starts wherever `chains` [n] is true.

    One pass over ranks instead of values: a chain's ranks are lifted above all of the chain before it.
    """
    distinct, ranks = np.unique(values, return_inverse=True)
    lift = np.cumsum(chains) * len(distinct)
    largest: IntArray = distinct[np.maximum.accumulate(ranks + lift) - lift]
    return largest
