"""Outputs to a file."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import TYPE_CHECKING

from streamrnn.errors import SinkError
from streamrnn.output_file import OutputFile
from streamrnn.sinks.rotation import RotatingFileSink

if TYPE_CHECKING:
    from streamrnn.builtins.ends import FileSinkConfig
    from streamrnn.context import Context, FileSystem
    from streamrnn.events import OutBlock
    from streamrnn.ports import Place


class FileSink:
    """The `file` sink: each batch in one write, without a buffer of its own; `flush` waits for the disk."""

    def __init__(self, file: OutputFile) -> None:
        self._file = file

    def write(self, block: OutBlock) -> None:
        """See `Sink.write`."""
        self._file.append(block.buffer)

    def append(self, data: bytes | memoryview) -> None:
        """All of `data`, which is whole records. Raises `SinkError`."""
        self._file.append(data)

    def flush(self) -> None:
        """See `Sink.flush`."""
        self._file.sync()

    def place(self) -> Place | None:
        """See `Resumable.place`."""
        return self._file.place()

    def resume(self, place: Place) -> None:
        """See `Resumable.resume`."""
        self._file.resume(place)

    @property
    def comparing(self) -> bool:
        """See `OutputFile.comparing`."""
        return self._file.comparing

    def close(self) -> None:
        """See `Sink.close`."""
        self._file.close()


def build(config: FileSinkConfig, context: Context) -> FileSink | RotatingFileSink:
    """The sink, its file open and the folders above it made. Raises `SinkError` if that is impossible."""
    path = context.path(config.path)
    out = OutputFile(context.fs, path, str(path), append=context.resuming or config.if_exists != "overwrite")
    found_bytes = out.file.tell() if out.file.seekable() else 0
    is_regular = stat.S_ISREG(context.fs.status_of(out.file).st_mode)
    if config.if_exists == "refuse" and found_bytes and not context.resuming:
        out.file.close()
        raise SinkError(
            f"{path}: expected no file or an empty one, found {found_bytes} bytes; "
            "move it away, or set if_exists to append or overwrite"
        )
    if config.rotate is None:
        return FileSink(out)
    if not is_regular:
        out.file.close()
        raise SinkError(f"{path}: expected a regular file to rotate, found a pipe or a device")
    return RotatingFileSink(context, path, config.rotate, FileSink(out), found_bytes, _open_again)


def _open_again(fs: FileSystem, path: Path) -> FileSink:
    """A sink for the file that comes after one that was full."""
    return FileSink(OutputFile(fs, path, str(path), append=True))
