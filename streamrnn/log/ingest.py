"""The log in front of a source that cannot be read again: what came, from whom, and when."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from streamrnn.log import envelope, layout
from streamrnn.log.layout import LogError
from streamrnn.log.window import UNKNOWN, WINDOW, Window, digest
from streamrnn.log.writing import PartitionWriter, remove_old

if TYPE_CHECKING:
    from typing import BinaryIO

    from streamrnn.context import Context
    from streamrnn.events import Frames
    from streamrnn.log.rolling import Rolling
    from streamrnn.ports import Place

PARTITION = "0"
_READ_BYTES = 1 << 20


@dataclass
class Producer:
    """Whose records: the epoch of its newest instance, and the sequence number it goes on with."""

    epoch: int = 0
    next: int = 0


class IngestLog:
    """One partition of envelopes. Raises `LogError` and `OSError`.

    What is appended counts once `sync` has returned: `end` is the offset behind it, and nothing may be read
    or acknowledged beyond. `recover` comes first.
    """

    def __init__(self, context: Context, path: str, rolling: Rolling, max_producers: int) -> None:
        self._fs, self._clock, self._rolling = context.fs, context.clock, rolling
        self._max_producers = max_producers
        self.folder = context.path(path) / PARTITION
        self._fs.make_folder(self.folder.parent)
        lock = self._fs.lock(self.folder.parent / layout.LOCK)
        if lock is None:
            raise LogError(f"{path}: in use by another run; a log has one writer at a time")
        self._lock: BinaryIO = lock
        self._writer: PartitionWriter | None = None
        self.producers: dict[str, Producer] = {}
        self._window = Window()
        self._time = 0
        self.end = 0
        self.is_dirty = False
        """Whether something was appended that may not be on the disk yet."""

    def recover(self, place: Place | None) -> None:
        """Learn from a place, and from what came after it, what producers have on the disk.

        The first line that is none, where a loss of power left one, is cut off with all behind it. Of what
        comes before the place, the last lines are read too, for what producers may send again.
        """
        place = place or {"end": self.first}
        start = max(self.first, place["end"] - WINDOW)
        self._time = place.get("time", 0)
        self.producers = {name: Producer(*known) for name, known in place.get("producers", {}).items()}
        for first in layout.segments(self._fs, self.folder):
            later = [other for other in layout.segments(self._fs, self.folder) if other > first]
            if later and later[0] <= start:
                continue
            if not self._learn(first, max(first, start), place["end"]):
                break
        self._writer = PartitionWriter(self._fs, self._clock, self.folder, self._rolling)
        if self._writer.end < place["end"]:
            raise LogError(
                f"{self.folder}: expected at least {place['end']} records, found {self._writer.end}: "
                "it was cut"
            )
        self._writer.sync()  # what is read from here on must not be lost any more
        self.end = self._writer.end

    @property
    def first(self) -> int:
        """The offset of the oldest record."""
        return next(iter(layout.segments(self._fs, self.folder)), 0)

    def producer(self, name: str) -> Producer | None:
        """What is known of a producer, all of it if there is room for another; None if there is none."""
        if name not in self.producers and len(self.producers) >= self._max_producers:
            return None
        return self.producers.setdefault(name, Producer())

    def begin(self, name: str, epoch: int) -> None:
        """From here on a producer has this epoch."""
        known = self.producers[name]
        known.epoch = epoch
        self._append([envelope.Envelope(self._now(), name, epoch, known.next)])

    def append(self, name: str | None, frames: Frames) -> int:
        """The next records of a producer; without a name, of somebody who cannot send them again.

        The offset of the first of them.
        """
        if name is None:
            return self._append(envelope.wrap(frames, self._now()))
        known = self.producers[name]
        offset = self._append(envelope.wrap(frames, self._now(), name, known.epoch, known.next))
        self._window.add(name, known.next, offset, _digests(frames, len(frames)))
        known.next += len(frames)
        return offset

    def check_again(self, name: str, seq: int, frames: Frames, count: int) -> list[int]:
        """Look at `count` records that a producer sends again, the first with this number.

        Returns the numbers of those that the log has otherwise. They are appended as refused, unless it has
        that too.
        """
        digests = _digests(frames, count)
        others = self._window.others(name, seq, digests)
        new = [i for i in others if not self._window.has_conflict(name, seq + i, digests[i])]
        if new:
            now, epoch = self._now(), self.producers[name].epoch
            records = [frames.buffer[frames.starts[i] : frames.ends[i]] for i in new]
            pairs = zip(new, records, strict=True)
            offset = self._append(
                [envelope.wrap_conflict(record, now, name, epoch, seq + i) for i, record in pairs]
            )
            for at, i in enumerate(new, offset):
                self._window.add_conflict(name, seq + i, at, digests[i])
        return [seq + i for i in others]

    def sync(self) -> None:
        """Return when everything that was appended would survive a loss of power."""
        if self.is_dirty and self._writer is not None:
            self._writer.sync()
            self.end, self.is_dirty = self._writer.end, False

    def place(self) -> Place:
        """What `recover` learns from."""
        known = {name: [each.epoch, each.next] for name, each in self.producers.items()}
        return {"end": self.end, "time": self._time, "producers": known}

    def remove_old(self, below: int) -> None:
        """Remove what is beyond what is kept, but no record from this offset on. On any thread."""
        remove_old(self._fs, self._clock, self.folder, self._rolling, below)

    def close(self) -> None:
        """Give everything back; twice is fine."""
        if self._writer is not None:
            self._writer.close()
        self._lock.close()

    def _now(self) -> int:
        self._time = max(self._time, self._clock.wall_us())
        return self._time

    def _append(self, envelopes: list[envelope.Envelope]) -> int:
        """The offset of the first of them."""
        assert self._writer is not None
        offset = self._writer.end
        self._writer.append(*envelope.encode(envelopes))
        self.is_dirty = True
        return offset

    def _learn(self, first: int, start: int, known: int) -> bool:
        """Read a segment's lines from offset `start` on; False if it had to be cut.

        Of lines before offset `known` all is known but what their records are.
        """
        path = layout.segment_path(self.folder, first)
        with closing(self._fs.open_read(path)) as file:
            at = layout.byte_of_line(self._fs, file, start - first)
            if at is None:
                raise LogError(f"{path}: expected at least {start - first} records, found fewer: it was cut")
            whole, rest, offset = True, b"", start
            while whole and (data := self._fs.read_at(file, at + len(rest), _READ_BYTES)):
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    if not self._learn_line(line, offset, offset < known):
                        whole = False
                        break
                    at, offset = at + len(line) + 1, offset + 1
        if whole and not rest:
            return True
        if offset < known:
            raise LogError(f"{path}: expected at least {known - first} records, found fewer: it was cut")
        self._cut(path, first, at)
        return False

    def _learn_line(self, line: bytes, offset: int, is_known: bool) -> bool:
        """Whether it is one."""
        try:
            found = envelope.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return is_known
        if not is_known:
            self._time = max(self._time, found.time)
        name, epoch, seq, record = found.producer, found.epoch, found.seq, found.record
        if name is None or epoch is None or seq is None:
            return True
        if found.conflict:
            self._window.add_conflict(name, seq, offset, digest(bytes(record or b"")))
            return True
        if record is not None:
            self._window.add(name, seq, offset, [UNKNOWN if found.refused else digest(bytes(record))])
        if not is_known:
            self.producers[name] = Producer(epoch, seq + (record is not None))
        return True

    def _cut(self, path: Path, first: int, at: int) -> None:
        for other in reversed(layout.segments(self._fs, self.folder)):
            if other > first:
                self._fs.remove(layout.segment_path(self.folder, other))
        self._fs.sync_folder(self.folder)
        with closing(self._fs.open_write(path, append=True)) as file:
            self._fs.truncate(file, at)
            self._fs.sync(file)


def _digests(frames: Frames, count: int) -> list[int]:
    """Of the first records; of one that framing has refused only the beginning is there."""
    spans = zip(frames.starts[:count].tolist(), frames.ends[:count].tolist(), strict=True)
    found = [digest(frames.buffer[start:end]) for start, end in spans]
    for i in frames.refused:
        if i < count:
            found[i] = UNKNOWN
    return found
