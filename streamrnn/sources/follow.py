"""Events from files that are still being written and rotated."""

from __future__ import annotations

import stat
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from streamrnn.errors import SourceError
from streamrnn.events import Origin
from streamrnn.ports import EndOfStream
from streamrnn.sources.found_again import Candidate, FoundAgain, find_again
from streamrnn.sources.framers import place_in, resumed
from streamrnn.sources.packed import PackedTail
from streamrnn.sources.tail import Tail

if TYPE_CHECKING:
    from collections.abc import Iterator

    from streamrnn.builtins.ends import FileSourceConfig
    from streamrnn.context import Context
    from streamrnn.events import Block, Mark
    from streamrnn.ports import Framer, Place

_POLL_S = 0.05
_IDLE_SHARE = 9
"""A round without news is followed by so many times its duration of rest: a tenth of a core at most."""

Find = Callable[[], Iterable[tuple[str, Path]]]
"""Gives the names to follow, in order, with their paths; there may be nothing at a path."""
FindAll = Callable[[bool], list[Candidate]]
"""Gives the files at these names, those that may have had them once; with True all that lie beside."""

_READ_FILES = 64
"""How many files that were read to their ends are known by content; older ones by when they were changed."""


@dataclass(slots=True, eq=False)
class _File:
    """A followed file, wherever it was renamed to; `home` is the last of the followed names it had."""

    tail: Tail | PackedTail
    inode: tuple[int, int]
    home: str
    since_s: float
    """When it last grew, lost its last name or was found to have given its name to another file."""
    since_round: int
    after: _File | None = None
    """The file that had its name before and is to be read to the end first."""
    still: bool = False
    """Whether it was read to its end and has not grown for the time a rotated file is waited for."""
    left: bool = False


class FollowSource:
    """The `file` source with `follow`: what is there, and what is appended, until the pipeline is stopped.

    A file is known by its inode and stays open, so it is read once whatever its name becomes. A partition is
    the name under which a file was first found; the positions and numbers of the file that takes the name
    over begin anew. There is no `source_end`: a rotation is no end of the events.
    """

    def __init__(
        self,
        context: Context,
        find: Find,
        find_all: FindAll,
        new_framer: Callable[..., Framer],
        config: FileSourceConfig,
    ) -> None:
        self._context, self._fs, self._clock = context, context.fs, context.clock
        self._find, self._find_all, self._new_framer = find, find_all, new_framer
        self._wait_s, self._skips_lost = config.rotate_wait_s, config.if_lost == "skip"
        self._read: deque[Place] = deque()
        """Files that are not to be read, as they were read to their ends or were rotated before the start."""
        self._read_until_ns = 0
        """Rotated files that were not changed since then are not to be read either."""
        self._files: dict[tuple[int, int], _File] = {}
        self._at: dict[str, _File] = {}
        self._round: deque[_File] | None = None
        """Files whose turn is still to come; a round gives each the time to read what it had at its turn."""
        self._rounds = 0
        self._began_s = self._rest_until_s = 0.0
        self._current: _File | None = None
        self._found = False
        """Whether there was news in this round."""
        self._closed = False
        try:
            self._look(from_end=config.start == "end")
            if context.commits_kept and not context.resuming:
                self._note_rotated()
        except BaseException:
            self.close()
            raise

    def read(self, limit: int, wait_ms: int) -> Block | Mark | None:
        """See `Source.read`. Raises `SourceError` for what cannot be read; a missing file is waited for."""
        if self._closed:
            raise EndOfStream
        deadline_s = self._clock.monotonic() + wait_ms / 1000
        is_late = False
        while True:
            if file := self._current:
                if frames := file.tail.take(limit):
                    return frames.block(Origin("file", file.tail.name))
                if is_late:
                    return None
                if self._advance(file):
                    # A record may be endless: what completes none gets no more time than was allowed.
                    is_late = self._clock.monotonic() > deadline_s
                else:
                    self._end_turn(file)
            elif not self._next_turn():
                now_s = self._clock.monotonic()
                if now_s >= deadline_s:
                    return None
                self._clock.sleep(min(max(_POLL_S, self._rest_until_s - now_s), deadline_s - now_s))

    def position(self) -> Mapping[str, int]:
        """See `Source.position`: bytes from the start of each file, as `name@inode`."""
        return {f"{file.tail.name}@{file.inode[1]}": file.tail.position for file in self._files.values()}

    lag_unit = "bytes"

    def lag(self) -> Mapping[str, int]:
        """See `Source`: of each file, as it lies on the disk."""
        files = list(self._files.values())
        return {f"{file.tail.name}@{file.inode[1]}": file.tail.lag_bytes() for file in files}

    def place(self) -> Place:
        """See `Resumable.place`: the open files, by inode and content, and those that are done with."""
        files = list(self._files.values())
        number = {id(file): i for i, file in enumerate(files)}
        return {
            "files": [{**_left(file), "after": number.get(id(file.after))} for file in files],
            "read": list(self._read),
            "read_until_ns": self._read_until_ns,
        }

    def resume(self, place: Place) -> None:
        """See `Resumable.resume`. What was rotated since is read first, in the order of its changes."""
        for file in self._files.values():
            file.tail.close()
        self._files, self._at = {}, {}
        with _told_as("follow"):
            found = find_again(self._fs, place, self._find_all(True))
            self._read, self._read_until_ns = deque(found.read), place["read_until_ns"]
            self._tell(found, place)
            pairs = list(zip(found.files, place["files"], strict=True))
            files = [
                None if found_as is None else self._go_on(found_as, was, None) for found_as, was in pairs
            ]
            for opened, (_, was) in zip(files, pairs, strict=True):
                if opened is not None and was["after"] is not None:
                    opened.after = files[was["after"]]
            for candidate in found.rotated:
                self._go_on(candidate, None, self._at.get(candidate.home))
        self._look()

    def _go_on(self, candidate: Candidate, was: Place | None, after: _File | None) -> _File:
        """A file from where it was left, or from its start, once another was read to its end."""
        home, name = (was["home"], was["name"]) if was else (candidate.home, candidate.home)
        framer = was["framer"] if was else self._new_framer().place()  # type: ignore[attr-defined]
        tail: Tail | PackedTail
        if candidate.max_ratio is None:
            stream = self._fs.open_read(candidate.path)
            tail = Tail(self._context, name, stream, self._new_framer, False, framer)
        else:
            new = resumed(self._new_framer(), framer)
            start = framer["position"]
            tail = PackedTail(self._fs, name, candidate.path, candidate.max_ratio, new, start)
        file = _File(tail, candidate.inode, home, self._clock.monotonic(), self._rounds, after)
        self._files[candidate.inode] = self._at[home] = file
        return file

    def _tell(self, found: FoundAgain, place: Place) -> None:
        """What became of the files. Raises `SourceError` if something would be skipped that was not read."""
        lost = [was for was, file in zip(place["files"], found.files, strict=True) if file is None]
        for was in [was for was in lost if was["is"]["bytes"]]:
            left = f"{was['name']}: the file that was left at byte {was['is']['bytes']}"
            text = f"{left} is gone or was rewritten, and there is no copy of it"
            if not self._skips_lost:
                raise SourceError(
                    f"{text}; what came after that byte would be skipped: bring it back, or set if_lost: skip"
                )
            self._context.log.warning("%s; what came after that byte is skipped", text)
        for copy, original in found.copies:
            text = "%s: taken for a copy of %s, and not read"
            self._context.log.warning(text, copy.path.name, original.path.name)
        for candidate in found.rotated:
            text = "%s: was rotated while nothing ran; it is read before %s"
            self._context.log.info(text, candidate.path.name, candidate.home)

    def _note_rotated(self) -> None:
        """Files that were rotated before the first start are not part of the stream."""
        rotated = [each for each in self._find_all(False) if not each.is_followed]
        for each in sorted(rotated, key=lambda each: each.modified_ns):
            with _told_as(each.name):
                known = each.identity(self._fs, each.length(self._fs)) if each.max_ratio is None else None
            self._done_with(each.inode, known, each.modified_ns)

    def _done_with(self, inode: tuple[int, int], known: Place | None, modified_ns: int) -> None:
        device, number = inode
        self._read.append({"device": device, "inode": number, "is": known, "modified_ns": modified_ns})
        if len(self._read) > _READ_FILES:
            self._read_until_ns = max(self._read_until_ns, self._read.popleft()["modified_ns"])

    def close(self) -> None:
        """See `Source.close`."""
        self._closed = True
        for file in self._files.values():
            file.tail.close()

    def _advance(self, file: _File) -> bool:
        with _told_as(file.tail.name):
            grew = file.tail.advance()
            if (was := file.tail.replaced) is not None:
                file.tail.replaced = None
                if self._context.commits_kept:
                    self._catch_up(file, was)
                    self._current = None  # its turn comes again
        return grew

    def _catch_up(self, file: _File, was: Place | None = None) -> None:
        """Put before a file what had its name since it was looked up last, and lost it again.

        With `was`, that is at first the copy made of the file before it was cut, from there on.
        """
        place = self.place()
        at = list(self._files.values()).index(file)
        if was is not None:
            place["files"][at] |= {**was, "device": 0, "inode": 0}
        found = find_again(self._fs, place, self._find_all(False))
        self._read = deque(found.read)
        new = [c for c in found.rotated if c.home == file.home and not self._is_open(c)]
        behind = file.after
        if was is not None and (copy := found.files[at]) is not None and copy.inode not in self._files:
            behind = self._go_on(copy, place["files"][at], behind)
        elif was is not None:
            self._done_with((0, 0), was["is"], 0)
        for candidate in new:
            behind = self._go_on(candidate, None, behind)
        file.after = behind
        self._at[file.home] = file

    def _is_open(self, candidate: Candidate) -> bool:
        """Whether a file is one of those that are being read, or was made of one by compressing it."""
        if candidate.inode in self._files:
            return True
        whole = candidate.identity(self._fs, candidate.length(self._fs))
        return any(file.tail.has(whole) for file in self._files.values())

    def _next_turn(self) -> bool:
        """Turn to the next file; False after a round without news."""
        if self._round is None:
            self._began_s = self._clock.monotonic()
            if self._began_s < self._rest_until_s:
                return False
            self._rounds, self._found = self._rounds + 1, False
            self._look()
            self._round = deque(self._files.values())
        while self._round:
            file = self._round.popleft()
            if file.after is None or file.after.still:
                self._begin_turn(file)
                return True
        self._round = None
        if not self._found:
            now_s = self._clock.monotonic()
            self._rest_until_s = now_s + _IDLE_SHARE * (now_s - self._began_s)
        return self._found

    def _begin_turn(self, file: _File) -> None:
        file.after = None
        was_unlinked = file.tail.unlinked
        with _told_as(file.tail.name):
            file.tail.begin(self._clock.monotonic())
        if file.tail.unlinked and not was_unlinked:
            self._wait_for(file)
        self._current = file

    def _end_turn(self, file: _File) -> None:
        """Decide whether the file is read to its end for good."""
        if file.left:
            self._forget(file)
        elif file.tail.grew:
            self._wait_for(file)
        else:
            # A round later: what was replaced while names were looked up may turn up under another name.
            waited_s = self._clock.monotonic() - file.since_s
            file.still = waited_s >= self._wait_s and self._rounds > file.since_round
            file.left = file.still and (file.tail.unlinked or self._at[file.home] is not file)
            if file.left:  # it stays current, so that its last record is taken
                file.tail.finish()
                self._found = True
                return
        self._current = None

    def _wait_for(self, file: _File) -> None:
        file.since_s, file.since_round, file.still = self._clock.monotonic(), self._rounds, False
        self._found = True

    def _forget(self, file: _File) -> None:
        with _told_as(file.tail.name):
            self._done_with(file.inode, file.tail.identity(), file.tail.modified_ns())
        file.tail.close()
        del self._files[file.inode]
        if self._at[file.home] is file:
            del self._at[file.home]

    def _look(self, from_end: bool = False) -> None:
        """See which file is at which name by now."""
        for name, path in self._find():
            with _told_as(name):
                found = self._fs.status(path)
                if found is None:
                    continue
                if not stat.S_ISREG(found.st_mode):
                    raise SourceError(f"{name}: expected a regular file to follow; set follow to false")
                file = self._files.get((found.st_dev, found.st_ino)) or self._open(name, path, from_end)
            if file is None:
                continue
            before = self._at.get(name)
            if before is not None and before is not file:
                self._wait_for(before)
                if self._context.commits_kept and file.after is before:
                    self._catch_up(file)
            self._at[name], file.home = file, name

    def _open(self, name: str, path: Path, from_end: bool) -> _File | None:
        """The file at `path`, unless it is gone again; one that is known may have come there meanwhile."""
        try:
            stream = self._fs.open_read(path)
        except FileNotFoundError:
            return None
        found = self._fs.status_of(stream)
        inode = found.st_dev, found.st_ino
        if inode in self._files:
            stream.close()
            return self._files[inode]
        tail = Tail(self._context, name, stream, self._new_framer, from_end)
        now_s = self._clock.monotonic()
        self._files[inode] = _File(tail, inode, name, now_s, self._rounds, self._at.get(name))
        return self._files[inode]


def _left(file: _File) -> Place:
    """Where a file was left."""
    return {
        "name": file.tail.name,
        "home": file.home,
        "device": file.inode[0],
        "inode": file.inode[1],
        "framer": place_in(file.tail.framer),
        "is": file.tail.identity(),
    }


@contextmanager
def _told_as(name: str) -> Iterator[None]:
    """What the system refuses, as a `SourceError` about `name`."""
    try:
        yield
    except OSError as error:
        raise SourceError(f"{name}: cannot read: {error.strerror}") from error
