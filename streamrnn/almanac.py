"""When periods of the calendar begin, written out plainly: what `resets.calendar` must equal."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

_FIRST_S, _LAST_S = -62_104_060_800, 253_370_764_799
"""Seconds since 1970 of the years 2 to 9998; beyond them no period begins."""


def has_begun(rule: Any, before: int, now: int) -> bool:
    """Whether a period of a rule `calendar` begins after `before` and not after `now`, both in ticks."""
    first, last = _FIRST_S * rule.ticks_per_s, (_LAST_S + 1) * rule.ticks_per_s - 1
    before, now = (min(max(time, first), last) for time in (before, now))
    if now - before > (4 if rule.every == "hour" else 40) * 86_400 * rule.ticks_per_s:
        return True
    day = _clock(rule, before // rule.ticks_per_s).date() - timedelta(days=2)
    until = _clock(rule, now // rule.ticks_per_s).date() + timedelta(days=1)
    begun = []
    while day <= until:
        begun += [moment for wall in _walls(rule, day) for moment in _moments(rule, wall)]
        day += timedelta(days=1)
    return any(before < moment * rule.ticks_per_s <= now for moment in begun)


def _walls(rule: Any, day: date) -> list[datetime]:
    """What a clock shows on a day when periods begin."""
    midnight = datetime.combine(day, datetime.min.time())
    if rule.every == "hour":
        return [midnight + timedelta(hours=hour) for hour in range(24)]
    if (rule.every == "week" and day.weekday() != rule.weekday) or (rule.every == "month" and day.day != 1):
        return []
    return [midnight + timedelta(seconds=rule.at_s)]


def _moments(rule: Any, wall: datetime) -> list[int]:
    """The seconds since 1970 at which the clock shows it, if it is that of an hour, or first does so.

    If it never does, the second at which it jumps over it.
    """
    around = int(wall.replace(tzinfo=UTC).timestamp())
    shown = [around - int(offset.total_seconds()) for offset in _offsets(rule, wall)]
    shown = sorted({second for second in shown if _clock(rule, second) == wall})
    if shown:
        return shown if rule.every == "hour" else shown[:1]
    early, late = around - 86_400, around + 86_400
    while late - early > 1:
        middle = (early + late) // 2
        early, late = (early, middle) if _clock(rule, middle) > wall else (middle, late)
    return [late]


def _offsets(rule: Any, wall: datetime) -> list[timedelta]:
    """By how much a clock that shows this may be ahead of UTC."""
    around = int(wall.replace(tzinfo=UTC).timestamp())
    return [
        _clock(rule, near) - datetime.fromtimestamp(near, UTC).replace(tzinfo=None)
        for near in (around - 86_400, around + 86_400)
    ]


def _clock(rule: Any, second: int) -> datetime:
    """What the clock of the rule's zone shows."""
    return datetime.fromtimestamp(second, UTC).astimezone(rule.zone).replace(tzinfo=None)
