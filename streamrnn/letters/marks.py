"""The mark beside a file of refused events: what of it was replayed, and whether a replay is under way.

The mark is written twice: before the first output, with where the outputs end, and once all of them are on
the disk. A replay that died in between is taken back by the next one, which cuts the outputs to where they
ended and begins anew.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec

from streamrnn.errors import SinkError, StateError
from streamrnn.ports import Committing, Place, Resumable
from streamrnn.prefix import prefix_of, unlike

if TYPE_CHECKING:
    from streamrnn.commit.writer import Made
    from streamrnn.context import FileSystem
    from streamrnn.letters.source import LetterSource
    from streamrnn.line import Parts


class Begun(msgspec.Struct):
    """A replay under way: what it writes to, and where that ended; None if it cannot be cut."""

    into: dict[str, Any]
    sink: Place | None
    rejected: Place | None


class Mark(msgspec.Struct):
    """`done` is the byte of the file up to which letters were replayed, by code; `file` what lies before."""

    format: int = 1
    file: Place | None = None
    done: dict[str, int] = {}
    begun: Begun | None = None


@dataclass
class Marked:
    """The mark of the file `letters`, held by this replay alone until `close`."""

    fs: FileSystem
    letters: Path
    lock: BinaryIO
    mark: Mark = field(default_factory=Mark)

    def write(self, mark: Mark) -> None:
        """Replace the mark, durably. Raises `StateError`."""
        path = mark_path(self.letters)
        unfinished = path.with_name(f"{path.name}.tmp")
        try:
            with closing(self.fs.open_write(unfinished, append=False)) as file:
                self.fs.write(file, msgspec.json.encode(mark) + b"\n")
                self.fs.sync(file)
            self.fs.replace(unfinished, path)
            self.fs.sync_folder(path.parent)
        except OSError as error:
            raise StateError(f"{path}: cannot be written: {error.strerror}") from error
        self.mark = mark

    def begin(self, parts: Parts, into: Mapping[str, Any]) -> None:
        """Take back what a replay wrote that died, and say that one is under way.

        Raises `StateError` if it cannot be taken back, `SinkError` if the outputs are not what it left or
        cannot be written behind what they hold.
        """
        outputs = {"sink": parts.sink, "rejected": parts.rejects}
        if (begun := self.mark.begun) is not None:
            self._check(begun, into)
            for name, part in outputs.items():
                if isinstance(part, Resumable):
                    part.resume(dict(getattr(begun, name)))
        places = {name: part.place() for name, part in outputs.items() if isinstance(part, Resumable)}
        _check_format(parts, places.get("sink"))
        begun = Begun(dict(into), places.get("sink"), places.get("rejected"))
        self.write(Mark(file=self.mark.file, done=self.mark.done, begun=begun))

    def _check(self, begun: Begun, into: Mapping[str, Any]) -> None:
        path = mark_path(self.letters)
        told = f"{path}: a replay was begun and did not end"
        ways = f"remove {path.name} to replay all of it, whatever was written"
        if begun.into != into:
            was = json.dumps(begun.into, sort_keys=True)
            raise StateError(
                f"{told}; it wrote to {was}: run it again with the same sink and dead_letter, or {ways}"
            )
        if begun.sink is None or begun.rejected is None:
            raise StateError(f"{told}, and what it wrote cannot be taken back: {ways}")


def _check_format(parts: Parts, sink: Place | None) -> None:
    if isinstance(parts.format, Resumable) and sink is not None and sink.get("bytes"):
        raise SinkError(
            "encode: begins a file in a way of its own, as with a header, and the sink holds "
            f"{sink['bytes']} bytes already: give it another path, or name the columns with `header`"
        )


class Ending:
    """The `Committer` of a replay: its only commit is the mark that all of it was served."""

    def __init__(self, marked: Marked, source: LetterSource, parts: Parts) -> None:
        self.folder = marked.letters.parent
        self.told: Callable[[Made], None] = lambda made: None
        self.made: Made | None = None
        self.count, self.longest_s = 0, 0.0
        self._marked, self._source, self._parts = marked, source, parts

    def turn(self, events: int) -> None:
        """See `Committer.turn`: nothing counts before the end."""

    def commit(self) -> None:
        """Make the outputs durable and then the mark, if all letters were served."""
        if not self._source.has_ended:
            return
        sink, rejects = self._parts.sink, self._parts.rejects
        place = sink.place() if isinstance(sink, Resumable) else None
        if isinstance(rejects, Resumable):
            rejects.place()
        marked, done = self._marked, self._source.done
        file = prefix_of(marked.fs, marked.letters, max(done.values(), default=0))
        marked.write(Mark(file=file, done=done))
        if isinstance(sink, Committing) and place is not None:
            sink.committed(place, place)

    def close(self) -> None:
        """Let others replay the file."""
        self._marked.lock.close()


def mark_path(letters: Path) -> Path:
    """Where the mark of a file lies."""
    return letters.with_name(f"{letters.name}.replayed")


def hold(fs: FileSystem, letters: Path) -> Marked:
    """The mark of a file, held.

    Raises `StateError` if another replay holds it, or it is of another file.
    """
    path = mark_path(letters)
    try:
        lock = fs.lock(path.with_name(f"{path.name}.lock"))
    except OSError as error:
        raise StateError(f"{path}: cannot be locked: {error.strerror}") from error
    if lock is None:
        raise StateError(f"{letters}: another replay of it is under way")
    try:
        return Marked(fs, letters, lock, _read(fs, letters, path))
    except BaseException:
        lock.close()
        raise


def _read(fs: FileSystem, letters: Path, path: Path) -> Mark:
    if fs.status(path) is None:
        return Mark()
    try:
        mark = msgspec.json.decode(fs.read_bytes(path), type=Mark)
        why = unlike(fs, letters, mark.file) if mark.file is not None else None
    except (OSError, msgspec.MsgspecError, KeyError) as error:
        raise StateError(f"{path}: cannot be read: {error}") from error
    if mark.format != 1:
        raise StateError(f"{path}: has format {mark.format}, this version reads format 1")
    if why:
        raise StateError(
            f"{letters}: is not the file that was replayed: {why}; remove {path.name} if all of it is new"
        )
    return mark
