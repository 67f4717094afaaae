"""The event stage: from decoded columns to keys, times and model inputs."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from streamrnn.events import Batch, Block, Columns
from streamrnn.features.encoders import not_finite, numbers, shown

if TYPE_CHECKING:
    from streamrnn.backend import TensorSpec
    from streamrnn.events import Array, Column, IntArray
    from streamrnn.rules import Asked, Feature, MessageRule

_TIME_LIMIT = 2**62
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
STAMP = re.compile(r"(\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d)(?:\.(\d+))?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
"""RFC 3339, section 5.6: date and time, fraction of the second, offset."""


@dataclass(frozen=True)
class Reading:
    """How one item of an input is made: fields, what stands for a missing one, encoder, what follows it.

    `encoder` None means numbers as they are; `place` is the item's columns in the input. Without `fields`
    the columns are left for the core to fill in. `list_length` is that of the lists that the encoder takes,
    0 if it does not take lists alone. The fields' numbers must lie within `range`, both ends included.
    """

    fields: tuple[str, ...]
    place: slice
    missing: Any = None
    has_missing: bool = False
    encoder: Feature | None = None
    takes_numbers: bool = False
    list_length: int = 0
    then: tuple[Feature, ...] = ()
    range: tuple[float, float] = (-math.inf, math.inf)

    @property
    def shape(self) -> tuple[int, ...] | None:
        """() if each field must be a number, (k,) if a list of k numbers, None if it may be anything else."""
        if self.list_length:
            return (self.list_length,)
        return () if self.encoder is None or self.takes_numbers else None

    def encode(self, columns: Columns, refused: dict[int, str]) -> Array:
        """[n, width] of this item."""
        given = [self._filled(columns.fields[path], path, refused) for path in self.fields]
        own: dict[int, str] = {}
        if self.encoder is None or self.takes_numbers:
            parts = [numbers(c, path, refused) for c, path in zip(given, self.fields, strict=True)]
            values = np.stack(parts, axis=1)
            for i, at, told in self._out_of_range(values):
                refused.setdefault(i, f"{self.fields[at]}: {told}")
            if self.encoder is not None:
                values = self.encoder.encode(values, own)
        else:
            values = self.encoder.encode(given[0], own)
            for i, _, told in self._out_of_range(values):
                own.setdefault(i, told)
        for step in self.then:
            values = step.encode(values, own)
        for i, reason in own.items():
            refused.setdefault(i, f"{self.fields[0]}: {reason}")
        return values

    def _out_of_range(self, values: Array) -> Iterator[tuple[int, int, str]]:
        """Of numbers [n, k]: events with one out of range, which it is, and what to say of it."""
        low, high = self.range
        if low == -math.inf and high == math.inf:
            return
        outside = (values < low) | (values > high)
        for i in np.flatnonzero(outside.any(axis=1)).tolist():
            at = int(outside[i].argmax())
            yield i, at, f"expected a number within {_shown_range(low, high)}, found {values[i, at]:g}"

    def _filled(self, column: Column, path: str, refused: dict[int, str]) -> Column:
        if isinstance(column, np.ndarray) or None not in column:
            return column
        if self.has_missing:
            return [self.missing if value is None else value for value in column]
        # A null may be a value of its own that the encoder knows; it says so itself if not.
        if self.encoder is None or self.takes_numbers:
            for i, value in enumerate(column):
                if value is None:
                    refused.setdefault(i, f"{path}: missing; `missing:` can give a value for it")
            return [0.0 if value is None else value for value in column]
        return column


def _shown_range(low: float, high: float) -> str:
    if high == math.inf:
        return f"the range from {low:g} on"
    return f"the range up to {high:g}" if low == -math.inf else f"the range {low:g} to {high:g}"


@dataclass(frozen=True)
class TimeReading:
    """How an event's time is made: whole ticks, `per_unit` of them in what the field counts."""

    field: str
    rfc3339: bool
    per_unit: int

    def encode(self, column: Column, refused: dict[int, str]) -> IntArray:
        """int64 [n] in ticks."""
        column = column.tolist() if isinstance(column, np.ndarray) else column
        if not self.rfc3339 and set(map(type, column)) == {int}:
            try:
                ticks = np.array(column, np.int64)
            except OverflowError:
                ticks = None
            if ticks is not None and np.abs(ticks).max() < _TIME_LIMIT // self.per_unit:
                return ticks * self.per_unit
        read = self._stamp if self.rfc3339 else self._count
        out = np.zeros(len(column), np.int64)
        for i, value in enumerate(column):
            try:
                out[i] = read(value)
            except ValueError as error:
                refused.setdefault(i, f"{self.field}: {error}")
        return out

    def _count(self, value: Any) -> int:
        if type(value) is float and not (value * self.per_unit).is_integer():
            if self.per_unit == 1:
                raise ValueError(f"expected a whole number, found {value}; time.resolution can be finer")
            value = round(value * self.per_unit)
        elif type(value) in (int, float):
            value = int(value * self.per_unit)
        else:
            raise ValueError(f"expected a time, found {shown(value)}")
        return _within_limit(int(value))

    def _stamp(self, value: Any) -> int:
        match = STAMP.fullmatch(value) if isinstance(value, str) else None
        try:
            moment = datetime.fromisoformat((match[1] + match[3]).upper()) if match else None
        except ValueError:
            moment = None
        if match is None or moment is None:
            raise ValueError(f"expected a time such as 2026-01-31T12:00:00Z, found {shown(value)}")
        since = moment - _EPOCH
        # Python's own fractions end at microseconds.
        nanoseconds = int((match[2] or "0").ljust(9, "0")[:9])
        seconds = since.days * 86_400 + since.seconds
        return _within_limit(seconds * self.per_unit + nanoseconds * self.per_unit // 1_000_000_000)


def _within_limit(ticks: int) -> int:
    if abs(ticks) >= _TIME_LIMIT:
        raise ValueError("expected a time within 2^62 ticks of 1970, found one beyond")
    return ticks


@dataclass
class EventStage:
    """`read` makes a batch of decoded columns. What it refuses is told by record, and left out."""

    key_fields: tuple[str, ...]
    time: TimeReading | None
    inputs: dict[str, list[Reading]]
    specs: dict[str, TensorSpec]
    rule_fields: tuple[str, ...]
    max_key_bytes: int
    id_fields: tuple[str, ...] = ()
    """What tells an event from one that is read twice; none if nobody asks."""
    message_rules: tuple[MessageRule, ...] = ()

    @property
    def fields(self) -> tuple[str, ...]:
        """Every path the stage looks at."""
        read = [path for items in self.inputs.values() for item in items for path in item.fields]
        time = [self.time.field] if self.time else []
        other = [*self.rule_fields, *self.id_fields, *self._message_fields]
        return tuple(dict.fromkeys([*self.key_fields, *time, *read, *other]))

    @property
    def arrays(self) -> dict[str, tuple[int, ...]]:
        """The paths that are looked at as numbers alone, with their shapes."""
        read = [
            (path, item.shape) for items in self.inputs.values() for item in items for path in item.fields
        ]
        time = [self.time.field] if self.time else []
        other = {*self.key_fields, *time, *self.rule_fields, *self.id_fields, *self._message_fields}
        shapes = {path: shape for path, shape in read if shape is not None and path not in other}
        return {path: shape for path, shape in shapes.items() if {s for p, s in read if p == path} == {shape}}

    @property
    def _message_fields(self) -> list[str]:
        return [path for rule in self.message_rules for path in rule.message_fields]

    def messages(self, columns: Columns) -> dict[int, Asked]:
        """Which records are no events, and what they ask for; those that make no sense are refused."""
        found: dict[int, Asked] = {}
        for rule in self.message_rules:
            asked, refused = rule.messages(columns.fields)
            found = asked | found
            columns.refused = refused | columns.refused
        return {i: asked for i, asked in found.items() if i not in columns.refused}

    def read(
        self, columns: Columns, block: Block, messages: Collection[int] = ()
    ) -> tuple[Batch, IntArray, dict[int, str]]:
        """A batch, int64 [m] which record each of its events is, and the refused records with the reason.

        The records `messages` are neither.
        """
        batch, records, refused = self._read(columns, block, columns.refused | dict.fromkeys(messages, ""))
        return batch, records, {i: reason for i, reason in refused.items() if i not in messages}

    def _read(
        self, columns: Columns, block: Block, refused: dict[int, str]
    ) -> tuple[Batch, IntArray, dict[int, str]]:
        if refused and columns.n:
            alive = np.delete(np.arange(columns.n), sorted(refused))
            columns = columns.take(alive)
        else:
            alive = np.arange(columns.n)
        here: dict[int, str] = {}
        batch = self._batch(columns, block, here)
        batch.positions = block.positions[alive]
        if here:
            keep = np.delete(np.arange(len(alive)), sorted(here))
            refused |= {int(alive[i]): reason for i, reason in here.items()}
            return batch.take(keep), alive[keep], refused
        return batch, alive, refused

    def _batch(self, columns: Columns, block: Block, refused: dict[int, str]) -> Batch:
        keys = self._texts(columns, self.key_fields, "key", refused)
        ids = self._texts(columns, self.id_fields, "id", refused) if self.id_fields else None
        time = self.time.encode(columns.fields[self.time.field], refused) if self.time and columns.n else None
        if self.time and time is None:
            time = np.zeros(0, np.int64)
        inputs = {name: self._input(name, items, columns, refused) for name, items in self.inputs.items()}
        fields = {path: columns.fields[path] for path in self.rule_fields}
        return Batch(keys, inputs, time, fields, source=block.origin.source, ids=ids)

    def _texts(
        self, columns: Columns, paths: Sequence[str], what: str, refused: dict[int, str]
    ) -> Sequence[str]:
        """The key of each event, or its id."""
        if not paths:
            return [""] * columns.n
        parts = [key_texts(columns.fields[path], path, self.max_key_bytes, refused, what) for path in paths]
        if len(parts) == 1:
            return parts[0]
        return [msgspec.json.encode(key).decode() for key in zip(*parts, strict=True)]

    def _input(self, name: str, items: list[Reading], columns: Columns, refused: dict[int, str]) -> Array:
        spec = self.specs[name]
        values = np.zeros((columns.n, items[-1].place.stop), spec.dtype)
        for item in items:
            if item.fields:
                # What is too large becomes infinite, or then nan, and is refused below.
                with np.errstate(over="ignore", invalid="ignore"):
                    values[:, item.place] = item.encode(columns, refused)
                if values.dtype.kind == "f":
                    for i in not_finite(values[:, item.place]):
                        refused.setdefault(i, f"{item.fields[0]}: beyond the range of {spec.dtype}")
        return values.reshape(columns.n, *spec.shape)


def key_texts(
    column: Column, path: str, max_bytes: int, refused: dict[int, str], what: str = "key"
) -> Sequence[str]:
    """Keys as text: texts as they are, integers in decimal; anything else and long ones are refused."""
    if set(map(type, column)) == {str} and 4 * max(map(len, column)) <= max_bytes:
        return column if isinstance(column, list) else list(column)
    texts, a = [], "an" if what == "id" else "a"
    for i, value in enumerate(column.tolist() if isinstance(column, np.ndarray) else column):
        text = value if type(value) is str else str(value) if type(value) is int else ""
        if type(value) not in (str, int):
            refused.setdefault(i, f"{path}: expected {a} {what}, a text or an integer, found {shown(value)}")
        elif len(text.encode()) > max_bytes:
            refused.setdefault(i, f"{path}: {a} {what} of more than limits.max_key_bytes = {max_bytes}")
        texts.append(text)
    return texts
