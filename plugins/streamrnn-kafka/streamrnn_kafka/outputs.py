"""Outputs as records of Kafka: what is their key, their value, their time and their partition."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from streamrnn.errors import OptionError
from streamrnn_kafka.field_names import TIMESTAMP
from streamrnn_kafka.records import NO_TIMESTAMP

if TYPE_CHECKING:
    from streamrnn.events import Origin, OutBlock

SOURCES = ("kafka", "kafka_log")
_NUMBER = re.compile(r".*-([0-9]+)")


def framing_of(encode: Callable[..., object]) -> tuple[int, int]:
    """How many bytes before and behind each encoded record are no part of a value. Raises `OptionError`."""
    framing: tuple[int, int] | None = getattr(encode, "framing", None)
    if framing is None:
        text = (
            "expected a codec in encode whose records can stand alone, found one that does not say what "
            "parts them; jsonl and msgpack do, and csv with a list as header"
        )
        raise OptionError((("type",), text))
    return framing


def partition_of(origin: Origin) -> int:
    """The partition for what comes from there: the same number, and 0 for what is not from Kafka."""
    found = _NUMBER.fullmatch(origin.partition) if origin.source in SOURCES else None
    return int(found[1]) if found else 0


def records_of(
    block: OutBlock, framing: tuple[int, int]
) -> tuple[Sequence[bytes | None], Sequence[bytes], Sequence[int]]:
    """Keys, values and timestamps of a block of outputs.

    The key is that of the state, none where one state serves all; the time is that of the record answered.
    """
    before, behind = framing
    ends = block.ends - behind
    starts = np.empty_like(ends)
    starts[:1], starts[1:] = before, block.ends[:-1] + before
    buffer = block.buffer
    values = [buffer[a:b] for a, b in zip(starts.tolist(), ends.tolist(), strict=True)]
    keys = [key.encode() if key else None for key in block.keys]
    times = block.block.fields.get(TIMESTAMP)
    if times is None:
        return keys, values, [NO_TIMESTAMP] * len(values)
    return keys, values, np.asarray(times)[block.records].tolist()
