"""What Kafka keeps of a record beside its value, as fields of the event: `kafka.key` and others."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import numpy as np

from streamrnn.errors import OptionError
from streamrnn.events import Block, Origin

if TYPE_CHECKING:
    from streamrnn.events import Column
    from streamrnn_kafka.records import Record

PREFIX = "kafka."
_HEADER = "kafka.headers."
TIMESTAMP = "kafka.timestamp"
_NAMES = ("kafka.key", TIMESTAMP, "kafka.offset", "kafka.partition", "kafka.topic")


class RecordFields:
    """Makes blocks of records, with the fields that are looked at."""

    def __init__(self, source: str, max_value_bytes: int) -> None:
        self._source, self._limit = source, max_value_bytes
        self._paths: tuple[str, ...] = ()

    def supply(self, paths: Sequence[str]) -> Sequence[str]:
        """See `Source`. Raises `OptionError` for paths under `kafka.` that no record has."""
        self._paths = tuple(path for path in paths if path.startswith(PREFIX))
        unknown = [path for path in self._paths if not is_known(path)]
        if unknown:
            raise OptionError(*(((), f"{unknown_text(path)}") for path in unknown))
        return self._paths

    def block(self, records: Sequence[Record], topic: str, partition: int) -> Block:
        """A block of at least one record; its positions and numbers are offsets.

        A record without a value is refused, as is one over the limit, which is cut to nothing.
        """
        values, refused = [record.value for record in records], dict[int, str]()
        if None in values:
            refused |= {i: _NO_VALUE for i, value in enumerate(values) if value is None}
            values = [value or b"" for value in values]
        n = len(records)
        sizes = np.fromiter(map(len, values), np.int64, n)  # type: ignore[arg-type]
        for i in np.flatnonzero(sizes > self._limit).tolist():
            refused[i] = f"value of {sizes[i]} bytes, more than max_value_bytes = {self._limit}"
            values[i], sizes[i] = b"", 0
        ends = np.cumsum(sizes)
        offsets = np.fromiter([record.offset for record in records], np.int64, n)
        fields = self._fields(records, offsets, topic, partition, refused)
        origin = Origin(self._source, f"{topic}-{partition}")
        buffer = b"".join(values)  # type: ignore[arg-type]
        return Block(buffer, ends - sizes, ends, offsets, offsets, origin, refused, fields=fields)

    def _fields(
        self,
        records: Sequence[Record],
        offsets: Any,
        topic: str,
        partition: int,
        refused: dict[int, str],
    ) -> dict[str, Column]:
        n = len(records)
        times = np.fromiter([record.timestamp for record in records], np.int64, n)
        found: dict[str, Column] = {TIMESTAMP: times}
        for path in self._paths:
            if path.startswith(_HEADER):
                name = path.removeprefix(_HEADER)
                values = [_header(record, name) for record in records]
                found[path] = _texts(values, path, refused)
            elif path == "kafka.key":
                found[path] = _texts([record.key for record in records], path, refused)
            elif path == "kafka.offset":
                found[path] = offsets
            elif path == "kafka.partition":
                found[path] = np.full(n, partition)
            elif path == "kafka.topic":
                found[path] = [topic] * n
        return found


_NO_VALUE = "a record without a value"


def is_known(path: str) -> bool:
    """Whether a record has such a field."""
    return path in _NAMES or (path.startswith(_HEADER) and path != _HEADER)


def unknown_text(path: str) -> str:
    """What is wrong with a path under `kafka.` that is not known."""
    close = get_close_matches(path, _NAMES, 1)
    hint = f", did you mean {close[0]}?" if close else ";"
    return f"a record of Kafka has no field {path}{hint} it has {', '.join(_NAMES)} and {_HEADER}NAME"


def _header(record: Record, name: str) -> bytes | None:
    """The last header of a name, as Kafka's own clients choose."""
    for key, value in reversed(record.headers):
        if key == name:
            return value
    return None


def _texts(values: Sequence[bytes | None], path: str, refused: dict[int, str]) -> list[str | None]:
    try:
        return [None if value is None else value.decode() for value in values]
    except UnicodeDecodeError:
        return [_text(value, path, i, refused) for i, value in enumerate(values)]


def _text(value: bytes | None, path: str, index: int, refused: dict[int, str]) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError as error:
        refused.setdefault(index, f"{path}: not valid UTF-8 (byte {error.start})")
        return None
