"""States for a model that takes over, made by serving once more what the source has read before.

The events of all keys go through the same decoding, order and rules as they did then, but through the new
model. At the end every key must stand where the pipeline has it, at the same event behind the same reset;
otherwise nothing is taken over.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from streamrnn.commit import control
from streamrnn.config.recorded import read_again
from streamrnn.core.columns import catch_up
from streamrnn.errors import StateError
from streamrnn.events import Block, Mark, Origin
from streamrnn.line import mark, serve
from streamrnn.ports import EndOfStream
from streamrnn.replay.replay import build_unwritten

if TYPE_CHECKING:
    from streamrnn.backend import Backend
    from streamrnn.config.spec import PipelineSpec
    from streamrnn.context import Context
    from streamrnn.core import Core
    from streamrnn.core.probe import Verdict
    from streamrnn.events import IntArray
    from streamrnn.line import Parts
    from streamrnn.registry import Registry

_COMPARED = ("steps", "position", "last_time", "pending", "fresh", "quarantined")
"""What two cores must agree on for a key, if the same events have reached it since its last reset."""
_PATIENCE = 50
"""Reads that give nothing, one after the other, before there is taken to be no more."""
_WAIT_MS = 10
_SOME = 1024
_OTHER_WAYS = "`keep` goes on with the states as they are if they have the same shapes, `reset` begins anew"

Room = Callable[[str, Block], int]
"""How many of a block's records come before the goal, given the partition whose core serves it."""


@dataclass
class Warming:
    """A pipeline of the new model that serves recorded data and writes nothing; `parts` are its own.

    `find_commands` reads what was asked of the pipeline from outside the stream.
    """

    parts: Parts
    source_name: str
    keeps_marks: bool
    find_commands: Callable[[], list[control.Entry]] = list
    _obeyed: int = 0
    _left: dict[str, deque[Block]] = field(default_factory=lambda: defaultdict(deque))
    """By partition, what was read and comes behind the goal."""

    def catch_up(self, goals: Mapping[str, int]) -> None:
        """Go on until each partition's core has accepted as many events as in `goals`, or there are no more.

        Raises `SourceError` if the recorded data cannot be read.
        """
        self._obey()
        shards = self.parts.shards
        self._advance(
            lambda partition, block: goals.get(partition, 0) - shards.at(partition).store.sequence,
            lambda: all(shards.at(name).store.sequence >= goal for name, goal in goals.items()),
        )

    def check(self, cores: Iterable[tuple[str, Core]]) -> None:
        """Catch up with a pipeline's cores, each with its partition.

        Raises `StateError` unless every key there has had the same events here.
        """
        cores = list(cores)
        self.catch_up({name: core.store.sequence for name, core in cores})
        problems = []
        for keys, core, theirs in self._keys(cores):
            self._hear_marks(core, theirs)
            problems += _differing(core, theirs, keys)
        if problems:
            raise StateError(
                f"warmup: {len(problems):,} keys could not be rebuilt, the first one {problems[0]}; what the "
                f"source has read must be there from each key's last reset on, and unchanged. {_OTHER_WAYS}"
            )

    def lay(self, cores: Iterable[tuple[str, Core]]) -> None:
        """Give every key of some cores, whose keys were checked, the state it has here."""
        for keys, core, theirs in self._keys(cores):
            mine, yours = (_rows(each, keys) for each in (core, theirs))
            core.store.before(mine)
            core.store.slab.write(mine, theirs.store.slab.read(yours))

    def close(self) -> None:
        """Give the recorded data back; the model is not its own."""
        self.parts.source.close()

    def _obey(self) -> None:
        """Do what was asked of the pipeline from outside, each where it was done."""
        shards = self.parts.shards
        entries = self.find_commands()
        for entry, reset in resets_of(entries):
            if entry.sequence > self._obeyed:
                self._go_to(entry)
                control.apply_reset(shards, reset, lambda core, told: core.mark(told))
        self._obeyed = len(entries)

    def _go_to(self, entry: control.Entry) -> None:
        shards = self.parts.shards
        if not shards.partitioned:
            (only,) = (core for _, core in shards.items())
            goal = entry.events
            self._advance(lambda _, block: goal - only.store.sequence, lambda: only.store.sequence >= goal)
            return
        reached = set[str]()

        def room(partition: str, block: Block) -> int:
            count = int(np.searchsorted(block.positions, entry.position.get(partition, 0)))
            if count < len(block) or int(block.positions[-1]) + 1 == entry.position.get(partition, 0):
                reached.add(partition)
            return count

        self._advance(room, lambda: reached >= {name for name, goal in entry.position.items() if goal})

    def _advance(self, room: Room, is_there: Callable[[], bool]) -> None:
        before, self._left = self._left, defaultdict(deque)
        for partition, blocks in before.items():
            for block in blocks:
                self._serve(partition, block, room)
        empty = 0
        while not is_there() and empty < _PATIENCE:
            try:
                found = self.parts.source.read(self.parts.max_batch_events, _WAIT_MS)
            except EndOfStream:
                return
            empty = empty + 1 if found is None else 0
            if isinstance(found, Mark):
                self._mark(found)
            elif found:
                found.origin = Origin(self.source_name, found.origin.partition)
                partition = found.origin.partition if self.parts.shards.partitioned else ""
                self._serve(partition, found, room)

    def _serve(self, partition: str, block: Block, room: Room) -> None:
        """Serve what comes before the goal, and keep the rest."""
        while True:
            count = 0 if self._left[partition] else min(len(block), room(partition, block))
            if count <= 0:
                self._left[partition].append(block)
                return
            for _ in serve(self.parts, block.part(0, count)):
                pass
            if count == len(block):
                return
            block = block.part(count, len(block))

    def _mark(self, told: Mark) -> None:
        if self.keeps_marks:
            for _ in mark(self.parts, told):
                pass

    def _keys(self, cores: Iterable[tuple[str, Core]]) -> Iterator[tuple[list[str], Core, Core]]:
        """All keys, as many at a time as can be in rows, with their cores there and here."""
        for name, core in cores:
            theirs = self.parts.shards.at(name)
            tiers = [each.store.tiers for each in (core, theirs)]
            some = min([_SOME, *(each.most_events for each in tiers if each is not None)])
            keys = list(core.store.each_key())  # bringing keys into rows changes what is iterated over
            for start in range(0, len(keys), some):
                yield keys[start : start + some], core, theirs

    def _hear_marks(self, core: Core, theirs: Core) -> None:
        """A mark behind the last event counts if the pipeline has heard it, too."""
        while core.store.epochs != theirs.store.epochs and not any(self._left.values()):
            try:
                found = self.parts.source.read(1, 0)
            except EndOfStream:
                return
            if not isinstance(found, Mark):
                return
            self._mark(found)


def build_warming(
    spec: PipelineSpec, registry: Registry, context: Context, backend: Backend, verdict: Verdict
) -> Warming:
    """For a pipeline and its new model. Raises `StateError` if its source cannot be read again."""
    again = read_again(spec, registry)
    if again is None:
        raise StateError(
            f"warmup: what the source '{spec.source.component.name}' has given cannot be read again; with "
            f"`durability: log` a source keeps it. {_OTHER_WAYS}"
        )
    if spec.file.order is not None and spec.file.order.type == "event_time":
        raise StateError(f"warmup: not together with `order: {{type: event_time}}`. {_OTHER_WAYS}")
    parts = build_unwritten(again, registry, context, spec, (backend, verdict))
    name, config = spec.source.component.name, spec.file.checkpoint
    warming = Warming(parts, name, keeps_marks=again.source.component is spec.source.component)
    if config is not None:
        folder = context.path(config.dir)
        warming.find_commands = lambda: control.read(context.fs, folder)[0]
    return warming


def resets_of(entries: Sequence[control.Entry]) -> list[tuple[control.Entry, Mapping[str, Any]]]:
    """Which keys began anew at which commands, as seen from the model that serves now.

    All of them did where a model took over with `reset`, or where a candidate began with it that was promoted
    later.
    """
    found: list[tuple[control.Entry, Mapping[str, Any]]] = []
    began: control.Entry | None = None
    for entry in entries:
        reload = entry.command.get("reload", {})
        if reload.get("state") == "promote" and began is not None:
            found.append((began, {"all": True}))
        if reload.get("state") == "reset":
            found.append((entry, {"all": True}))
        if "reset" in entry.command:
            found.append((entry, entry.command["reset"]))
        if (state := reload.get("candidate")) is not None:
            began = entry if state == "reset" else None
    return sorted(found, key=lambda each: each[0].sequence)


def _rows(core: Core, keys: list[str]) -> IntArray:
    """The rows of keys, wherever they lie; all of them are there."""
    core.store.alive(keys)
    return core.store.keys.index.find(keys)


def _differing(core: Core, theirs: Core, keys: list[str]) -> list[str]:
    """Which keys have had other events in one core than in the other, and how many."""
    there = set(theirs.store.alive(keys))
    problems = [f"'{key}', of which no event was found" for key in keys if key not in there]
    known = [key for key in keys if key in there]
    if not known:
        return problems
    columns = []
    for each in (core, theirs):
        columns.append(each.store.columns.take(_rows(each, known)))
        catch_up(columns[-1], each.store.epochs)
    differs = np.zeros(len(known), np.bool_)
    for name in _COMPARED:
        differs |= columns[0][name] != columns[1][name]
    for i in np.flatnonzero(differs).tolist():
        steps, found = (int(each["steps"][i]) for each in columns)
        problems.append(f"'{known[i]}', which has had {steps} events since its last reset, found {found}")
    return problems
