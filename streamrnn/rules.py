"""The contracts of the two things that look at an event's fields: reset rules and features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from streamrnn.events import Array, BoolArray, Column, IntArray


@dataclass(slots=True)
class Now:
    """m events that a rule is asked about, each with the field values it declared.

    `time` int64 [m] or None; `fields` object arrays [m] of canonical values (see `core.values`).
    """

    fields: Mapping[str, Array]
    time: IntArray | None


@dataclass(slots=True)
class Previous:
    """The last accepted event of the same keys. Where `exists` is false there is none: the rest is 0 or None.

    `time` int64 [m] is the key's largest time so far; `steps` int64 [m] counts its events since its last
    reset and `reset_time` int64 [m] is when that was. The latter two are None unless the rule is recursive.
    """

    exists: BoolArray
    fields: Mapping[str, Array]
    time: IntArray | None
    steps: IntArray | None = None
    reset_time: IntArray | None = None


class ResetRule(Protocol):
    """Decides which events are a reset boundary of their key.

    A rule that looks only at an event and the one before it is asked once per batch. A `recursive` one,
    which needs `previous.steps`, `previous.reset_time` or columns of its own, is asked for the first event of
    every key in the batch, then for the second, and so on.
    """

    name: str
    """Shown as the cause; unique in a pipeline."""
    when: str
    """"before": the event finds a fresh state; "after": the next event does."""
    to: str
    """"initial" or "zeros"."""
    recursive: bool
    fields: Sequence[str]
    """Fields to see of the event itself."""
    previous_fields: Sequence[str]
    """Fields to see of the key's last accepted event; the core keeps them."""
    marks: Sequence[str] = ()
    """Kinds of marks that fire the rule for the keys they are meant for: "source_end", "control"."""
    columns: Mapping[str, str]
    """Columns of the rule's own, kept per key across resets: name to numpy dtype, 0 for a new key."""

    def fires(self, now: Now, previous: Previous, columns: Mapping[str, Array]) -> BoolArray:
        """bool [m]. With `when: after`, `now` is already counted in what the rule concludes.

        `columns` arrays [m] may be written to; that is how a rule remembers.
        """
        ...


@dataclass(frozen=True, slots=True)
class Asked:
    """What a message asks for: that some keys begin anew, the live ones like `glob`, or without both all."""

    keys: tuple[str, ...] | None = None
    glob: str | None = None


class MessageRule(ResetRule, Protocol):
    """A rule that takes some records for messages: no events, but what keys are reset by.

    A rule is one if it has `message_fields`. Its messages have the cause `control`.
    """

    message_fields: Sequence[str]
    """Fields to see of each record."""

    def messages(self, fields: Mapping[str, Column]) -> tuple[dict[int, Asked], dict[int, str]]:
        """By index of the record, what a message asks for, and why one that makes no sense is refused.

        What a record asks for is a matter of that record alone.
        """
        ...


class Feature(Protocol):
    """Turns columns of an event's fields into numbers."""

    def encode(self, column: Column, refused: dict[int, str]) -> Array:
        """[n, width] of one field's values, or of [n, fields] numbers where the feature takes numbers.

        An event that cannot be encoded goes into `refused` by its index, with what was expected and found;
        its row is arbitrary.
        """
        ...
