"""Outputs to a file."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import TYPE_CHECKING

from streamrnn.errors import SinkError
from streamrnn.output_file import OutputFile
from streamrnn.sinks.numbered import NumberedFileSink
from streamrnn.sinks.rotation import RotatingFileSink

if TYPE_CHECKING:
    from streamrnn.builtins.ends import FileSinkConfig
    from streamrnn.context import Context, FileSystem
    from streamrnn.events import OutBlock


class FileSink(OutputFile):
    """The `file` sink: each batch in one write, without a buffer of its own; `flush` waits for the disk."""

    def write(self, block: OutBlock) -> None:
        """See `Sink.write`."""
        self.append(block.buffer)

    def flush(self) -> None:
        """See `Sink.flush`."""
        self.sync()


def build(config: FileSinkConfig, context: Context) -> FileSink | RotatingFileSink:
    """The sink, its file open and the folders above it made. Raises `SinkError` if that is impossible."""
    path = context.path(config.path)
    out = FileSink(context.fs, path, str(path), append=context.resuming or config.if_exists != "overwrite")
    found_bytes = out.file.tell() if out.file.seekable() else 0
    is_regular = stat.S_ISREG(context.fs.status_of(out.file).st_mode)
    if config.if_exists == "refuse" and found_bytes and not context.resuming:
        out.file.close()
        raise SinkError(
            f"{path}: expected no file or an empty one, found {found_bytes} bytes; "
            "move it away, or set if_exists to append or overwrite"
        )
    if config.rotate is None:
        return out
    if not is_regular:
        out.file.close()
        raise SinkError(f"{path}: expected a regular file to rotate, found a pipe or a device")
    kind = NumberedFileSink if context.commits_kept else RotatingFileSink
    return kind(context, path, config.rotate, out, found_bytes, _open_again)


def _open_again(fs: FileSystem, path: Path) -> FileSink:
    """A sink for the file that comes after one that was full."""
    return FileSink(fs, path, str(path), append=True)
