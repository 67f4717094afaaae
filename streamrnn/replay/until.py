"""The event with which a replay ends."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import TYPE_CHECKING

import numpy as np

from streamrnn.errors import OptionError
from streamrnn.event import STAMP, TimeReading
from streamrnn.events import Block, Origin
from streamrnn.ports import Resumable

if TYPE_CHECKING:
    from streamrnn.line import Parts

_FORMS = (
    "expected the byte of a record (4711, or NAME:4711 of one file) or a time (2026-01-31T12:00:00Z, or "
    "time:VALUE as events have it)"
)


@dataclass
class Until(ABC):
    """The last record to serve; `reached` once it was served, or its file has ended."""

    reached: bool = field(default=False, init=False)

    @abstractmethod
    def cut(self, block: Block, parts: Parts) -> int:
        """How many records of a block to serve."""

    def left(self, origin: Origin) -> None:  # noqa: B027 - not all care
        """A partition has ended."""


@dataclass
class UntilByte(Until):
    """The record that holds a byte of a partition, of any if that is None."""

    partition: str | None
    position: int

    def cut(self, block: Block, parts: Parts) -> int:
        """See `Until.cut`."""
        if not self._is_there(block.origin):
            return len(block)
        count = int(np.searchsorted(block.positions, self.position, side="right"))
        self.reached = count < len(block)
        return count

    def left(self, origin: Origin) -> None:
        """See `Until.left`."""
        self.reached = self.reached or self._is_there(origin)

    def __str__(self) -> str:
        return f"byte {self.position}" + (f" of {self.partition}" if self.partition else "")

    def _is_there(self, origin: Origin) -> bool:
        return self.partition is None or self.partition == origin.partition


@dataclass
class UntilTime(Until):
    """The last event before the first whose time is later, in ticks."""

    ticks: int
    text: str

    def cut(self, block: Block, parts: Parts) -> int:
        """See `Until.cut`; what has no time that can be read is no later."""
        assert parts.event.time is not None
        columns = parts.decode(block)
        refused = dict(columns.refused)
        time = parts.event.time.encode(columns.fields[parts.event.time.field], refused)
        late = time > self.ticks
        late[list(refused)] = False
        self.reached = bool(late.any())
        return int(late.argmax()) if self.reached else len(block)

    def __str__(self) -> str:
        return self.text


def until(text: str, parts: Parts, ticks_per_s: int) -> Until:
    """What a person wrote for it; times are reckoned in the pipeline's ticks. Raises `OptionError`."""
    name, _, position = text.rpartition(":")
    if text.startswith("time:"):
        return UntilTime(_ticks(text.removeprefix("time:"), parts, ticks_per_s), text)
    if STAMP.fullmatch(text):
        return UntilTime(_ticks(text, parts, ticks_per_s), text)
    if not position.isdecimal():
        raise _wrong(f"{_FORMS}, found '{text}'")
    names = _names(parts)
    if name:
        return UntilByte(_named(name, names), int(position))
    if len(names) > 1:
        raise _wrong(f"expected NAME:{text}, since there are {len(names)} files: {', '.join(names)}")
    return UntilByte(None, int(position))


def _wrong(message: str) -> OptionError:
    return OptionError((("--until",), message))


def _names(parts: Parts) -> list[str]:
    place = parts.source.place() if isinstance(parts.source, Resumable) else None
    return list(place.get("files", [])) if place else []


def _named(name: str, names: list[str]) -> str:
    """The one file that is meant: by its whole name, or by the end of its path."""
    wanted = PurePath(name).parts
    found = [each for each in names if each == name] or [
        each for each in names if PurePath(each).parts[-len(wanted) :] == wanted
    ]
    if len(found) != 1:
        raise _wrong(f"{len(found) or 'no'} files are called '{name}'; there are: {', '.join(names)}")
    return found[0]


def _ticks(text: str, parts: Parts, ticks_per_s: int) -> int:
    """A time as an event would have it, or as RFC 3339 has it."""
    reading, refused = parts.event.time, dict[int, str]()
    if reading is None:
        raise _wrong(f"{_FORMS}, found '{text}', and the pipeline has no event.time")
    value: int | float | str = text
    if STAMP.fullmatch(text):
        reading = TimeReading(reading.field, True, ticks_per_s)
    elif not reading.rfc3339:
        value = _number(text)
    (ticks,) = reading.encode([value], refused).tolist()
    if refused:
        raise _wrong(refused[0])
    return int(ticks)


def _number(text: str) -> int | float:
    try:
        return int(text) if text.lstrip("-").isdecimal() else float(text)
    except ValueError as error:
        raise _wrong(f"{_FORMS}, found 'time:{text}'") from error
