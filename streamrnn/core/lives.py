"""Time within a batch: who may enter, and where a key's life begins. Arrays in log or in sorted order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from streamrnn.core.links import Links, running_max
from streamrnn.limits import EXPIRED

if TYPE_CHECKING:
    from streamrnn.events import BoolArray, IntArray


@dataclass(slots=True)
class Lives:
    """A batch in the sorted order of `Links`, arrays [n].

    `cause` is the bit that says why a key begins with this event, else 0; `exists` whether the key has an
    earlier event; `before` its largest time until then (0 if none), `now` the one with this event.
    """

    cause: IntArray
    exists: BoolArray
    before: IntArray
    now: IntArray


def too_far_ahead(time: IntArray, largest: int | None, max_ahead: int) -> IntArray:
    """Indices, in log order, of events more than `max_ahead` beyond the largest accepted time before them."""
    start = int(time[0]) if largest is None else largest
    before = np.maximum.accumulate(np.append(start, time[:-1]))
    suspects = np.flatnonzero(time - before > max_ahead)
    if not len(suspects):
        return suspects
    # A refused event does not count as seen, so from the first one on they are looked at one by one.
    refused, seen = [], int(before[suspects[0]])
    for i in range(int(suspects[0]), len(time)):
        if time[i] - seen > max_ahead:
            refused.append(i)
        else:
            seen = max(seen, int(time[i]))
    return np.array(refused, np.int64)


def timeless(cause: IntArray) -> Lives:
    """What `find_lives` finds where no event ever had a time; `cause` [n] are its `first`."""
    nothing = np.zeros(len(cause), np.int64)
    return Lives(cause, cause == 0, nothing, nothing)


def find_lives(
    links: Links, first: IntArray, time: IntArray, last_time: IntArray, expiry: IntArray | None
) -> Lives:
    """`first` [n] are the cause bits of keys without a row, `last_time` [g] the rows' largest times.

    A key has expired when its largest time lies before `expiry` [n]; None if keys never expire.
    """
    cause = first.copy()
    while True:
        lives = _within(links, cause, time, last_time)
        if expiry is None:
            return lives
        expired = np.flatnonzero(lives.exists & (lives.before < expiry))
        if not len(expired):
            return lives
        # A new beginning changes the times behind it: settle the first of each row, then look again.
        run = np.searchsorted(links.begins, expired, side="right")
        cause[expired[np.unique(run, return_index=True)[1]]] = EXPIRED


def _within(links: Links, cause: IntArray, time: IntArray, last_time: IntArray) -> Lives:
    carried = cause[links.begins] == 0
    chains = links.starts | (cause != 0)
    exists = ~chains
    exists[links.begins] = carried
    seeded = time.copy()
    seeded[links.begins] = np.where(
        carried, np.maximum(seeded[links.begins], last_time), seeded[links.begins]
    )
    now = seeded if links.distinct else running_max(seeded, chains)
    return Lives(cause, exists, np.where(exists, links.shifted(now, last_time), 0), now)
