"""Kafka's record batches (format 2) as bytes, by aiokafka's codec.

No other module touches `aiokafka.record`, which aiokafka does not document.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from aiokafka.errors import KafkaError
from aiokafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder

Headers = Sequence[tuple[str, bytes | None]]

COMPRESSIONS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
HEADER_BYTES = 61
NO_TIMESTAMP = -1
_HEADER = struct.Struct(">qiibIhiqqqhii")
_BEFORE_LENGTH_ENDS = 12
"""A batch's length counts what follows its own field."""
_TRANSACTIONAL, _CONTROL = 0x10, 0x20
_MAGIC = 2
_ANY_SIZE = 2**31 - 1
NOT_WHOLE = "the checksum of this batch is not that of its bytes"


class FormatError(Exception):
    """Bytes are no record batch, or not the one that was written."""


class Record(Protocol):
    """One record as the codec gives it; `timestamp` in milliseconds, -1 for none."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers


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
    return bool(DefaultRecordBatch(data).validate_crc())


def decode(data: bytes, check: bool = True) -> list[Record]:
    """The records of a batch. Raises `FormatError` if its checksum or anything in it is wrong."""
    try:
        batch = DefaultRecordBatch(data)
        if check and not batch.validate_crc():
            raise FormatError(NOT_WHOLE)
        return list(batch)
    except (KafkaError, ValueError, RuntimeError, MemoryError) as error:
        raise FormatError(f"its records cannot be read: {error}") from error


def is_commit(data: bytes) -> bool:
    """Whether a control batch says that a transaction was committed. Raises `FormatError`."""
    records = decode(data)
    if len(records) != 1 or len(records[0].key or b"") < 4:
        raise FormatError("expected one marker in a control batch")
    version, kind = struct.unpack_from(">hh", records[0].key or b"")
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
