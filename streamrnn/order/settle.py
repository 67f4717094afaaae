"""A batch of arrivals against those that wait: who is refused, who goes on in what order, who waits then."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

import numpy as np

from streamrnn.core.lives import too_far_ahead
from streamrnn.order.policy import AHEAD, DUPLICATE, FULL, LATE

if TYPE_CHECKING:
    from streamrnn.events import BoolArray, IntArray
    from streamrnn.order.policy import Policy
    from streamrnn.order.seen import Seen


GONE = 2**63 - 1
"""In place of the time of an event that waits no longer."""


@dataclass(slots=True)
class Held:
    """Those that wait, in the order in which they came: int64 [h] times, some of them `GONE`, and bytes.

    `events` and `bytes` are those of all that are not gone.
    """

    time: IntArray
    size: IntArray
    events: int
    bytes: int


@dataclass(slots=True)
class Arrivals:
    """n > 0 events in log order: int64 [n] times, zeros where there are none, and bytes; hashes of ids."""

    time: IntArray
    size: IntArray
    ids: Sequence[int] = ()


@dataclass(slots=True)
class Settled:
    """What becomes of h that wait and n that arrive, known by their numbers 0 to h - 1 and h to h + n - 1.

    `refused` has arrivals by their index, 0 to n - 1, and `entering` those that wait from now on; `leaving`
    are in the order in which they go on, each let go by the arrival in `by`, an index too; `largest` is the
    largest time by now.
    """

    leaving: IntArray
    by: IntArray
    entering: IntArray
    largest: int | None
    refused: dict[int, str] = field(default_factory=dict)


def settle(policy: Policy, largest: int | None, held: Held, arriving: Arrivals, seen: Seen | None) -> Settled:
    """`definition.Definition.arrive` for each of the arrivals; their ids are added to `seen`."""
    found = _at_once(policy, largest, held, arriving, seen)
    if found is None:
        found = _OneByOne(policy, largest, held, seen).settle(arriving)
    elif seen is not None:
        seen.add([name for i, name in enumerate(arriving.ids) if i not in found.refused])
    return found


def _at_once(
    policy: Policy, largest: int | None, held: Held, arriving: Arrivals, seen: Seen | None
) -> Settled | None:
    """None where one arrival decides what becomes of another in a way that has to be followed."""
    time, n, h = arriving.time, len(arriving.time), len(held.time)
    refused: dict[int, str] = {}
    here = np.ones(n, np.bool_)
    if policy.ahead is not None:
        _refuse(too_far_ahead(time, largest, policy.ahead), AHEAD, here, refused)
    start = int(time[0]) if largest is None else largest
    after = np.maximum.accumulate(np.where(here, np.maximum(time, start), start))
    before = np.append(start, after[:-1])
    if policy.behind is not None and policy.late == "dead_letter":
        _refuse(np.flatnonzero(here & (time < before - policy.behind)), LATE, here, refused)
    if seen is not None:
        rows = np.flatnonzero(here)
        again = rows[seen.repeats([arriving.ids[i] for i in rows.tolist()])]
        if (time[again] > before[again]).any():  # what they seem to have changed, they have not
            return None
        _refuse(again, DUPLICATE, here, refused)
    last = int(after[-1])
    if policy.behind is None:
        alone = np.flatnonzero(here)
        return Settled(h + alone, alone, np.zeros(0, np.int64), last, refused)
    leaves = np.where(here, np.maximum(np.searchsorted(after, time + policy.behind), np.arange(n)), n)
    waited = np.flatnonzero(held.time <= last - policy.behind)
    waited_until = np.searchsorted(after, held.time[waited] + policy.behind)
    if _overflows(policy, held, arriving, here, np.append(waited_until, leaves), waited):
        return None
    gone = np.flatnonzero(leaves < n)
    numbers = np.append(waited, h + gone)
    by = np.append(waited_until, leaves[gone])
    order = np.lexsort((numbers, np.append(held.time[waited], time[gone]), by))
    return Settled(numbers[order], by[order], np.flatnonzero(here & (leaves == n)), last, refused)


def _refuse(which: IntArray, why: str, here: BoolArray, refused: dict[int, str]) -> None:
    here[which] = False
    refused.update(dict.fromkeys(which.tolist(), why))


def _overflows(
    policy: Policy, held: Held, arriving: Arrivals, here: BoolArray, leaves: IntArray, waited: IntArray
) -> bool:
    """Whether more than may wait would do so behind any of the arrivals; `leaves` has `waited` in front."""
    size = np.where(here, arriving.size, 0)
    if not policy.is_full(held.events + int(here.sum()), held.bytes + int(size.sum())):
        return False
    n = len(here)
    one, sizes = np.append(np.ones(len(waited)), here), np.append(held.size[waited], size)
    count, weight = (
        start + np.cumsum(joined) - np.cumsum(np.bincount(leaves, left, n + 1)[:n])
        for start, joined, left in (
            (held.events, here, one),
            (held.bytes, size, sizes),
        )
    )
    return policy.is_full(int(count.max()), int(weight.max()))


class _OneByOne:
    """Follows `definition.Definition.arrive`, with a heap in the place of a list that is sorted."""

    def __init__(self, policy: Policy, largest: int | None, held: Held, seen: Seen | None) -> None:
        self._policy, self._largest, self._seen = policy, largest, seen
        live = np.flatnonzero(held.time != GONE)
        columns = held.time[live].tolist(), live.tolist(), held.size[live].tolist()
        self._heap = list(zip(*columns, strict=True))
        heapify(self._heap)
        self._first, self._bytes = len(held.time), held.bytes
        self._leaving: list[int] = []
        self._by: list[int] = []

    def settle(self, arriving: Arrivals) -> Settled:
        """All of them."""
        refused: dict[int, str] = {}
        ids = arriving.ids or [0] * len(arriving.time)
        columns = zip(arriving.time.tolist(), arriving.size.tolist(), ids, strict=True)
        for i, (time, size, name) in enumerate(columns):
            if why := self._arrive(time, self._first + i, size, name):
                refused[i] = why
            self._by += [i] * (len(self._leaving) - len(self._by))
        numbers = np.array([number for _, number, _ in self._heap], np.int64)
        entering = np.sort(numbers[numbers >= self._first]) - self._first
        leaving, by = np.array(self._leaving, np.int64), np.array(self._by, np.int64)
        return Settled(leaving, by, entering, self._largest, refused)

    def _arrive(self, time: int, number: int, size: int, name: int) -> str | None:
        policy, seen = self._policy, self._seen
        largest = time if self._largest is None else self._largest
        if policy.ahead is not None and time - largest > policy.ahead:
            return AHEAD
        is_late = policy.behind is not None and time < largest - policy.behind
        if is_late and policy.late == "dead_letter":
            return LATE
        if seen is not None and seen.knows(name):
            return DUPLICATE
        largest = max(largest, time)
        if policy.behind is None or is_late:
            self._leaving.append(number)
        elif not self._enter(time, number, size, largest - policy.behind):
            return FULL
        self._largest = largest
        if seen is not None:
            seen.add([name])
        return None

    def _enter(self, time: int, number: int, size: int, watermark: int) -> bool:
        """Let an event wait and those go on that are due; False, and nothing done, if it finds no room."""
        heap, policy = self._heap, self._policy
        due = []
        while heap and heap[0][0] <= watermark:
            due.append(self._pop())
        waits = time > watermark
        if waits and policy.on_full == "dead_letter" and policy.is_full(len(heap) + 1, self._bytes + size):
            for each in due:
                heappush(heap, each)
            self._bytes += sum(each[2] for each in due)
            return False
        heappush(heap, (time, number, size))
        self._bytes += size
        while heap and (heap[0][0] <= watermark or policy.is_full(len(heap), self._bytes)):
            due.append(self._pop())
        self._leaving += [each[1] for each in due]
        return True

    def _pop(self) -> tuple[int, int, int]:
        least = heappop(self._heap)
        self._bytes -= least[2]
        return least
