"""What can be asked for about the order of events."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

AHEAD = "time: further ahead of the largest seen than limits.max_ahead_s allows"
LATE = "time: further behind the largest seen than order.max_behind_s allows"
DUPLICATE = "an event with this id was read before (order.duplicates)"
FULL = "no room to wait for its turn in (order.max_held_events, order.max_held_bytes)"


@dataclass(frozen=True)
class Policy:
    """Times are in the unit of the pipeline's `event.time`; bounds are those of one partition.

    `behind` None leaves events as they arrive; else they go on once the largest time is `behind` beyond
    theirs. `late` and `on_full` say what happens to those that came later still, and when more than
    `max_events` or `max_bytes` of records wait. `remember` ids are known again; None looks at none.
    """

    behind: int | None = None
    ahead: int | None = None
    late: Literal["accept", "dead_letter"] = "accept"
    on_full: Literal["release", "dead_letter"] = "release"
    max_events: int = 100_000
    max_bytes: int = 1 << 26
    remember: int | None = None
    drops: bool = False
    """Whether an event that was met before is left out of the dead letters."""

    def is_full(self, events: int, size: int) -> bool:
        """Whether that is more than may wait."""
        return events > self.max_events or size > self.max_bytes
