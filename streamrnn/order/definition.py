"""What order and duplicates mean, one event after the other; it is slow and means to be read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from streamrnn.order.policy import AHEAD, DUPLICATE, FULL, LATE

if TYPE_CHECKING:
    from streamrnn.order.policy import Policy


class Refused(Exception):
    """The event is as if it had not been there."""


@dataclass(order=True)
class Held:
    """An event that waits; among equal times the one that came first goes first."""

    time: int
    number: int
    size: int
    event: Any


class Definition:
    """The events of one partition, in the order in which the log has them."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.largest: int | None = None
        self.waiting: list[Held] = []
        self.seen: list[Any] = []
        self.number = 0

    def arrive(self, time: int, size: int, id: Any, event: Any) -> list[Any]:
        """The events that go on now, in order. Raises `Refused`, with a reason, if this one is."""
        policy, self.number = self.policy, self.number + 1
        largest = time if self.largest is None else self.largest
        if policy.ahead is not None and time - largest > policy.ahead:
            raise Refused(AHEAD)
        is_late = policy.behind is not None and time < largest - policy.behind
        if is_late and policy.late == "dead_letter":
            raise Refused(LATE)
        if policy.remember is not None and id in self.seen[-policy.remember :]:
            raise Refused(DUPLICATE)
        leaving = [event]
        if policy.behind is not None and not is_late:
            watermark = max(largest, time) - policy.behind
            waiting = sorted([*self.waiting, Held(time, self.number, size, event)])
            leaving = [held.event for held in waiting if held.time <= watermark]
            waiting = [held for held in waiting if held.time > watermark]
            while policy.is_full(len(waiting), sum(held.size for held in waiting)):
                if policy.on_full == "dead_letter":
                    raise Refused(FULL)
                leaving.append(waiting.pop(0).event)
            self.waiting = waiting
        self.seen.append(id)
        self.largest = max(largest, time)
        return leaving

    def rest(self) -> list[Any]:
        """All that wait, in order: nothing more can come that would go before them."""
        waiting, self.waiting = self.waiting, []
        return [held.event for held in waiting]
