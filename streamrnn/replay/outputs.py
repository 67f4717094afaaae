"""Outputs as records, with where each of them stands: those of a file, and those of a replay."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from streamrnn.errors import SinkError, StateError
from streamrnn.ports import Resumable
from streamrnn.prefix import unlike

if TYPE_CHECKING:
    from streamrnn.context import FileSystem
    from streamrnn.events import Frames
    from streamrnn.line import Served
    from streamrnn.ports import Framer, Place

LONGEST_BYTES = 1 << 30
_READ_BYTES = 1 << 20
_TAKEN = 4096


class Record(NamedTuple):
    """One output: its `data` without what ends it, and its place `at` in `frames`.

    In a replay it is output number `output` of a block that was `served`.
    """

    data: bytes
    frames: Frames
    at: int
    served: Served | None = None
    output: int = 0


class Recorded:
    """The outputs in a file, those behind what a commit says of it. Iterate once; then close it.

    Raises `StateError` if the file does not begin as the commit says, `SinkError` if it cannot be read.
    """

    def __init__(
        self, fs: FileSystem, path: Path, new_framer: Callable[[int], Framer], before: Place | None
    ) -> None:
        self._fs, self.path, self._framer = fs, path, new_framer(LONGEST_BYTES)
        self._at = 0
        try:
            if before is not None and (why := unlike(fs, path, before)):
                raise StateError(f"{path}: these are not the outputs that the commit was writing: {why}")
            self._file = fs.open_read(path)
        except OSError as error:
            raise SinkError(f"{path}: cannot read: {error.strerror}") from error
        while before is not None and self._at < before["bytes"]:
            self._read(before["bytes"] - self._at)
            while self._framer.take(_TAKEN):
                pass

    def __iter__(self) -> Iterator[Record]:
        while self._read(_READ_BYTES):
            yield from self._taken()
        self._framer.finish()
        yield from self._taken()

    def framer_alike(self, framer: Framer) -> Framer:
        """A framer gone on to where this file is: what stands before its first record may be needed."""
        if self._at and isinstance(self._framer, Resumable) and isinstance(framer, Resumable):
            place = self._framer.place()
            assert place is not None
            framer.resume(place)
        return framer

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _read(self, size: int) -> bool:
        try:
            data = self._fs.read_at(self._file, self._at, min(size, _READ_BYTES))
        except OSError as error:
            raise SinkError(f"{self.path}: cannot read: {error.strerror}") from error
        self._at += len(data)
        self._framer.feed(data)
        return bool(data)

    def _taken(self) -> Iterator[Record]:
        while frames := self._framer.take(_TAKEN):
            for i, data in enumerate(_pieces(frames)):
                yield Record(data, frames, i)


def replayed(served_blocks: Iterable[Served], framer: Framer) -> Iterator[Record]:
    """The outputs of a replay, as `framer` finds them in its bytes."""
    for served in served_blocks:
        begin = framer.position
        framer.feed(served.out.buffer)
        while frames := framer.take(_TAKEN):
            outputs = np.searchsorted(served.out.ends, frames.positions - begin, side="right").tolist()
            for i, data in enumerate(_pieces(frames)):
                yield Record(data, frames, i, served, outputs[i])


def _pieces(frames: Frames) -> Iterator[bytes]:
    buffer = frames.buffer
    for start, end in zip(frames.starts.tolist(), frames.ends.tolist(), strict=True):
        yield buffer[start:end]
