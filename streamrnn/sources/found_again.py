"""Which files are those that an earlier run followed, whatever became of their names meanwhile."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from streamrnn.errors import SourceError
from streamrnn.sources.compressed import GzipReader
from streamrnn.sources.identity import FIRST_BYTES, LAST_BYTES, identity

if TYPE_CHECKING:
    from streamrnn.context import FileSystem
    from streamrnn.ports import Place

_READ_BYTES = 1 << 20


@dataclass(eq=False)
class Candidate:
    """A file that may be one that was followed, or may have been rotated since; `max_ratio` if it is gzip."""

    name: str
    home: str
    """The followed name that it has, or had before it was rotated; empty if its name says nothing of it."""
    path: Path
    inode: tuple[int, int]
    modified_ns: int
    is_followed: bool
    max_ratio: float | None = None
    _length: int | None = None

    def is_like(self, fs: FileSystem, wanted: Place) -> bool:
        """Whether it begins as an identity says; one that begins otherwise need not be unpacked for that."""
        few = min(wanted["bytes"], FIRST_BYTES)
        if self.max_ratio is not None and identity(*self._ends(fs, few, 0))["first"] != wanted["first"]:
            return False
        first, last, length = self._ends(fs, wanted["bytes"], wanted["last_bytes"])
        return identity(first, last, length) == wanted

    def is_as(self, fs: FileSystem, wanted: Place) -> bool:
        """Whether it is the file of that inode that was left: by content, or when it was last changed."""
        if wanted["is"] is None:
            return self.modified_ns == int(wanted["modified_ns"])
        return self.is_like(fs, wanted["is"])

    def length(self, fs: FileSystem) -> int:
        """Bytes of its records; of a damaged gzip file, those before the damage."""
        if self._length is None:
            status = fs.status(self.path)
            self._length = 0 if status is None else status.st_size
            if self.max_ratio is not None:
                self._length = self._ends(fs, None, 0)[2]
        return self._length

    def identity(self, fs: FileSystem, length: int) -> Place:
        """Of its first `length` bytes."""
        return identity(*self._ends(fs, length, LAST_BYTES))

    def _ends(self, fs: FileSystem, length: int | None, last_bytes: int) -> tuple[bytes, bytes, int]:
        """The first and the last of at most `length` bytes, and how many there are."""
        with closing(fs.open_read(self.path)) as file:
            if self.max_ratio is not None:
                return _unpacked_ends(GzipReader(file, self.name, self.max_ratio), length, last_bytes)
            assert length is not None
            there = min(length, fs.status_of(file).st_size)
            start = max(0, there - last_bytes)
            return fs.read_at(file, 0, min(there, FIRST_BYTES)), fs.read_at(file, start, there - start), there


def _unpacked_ends(reader: GzipReader, length: int | None, last_bytes: int) -> tuple[bytes, bytes, int]:
    first, last, there = b"", b"", 0
    try:
        while length is None or there < length:
            data = reader.read(_READ_BYTES if length is None else min(_READ_BYTES, length - there))
            if not data:
                break
            first += data[: FIRST_BYTES - len(first)]
            last = (last + data)[-last_bytes:] if last_bytes else b""
            there += len(data)
    except SourceError:
        pass  # damaged, or still being written
    return first, last, there


@dataclass
class FoundAgain:
    """What became of the files of a place: `files` in its order; `rotated` since then, oldest first.

    `read` are the identities, with inodes, of files that were read to their ends, be they there or not;
    `copies` pairs of a file and the one that it repeats.
    """

    files: list[Candidate | None]
    rotated: list[Candidate] = field(default_factory=list)
    read: list[Place] = field(default_factory=list)
    copies: list[tuple[Candidate, Candidate]] = field(default_factory=list)


def find_again(fs: FileSystem, place: Place, candidates: Sequence[Candidate]) -> FoundAgain:
    """Match files by inode and content, then by content alone; the oldest if there are several."""
    by_inode: dict[tuple[int, int], list[Candidate]] = {}
    for candidate in candidates:
        by_inode.setdefault(candidate.inode, []).append(candidate)
    left = sorted(candidates, key=lambda candidate: (not candidate.home, candidate.modified_ns))

    def same_inode(wanted: Place) -> Candidate | None:
        there = by_inode.get((wanted["device"], wanted["inode"]), ())
        return next((each for each in there if each in left and each.is_as(fs, wanted)), None)

    def take(candidate: Candidate | None) -> Candidate | None:
        if candidate is not None:
            left[:] = [other for other in left if other.inode != candidate.inode]
        return candidate

    # One of which nothing was read cannot be told by content: it is found among those that are new.
    known = [wanted if wanted["is"]["bytes"] else None for wanted in place["files"]]
    found = FoundAgain([wanted and take(same_inode(wanted)) for wanted in known])
    gone = []
    for wanted in place["read"]:
        if take(same_inode(wanted)) is None:
            gone.append(wanted)
        else:
            found.read.append(wanted)
    for wanted in gone:
        copies = [each for each in left if _repeats(fs, each, wanted)]
        for copy in copies:
            take(copy)
            found.read.append({**wanted, "device": copy.inode[0], "inode": copy.inode[1]})
        if not copies:
            found.read.insert(0, wanted)
    for i, begun in enumerate(known):
        if found.files[i] is None and begun is not None:
            found.files[i] = take(next((each for each in left if each.is_like(fs, begun["is"])), None))
    _sort_rest(fs, found, left, place["read_until_ns"])
    return found


def _repeats(fs: FileSystem, candidate: Candidate, wanted: Place) -> bool:
    """Whether a file is a copy of one that was read to its end."""
    if candidate.is_followed or not candidate.home or wanted["is"] is None:
        return False
    length = wanted["is"]["bytes"]
    return length > 0 and candidate.is_like(fs, wanted["is"]) and candidate.length(fs) == length


def _sort_rest(fs: FileSystem, found: FoundAgain, left: Iterable[Candidate], read_until_ns: int) -> None:
    originals = [each for each in found.files if each] + [each for each in left if each.is_followed]
    for candidate in left:
        is_old = candidate.is_followed or candidate.modified_ns <= read_until_ns
        if is_old or not candidate.home or not candidate.length(fs):
            continue
        original = next((each for each in originals if _is_copy(fs, candidate, each)), None)
        if original is not None:
            found.copies.append((candidate, original))
        else:
            found.rotated.append(candidate)


def _is_copy(fs: FileSystem, candidate: Candidate, original: Candidate) -> bool:
    """Whether a file begins with all of another, as far as the first and last bytes show."""
    length = candidate.length(fs)
    return length <= original.length(fs) and candidate.identity(fs, length) == original.identity(fs, length)
