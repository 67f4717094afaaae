"""The cores of a pipeline: one, or one for each partition where nothing may cross from one to another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from streamrnn.core.footprint import device_bytes, footprint_bytes

if TYPE_CHECKING:
    from streamrnn.core.core import Core
    from streamrnn.core.store import Store
    from streamrnn.events import Mark, Origin

WHOLE = ""
"""The name of the only core of a source that has no partitions of its own."""
BESIDE = "@candidate/"
"""Before the name of a partition, in commits: the state of the candidate's core there."""


class Shards:
    """Cores by partition, each with its own keys, limits and largest times.

    If `partitioned`, a partition's core is made by `new_core` when its first record comes; else one core
    serves all, as the partition `WHOLE`.
    """

    def __init__(self, new_core: Callable[[], Core], partitioned: bool) -> None:
        self._new_core, self.partitioned = new_core, partitioned
        self._cores: dict[str, Core] = {}
        self._forgotten = (0, 0)
        self.forget()

    def forget(self) -> None:
        """Begin anew, as if nothing had been served or restored."""
        self._cores.clear()
        if not self.partitioned:
            self.at(WHOLE)

    def __len__(self) -> int:
        """Live keys of all partitions."""
        return sum(map(len, self._cores.values()))

    def items(self) -> Iterator[tuple[str, Core]]:
        """Partitions that have a core, sorted, each with it."""
        yield from sorted(self._cores.items())

    def kept(self) -> Iterator[tuple[str, Core]]:
        """What a commit holds: `items`, and the candidates' cores beside them."""
        yield from self.items()
        yield from ((BESIDE + name, core) for name, core in self.candidates())

    def candidates(self) -> Iterator[tuple[str, Core]]:
        """Partitions with the core of their candidate, where there is one."""
        for name, core in self.items():
            if core.candidate is not None:
                yield name, core.candidate

    def of(self, origin: Origin) -> Core:
        """The core that serves what comes from there."""
        return self.at(origin.partition if self.partitioned else WHOLE)

    def at(self, partition: str) -> Core:
        """The core of a partition."""
        if partition not in self._cores:
            self._cores[partition] = self._new_core()
        return self._cores[partition]

    def drop(self, partition: str) -> None:
        """Forget the core of a partition that others serve from now on."""
        if core := self._cores.pop(partition, None):
            self._forgotten = _sum([self._forgotten, core.forgotten])

    def mark(self, mark: Mark) -> None:
        """Between batches: the end of a partition means that partition; any other mark, all of them."""
        for core in self.meant(mark):
            core.mark(mark)

    def meant(self, mark: Mark) -> list[Core]:
        """The cores that a mark is for."""
        if self.partitioned and mark.kind == "source_end":
            return [self.of(mark.origin)]
        return [core for _, core in self.items()]

    @property
    def held(self) -> int:
        """Events that wait for their turn, in all partitions."""
        return sum(len(core.waiting) for core in self._cores.values() if core.waiting is not None)

    @property
    def footprint_bytes(self) -> int:
        """About how much memory the keys of one partition take at most."""
        return self._of_stores(footprint_bytes)

    @property
    def device_bytes(self) -> int:
        """The same of the devices that models keep states on."""
        return self._of_stores(device_bytes)

    def _of_stores(self, measured: Callable[[Store], int]) -> int:
        """Of a partition's keys, those of a candidate too."""
        core = next(iter(self._cores.values()), None) or self._new_core()
        beside = 0 if core.candidate is None else measured(core.candidate.store)
        return measured(core.store) + beside

    @property
    def forgotten(self) -> tuple[int, int]:
        """Keys that were evicted, and those that expired, since the run began."""
        return _sum([self._forgotten, *(core.forgotten for core in self._cores.values())])

    @property
    def events(self) -> int:
        """Events that were accepted, in all partitions."""
        return sum(core.store.sequence for core in self._cores.values())

    def moment(self) -> Mapping[str, object]:
        """What differs between two moments if anything happened to the state between them."""
        return {name: (core.store.sequence, dict(core.store.epochs)) for name, core in self.items()}


def _sum(pairs: Sequence[tuple[int, int]]) -> tuple[int, int]:
    return sum(first for first, _ in pairs), sum(second for _, second in pairs)
