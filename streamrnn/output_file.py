"""A file that records are appended to, and that a later run can go on with."""

from __future__ import annotations

import stat
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from streamrnn.errors import SinkError
from streamrnn.prefix import prefix_of, unlike

if TYPE_CHECKING:
    from streamrnn.context import FileSystem
    from streamrnn.ports import Place


class OutputFile:
    """Takes bytes without a buffer of its own. `told` stands before every message: what the file is.

    All methods raise `SinkError`.
    """

    def __init__(self, fs: FileSystem, path: Path, told: str, append: bool) -> None:
        self._fs, self._path, self._told = fs, path, told
        self._named = False
        """Whether the file's name is on the disk as well as what it holds."""
        self._compared: int | None = None
        """Up to where the bytes that are there were made again; None once all of them were."""
        self.cut_bytes: int | None = None
        """How much `resume` took away; None if it did not, as for a pipe."""
        try:
            fs.make_parents(path)
            self.file: BinaryIO = fs.open_write(path, append=append)
        except OSError as error:
            raise self._failure("cannot open", error) from error

    @property
    def comparing(self) -> bool:
        """Whether there are still bytes ahead that an earlier run wrote, to be made again."""
        return self._compared is not None and self._compared < self._fs.status_of(self.file).st_size

    def append(self, data: bytes | memoryview) -> None:
        """All of `data`, behind what is there; or compared with it, as far as it is to be made again."""
        try:
            if self._compared is not None:
                data = self._compare(self._compared, data)
            self._fs.write(self.file, data)
        except OSError as error:
            raise self._failure("cannot write", error) from error

    def sync(self) -> None:
        """Return when all that was written is on the disk."""
        try:
            self._fs.sync(self.file)
        except OSError as error:
            raise self._failure("cannot write to the disk", error) from error

    def place(self) -> Place | None:
        """See `Resumable.place`."""
        return self.placing()()

    def placing(self) -> Callable[[], Place | None]:
        """See `Resumable`: the end of the file as it is now."""
        try:
            status = self._fs.status_of(self.file)
        except OSError as error:
            raise self._failure("cannot be asked for its size", error) from error
        if not stat.S_ISREG(status.st_mode):
            return lambda: None
        return partial(self._durable, status.st_size)

    def _durable(self, size: int) -> Place:
        try:
            self._fs.sync(self.file)
            if not self._named:
                self._fs.sync_folder(self._path.parent)
                self._named = True
            return prefix_of(self._fs, self._path, size)
        except OSError as error:
            raise self._failure("cannot write to the disk", error) from error

    def resume(self, place: Place) -> None:
        """Cut what is behind the place; with `again` in it, keep that and compare what comes with it."""
        try:
            again = place.pop("again", False)
            if why := unlike(self._fs, self._path, place):
                raise SinkError(f"{self._told}: {why}")
            if again:
                self._compared = place["bytes"]
            else:
                self.cut_bytes = self._fs.status_of(self.file).st_size - place["bytes"]
                self._fs.truncate(self.file, place["bytes"])
        except OSError as error:
            raise self._failure("cannot cut to its last commit", error) from error

    def close(self) -> None:
        """Sync and close; twice is fine."""
        if self.file.closed:
            return
        try:
            self.sync()
        finally:
            self.file.close()

    def _compare(self, start: int, data: bytes | memoryview) -> bytes | memoryview:
        """What of `data` goes beyond the bytes that are there, which must be the same."""
        with closing(self._fs.open_read(self._path)) as there:
            known = self._fs.read_at(there, start, len(data))
        if known != data[: len(known)]:
            raise other_bytes(self._told, start)
        self._compared = start + len(data) if len(known) == len(data) else None
        return data[len(known) :]

    def _failure(self, what: str, error: OSError) -> SinkError:
        return SinkError(f"{self._told}: {what}: {error.strerror}")


def other_bytes(told: str, start: int) -> SinkError:
    """Why a file is not gone on with that is to be made again from byte `start` on."""
    return SinkError(
        f"{told}: the bytes from byte {start} on are not what the events give that were served again after a "
        "commit was found broken, and somebody may have read them; move the file away, or cut it to "
        f"{start} bytes if nobody did"
    )
