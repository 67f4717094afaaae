"""Outputs to a file that is set aside when it is full, in a pipeline with commits."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from streamrnn.errors import SinkError
from streamrnn.output_file import other_bytes
from streamrnn.prefix import unlike
from streamrnn.sinks.rotation import RotatingFileSink

if TYPE_CHECKING:
    from streamrnn.builtins.ends import RotationConfig
    from streamrnn.context import Context, FileSystem
    from streamrnn.events import OutBlock
    from streamrnn.ports import Place
    from streamrnn.sinks.file import FileSink


class NumberedFileSink(RotatingFileSink):
    """The `file` sink with `rotate`, whose files are numbered in the order in which they were begun.

    A full file is renamed once and then keeps its name: one rename, which is on the disk before the next
    file is begun, can be taken back after a crash, a whole chain of them cannot. Files are deleted only when
    no commit that is kept was made before them.
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
        super().__init__(context, path, config, sink, found_bytes, open_again)
        self._number = max(self._full_numbers(), default=0) + 1
        """What the file that is being written will have behind its name."""
        self._committed: deque[int] = deque(maxlen=context.commits_kept)
        """This number at the commits that can be gone on from, as far as this run made them."""
        self._known: deque[tuple[Path, int]] = deque()
        """Files that an earlier run wrote and that are to be made again, each from a byte on."""
        self.cut_bytes: int | None = None
        """See `OutputFile.cut_bytes`."""

    @property
    def comparing(self) -> bool:
        """See `OutputFile.comparing`."""
        return any(at < self._size(path) for path, at in self._known)

    def write(self, block: OutBlock) -> None:
        """See `Sink.write`."""
        begin = self._compare(memoryview(block.buffer)) if self._known else 0
        if begin and begin < len(block.buffer):  # the record that a crash may have torn ends where it began
            end = int(block.ends[block.ends.searchsorted(begin)])
            self._sink.append(memoryview(block.buffer)[begin:end])
            self._bytes += end - begin
            begin = end
        if begin < len(block.buffer):
            self._write_from(block, begin)

    def place(self) -> Place | None:
        """See `Resumable.place`."""
        place = self._sink.place()
        if place is None:
            return None
        self._prune()
        self._committed.append(self._number)
        return place | {"number": self._number}

    def resume(self, place: Place) -> None:
        """See `OutputFile.resume`; a file that was set aside after the commit is written on again."""
        again, number = place.pop("again", False), place.pop("number")
        beyond = [self._full(n) for n in self._full_numbers() if n > number]
        set_aside = self._fs.status(self._full(number)) is not None
        where = self._full(number) if set_aside else self._path
        try:
            if why := unlike(self._fs, where, place):
                raise SinkError(f"{where}: {why}")
            if again:
                later = [*beyond, self._path] if set_aside else beyond
                self._known.extend([(where, place["bytes"]), *((path, 0) for path in later)])
                return
            self._take_back(place, number, beyond, set_aside)
        except OSError as error:
            raise SinkError(f"{where}: cannot cut to its last commit: {error.strerror}") from error

    def _take_back(self, place: Place, number: int, beyond: list[Path], set_aside: bool) -> None:
        self.cut_bytes = 0
        for path in beyond:
            self.cut_bytes += self._size(path)
            self._fs.remove(path)
        if set_aside:
            self.cut_bytes += self._size(self._path)
            self._sink.file.close()
            self._fs.replace(self._full(number), self._path)
            self._sink = self._open_again(self._fs, self._path)
        self._sink.resume(place)
        self.cut_bytes += self._sink.cut_bytes or 0
        self._number, self._bytes = number, place["bytes"]

    def _size(self, path: Path) -> int:
        status = self._fs.status(path)
        return 0 if status is None else status.st_size

    def _compare(self, data: memoryview) -> int:
        """How many of the bytes are there already, from the start on."""
        done = 0
        while self._known and done < len(data):
            path, at = self._known[0]
            with closing(self._fs.open_read(path)) as file:
                there = self._fs.read_at(file, at, len(data) - done)
            if there != data[done : done + len(there)]:
                raise other_bytes(str(path), at)
            done += len(there)
            self._known[0] = path, at + len(there)
            if done < len(data):
                self._known.popleft()
        return done

    def _rename(self) -> None:
        self._fs.replace(self._path, self._full(self._number))
        self._fs.sync_folder(self._path.parent)
        self._number += 1

    def _prune(self) -> None:
        if len(self._committed) == self._committed.maxlen:
            last = self._committed[0] - self._config.keep
            for path in [self._full(number) for number in self._full_numbers() if number < last]:
                try:
                    self._fs.remove(path)
                except OSError as error:
                    raise SinkError(f"{path}: cannot delete: {error.strerror}") from error

    def _full(self, number: int) -> Path:
        return Path(f"{self._path}.{number:010d}")

    def _full_numbers(self) -> list[int]:
        """Of the full files there are, oldest first."""
        name = re.compile(re.escape(self._path.name) + r"\.(\d{10})")
        found = map(name.fullmatch, self._fs.names(self._path.parent))
        return [int(each[1]) for each in found if each]
