"""The reset rule for hours, days, weeks and months, as a clock in some zone shows them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import count
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import numpy as np

from streamrnn.resets.rules import Rule

if TYPE_CHECKING:
    from streamrnn.builtins import resets as config
    from streamrnn.events import Array, BoolArray, IntArray
    from streamrnn.rules import Now, Previous

WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
FIRST_S, LAST_S = -62_104_060_800, 253_370_764_799
"""Seconds since 1970 of the years 2 to 9998, which `datetime` can tell in every zone."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY_S = 86_400
_LONGEST_DAYS = {"hour": 1, "day": 1, "week": 7, "month": 31}
_DAYS_KEPT = 4096


class Calendar(Rule):
    """Fires when the time of a key crosses the beginning of a period; a late event crosses none.

    A day, week or month begins when the zone's clock first shows the time of day `at_s`, in seconds, or first
    jumps over it; an hour begins whenever it shows a full one, or jumps over one.
    """

    def __init__(
        self, name: str, to: str, every: str, at_s: int, weekday: int, zone: str, ticks_per_s: int
    ) -> None:
        super().__init__(name, to)
        self.every, self.at_s, self.weekday = every, at_s, weekday
        self.zone, self.ticks_per_s = ZoneInfo(zone), ticks_per_s
        int64 = np.iinfo(np.int64)
        self._range = max(FIRST_S * ticks_per_s, int64.min), min((LAST_S + 1) * ticks_per_s - 1, int64.max)
        # No clock was ever set by more than a day, and no other period begins so late.
        self._longest = (_LONGEST_DAYS[every] + 2) * _DAY_S * ticks_per_s
        self._begun = lru_cache(_DAYS_KEPT)(self._begun_on)

    def fires(self, now: Now, previous: Previous, columns: Mapping[str, Array]) -> BoolArray:
        """See `ResetRule.fires`."""
        assert now.time is not None
        assert previous.time is not None
        before, latest = np.clip((previous.time, np.maximum(now.time, previous.time)), *self._range)
        fired: BoolArray = previous.exists & (latest - before > self._longest)
        asked = np.flatnonzero(previous.exists & ~fired & (latest > before))
        if len(asked):
            before, latest = self._begin(np.stack((before[asked], latest[asked])))
            fired[asked] = before != latest
        return fired

    def _begin(self, times: IntArray) -> IntArray:
        """When the period began that each time lies in."""
        days = np.unique(times // (_DAY_S * self.ticks_per_s))
        begun = np.array([second for day in days.tolist() for second in self._begun(day)], np.int64)
        begun *= self.ticks_per_s
        found: IntArray = begun[np.searchsorted(begun, times, side="right") - 1]
        return found

    def _begun_on(self, day: int) -> list[int]:
        """Periods that begin within a day of UTC, behind the last one that began before it or with it."""
        first, last = day * _DAY_S, (day + 1) * _DAY_S - 1
        found = {FIRST_S}
        for wall in self._walls(self._clock(last) + timedelta(days=1)):
            moments = self._moments(wall)
            found.update(moment for moment in moments if moment <= last)
            if max(moments) <= first:
                break
        begun = sorted(found)
        return begun[bisect_left(begun, first + 1) - 1 :]

    def _walls(self, latest: datetime) -> Iterator[datetime]:
        """What the clock shows where periods begin, from the latest on back."""
        if self.every == "hour":
            latest = latest.replace(minute=0, second=0)
            yield from (latest - timedelta(hours=hours) for hours in count())
            return
        for ordinal in range(latest.toordinal(), 0, -1):
            day = datetime.fromordinal(ordinal)
            begins = {"day": True, "week": day.weekday() == self.weekday, "month": day.day == 1}
            if begins[self.every]:
                yield day + timedelta(seconds=self.at_s)

    def _moments(self, wall: datetime) -> tuple[int, ...]:
        """The seconds at which a period begins with this time on the clock; one, or two of an hour."""
        first, again = (
            (wall.replace(tzinfo=self.zone, fold=fold) - _EPOCH) // timedelta(seconds=1) for fold in (0, 1)
        )
        if again < first:  # the clock never shows it
            skipped = range(again, first)
            return (again + bisect_left(skipped, True, key=lambda second: self._clock(second) >= wall),)
        return (first, again) if self.every == "hour" else (first,)

    def _clock(self, second: int) -> datetime:
        """What the zone's clock shows, without the zone."""
        return (_EPOCH + timedelta(seconds=second)).astimezone(self.zone).replace(tzinfo=None)


def calendar(config: config.Calendar, ticks_per_s: int) -> Calendar:
    """Build from the YAML section."""
    hours, minutes = map(int, (config.at or "00:00").split(":"))
    weekday = WEEKDAYS.index(config.on or WEEKDAYS[0])
    at_s = 3600 * hours + 60 * minutes
    return Calendar(
        config.name or "calendar", config.to, config.every, at_s, weekday, config.zone, ticks_per_s
    )
