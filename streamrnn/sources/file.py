"""Events from files, one after the other; those that are followed are left to `FollowSource`."""

from __future__ import annotations

import glob
import os.path
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from streamrnn.errors import SourceError
from streamrnn.events import Mark, Origin
from streamrnn.ports import EndOfStream
from streamrnn.prefix import prefix_of, unlike
from streamrnn.sources.compressed import GzipReader
from streamrnn.sources.follow import FollowSource
from streamrnn.sources.framers import place_in, resumed, tell_unfinished
from streamrnn.sources.names import all_followed, candidates, followed, name_of

if TYPE_CHECKING:
    from streamrnn.builtins.ends import FileSourceConfig
    from streamrnn.context import Context, FileSystem
    from streamrnn.events import Block
    from streamrnn.ports import Framer, Place

_READ_BYTES = 1 << 20


@dataclass(slots=True)
class _Input:
    """A file to read. `stream` is set from the start for what cannot be opened twice, such as a pipe.

    `max_ratio` is None for a file that is not compressed.
    """

    name: str
    path: Path
    stream: BinaryIO | None = None
    max_ratio: float | None = None
    is_regular: bool = True
    fed: int = 0
    """Bytes of its records that were read, or passed over."""
    _gzip: GzipReader | None = None

    def read(self, fs: FileSystem, size: int = _READ_BYTES) -> bytes:
        """The next bytes of its records, at most `size`; b"" at the end."""
        if self.stream is None:
            self.stream = fs.open_read(self.path)
        if self.max_ratio is None:
            return self.stream.read(size)
        if self._gzip is None:
            self._gzip = GzipReader(self.stream, self.name, self.max_ratio)
        return self._gzip.read(size)

    def is_ready(self, fs: FileSystem, wait_ms: int) -> bool:
        """Whether reading would not wait; asked of a pipe for at most so long."""
        return self.is_regular or self.stream is None or fs.is_ready(self.stream, wait_ms)

    def skip(self, fs: FileSystem, position: int) -> None:
        """Go to a byte of its records; the bytes of a compressed file before it are read and dropped."""
        if self.max_ratio is None:
            self.stream = fs.open_read(self.path)
            self.stream.seek(position)
            self.fed = position
            return
        while position and (data := self.read(fs, min(position, _READ_BYTES))):
            position -= len(data)

    def close(self) -> None:
        if self.stream is not None:
            self.stream.close()
            self.stream = None


class FileSource:
    """The `file` source: each file to its end and a `source_end` after it, then the next.

    A partition is a file, named as in the pipeline file or, where a pattern found it, relative to
    the folder of the pipeline file if it lies there.
    """

    partitioned = False
    """One state serves all files: a key goes on from one to the next."""

    def __init__(self, context: Context, inputs: Sequence[_Input], new_framer: Callable[..., Framer]) -> None:
        self._context, self._fs = context, context.fs
        self._inputs = list(inputs)
        self._new_framer = new_framer
        self._index = 0
        self._framer = new_framer()
        self._ended = False
        """Whether the current file has been read to its end; its last records may still be in the framer."""
        self._closed = self._stopped = False
        self._past: dict[str, int] = {}
        self._ends: dict[str, int] = {}
        """By file that was read to its end, how many bytes it had, unless it is compressed."""

    def read(self, limit: int, wait_ms: int) -> Block | Mark | None:
        """See `Source.read`. A block never holds records of two files; only pipes are waited for."""
        if self._closed or self._index == len(self._inputs):
            raise EndOfStream
        current = self._inputs[self._index]
        origin = Origin("file", current.name)
        if self._stopped and current.is_regular:
            raise EndOfStream
        while not (frames := self._framer.take(limit)):
            if self._ended:
                return self._next(origin)
            if self._stopped:
                tell_unfinished(self._context.log, current.name, self._framer, current.fed)
                raise EndOfStream
            if not current.is_ready(self._fs, wait_ms):
                return None
            self._receive(current)
            wait_ms = 0  # a record may take many reads; it gets no more time than was allowed for all
        return frames.block(origin)

    def position(self) -> Mapping[str, int]:
        """See `Source.position`: bytes from the start of every file that was begun."""
        if self._index == len(self._inputs):
            return self._past
        return self._past | {self._inputs[self._index].name: self._framer.position}

    def place(self) -> Place | None:
        """See `Resumable.place`: the list of files as it was settled, which is next, and where in it."""
        if not all(file.is_regular for file in self._inputs):
            return None
        names = [file.name for file in self._inputs]
        place: Place = {"files": names, "index": self._index, "ends": dict(self._ends)}
        if self._index < len(self._inputs):
            current, inside = self._inputs[self._index], place_in(self._framer)
            length = inside["position"] if current.max_ratio is None else None
            with _told_as(current):
                place["before"] = prefix_of(self._fs, current.path, length)
            place["framer"] = inside
        return place

    def resume(self, place: Place) -> None:
        """See `Resumable.resume`. The files are those of the place, in its order, whatever matches by now."""
        found = {file.name: file for file in self._inputs}
        if new := [name for name in found if name not in place["files"]]:
            text = "%s: not among the files this run began with; start a new checkpoint dir to read it"
            self._context.log.warning(text, ", ".join(new))
        self._ends = dict(place.get("ends", {}))
        self._tell_grown()
        names = place["files"][place["index"] :]
        if missing := [name for name in names if name not in found]:
            raise SourceError(f"{', '.join(missing)}: the last commit is not through with it, and it is gone")
        done = [_Input(name, self._context.path(name)) for name in place["files"][: place["index"]]]
        self._inputs, self._index = done + [found[name] for name in names], place["index"]
        if not names:
            return
        current, position = self._inputs[self._index], place["framer"]["position"]
        with _told_as(current):
            if why := unlike(self._fs, current.path, place["before"]):
                raise SourceError(f"{current.name}: {why}")
            current.skip(self._fs, position)
        self._framer = resumed(self._framer, place["framer"])

    def _tell_grown(self) -> None:
        for name, end in self._ends.items():
            status = self._fs.status(self._context.path(name))
            if status is not None and status.st_size > end:
                text = (
                    "%s: %d bytes came behind the end that was found, and are not read; `follow: true` reads "
                    "what is added to files, and a new checkpoint dir all of them anew"
                )
                self._context.log.warning(text, name, status.st_size - end)

    def stop(self) -> None:
        """See `Source`. Regular files can be read again."""
        self._stopped = True

    def close(self) -> None:
        """See `Source.close`."""
        self._closed = True
        for file in self._inputs:
            file.close()

    def _receive(self, current: _Input) -> None:
        with _told_as(current):
            data = current.read(self._fs)
        if data:
            current.fed += len(data)
            self._framer.feed(data)
        else:
            self._ended = True
            self._framer.finish()

    def _next(self, origin: Origin) -> Mark:
        """Leave the file that has ended."""
        mark = Mark("source_end", origin, self._framer.position)
        self._past[origin.partition] = mark.position
        left = self._inputs[self._index]
        if left.max_ratio is None:
            self._ends[left.name] = left.fed
        left.close()
        self._index += 1
        self._ended = False
        self._framer = self._new_framer()
        return mark


@contextmanager
def _told_as(file: _Input) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SourceError(f"{file.name}: cannot read: {error.strerror}") from error


def build(
    config: FileSourceConfig, context: Context, new_framer: Callable[..., Framer]
) -> FileSource | FollowSource:
    """The source, with its list of files settled. Raises `SourceError` if one is missing or named twice.

    If files are followed, a missing one is waited for, and one that is named twice is read once.
    """
    if config.follow:
        for pattern in config.paths:
            if not any(context.fs.status(path) for _, path in followed(pattern, config, context)):
                context.log.warning("%s: there is no such file yet; waiting for it", pattern)
        find, find_all = partial(all_followed, config, context), partial(candidates, config, context)
        return FollowSource(context, find, find_all, new_framer, config)
    inputs: dict[str, _Input] = {}
    for pattern in config.paths:
        for file in _inputs(pattern, context):
            file.max_ratio = config.max_ratio if config.is_compressed(file.name) else None
            where = os.path.normpath(file.path)
            if where in inputs:
                raise SourceError(f"{file.name}: named twice in `path`; a file is read once, name it once")
            inputs[where] = file
    return FileSource(context, list(inputs.values()), new_framer)


def _inputs(pattern: str, context: Context) -> list[_Input]:
    """The files that one pattern means, sorted by name."""
    found = context.fs.glob(os.path.join(glob.escape(str(context.base_dir)), pattern))
    if not glob.has_magic(pattern):
        return [_Input(pattern, found[0]) if found else _opened(pattern, context)]
    if not found:
        raise SourceError(f"{pattern}: expected at least one file, found none in {context.base_dir}")
    return [_Input(name_of(path, context.base_dir), path) for path in found]


def _opened(name: str, context: Context) -> _Input:
    """What is no regular file, if it can be read at all."""
    path = context.path(name)
    try:
        return _Input(name, path, context.fs.open_pipe(path), is_regular=False)
    except OSError as error:
        raise SourceError(f"{name}: cannot read {path}: {error.strerror}") from error
