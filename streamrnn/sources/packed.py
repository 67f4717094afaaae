"""What is left of a followed file that was compressed while nothing ran."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streamrnn.sources.compressed import GzipReader
from streamrnn.sources.identity import FIRST_BYTES, LAST_BYTES, identity

if TYPE_CHECKING:
    from pathlib import Path

    from streamrnn.context import FileSystem
    from streamrnn.events import Frames
    from streamrnn.ports import Framer, Place

_READ_BYTES = 1 << 20


class PackedTail:
    """A gzip file, from a byte of its records on to the end; to be used like a `Tail`, but it never grows."""

    def __init__(
        self, fs: FileSystem, name: str, path: Path, max_ratio: float, framer: Framer, start: int
    ) -> None:
        self._fs, self.name, self.framer = fs, name, framer
        self.grew = False
        self.replaced: Place | None = None
        self.unlinked = True
        """The name that was followed is not this file's: it is left once it was read."""
        self._file = fs.open_read(path)
        self._reader = GzipReader(self._file, str(path), max_ratio)
        self._first = self._last = b""
        self._end = 0
        while self._end < start and self._read(start - self._end):
            self._last = self._last[-LAST_BYTES:]

    @property
    def position(self) -> int:
        """See `Tail.position`."""
        return self.framer.position

    def lag_bytes(self) -> int:
        """Bytes that were unpacked, behind the last whole record."""
        return self._end - self.framer.position

    def identity(self) -> Place:
        """See `Tail.identity`."""
        position = self.framer.position
        last = self._last[: len(self._last) - (self._end - position)][-LAST_BYTES:]
        return identity(self._first[:position], last, position)

    def has(self, wanted: Place) -> bool:
        """See `Tail.has`; a file beside it that was not packed was rotated on its own."""
        return False

    def begin(self, now_s: float) -> None:
        """See `Tail.begin`."""
        self.grew = False

    def take(self, limit: int) -> Frames:
        """See `Framer.take`."""
        return self.framer.take(limit)

    def advance(self) -> bool:
        """See `Tail.advance`. Raises `SourceError` where it is damaged."""
        kept = LAST_BYTES + self._end - self.framer.position
        self._last = self._last[-kept:]
        data = self._read(_READ_BYTES)
        if data:
            self.framer.feed(data)
            self.grew = True
        return bool(data)

    def modified_ns(self) -> int:
        """When the file was last changed."""
        return self._fs.status_of(self._file).st_mtime_ns

    def finish(self) -> None:
        """See `Tail.finish`."""
        self.framer.finish()

    def close(self) -> None:
        """Give the file back; twice is fine."""
        self._file.close()

    def _read(self, size: int) -> bytes:
        data = self._reader.read(min(size, _READ_BYTES))
        self._first += data[: FIRST_BYTES - len(self._first)]
        self._last += data
        self._end += len(data)
        return data
