"""Events that are refused because the process died of them, each as `control.log` has it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import msgspec

from streamrnn.commit.underway import digest_of
from streamrnn.errors import StateError
from streamrnn.events import Origin
from streamrnn.refusals import CRASH_SUSPECT
from streamrnn.watch import Unwatched

if TYPE_CHECKING:
    from streamrnn.commit.control import Entry
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
    """All parked events of a job, by where they are from and position."""

    events: dict[Origin, dict[int, set[str]]] = field(default_factory=dict)

    @classmethod
    def of(cls, entries: Sequence[Entry]) -> Parking:
        """Those in the lines of a `control.log`. Raises `StateError` for one that cannot be read."""
        parking = cls()
        for entry in entries:
            if COMMAND in entry.command:
                try:
                    parked = msgspec.convert(entry.command[COMMAND], Parked)
                    parking.add(parked, entry.position[parked.partition])
                except (msgspec.ValidationError, KeyError) as error:
                    told = f"control.log: line {entry.sequence} does not say which event is parked: {error}"
                    raise StateError(told) from error
        return parking

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
        for origin, positions in self.events.items():
            for position, digests in positions.items():
                for i in (block.positions == position).nonzero()[0].tolist():
                    own = block.origin_of(i)
                    there = own.source == origin.source if anywhere else own == origin
                    if there and digest_of(block.record(i)).hex() in digests:
                        yield i


class Parks(Unwatched):
    """A `Watch` for a replay: what the pipeline has parked is refused, under whatever name its data has."""

    def __init__(self, parking: Parking) -> None:
        self._parking = parking

    def parts(self, block: Block) -> Iterable[tuple[int, Block]]:
        """See `Watch.parts`."""
        return ((0, self._parking.refuse(block, anywhere=True)),)
