"""Outputs to a file that is set aside when it is full."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from streamrnn.errors import SinkError

if TYPE_CHECKING:
    from streamrnn.builtins.ends import RotationConfig
    from streamrnn.context import Context, FileSystem
    from streamrnn.events import IntArray, OutBlock
    from streamrnn.sinks.file import FileSink


class RotatingFileSink:
    """The `file` sink with `rotate`: whole records go into one file until it is full, then into the next.

    A full file is on the disk before it is renamed: `x` becomes `x.1`, what was `x.1` becomes `x.2` and so
    on; the last one of those kept is lost. Full files of an earlier run are part of this chain. An empty file
    is never set aside.
    """

    def __init__(
        self,
        context: Context,
        path: Path,
        config: RotationConfig,
        sink: FileSink,
        found_bytes: int,
        open_again: Callable[[FileSystem, Path], FileSink],
    ) -> None:
        self._fs, self._clock, self._path = context.fs, context.clock, path
        self._config, self._sink, self._open_again = config, sink, open_again
        self._bytes = found_bytes
        self._begun_s = context.clock.monotonic()

    def write(self, block: OutBlock) -> None:
        """See `Sink.write`. A batch may be spread over several files."""
        self._write_from(block, 0)

    def _write_from(self, block: OutBlock, begin: int) -> None:
        """The records that begin at a byte of the block or behind it."""
        view, total = memoryview(block.buffer), int(block.ends[-1]) if len(block) else 0
        if self._bytes and self._is_old():
            self._roll()
        while begin < total:
            end = self._fitting(block.ends, begin)
            if end == begin:
                self._roll()
                continue
            if not self._bytes:
                self._begun_s = self._clock.monotonic()
            self._sink.append(view[begin:end])
            self._bytes += end - begin
            begin = end

    def flush(self) -> None:
        """See `Sink.flush`; full files were flushed as they were set aside."""
        self._sink.flush()

    def close(self) -> None:
        """See `Sink.close`."""
        self._sink.close()

    def _is_old(self) -> bool:
        max_age_s = self._config.max_age_s
        return max_age_s is not None and self._clock.monotonic() - self._begun_s >= max_age_s

    def _fitting(self, ends: IntArray, begin: int) -> int:
        """The end of the last record that still fits; an empty file takes one record of any length."""
        if self._config.max_bytes is None:
            return int(ends[-1])
        last = int(ends.searchsorted(begin + self._config.max_bytes - self._bytes, side="right")) - 1
        end = int(ends[last]) if last >= 0 else 0
        if end > begin:
            return end
        return begin if self._bytes else int(ends[ends.searchsorted(begin, side="right")])

    def _roll(self) -> None:
        """Set the file aside and begin the next."""
        self._sink.close()
        try:
            if self._fs.status(self._path) is not None:  # else somebody moved it away
                self._rename()
        except OSError as error:
            raise SinkError(f"{self._path}: cannot rename: {error.strerror}") from error
        self._sink, self._bytes = self._open_again(self._fs, self._path), 0

    def _rename(self) -> None:
        names = [self._path, *(Path(f"{self._path}.{n}") for n in range(1, self._config.keep + 1))]
        # Only as far as there is a file: behind a gap nothing needs to move.
        gap = next((n for n, name in enumerate(names) if self._fs.status(name) is None), len(names) - 1)
        for n in range(gap, 0, -1):
            self._fs.replace(names[n - 1], names[n])
