"""What Kafka keeps of a record beside its value, as fields of the event: `kafka.key` and others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from streamrnn.errors import OptionError
from streamrnn.events import Block, Origin
from streamrnn_kafka.field_names import HEADER, PREFIX, TIMESTAMP, field_problem

if TYPE_CHECKING:
    from streamrnn.events import Column, IntArray
    from streamrnn_kafka.records import Headers, Records, Wanted

_KEPT_BYTES = 256
"""How much of a value that is too long is kept, to show what it was."""


class RecordFields:
    """Makes blocks of records, with the fields that are looked at."""

    def __init__(self, source: str, max_value_bytes: int) -> None:
        self._source, self._limit = source, max_value_bytes
        self._paths: tuple[str, ...] = ()
        self.needs_time = False
        """Whether a sink wants to know the time of the record that an output answers."""

    def supply(self, paths: Sequence[str]) -> Sequence[str]:
        """See `Source`. Raises `OptionError` for paths under `kafka.` that no record has."""
        self._paths = tuple(path for path in paths if path.startswith(PREFIX))
        if problems := list(filter(None, map(field_problem, self._paths))):
            raise OptionError(*(((), text) for text in problems))
        return self._paths

    @property
    def wanted(self) -> Wanted:
        """What is needed of a record beside its value; its time too, which goes on into outputs."""
        keyed: Wanted = ("key",) if "kafka.key" in self._paths else ()
        headed: Wanted = ("headers",) if any(path.startswith(HEADER) for path in self._paths) else ()
        timed: Wanted = ("timestamp",) if self.needs_time or TIMESTAMP in self._paths else ()
        return (*keyed, *timed, *headed)

    def block(self, records: Records, topic: str, partition: int) -> Block:
        """A block of at least one record; its positions and numbers are offsets.

        A record without a value is refused, as is one over the limit, of which the beginning is kept.
        """
        buffer, ends, nulls = _lines(records.values)
        starts = np.empty_like(ends)
        starts[0], starts[1:] = 0, ends[:-1] + 1
        refused = dict.fromkeys(nulls, "a record without a value")
        long = np.flatnonzero(ends - starts > self._limit)
        if len(long):
            for i in long.tolist():
                size = int(ends[i] - starts[i])
                refused[i] = f"value of {size} bytes, more than max_value_bytes = {self._limit}"
            ends = ends.copy()
            ends[long] = starts[long] + min(self._limit, _KEPT_BYTES)
        fields = self._fields(records, topic, partition, refused)
        origin, at = Origin(self._source, f"{topic}-{partition}"), records.offsets
        return Block(buffer, starts, ends, at, at, origin, refused, fields=fields)

    def _fields(
        self, records: Records, topic: str, partition: int, refused: dict[int, str]
    ) -> dict[str, Column]:
        found: dict[str, Column] = {}
        if records.times is not None:
            found[TIMESTAMP] = np.array(records.times, np.int64)
        for path in self._paths:
            if path.startswith(HEADER):
                name = path.removeprefix(HEADER)
                found[path] = _texts([_last(h, name) for h in records.headers or ()], path, refused)
            elif path == "kafka.key":
                found[path] = _texts(records.keys or (), path, refused)
            elif path == "kafka.offset":
                found[path] = records.offsets
            elif path == "kafka.partition":
                found[path] = np.full(len(records), partition)
            elif path == "kafka.topic":
                found[path] = [topic] * len(records)
        return found


def _lines(values: Sequence[bytes | None]) -> tuple[bytes, IntArray, list[int]]:
    """Values with line feeds between them, as codecs of lines want them; where each ends; which are None."""
    nulls = list[int]()
    try:
        buffer = b"\n".join(values)  # type: ignore[arg-type]
    except TypeError:
        nulls = [i for i, value in enumerate(values) if value is None]
        values = [value or b"" for value in values]
        buffer = b"\n".join(values)
    found = np.flatnonzero(np.frombuffer(buffer, np.uint8) == ord("\n"))
    if len(found) == len(values) - 1:
        return buffer, np.append(found, len(buffer)), nulls
    sizes = np.fromiter(map(len, values), np.int64, len(values))  # type: ignore[arg-type]
    return buffer, np.cumsum(sizes + 1) - 1, nulls


def _last(headers: Headers, name: str) -> bytes | None:
    """The last header of a name, as Kafka's own clients choose."""
    for key, value in reversed(headers):
        if key == name:
            return value
    return None


def _texts(values: Sequence[bytes | None], path: str, refused: dict[int, str]) -> list[str | None]:
    try:
        # At once, which only goes wrong where a text holds the zero that parts them.
        texts: list[str | None] = list(b"\0".join(values).decode().split("\0"))  # type: ignore[arg-type]
    except (UnicodeDecodeError, TypeError):  # TypeError: one is None
        texts = []
    if len(texts) == len(values):
        return texts
    return [_text(value, path, i, refused) for i, value in enumerate(values)]


def _text(value: bytes | None, path: str, index: int, refused: dict[int, str]) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError as error:
        refused.setdefault(index, f"{path}: not valid UTF-8 (byte {error.start})")
        return None
