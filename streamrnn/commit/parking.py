"""Events that are refused because the process died of them, each as `control.log` has it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import msgspec

from streamrnn.commit import control
from streamrnn.commit.underway import digest_of
from streamrnn.errors import StateError
from streamrnn.events import Origin
from streamrnn.refusals import CRASH_SUSPECT

if TYPE_CHECKING:
    from pathlib import Path

    from streamrnn.context import FileSystem
    from streamrnn.events import Block

COMMAND = "park"


class Parked(msgspec.Struct, frozen=True):
    """One event; `digest` is of its bytes, since another may come to stand at its position."""

    source: str
    partition: str
    number: int
    digest: str


@dataclass
class Parking:
    """All parked events of a job, by source, partition and position."""

    events: dict[Origin, dict[int, set[str]]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.events)

    def add(self, parked: Parked, position: int) -> None:
        """One more."""
        of_partition = self.events.setdefault(Origin(parked.source, parked.partition), {})
        of_partition.setdefault(position, set()).add(parked.digest)

    def holds(self, origin: Origin, position: int, digest: str) -> bool:
        """Whether that event is parked."""
        return digest in self.events.get(origin, {}).get(position, ())

    def refuse(self, block: Block, anywhere: bool = False) -> Block:
        """The same records, those that are parked refused, `anywhere` also those of other partitions."""
        found = list(self._found(block, anywhere))
        if not found:
            return block
        return replace(block, refused=block.refused | dict.fromkeys(found, CRASH_SUSPECT))

    def _found(self, block: Block, anywhere: bool) -> Iterator[int]:
        origins = [block.origin]
        if anywhere:
            origins = [origin for origin in self.events if origin.source == block.origin.source]
        for origin in origins:
            for position, digests in self.events.get(origin, {}).items():
                for i in (block.positions == position).nonzero()[0].tolist():
                    if digest_of(block.record(i)).hex() in digests:
                        yield i


def parking_of(fs: FileSystem, folder: Path) -> Parking:
    """What is parked in a folder of commits. Raises `StateError` if its log of decisions is damaged."""
    parking = Parking()
    for entry in control.read(fs, folder):
        if COMMAND in entry.command:
            try:
                parked = msgspec.convert(entry.command[COMMAND], Parked)
            except msgspec.ValidationError as error:
                path = folder / control.NAME
                raise StateError(f"{path}: decision {entry.sequence} cannot be read: {error}") from error
            parking.add(parked, entry.position[parked.partition])
    return parking


def park(fs: FileSystem, folder: Path, parked: Parked, position: int) -> None:
    """Write down, durably, that an event is refused from now on. Raises `StateError`."""
    control.append(fs, folder, {parked.partition: position}, {COMMAND: msgspec.to_builtins(parked)})
