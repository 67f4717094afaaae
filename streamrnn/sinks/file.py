"""Outputs to a file."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from streamrnn.errors import SinkError
from streamrnn.sinks.rotation import RotatingFileSink

if TYPE_CHECKING:
    from streamrnn.builtins.ends import FileSinkConfig
    from streamrnn.context import Context, FileSystem
    from streamrnn.events import OutBlock


class FileSink:
    """The `file` sink: each batch in one write, without a buffer of its own; `flush` waits for the disk."""

    def __init__(self, fs: FileSystem, path: Path, file: BinaryIO) -> None:
        self._fs = fs
        self._path = path
        self._file = file

    def write(self, block: OutBlock) -> None:
        """See `Sink.write`."""
        self.append(block.buffer)

    def append(self, data: bytes | memoryview) -> None:
        """All of `data`, which is whole records. Raises `SinkError`."""
        try:
            self._fs.write(self._file, data)
        except OSError as error:
            raise _failure(self._path, "cannot write", error) from error

    def flush(self) -> None:
        """See `Sink.flush`."""
        try:
            self._fs.sync(self._file)
        except OSError as error:
            raise _failure(self._path, "cannot write to the disk", error) from error

    def close(self) -> None:
        """See `Sink.close`."""
        if self._file.closed:
            return
        try:
            self.flush()
        finally:
            self._file.close()


def build(config: FileSinkConfig, context: Context) -> FileSink | RotatingFileSink:
    """The sink, its file open and the folders above it made. Raises `SinkError` if that is impossible."""
    path = context.path(config.path)
    try:
        context.fs.make_parents(path)
        file = context.fs.open_write(path, append=config.if_exists != "overwrite")
        found_bytes = file.tell() if file.seekable() else 0
        is_regular = stat.S_ISREG(context.fs.status_of(file).st_mode)
    except OSError as error:
        raise _failure(path, "cannot open", error) from error
    if config.if_exists == "refuse" and found_bytes:
        file.close()
        raise SinkError(
            f"{path}: expected no file or an empty one, found {found_bytes} bytes; "
            "move it away, or set if_exists to append or overwrite"
        )
    sink = FileSink(context.fs, path, file)
    if config.rotate is None:
        return sink
    if not is_regular:
        file.close()
        raise SinkError(f"{path}: expected a regular file to rotate, found a pipe or a device")
    return RotatingFileSink(context, path, config.rotate, sink, found_bytes, _open_again)


def _open_again(fs: FileSystem, path: Path) -> FileSink:
    """A sink for the file that comes after one that was full."""
    try:
        return FileSink(fs, path, fs.open_write(path, append=True))
    except OSError as error:
        raise _failure(path, "cannot open", error) from error


def _failure(path: Path, what: str, error: OSError) -> SinkError:
    return SinkError(f"{path}: {what}: {error.strerror}")
