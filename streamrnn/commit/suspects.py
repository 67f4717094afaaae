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

from streamrnn.commit.parking import COMMAND, Parked, Parking
from streamrnn.commit.underway import NAME as UNDERWAY
from streamrnn.commit.underway import Death, Underway, size_for
from streamrnn.errors import StateError
from streamrnn.events import Origin

if TYPE_CHECKING:
    from streamrnn.commit.control import ControlLog
    from streamrnn.context import Context
    from streamrnn.events import Block

NAME = "suspects.json"
DEATHS = 3
"""Of one event alone, after which it is parked."""
_MOST = 64
"""Suspicions at once; more than one needs deaths in partitions that take turns."""


class Suspect(msgspec.Struct):
    """Records of one partition that a run was serving when it died, by position; `left` have not passed yet.

    `number` is that of the first. A single event that was served alone has a `digest` of its bytes, and
    `deaths` counts how often it was. Such records come again among the first `within` of a run, or never.
    """

    source: str
    partition: str
    positions: list[int]
    number: int
    within: int
    digest: str = ""
    deaths: int = 0
    left: int = 0

    @property
    def origin(self) -> Origin:
        """Where they are from."""
        return Origin(self.source, self.partition)

    def __str__(self) -> str:
        """For a person."""
        if self.digest:
            return f"record {self.number} of {self.partition}, at {self.positions[0]}"
        return f"{len(self.positions)} records of {self.partition}, number {self.number} among them"


class _Kept(msgspec.Struct):
    """What is in the file. `counted` is the last run whose death is in it."""

    counted: int = 0
    suspects: list[Suspect] = []


class Suspects:
    """A `Watch` over the events of a job: `begin` before the first of them, after all else was opened.

    `most` records make a batch at most. Raises `StateError` if what was decided cannot be read, or what is to
    be kept not written.
    """

    def __init__(self, folder: Path, context: Context, control: ControlLog, most: int) -> None:
        self._fs, self._folder, self._log = context.fs, folder, context.log
        self._control, self._most = control, most
        self._parking = Parking.of(control.entries)
        self._underway = Underway(context.fs, self._memory())
        self._kept = self._read()
        self._taken = 0
        self.now: Block | None = None
        self._open: dict[tuple[Origin, int], list[Suspect]] = {}

    @property
    def suspects(self) -> list[Suspect]:
        """Those that have not passed yet."""
        return self._kept.suspects

    def begin(self, commit: int, events: int) -> None:
        """Think over how the last run ended, park what has been alone too often, and say so.

        This run goes on from the commit of that number, behind so many events.
        """
        death = self._underway.death
        if death is not None and death.run > self._kept.counted:
            self._suspect(death)
            for suspect in [each for each in self.suspects if each.deaths >= DEATHS]:
                self._park(suspect, commit, events)
            self._kept.counted = death.run
            self._write()
        self._look_for()
        self._underway.begin(after=self._kept.counted)
        for suspect in self.suspects:
            self._log.warning("suspect mode: %s served one at a time", suspect)

    def parts(self, block: Block) -> Iterable[tuple[int, Block]]:
        """See `Watch.parts`: suspects are alone, what is parked is refused."""
        if self._parking:
            block = self._parking.refuse(block)
        return self._apart(block) if self._kept.suspects else ((0, block),)

    def serving(self, block: Block) -> None:
        """See `Watch.serving`."""
        self.now = block
        is_alone = bool(self._open) and len(block) == 1 and bool(self._suspected(block))
        self._taken = self._underway.serving(block, is_alone)

    def served(self, block: Block) -> None:
        """See `Watch.served`."""
        self._underway.served()
        if self._kept.suspects:
            self._pass(block)

    def signalled(self) -> None:
        """See `Watch.signalled`."""
        self._underway.signalled()

    def close(self) -> None:
        """See `Watch.close`."""
        self._underway.close()

    def _suspect(self, death: Death) -> None:
        if not death.digest:
            told = "the last run died while it served %d events, without a signal or an error"
            self._log.warning(told, sum(map(len, death.records.values())))
        for origin, positions in death.records.items():
            found = Suspect(
                origin.source, origin.partition, positions, death.number, death.taken, death.digest
            )
            for each in self.suspects:
                if (each.origin, each.positions, each.digest) == (origin, positions, death.digest):
                    found = each
                    break
            else:
                self._kept.suspects = [*self.suspects, found][-_MOST:]
            if death.digest:
                found.deaths += 1
                told = "the last run died while it served %s alone, %d of the %d times that park it"
                self._log.warning(told, found, found.deaths, DEATHS)

    def _park(self, suspect: Suspect, commit: int, events: int) -> None:
        self.suspects.remove(suspect)
        position = suspect.positions[0]
        if self._parking.holds(suspect.origin, position, suspect.digest):
            return
        parked = Parked(suspect.source, suspect.partition, suspect.number, suspect.digest)
        command = {COMMAND: msgspec.to_builtins(parked)}
        self._control.append(command, commit, events, {suspect.partition: position})
        self._control.done = len(self._control.entries)
        self._parking.add(parked, position)
        self._log.error(
            "%s is parked: the process died %d times while it served nothing else. It is refused with the "
            "code crash_suspect from now on, and control.log in %s says so",
            suspect,
            suspect.deaths,
            self._folder,
        )

    def _apart(self, block: Block) -> Iterator[tuple[int, Block]]:
        start = 0
        for at in [*self._suspected(block), len(block)]:
            if at > start:
                yield start, block.part(start, at)
            if at < len(block):
                yield at, block.part(at, at + 1)
            start = at + 1

    def _suspected(self, block: Block) -> list[int]:
        """Indices of the records that are to be served alone, rising."""
        positions = enumerate(block.positions.tolist())
        return [i for i, position in positions if (block.origin_of(i), position) in self._open]

    def _pass(self, block: Block) -> None:
        """Forget the suspicions that were served, durably: they must not add up."""
        for i in self._suspected(block):
            for each in self._open.pop((block.origin_of(i), int(block.positions[i]))):
                each.left -= 1
        over = [each for each in self.suspects if not each.left or self._taken > 2 * each.within + self._most]
        if over:
            self._kept.suspects = [each for each in self.suspects if each not in over]
            if not self.suspects:
                self._open.clear()  # what is left in it will never come
            self._write()
            if not self.suspects:
                self._log.warning("the records under suspicion were served; suspect mode is over")

    def _look_for(self) -> None:
        """Index what is under suspicion by where it is."""
        for each in self.suspects:
            each.left = len(each.positions)
            for position in each.positions:
                self._open.setdefault((each.origin, position), []).append(each)

    def _memory(self) -> memoryview:
        try:
            return self._fs.shared(self._folder / UNDERWAY, size_for(self._most))
        except OSError as error:
            told = "checkpoint: %s cannot be shared: %s; an event of which the process dies will not be found"
            self._log.warning(told, self._folder / UNDERWAY, error.strerror)
            return memoryview(bytearray(size_for(self._most)))

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
