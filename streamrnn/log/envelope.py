"""Lines that say when a record came and whose it is: what an ingest log is made of."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from streamrnn.events import Frames
from streamrnn.log.layout import end_of, segment_path, segments

if TYPE_CHECKING:
    from pathlib import Path

    from streamrnn.context import FileSystem
    from streamrnn.events import Column, IntArray

FIELDS = ("log.time", "log.producer", "log.seq")
_MOST_TIMES, _MOST_BESIDE_BYTES = 6, 4096
"""A sign may take six in a text of JSON; and what stands beside it."""


class Envelope(msgspec.Struct, gc=False, omit_defaults=True):
    """A line of an ingest log. `value` is a record of JSON; one that is none is in `text` or `base64`.

    `time` counts microseconds since 1970 and never goes back. `refused` says why it is refused: by framing,
    or, with `conflict`, since the log has another record of this `seq`. A line with neither of the three is
    no record: from there on the producer has this epoch.
    """

    time: int
    producer: str | None = None
    epoch: int | None = None
    seq: int | None = None
    value: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    text: str | None = None
    base64: bytes | None = None
    refused: str | None = None
    conflict: bool = False

    @property
    def record(self) -> bytes | msgspec.Raw | None:
        """The record's bytes; None for a line that is none."""
        if not isinstance(self.value, msgspec.UnsetType):
            return self.value
        return self.text.encode() if self.text is not None else self.base64


_DECODER = msgspec.json.Decoder(Envelope)
_ENCODER = msgspec.json.Encoder()
_ANY = msgspec.json.Decoder(msgspec.Raw)


@dataclass
class Opened:
    """Records without their envelopes, and what those said of each, as in `Block.fields`."""

    frames: Frames
    fields: dict[str, Column] = field(default_factory=dict)


def decode(line: bytes) -> Envelope:
    """One line. Raises `msgspec.MsgspecError` for what is none."""
    return _DECODER.decode(line)


def longest_line(max_record_bytes: int) -> int:
    """How long a line can be whose record has at most so many bytes."""
    return _MOST_TIMES * max_record_bytes + _MOST_BESIDE_BYTES


def offset_at(fs: FileSystem, folder: Path, time_us: int) -> int:
    """The offset of the first line of a partition that has this time or a later one, else the end."""
    for first in segments(fs, folder):
        lines = fs.read_bytes(segment_path(folder, first)).split(b"\n")[:-1]
        times = [decode(line).time for line in lines]
        if times and times[-1] >= time_us:
            return first + bisect_left(times, time_us)
    return end_of(fs, folder)


def encode(envelopes: list[Envelope]) -> tuple[bytes, IntArray]:
    """Lines, and where each ends."""
    data = _ENCODER.encode_lines(envelopes)
    return data, np.flatnonzero(np.frombuffer(data, np.uint8) == 10) + 1


def wrap(
    frames: Frames, time: int, producer: str | None = None, epoch: int | None = None, seq: int | None = None
) -> list[Envelope]:
    """Envelopes for records; with a producer, of which the first has this sequence number."""
    seqs = [None] * len(frames) if seq is None else range(seq, seq + len(frames))
    values = None if frames.refused else _values(frames)
    if values is not None:
        both = zip(seqs, values, strict=True)
        return [Envelope(time, producer, epoch, number, value) for number, value in both]
    made = []
    for i, (start, end) in enumerate(zip(frames.starts.tolist(), frames.ends.tolist(), strict=True)):
        made.append(Envelope(time, producer, epoch, seqs[i], refused=frames.refused.get(i)))
        _put(made[-1], frames.buffer[start:end])
    return made


def wrap_conflict(record: bytes, time: int, producer: str, epoch: int, seq: int) -> Envelope:
    """An envelope for a record of whose number the log has another."""
    why = f"sequence number {seq} of {producer} belongs to another record already"
    made = Envelope(time, producer, epoch, seq, refused=why, conflict=True)
    _put(made, record)
    return made


def _put(envelope: Envelope, record: bytes) -> None:
    try:
        envelope.text = record.decode()
        if envelope.refused is None and b"\n" not in record:
            value = _ANY.decode(record)
            if len(value) == len(record):
                envelope.value, envelope.text = value, None
    except UnicodeDecodeError:
        envelope.base64 = record
    except msgspec.MsgspecError:
        pass


def _values(frames: Frames) -> list[msgspec.Raw] | None:
    """All records as JSON, if all of them are, each on a line of its own."""
    try:
        frames.buffer.decode()
        values = _ANY.decode_lines(frames.buffer)
    except (UnicodeDecodeError, msgspec.MsgspecError):
        return None
    lengths = (frames.ends - frames.starts).tolist()
    return values if [len(value) for value in values] == lengths else None


def unwrap(frames: Frames) -> Opened:
    """The records in lines of envelopes; a line that is none is refused."""
    envelopes = _envelopes(frames)
    records = [envelope.record for envelope in envelopes]
    kept = [i for i, record in enumerate(records) if record is not None]
    refused = {}
    for at, i in enumerate(kept):
        why = envelopes[i].refused
        if why is not None:
            refused[at] = why
    held = [records[i] for i in kept]
    lengths = np.array([len(record) for record in held], np.int64)  # type: ignore[arg-type]
    ends = np.cumsum(lengths + 1) - 1
    opened = Frames(
        b"\n".join(held),  # type: ignore[arg-type]
        ends - lengths,
        ends,
        frames.positions[kept],
        frames.numbers[kept],
        refused,
    )
    told = [envelopes[i] for i in kept]
    return Opened(
        opened,
        {
            "log.time": np.array([envelope.time for envelope in told], np.int64),
            "log.producer": [envelope.producer for envelope in told],
            "log.seq": [envelope.seq for envelope in told],
        },
    )


def _envelopes(frames: Frames) -> list[Envelope]:
    if not frames.refused:
        try:
            found = _DECODER.decode_lines(frames.buffer)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            found = []
        if len(found) == len(frames):
            return found
    return [
        _envelope(frames.buffer[start:end], frames.refused.get(i))
        for i, (start, end) in enumerate(zip(frames.starts.tolist(), frames.ends.tolist(), strict=True))
    ]


def _envelope(line: bytes, refused: str | None) -> Envelope:
    try:
        if refused is None:
            return decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        refused = f'expected {{"time": ..., "value": ...}}: {error}'
    return Envelope(0, base64=line, refused=refused)
