"""Finds the event of which the process dies, and parks it; docs/design.md says why it is found in this way.

The records that a run was serving when it died are served one at a time by the next, until they have passed.
An event that was being served alone when the process died, three runs running, is parked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from streamrnn.commit.parking import Parked, park, parking_of
from streamrnn.commit.underway import NAME as UNDERWAY
from streamrnn.commit.underway import SIZE, Death, Underway
from streamrnn.errors import StateError
from streamrnn.events import Origin

if TYPE_CHECKING:
    import logging

    from streamrnn.context import FileSystem
    from streamrnn.events import Block

NAME = "suspects.json"
DEATHS = 3
"""Of one event alone, after which it is parked."""
_MOST = 64
"""Suspicions at once; more than one needs deaths in partitions that take turns."""


class Suspect(msgspec.Struct):
    """Records that a run was serving when it died, from the position `first` to `last`.

    `number` is that of the first. A single event that was served alone has a `digest` of its bytes, and
    `deaths` counts how often it was.
    """

    source: str
    partition: str
    first: int
    last: int
    number: int
    digest: str = ""
    deaths: int = 0

    def __str__(self) -> str:
        """For a person."""
        if self.digest:
            return f"record {self.number} of {self.partition}, at {self.first}"
        return f"records of {self.partition} from number {self.number} on, at {self.first} to {self.last}"


class _Kept(msgspec.Struct):
    """What is in the file. `counted` is the last run whose death is in it."""

    counted: int = 0
    suspects: list[Suspect] = []


class Suspects:
    """A `Watch` over the events of a job: `begin` before the first of them, after all else was opened.

    Raises `StateError` if what was decided cannot be read, or what is to be kept not written.
    """

    def __init__(self, fs: FileSystem, folder: Path, log: logging.Logger) -> None:
        self._fs, self._folder, self._log = fs, folder, log
        self._alone = False
        self._parking = parking_of(fs, folder)
        self._underway = Underway(fs, self._memory())
        self._kept = self._read()

    @property
    def suspects(self) -> list[Suspect]:
        """Those that have not passed yet."""
        return self._kept.suspects

    def begin(self) -> None:
        """Think over how the last run ended, park what has been alone too often, and say so."""
        death = self._underway.death
        if death is not None and death.run > self._kept.counted:
            self._suspect(death)
            for suspect in [each for each in self.suspects if each.deaths >= DEATHS]:
                self._park(suspect)
            self._kept.counted = death.run
            self._write()
        self._underway.begin(after=self._kept.counted)
        for suspect in self.suspects:
            self._log.warning("suspect mode: %s served one at a time", suspect)

    def parts(self, block: Block) -> Iterable[Block]:
        """A block in the parts in which it is to be served: suspects alone, what is parked refused."""
        if self._parking:
            block = self._parking.refuse(block)
        return self._apart(block) if self._kept.suspects else (block,)

    def serving(self, block: Block) -> None:
        """These records are served from now on."""
        self._underway.serving(block, self._alone)

    def served(self) -> None:
        """And have been."""
        self._underway.served()

    def signalled(self) -> None:
        """The run was told to end: its death is nobody's fault. May be called on any thread."""
        self._underway.signalled()

    def close(self) -> None:
        """The run has ended by itself, be it with an error."""
        self._underway.close()

    def _suspect(self, death: Death) -> None:
        origin = death.origin
        found = Suspect(origin.source, origin.partition, death.first, death.last, death.number, death.digest)
        if not found.digest:
            told = "the last run died while it served %d events, without a signal or an error: %s"
            self._log.warning(told, death.count, found)
        for each in self.suspects:
            same = (each.source, each.partition, each.first, each.last, each.digest)
            if same == (found.source, found.partition, found.first, found.last, found.digest):
                found = each
                break
        else:
            self._kept.suspects = [*self.suspects, found][-_MOST:]
        if found.digest:
            found.deaths += 1
            told = "the last run died while it served %s alone, %d of the %d times that park it"
            self._log.warning(told, found, found.deaths, DEATHS)

    def _park(self, suspect: Suspect) -> None:
        self.suspects.remove(suspect)
        origin = Origin(suspect.source, suspect.partition)
        if self._parking.holds(origin, suspect.first, suspect.digest):
            return
        parked = Parked(suspect.source, suspect.partition, suspect.number, suspect.digest)
        park(self._fs, self._folder, parked, suspect.first)
        self._parking.add(parked, suspect.first)
        self._log.error(
            "%s is parked: the process died %d times while it served nothing else. It is refused with the "
            "code crash_suspect from now on, and control.log in %s says so",
            suspect,
            suspect.deaths,
            self._folder,
        )

    def _apart(self, block: Block) -> Iterator[Block]:
        start = 0
        for at in [*self._suspected(block), len(block)]:
            if at > start:
                yield block.part(start, at)
            if at < len(block):
                self._alone, alone = True, block.part(at, at + 1)
                yield alone
                self._alone = False
                self._pass(alone)
            start = at + 1
        self._pass(block)

    def _suspected(self, block: Block) -> list[int]:
        """Indices of the records that are to be served alone, rising."""
        found: set[int] = set()
        for each in self._kept.suspects:
            if (each.source, each.partition) == (block.origin.source, block.origin.partition):
                inside = (block.positions >= each.first) & (block.positions <= each.last)
                found.update(inside.nonzero()[0].tolist())
        return sorted(found)

    def _pass(self, block: Block) -> None:
        """Forget the suspicions that lie behind what was served, durably: they must not add up."""
        origin, end = block.origin, int(block.positions[-1])
        left = [
            each
            for each in self.suspects
            if (each.source, each.partition) != (origin.source, origin.partition) or each.last > end
        ]
        if len(left) < len(self.suspects):
            self._kept.suspects = left
            self._write()
            if not left:
                self._log.warning("the records under suspicion were served; suspect mode is over")

    def _memory(self) -> memoryview:
        try:
            return self._fs.shared(self._folder / UNDERWAY, SIZE)
        except OSError as error:
            told = "checkpoint: %s cannot be shared: %s; an event of which the process dies will not be found"
            self._log.warning(told, self._folder / UNDERWAY, error.strerror)
            return memoryview(bytearray(SIZE))

    def _read(self) -> _Kept:
        path = self._folder / NAME
        if self._fs.status(path) is None:
            return _Kept()
        try:
            return msgspec.json.decode(self._fs.read_bytes(path), type=_Kept)
        except (OSError, msgspec.MsgspecError) as error:
            self._log.warning("%s: cannot be read, so nothing is under suspicion: %s", path, error)
            return _Kept()

    def _write(self) -> None:
        path = self._folder / NAME
        unfinished = path.with_name(f"{NAME}.tmp")
        try:
            with closing(self._fs.open_write(unfinished, append=False)) as file:
                self._fs.write(file, msgspec.json.encode(self._kept) + b"\n")
                self._fs.sync(file)
            self._fs.replace(unfinished, path)
            self._fs.sync_folder(self._folder)
        except OSError as error:
            raise StateError(f"{path}: cannot be written: {error.strerror}") from error
