"""Kafka's record batches (format 2) as bytes, by aiokafka's codec.

No other module touches `aiokafka.record`, which aiokafka does not document.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from aiokafka.errors import KafkaError
from aiokafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder
from google_crc32c import value as crc32c

if TYPE_CHECKING:
    from streamrnn.events import IntArray

Headers = Sequence[tuple[str, bytes | None]]

COMPRESSIONS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
HEADER_BYTES = 61
NO_TIMESTAMP = -1
_HEADER = struct.Struct(">qiibIhiqqqhii")
_CRC, _CRC_AT = struct.Struct(">I"), 17
_BEFORE_LENGTH_ENDS = 12
"""A batch's length counts what follows its own field."""
_TRANSACTIONAL, _CONTROL = 0x10, 0x20
_MAGIC = 2
_ANY_SIZE = 2**31 - 1
NOT_WHOLE = "the checksum of this batch is not that of its bytes"


class FormatError(Exception):
    """Bytes are no record batch, or not the one that was written."""


@dataclass(slots=True)
class Records:
    """n records as columns: `offsets` int64 [n], `values` a list of n, with None where a record has none.

    Of `keys`, `times` (in milliseconds, -1 for none) and `headers` those that nobody asked for are None.
    """

    offsets: IntArray
    values: Sequence[bytes | None]
    keys: Sequence[bytes | None] | None = None
    times: Sequence[int] | None = None
    headers: Sequence[Headers] | None = None

    def __len__(self) -> int:
        return len(self.offsets)

    def cut(self, start: int, stop: int) -> Records:
        """The records from one index up to another."""
        return Records(
            self.offsets[start:stop],
            self.values[start:stop],
            self.keys and self.keys[start:stop],
            self.times and self.times[start:stop],
            self.headers and self.headers[start:stop],
        )


def joined(parts: Sequence[Records]) -> Records:
    """At least one piece as one."""
    first, *others = parts
    if not others:
        return first

    def one(name: str) -> list[Any] | None:
        if getattr(first, name) is None:
            return None
        column = list[Any]()
        for part in parts:
            column += getattr(part, name)
        return column

    offsets = np.concatenate([part.offsets for part in parts])
    return Records(offsets, one("values") or [], one("keys"), one("times"), one("headers"))


def rows(records: Records) -> Iterator[tuple[bytes | None, bytes | None, int]]:
    """Key, value and time of each, where they were asked for."""
    return zip(records.keys or (), records.values, records.times or (), strict=True)


class Head(NamedTuple):
    """What stands before the records of a batch. `size` is that of the whole batch, in bytes."""

    base_offset: int
    size: int
    crc: int
    attributes: int
    last_delta: int
    max_timestamp: int
    producer: int

    @property
    def next_offset(self) -> int:
        """The offset behind the last record, be it there still or compacted away."""
        return self.base_offset + self.last_delta + 1

    @property
    def is_transactional(self) -> bool:
        """Whether it belongs to a transaction."""
        return bool(self.attributes & _TRANSACTIONAL)

    @property
    def is_control(self) -> bool:
        """Whether it holds no event but the end of a transaction."""
        return bool(self.attributes & _CONTROL)


def head(data: bytes) -> Head:
    """The head of a batch that begins with `HEADER_BYTES` bytes of `data`. Raises `FormatError`.

    Offset, length and magic stand outside of the checksum: a bit flipped in them shows only here, or in how
    the batch fits its neighbours.
    """
    fields = _HEADER.unpack_from(data)
    base, length, _, magic, crc, attributes, last_delta, _, largest, producer, *_ = fields
    size = length + _BEFORE_LENGTH_ENDS
    if magic != _MAGIC:
        raise FormatError(f"expected a record batch of format {_MAGIC}, found format {magic}")
    if size < HEADER_BYTES or base < 0 or last_delta < 0:
        raise FormatError(f"no record batch has {size} bytes, offset {base} and {last_delta + 1} offsets")
    return Head(base, size, crc, attributes, last_delta, largest, producer)


def is_whole(data: bytes) -> bool:
    """Whether the checksum of a batch is that of its bytes."""
    crc: int = _CRC.unpack_from(data, _CRC_AT)[0]
    return bool(crc == crc32c(data[_CRC_AT + _CRC.size :]))


Wanted = tuple[Literal["key", "timestamp", "headers"], ...]
ALL: Wanted = ("key", "timestamp", "headers")
_COLUMNS = {"key": "keys", "timestamp": "times", "headers": "headers"}


def decode(data: bytes, wanted: Wanted = ALL, check: bool = True) -> Records:
    """The records of a batch, with what is `wanted` beside their values.

    Raises `FormatError` if its checksum or anything in it is wrong.
    """
    try:
        if check and not is_whole(data):
            raise FormatError(NOT_WHOLE)
        return _columns(DefaultRecordBatch(data), data, wanted)
    except (KafkaError, ValueError, RuntimeError, MemoryError) as error:
        raise FormatError(f"its records cannot be read: {error}") from error


def _columns(batch: DefaultRecordBatch, data: bytes, wanted: Wanted) -> Records:
    """Takes each record apart as it comes: to keep the objects would cost more than to make them."""
    values: Sequence[bytes | None]
    others = list[Sequence[Any]]()
    if not wanted:
        values = [record.value for record in batch]
    elif wanted == ("key",):  # in two thirds of the time that `zip` takes
        others = (keys,) = ([],)
        add = keys.append
        values = [record.value for record in batch if add(record.key) is None]
    else:
        values, *others = zip(*map(attrgetter("value", *wanted), batch), strict=True)
    n, base = len(values), batch.base_offset
    offsets = np.arange(base, base + n)
    if batch.last_offset_delta != n - 1:  # some were compacted away
        offsets = np.array([record.offset for record in DefaultRecordBatch(data)], np.int64)
    beside = {_COLUMNS[name]: column for name, column in zip(wanted, others, strict=True)}
    return Records(offsets, values, **beside)


def is_commit(data: bytes) -> bool:
    """Whether a control batch says that a transaction was committed. Raises `FormatError`."""
    keys = decode(data, ("key",)).keys
    if keys is None or len(keys) != 1 or len(keys[0] or b"") < 4:
        raise FormatError("expected one marker in a control batch")
    version, kind = struct.unpack_from(">hh", keys[0] or b"")
    if version < 0 or kind not in (0, 1):
        raise FormatError(f"expected the end of a transaction, found a marker of kind {kind}")
    return bool(kind)


def encode(
    base_offset: int,
    keys: Sequence[bytes | None],
    values: Sequence[bytes | None],
    timestamps: Sequence[int],
    headers: Sequence[Headers] | None = None,
    compression: str = "none",
) -> bytes:
    """A batch of records at offsets from `base_offset` on; all columns have the same length, at least 1."""
    builder = DefaultRecordBatchBuilder(_MAGIC, COMPRESSIONS[compression], 0, -1, -1, -1, _ANY_SIZE)
    append, none = builder.append, []  # type: ignore[var-annotated]
    if headers is None:
        for i, (timestamp, key, value) in enumerate(zip(timestamps, keys, values, strict=True)):
            append(i, timestamp, key, value, none)
    else:
        for i, row in enumerate(zip(timestamps, keys, values, headers, strict=True)):
            append(i, row[0], row[1], row[2], list(row[3]))
    batch = builder.build()
    struct.pack_into(">q", batch, 0, base_offset)
    struct.pack_into(">i", batch, _BEFORE_LENGTH_ENDS, 0)  # the leader's epoch, outside of the checksum too
    return bytes(batch)
