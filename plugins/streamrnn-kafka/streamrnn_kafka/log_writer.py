"""Writes one partition of a log: segments, the indexes beside them, and where a commit left them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from streamrnn.errors import SinkError
from streamrnn.prefix import prefix_of, unlike
from streamrnn_kafka.log_reader import PartitionReader
from streamrnn_kafka.records import Headers, encode, head
from streamrnn_kafka.segments import OFFSET_ENTRY, TIME_ENTRY, Segment, Window, segments, walk

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

    def __init__(self, fs: FileSystem, folder: Path, config: KafkaLogSinkConfig) -> None:
        self._fs, self.folder, self._config, self.name = fs, folder, config, folder.name
        self._unsynced: list[BinaryIO] = []
        """Files of records that are full and not on the disk yet."""
        self._names_synced = False
        self._compared: PartitionReader | None = None
        """Gives the records that an earlier run wrote and that are to be made again."""
        fs.make_folder(folder)
        found = segments(fs, folder)
        self._open(found[-1] if found else Segment(folder, 0), None)

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
        self._fs.sync(self._file)
        if not self._names_synced:
            self._fs.sync_folder(self.folder)
            self._names_synced = True

    def place(self) -> Place:
        """See `Resumable.place`."""
        self.sync()
        before = prefix_of(self._fs, self._segment.path, self._size)
        return {"base": self._segment.base, "offset": self.next_offset, "before": before}

    def resume(self, place: Place, again: bool) -> None:
        """Cut what lies behind a place; with `again`, keep it, and compare what comes with it."""
        segment, before = Segment(self.folder, place["base"]), place["before"]
        if why := unlike(self._fs, segment.path, before):
            raise SinkError(f"{segment.path}: {why}")
        if again and self.next_offset > place["offset"]:
            self._compared = PartitionReader(self._fs, self.folder)
            self._compared.seek(place["offset"])
            self._compared.end = self.next_offset
            return
        self.cut(segment, before["bytes"])

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
        if not self._file.closed:
            self._indexes.close(whole)
            if whole:
                self._unsynced.append(self._file)
            else:
                self._file.close()

    def _open(self, segment: Segment, size: int | None) -> None:
        """Go on behind the first `size` bytes of a segment; if None, behind its last whole batch."""
        self._segment, self._file = segment, self._fs.open_write(segment.path, append=True)
        self._indexes = _Indexes(self._fs, segment)
        self._size, self.next_offset = 0, segment.base
        with closing(Window(self._fs, segment.path)) as window:
            for at, found in walk(window, segment.path):
                if size is not None and at >= size:
                    break
                self._indexes.add(found, at)
                self._size, self.next_offset = at + found.size, found.next_offset
            is_longer = window.file_size() > self._size
        if is_longer:
            self._fs.truncate(self._file, self._size)

    def _roll(self) -> None:
        self._close_files(whole=True)
        self._open(Segment(self.folder, self.next_offset), None)
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
        made = list(zip(keys, values, timestamps, strict=True))[: len(there)]
        known = [(record.key, record.value, record.timestamp) for record in there]
        if made != known:
            wrong = next(i for i, pair in enumerate(zip(made, known, strict=True)) if pair[0] != pair[1])
            raise SinkError(
                f"{self.name}: offset {there[wrong].offset} is not what the events give that were served "
                "again after a commit was found broken, and somebody may have read it; move the log away, or "
                "cut it if nobody did"
            )
        if reader.has_ended:
            reader.close()
            self._compared = None
        return len(there)
