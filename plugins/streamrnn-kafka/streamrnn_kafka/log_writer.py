"""Writes one partition of a log: segments, the indexes beside them, and where a commit left them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from streamrnn.errors import SinkError
from streamrnn.prefix import prefix_of, unlike
from streamrnn_kafka.log_reader import PartitionReader
from streamrnn_kafka.records import Headers, encode, head, rows
from streamrnn_kafka.segments import (
    OFFSET_ENTRY,
    TIME_ENTRY,
    BrokenLogError,
    Segment,
    Window,
    head_at,
    segments,
    walk,
)

if TYPE_CHECKING:
    from streamrnn.context import FileSystem
    from streamrnn.ports import Place
    from streamrnn_kafka.options import KafkaLogSinkConfig
    from streamrnn_kafka.records import Head

_INDEX_BYTES = 4096
"""So many bytes of records lie between two entries of an index, at least."""


class _Indexes:
    """The two indexes of a segment; what is not synced can be made again from the records."""

    def __init__(self, fs: FileSystem, segment: Segment) -> None:
        self._fs, self._base = fs, segment.base
        self._files = [fs.open_write(path, append=False) for path in (segment.index, segment.time_index)]
        self._since = 0
        self._largest = self._told = -1
        self._largest_offset = segment.base

    def add(self, found: Head, at: int) -> None:
        """A batch at a position; an entry is due if enough lies between it and the one before."""
        last = found.next_offset - 1
        if found.max_timestamp > self._largest:
            self._largest, self._largest_offset = found.max_timestamp, last
        if self._since > _INDEX_BYTES:
            self._fs.write(self._files[0], _entry(OFFSET_ENTRY, last - self._base, at))
            self._tell_time()
            self._since = 0
        self._since += found.size

    def close(self, whole: bool) -> None:
        """Close them; those of a segment that is `whole` get their last entry and are synced."""
        if whole:
            self._tell_time()
        for file in self._files:
            if whole:
                self._fs.sync(file)
            file.close()

    def _tell_time(self) -> None:
        if self._largest > self._told:
            self._told = self._largest
            self._fs.write(self._files[1], _entry(TIME_ENTRY, self._told, self._largest_offset - self._base))


def _entry(kind: Any, *values: int) -> bytes:
    import numpy as np

    return np.array([values], kind).tobytes()


class PartitionWriter:
    """Appends records to a partition. All methods raise `SinkError`, or `OSError` for the sink to tell."""

    def __init__(
        self, fs: FileSystem, folder: Path, config: KafkaLogSinkConfig, resuming: bool = False
    ) -> None:
        self._fs, self.folder, self._config, self.name = fs, folder, config, folder.name
        self._unsynced: list[BinaryIO] = []
        """Files of records that are full and not on the disk yet."""
        self._names_synced = False
        self._compared: PartitionReader | None = None
        """Gives the records that an earlier run wrote and that are to be made again."""
        self._file: BinaryIO | None = None
        self.next_offset = 0
        self.cut_bytes = 0
        """What was found behind the last whole batch, and cut."""
        fs.make_folder(folder)
        if not resuming:
            self._open(self._last_segment())

    @property
    def comparing(self) -> bool:
        """Whether there are still records ahead that an earlier run wrote."""
        return self._compared is not None

    def append(
        self,
        keys: Sequence[bytes | None],
        values: Sequence[bytes | None],
        timestamps: Sequence[int],
        headers: Sequence[Headers] | None = None,
    ) -> None:
        """One batch of records."""
        if self._compared is not None:
            done = self._compare(self._compared, keys, values, timestamps)
            keys, values, timestamps = keys[done:], values[done:], timestamps[done:]
            headers = None if headers is None else headers[done:]
        if not values:
            return
        assert self._file is not None
        data = encode(self.next_offset, keys, values, timestamps, headers, self._config.compression)
        if self._size and self._size + len(data) > self._config.segment_bytes:
            self._roll()
        self._fs.write(self._file, data)
        found = head(data)
        self._indexes.add(found, self._size)
        self._size += len(data)
        self.next_offset = found.next_offset

    def sync(self) -> None:
        """Return when all records are on the disk, under their names."""
        for file in self._unsynced:
            self._fs.sync(file)
            file.close()
        self._unsynced.clear()
        if self._file is None or self._file.closed:  # it was given up while it was gone on with
            return
        self._fs.sync(self._file)
        if not self._names_synced:
            self._fs.sync_folder(self.folder)
            self._names_synced = True

    def place(self) -> Place:
        """See `Resumable.place`."""
        self.sync()
        before = prefix_of(self._fs, self._segment.path, self._size)
        return {"base": self._segment.base, "offset": self.next_offset, "before": before}

    def resume(self, place: Place | None, again: bool) -> None:
        """Cut what lies behind a place, all if None; with `again`, keep it and compare what comes with it."""
        segment, size, start = Segment(self.folder, 0), 0, 0
        if place is not None:
            segment, size, start = (
                Segment(self.folder, place["base"]),
                place["before"]["bytes"],
                place["offset"],
            )
            if why := unlike(self._fs, segment.path, place["before"]):
                raise SinkError(f"{segment.path}: {why}")
        if again:
            self._keep_from(start)
        else:
            self.cut(segment, size)

    def _keep_from(self, start: int) -> None:
        """Keep the records from an offset on as far as they are whole, and compare what comes with them."""
        reader = PartitionReader(self._fs, self.folder)
        reader.seek(start)
        with suppress(BrokenLogError):  # what power left behind the last whole batch, which nobody could read
            while reader.take(1) is not None:
                pass
        end = reader.next_offset
        self.cut(*self._position_of(end))
        if end > start:
            self._compared = reader
            reader.seek(start)
            reader.end = end
        else:
            reader.close()

    def cut(self, segment: Segment, size: int) -> None:
        """Leave nothing behind the first `size` bytes of a segment."""
        self._close_files(whole=False)
        for later in reversed(segments(self._fs, self.folder)):
            if later.base > segment.base:
                for path in (later.index, later.time_index, later.path):
                    self._fs.remove(path)
        self._names_synced = False
        self._open(segment, size)

    def close(self) -> None:
        """Close its files; twice is fine."""
        if self._compared is not None:
            self._compared.close()
        for file in self._unsynced:
            file.close()
        self._close_files(whole=False)

    def _close_files(self, whole: bool) -> None:
        if self._file is None or self._file.closed:
            return
        self._indexes.close(whole)
        if whole:
            self._unsynced.append(self._file)
        else:
            self._file.close()

    def _last_segment(self) -> Segment:
        found = segments(self._fs, self.folder)
        return found[-1] if found else Segment(self.folder, 0)

    def _position_of(self, end: int) -> tuple[Segment, int]:
        """The segment in which a log that ends at an offset ends, and how many bytes of it count."""
        there = [found for found in segments(self._fs, self.folder) if found.base <= end]
        segment, size = there[-1] if there else Segment(self.folder, 0), 0
        if not there:
            return segment, size
        with closing(Window(self._fs, segment.path)) as window, suppress(BrokenLogError):
            for at, found in walk(window, segment.path):
                if found.base_offset >= end:
                    break
                size = at + found.size
        return segment, size

    def _open(self, segment: Segment, size: int | None = None) -> None:
        """Go on behind the first `size` bytes of a segment; if None, behind its last whole batch."""
        self._segment, self._file = segment, self._fs.open_write(segment.path, append=True)
        self._indexes = _Indexes(self._fs, segment)
        self._size, self.next_offset = 0, segment.base
        with closing(Window(self._fs, segment.path)) as window:
            while size is None or self._size < size:
                found = head_at(window, segment.path, self._size)
                if found is None:
                    break
                self._indexes.add(found, self._size)
                self._size, self.next_offset = self._size + found.size, found.next_offset
        self.cut_bytes = self._fs.status_of(self._file).st_size - self._size
        if self.cut_bytes:
            self._fs.truncate(self._file, self._size)

    def _roll(self) -> None:
        self._close_files(whole=True)
        self._open(Segment(self.folder, self.next_offset))
        self._names_synced = False
        limit = self._config.retention_bytes
        if limit is None:
            return
        sizes = {old: self._bytes(old) for old in segments(self._fs, self.folder)}
        for old in list(sizes)[:-1]:
            if sum(sizes.values()) <= limit:
                break
            del sizes[old]
            for path in (old.path, old.index, old.time_index):
                self._fs.remove(path)

    def _bytes(self, segment: Segment) -> int:
        status = self._fs.status(segment.path)
        return status.st_size if status else 0

    def _compare(
        self,
        reader: PartitionReader,
        keys: Sequence[bytes | None],
        values: Sequence[bytes | None],
        timestamps: Sequence[int],
    ) -> int:
        """How many of the records are there already. Raises `SinkError` if they are not the same."""
        there = reader.take(len(values))
        n = 0 if there is None else len(there)
        made = zip(keys[:n], values[:n], timestamps[:n], strict=True)
        for i, (ours, theirs) in enumerate(zip(made, rows(there) if there else (), strict=True)):
            if ours != theirs:
                offset = int(there.offsets[i]) if there else 0
                raise SinkError(
                    f"{self.name}: offset {offset} is not what the events give that were served again after "
                    "a commit was found broken, and somebody may have read it; move the log away, or cut it "
                    "if nobody did"
                )
        if reader.has_ended:
            reader.close()
            self._compared = None
        return n
