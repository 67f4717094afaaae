"""The options of the reset rules, and their declarations."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from streamrnn.hookspecs import Component

LONGEST_S = 4e9
"""Longest time an option may give, so that in nanoseconds, too, it stays within 2^62."""


class RuleOptions(BaseModel):
    """What every rule can be told."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, populate_by_name=True, defer_build=True
    )
    needs_time: ClassVar[bool] = False

    name: str | None = Field(None, description="shown as the cause; the type if left out")
    to: Literal["initial", "zeros"] = Field("initial", description="the state after the reset")


class Gap(RuleOptions):
    """Reset where more than gap_s passed since the key's last event."""

    needs_time: ClassVar[bool] = True
    gap_s: float = Field(gt=0, le=LONGEST_S, description="seconds of event time")


class Age(RuleOptions):
    """Reset where more than age_s passed since the key's last reset."""

    needs_time: ClassVar[bool] = True
    age_s: float = Field(gt=0, le=LONGEST_S, description="seconds of event time")


class Every(RuleOptions):
    """Reset once a key has had so many events."""

    events: int = Field(ge=1, description="events of a key between two resets; 1 makes the model memoryless")
    when: Literal["before", "after"] = Field("before", description="before the next event, or right after")


class OnChange(RuleOptions):
    """Reset where a field differs from what it was at the key's last event."""

    field: str = Field(description="path of the field to watch")
    when: Literal["before", "after"] = Field("before", description="before or after the event that changed")


class OnValue(RuleOptions):
    """Reset where a field has one of some values, or lies beyond a bound."""

    field: str = Field(description="path of the field to watch")
    equals: Any = Field(None, description='fires on this value; types count: 1, "1" and true differ')
    one_of: list[Any] | None = Field(None, alias="in", description="fires on any of these values")
    above: float | None = Field(None, allow_inf_nan=False, description="fires on numbers above it")
    below: float | None = Field(None, allow_inf_nan=False, description="fires on numbers below it")
    when: Literal["before", "after"] = Field("before", description="before or after the event itself")

    @property
    def values(self) -> list[Any] | None:
        """The values it fires on; None if only bounds are set."""
        return [self.equals] if "equals" in self.model_fields_set else self.one_of

    @model_validator(mode="after")
    def _has_a_condition(self) -> OnValue:
        if not self.model_fields_set & {"equals", "one_of", "above", "below"}:
            raise ValueError("expected one of equals, in, above, below, found none")
        if {"equals", "one_of"} <= self.model_fields_set:
            raise ValueError("expected equals or in, found both; put the value into the list")
        return self


class Calendar(RuleOptions):
    """Reset where an event lies in another hour, day, week or month than the key's last event."""

    needs_time: ClassVar[bool] = True
    every: Literal["hour", "day", "week", "month"] = Field(description="the period")
    at: str | None = Field(
        None,
        pattern=r"^([01]\d|2[0-3]):[0-5]\d$",
        description="the time of day at which the day, week or month begins; 00:00 if left out",
    )
    on: Literal["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"] | None = Field(
        None, description="the day on which a week begins; monday if left out"
    )
    zone: str = Field("UTC", description="the zone whose clock counts, as Europe/Berlin")

    @field_validator("zone")
    @classmethod
    def _exists(cls, zone: str) -> str:
        from zoneinfo import ZoneInfo, available_timezones

        try:
            ZoneInfo(zone)
        except (ValueError, OSError, KeyError):  # a path, a folder, nothing
            # Most forget the continent, so that it does not count.
            cities = {name.rpartition("/")[2].lower(): name for name in sorted(available_timezones())}
            near = get_close_matches(zone.rpartition("/")[2].lower(), cities, 1)
            hint = f"; did you mean '{cities[near[0]]}'?" if near else ""
            raise ValueError(f"expected a time zone such as Europe/Berlin, found '{zone}'{hint}") from None
        return zone

    @model_validator(mode="after")
    def _fits(self) -> Calendar:
        if self.at is not None and self.every == "hour":
            raise ValueError("at goes with every: day, week or month; hours begin when they are full")
        if self.on is not None and self.every != "week":
            raise ValueError(f"on goes with every: week, found every: {self.every}")
        return self


class SourceEnd(RuleOptions):
    """Reset all keys where a source, or one of its files, ends."""


class Control(BaseModel):
    """Reset the keys that a message among the events names."""

    model_config = RuleOptions.model_config

    field: str = Field(description="path of the field that tells messages from events")
    equals: Any = Field(description="a record with this value there is a message; types count")
    keys: str = Field("keys", description="path in a message: the key to reset, or a list of keys")
    glob: str = Field(
        "glob", description="path in a message: a pattern of keys; * is any text, ? one character"
    )
    everyone: str = Field("all", alias="all", description="path in a message: true, if all keys are meant")

    @model_validator(mode="after")
    def _tells_apart(self) -> Control:
        if self.equals is None:
            raise ValueError("expected a value in equals, found null, which a missing field is too")
        paths = [self.field, self.keys, self.glob, self.everyone]
        if len(set(paths)) < len(paths):
            raise ValueError(f"expected four different paths, found {', '.join(paths)}")
        return self


def _rule(name: str, config: type[RuleOptions], summary: str, example: str) -> Component:
    build = f"streamrnn.resets.rules:{name}"
    return Component("reset", name, config=config, build=build, summary=summary, example=example)


COMPONENTS = (
    _rule("gap", Gap, "more than gap_s of event time since the key's last event", "{gap_s: 30}"),
    _rule("age", Age, "more than age_s of event time since the key's last reset", "{age_s: 3600}"),
    _rule("every", Every, "a count of events since the key's last reset", "{events: 100}"),
    _rule("on_change", OnChange, "a field differs from the key's last event", "{field: session}"),
    _rule("on_value", OnValue, "a field has a value, or lies beyond a bound", "{field: reset, equals: true}"),
    Component(
        "reset",
        "calendar",
        config=Calendar,
        build="streamrnn.resets.calendar:calendar",
        summary="a day, or an hour, week or month, has begun",
        example='{every: day, at: "06:00", zone: Europe/Berlin}',
    ),
    Component(
        "reset",
        "control",
        config=Control,
        build="streamrnn.resets.control:control",
        summary="a message among the events names keys, a pattern or all",
        example="{field: op, equals: reset}",
    ),
    _rule("source_end", SourceEnd, "a source, or one file of it, has ended", "{}"),
)
