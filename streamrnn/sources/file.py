"""Events from files, one after the other."""

from __future__ import annotations

import glob
import os.path
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from streamrnn.errors import SourceError
from streamrnn.events import Mark, Origin
from streamrnn.ports import EndOfStream

if TYPE_CHECKING:
    from streamrnn.builtins.ends import FileSourceConfig
    from streamrnn.context import Context
    from streamrnn.events import Block
    from streamrnn.ports import Framer

_READ_BYTES = 1 << 20


@dataclass(slots=True)
class _Input:
    """A file to read. `stream` is set from the start for what cannot be opened twice, such as a pipe."""

    name: str
    path: Path
    stream: BinaryIO | None = None

    def close(self) -> None:
        if self.stream is not None:
            self.stream.close()
            self.stream = None


class FileSource:
    """The `file` source: each file to its end and a `source_end` after it, then the next.

    A partition is a file, named as in the pipeline file or, where a pattern found it, relative to
    the folder of the pipeline file if it lies there.
    """

    def __init__(self, context: Context, inputs: Sequence[_Input], new_framer: Callable[..., Framer]) -> None:
        self._fs = context.fs
        self._inputs = list(inputs)
        self._new_framer = new_framer
        self._index = 0
        self._framer = new_framer()
        self._ended = False
        """Whether the current file has been read to its end; its last records may still be in the framer."""
        self._closed = False
        self._past: dict[str, int] = {}

    def read(self, limit: int, wait_ms: int) -> Block | Mark | None:
        """See `Source.read`. A block never holds records of two files; `wait_ms` is not needed."""
        if self._closed or self._index == len(self._inputs):
            raise EndOfStream
        current = self._inputs[self._index]
        origin = Origin("file", current.name)
        while not (frames := self._framer.take(limit)):
            if self._ended:
                return self._next(origin)
            self._receive(current)
        return frames.block(origin)

    def position(self) -> Mapping[str, int]:
        """See `Source.position`: bytes from the start of every file that was begun."""
        if self._index == len(self._inputs):
            return self._past
        return self._past | {self._inputs[self._index].name: self._framer.position}

    def close(self) -> None:
        """See `Source.close`."""
        self._closed = True
        for file in self._inputs:
            file.close()

    def _receive(self, current: _Input) -> None:
        try:
            if current.stream is None:
                current.stream = self._fs.open_read(current.path)
            data = current.stream.read(_READ_BYTES)
        except OSError as error:
            raise SourceError(f"{current.name}: cannot read: {error.strerror}") from error
        if data:
            self._framer.feed(data)
        else:
            self._ended = True
            self._framer.finish()

    def _next(self, origin: Origin) -> Mark:
        """Leave the file that has ended."""
        mark = Mark("source_end", origin, self._framer.position)
        self._past[origin.partition] = mark.position
        self._inputs[self._index].close()
        self._index += 1
        self._ended = False
        self._framer = self._new_framer()
        return mark


def build(config: FileSourceConfig, context: Context, new_framer: Callable[..., Framer]) -> FileSource:
    """The source, with its list of files settled. Raises `SourceError` if one is missing or named twice."""
    patterns = [config.path] if isinstance(config.path, str) else config.path
    inputs: dict[str, _Input] = {}
    for pattern in patterns:
        for file in _inputs(pattern, context):
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
    return [_Input(_name(path, context.base_dir), path) for path in found]


def _opened(name: str, context: Context) -> _Input:
    """What is no regular file, if it can be read at all."""
    path = context.path(name)
    try:
        return _Input(name, path, context.fs.open_read(path))
    except OSError as error:
        raise SourceError(f"{name}: cannot read {path}: {error.strerror}") from error


def _name(path: Path, base_dir: Path) -> str:
    return str(path.relative_to(base_dir) if path.is_relative_to(base_dir) else path)
