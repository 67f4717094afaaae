"""The rule `calendar` equals a clock that is looked at second by second, in zones of all kinds."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from streamrnn.almanac import has_begun
from streamrnn.resets.calendar import FIRST_S, LAST_S, Calendar
from streamrnn.rules import Now, Previous

SPANS = [
    ("Europe/Berlin", "2024-03-29", 4, 900),  # a day of 23 hours
    ("Europe/Berlin", "2024-10-25", 4, 900),  # of 25
    ("America/Sao_Paulo", "2018-11-02", 3, 900),  # no midnight
    ("America/Sao_Paulo", "2018-02-16", 3, 900),  # the hour before midnight twice
    ("America/St_Johns", "2010-11-06", 2, 60),  # back over midnight by an hour, at one past it
    ("Australia/Lord_Howe", "2024-04-05", 3, 900),  # half an hour
    ("Australia/Lord_Howe", "2024-10-04", 3, 900),
    ("Asia/Kolkata", "2024-01-30", 4, 900),  # half an hour beside UTC
    ("Asia/Kathmandu", "1985-12-31", 2, 60),
    ("Pacific/Apia", "2011-12-28", 5, 900),  # a day that never was
    ("Europe/Berlin", "1893-03-30", 4, 1),  # a local time until then
    ("Africa/Monrovia", "1972-01-05", 3, 1),
    ("Pacific/Kwajalein", "1969-09-28", 4, 900),  # back by 23 hours
    ("Pacific/Kwajalein", "1993-08-19", 4, 900),  # another day that never was
    ("UTC", "1969-12-30", 4, 900),
]
PERIODS = [
    ("hour", 0, 0),
    ("day", 0, 0),
    ("day", 9_000, 0),
    ("day", 79_200, 0),
    ("week", 3_600, 0),
    ("week", 0, 6),
    ("month", 0, 0),
]


def rule(every, at_s, weekday, zone, ticks_per_s=1):
    return Calendar("calendar", "initial", every, at_s, weekday, zone, ticks_per_s)


def fires(rule, before, now):
    before, now = (np.array(times, np.int64) for times in (before, now))
    asked = Previous(np.ones(len(now), bool), {}, before)
    return rule.fires(Now({}, now), asked, {}).tolist()


def by_the_clock(rule, seconds):
    """Which of these seconds, one step apart, begin a period: by nothing but what the clock shows at each."""
    shown = [datetime.fromtimestamp(s, UTC).astimezone(rule.zone).replace(tzinfo=None) for s in seconds]
    if rule.every == "hour":
        for (_, before), (s, now) in pairwise(zip(seconds, shown, strict=True)):
            full = now.replace(minute=0, second=0)
            yield s, now == full or before < full
        return
    furthest, begun = shown[0], period(rule, shown[0])
    for s, clock in zip(seconds[1:], shown[1:], strict=True):
        furthest = max(furthest, clock)
        yield s, period(rule, furthest) != begun
        begun = period(rule, furthest)


def period(rule, clock):
    day = (clock - timedelta(seconds=rule.at_s)).date()
    if rule.every == "week":
        return day - timedelta(days=(day.weekday() - rule.weekday) % 7)
    return (day.year, day.month) if rule.every == "month" else day


@pytest.mark.parametrize(("zone", "start", "days", "step"), SPANS)
@pytest.mark.parametrize("every", PERIODS, ids=str)
def test_periods_begin_when_the_clock_says_so(every, zone, start, days, step):
    first = int(datetime.fromisoformat(f"{start}T00:00Z").timestamp())
    seconds = list(range(first, first + (days * 86_400 if step > 1 else 90_000), step))
    if step == 1:
        first_change = changes(zone, first, first + days * 86_400)
        seconds = list(range(first_change - 4_000, first_change + 4_000))
    asked = rule(*every, zone)
    want = dict(by_the_clock(asked, seconds))
    pairs = list(pairwise(seconds))
    assert dict(zip(seconds[1:], fires(asked, *zip(*pairs, strict=True)), strict=True)) == want
    for before, now in random.Random(start).sample(pairs, 30) + [pair for pair in pairs if want[pair[1]]][:8]:
        assert has_begun(asked, before, now) == want[now], (before, now)


def changes(zone, first, last):
    offset = lambda s: datetime.fromtimestamp(s, UTC).astimezone(ZoneInfo(zone)).utcoffset()  # noqa: E731
    while last - first > 1:
        middle = (first + last) // 2
        first, last = (first, middle) if offset(middle) != offset(first) else (middle, last)
    return last


ZONES = ["Europe/Berlin", "America/Sao_Paulo", "America/St_Johns", "Pacific/Apia", "Asia/Kolkata", "UTC"]


@pytest.mark.parametrize("ticks_per_s", [1, 1_000, 1_000_000, 1_000_000_000])
@pytest.mark.parametrize("every", PERIODS, ids=str)
def test_any_two_times_in_any_unit_equal_the_definition(every, ticks_per_s):
    rng = random.Random(f"{every} {ticks_per_s}")
    for zone in ZONES:
        asked, before, now = rule(*every, zone, ticks_per_s), [], []
        for _ in range(25 if every[0] == "hour" else 60):
            time = (
                rng.choice([rng.randint(-(2**32), 2**32), rng.randint(1_310_000_000, 1_340_000_000)])
                * ticks_per_s
            )
            time += rng.choice([0, 0, -1, 1, rng.randint(0, ticks_per_s)])
            near = asked._begin(np.array([time]))[0].item()
            time = rng.choice([time, near, near - 1, near + 1])
            far = rng.choice([1, 60, 3_600, 86_400, 86_400 * 7, 86_400 * 40, 2**32]) * ticks_per_s
            before.append(time)
            now.append(rng.choice([time, time + 1, time + rng.randint(0, far), time - rng.randint(0, far)]))
        want = [has_begun(asked, b, max(b, n)) for b, n in zip(before, now, strict=True)]
        assert fires(asked, before, now) == want
        assert any(want)


def test_the_calendar_ends_where_datetime_does():
    for every in PERIODS:
        for zone in ("UTC", "Pacific/Kiritimati", "America/Juneau"):
            asked = rule(*every, zone)
            for end, inward in ((FIRST_S, 1), (LAST_S, -1)):
                times = [end + inward * s for s in (-(2**61), -1, 0, 1, 40, 86_400 * 3, 86_400 * 80)]
                for pair in pairwise(times if inward > 0 else times[::-1]):
                    assert fires(asked, *([time] for time in pair)) == [has_begun(asked, *pair)], pair
            assert fires(asked, [LAST_S], [2**62]) == [False]


def test_nothing_is_behind_the_first_event():
    asked, day = rule("day", 0, 0, "UTC"), np.array([86_400 * 10])
    assert asked.fires(Now({}, day), Previous(np.zeros(1, bool), {}, np.zeros(1, np.int64)), {}).tolist() == [
        False
    ]
