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
from streamrnn.sources.tail import Tail

if TYPE_CHECKING:
    from collections.abc import Iterator

    from streamrnn.builtins.ends import FileSourceConfig
    from streamrnn.context import Context
    from streamrnn.events import Block, Mark
    from streamrnn.ports import Framer

_POLL_S = 0.05
_IDLE_SHARE = 9
"""A round without news is followed by so many times its duration of rest: a tenth of a core at most."""

Find = Callable[[], Iterable[tuple[str, Path]]]
"""Gives the names to follow, in order, with their paths; there may be nothing at a path."""


@dataclass(slots=True, eq=False)
class _File:
    """A followed file, wherever it was renamed to; `home` is the last of the followed names it had."""

    tail: Tail
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
        self, context: Context, find: Find, new_framer: Callable[..., Framer], config: FileSourceConfig
    ) -> None:
        self._context, self._fs, self._clock = context, context.fs, context.clock
        self._find, self._new_framer = find, new_framer
        self._wait_s = config.rotate_wait_s
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

    def close(self) -> None:
        """See `Source.close`."""
        self._closed = True
        for file in self._files.values():
            file.tail.close()

    def _advance(self, file: _File) -> bool:
        with _told_as(file.tail.name):
            return file.tail.advance()

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


@contextmanager
def _told_as(name: str) -> Iterator[None]:
    """What the system refuses, as a `SourceError` about `name`."""
    try:
        yield
    except OSError as error:
        raise SourceError(f"{name}: cannot read: {error.strerror}") from error
