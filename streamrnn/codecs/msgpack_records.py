"""Records that follow their length, a big-endian uint32: finds them in a stream that arrives in pieces."""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

import numpy as np

from streamrnn.events import Frames

if TYPE_CHECKING:
    from streamrnn.ports import Place

LENGTH_BYTES = 4
_LENGTH = Struct(">I")
_KEPT_BYTES = 256
"""How much of a record that is too long is kept, to show what it was."""


class MsgpackFramer:
    """A `Framer` of records that follow their length.

    A record of more than `max_record_bytes` is refused and as many bytes skipped as its length says. A wrong
    length cannot be told from a right one: what follows it is then read from the wrong places on, and
    refused record by record, or skipped. What is missing of the last record has that one refused.
    """

    def __init__(self, max_record_bytes: int, position: int = 0) -> None:
        self._limit = max_record_bytes
        self._kept = min(_KEPT_BYTES, max_record_bytes)
        self._rest = bytearray()
        self._base = position
        """Where `_rest` begins in the stream: the length of the next record, unless bytes are skipped."""
        self._skip, self._skipping_from = 0, position
        self._count = 0
        self._ended = False

    def feed(self, data: bytes) -> None:
        """See `Framer.feed`."""
        self._rest += data
        self._skip_some()

    def finish(self) -> None:
        """See `Framer.finish`."""
        self._ended = True

    def take(self, limit: int) -> Frames:
        """See `Framer.take`."""
        starts: list[int] = []
        ends: list[int] = []
        positions: list[int] = []
        refused: dict[int, str] = {}
        at, held = 0, len(self._rest)
        while len(starts) < limit and not self._skip and at < held:
            length = _LENGTH.unpack_from(self._rest, at)[0] if at + LENGTH_BYTES <= held else 0
            begin, start = at, at + LENGTH_BYTES
            end = start + length
            is_long = length > self._limit
            if is_long and (held >= start + self._kept or self._ended):
                refused[len(starts)] = f"record of {length} bytes, more than {self._limit}"
                self._skip, self._skipping_from = end - min(end, held), self._base + at
                at, end = min(end, held), min(start + self._kept, held)
            elif start > held or end > held:
                if not self._ended:
                    break
                refused[len(starts)] = "the stream ends in the midst of this record"
                start, at, end = min(start, held), held, held
            else:
                at = end
            starts.append(start)
            ends.append(end)
            positions.append(begin)
        return self._frames(at, starts, ends, positions, refused)

    @property
    def position(self) -> int:
        """See `Framer.position`; in the midst of a record that is refused it is where that begins."""
        return self._skipping_from if self._skip and not self._ended else self._base

    def place(self) -> Place:
        """See `Resumable.place`: `skip` bytes from `position` on belong to a record that was refused."""
        return {"position": self._base, "records": self._count, "skip": self._skip}

    def resume(self, place: Place) -> None:
        """See `Resumable.resume`."""
        self._base, self._count, self._skip = place["position"], place["records"], place["skip"]
        self._skipping_from = self._base

    def _frames(
        self, used: int, starts: list[int], ends: list[int], positions: list[int], refused: dict[int, str]
    ) -> Frames:
        buffer = bytes(self._rest[:used])
        del self._rest[:used]
        numbers = np.arange(self._count + 1, self._count + 1 + len(starts))
        at = np.array(positions, np.int64) + self._base
        self._count += len(starts)
        self._base += used
        self._skip_some()
        return Frames(buffer, np.array(starts, np.int64), np.array(ends, np.int64), at, numbers, refused)

    def _skip_some(self) -> None:
        skipped = min(self._skip, len(self._rest))
        del self._rest[:skipped]
        self._base += skipped
        self._skip -= skipped
