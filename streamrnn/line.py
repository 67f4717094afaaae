"""The way of an event: what a pipeline is made of, and what it does between its two ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from streamrnn.encode import Answered, EncodeStage
from streamrnn.event import EventStage
from streamrnn.events import Block, Mark, OutBlock, Rejected
from streamrnn.order.policy import DUPLICATE
from streamrnn.reading import Reading, pieces, read
from streamrnn.watch import Unwatched, Watch

if TYPE_CHECKING:
    from streamrnn.backend import Backend
    from streamrnn.core import Core, Shards
    from streamrnn.core.candidate import Tally
    from streamrnn.core.probe import Verdict
    from streamrnn.events import Column, Columns, IntArray
    from streamrnn.order.waiting import Released, Waiting
    from streamrnn.ports import Sink, Source
    from streamrnn.rejects import Rejects
    from streamrnn.reserve import Reserve


@dataclass
class Parts:
    """What a pipeline is made of, in the order of the line."""

    name: str
    source: Source
    decode: Callable[[Block], Columns]
    event: EventStage
    backend_name: str
    backend: Backend
    shards: Shards
    encode: EncodeStage
    format: Callable[[Mapping[str, Column], int], tuple[bytes, IntArray]]
    sink: Sink
    rejects: Rejects
    verdict: Verdict
    max_batch_events: int
    reserve: Reserve | None = None
    watch: Watch = field(default_factory=Unwatched)
    candidate: Beside | None = None

    @property
    def backends(self) -> list[Backend]:
        """The model, and that of the candidate if there is one."""
        return [self.backend, *([self.candidate.backend] if self.candidate is not None else [])]


@dataclass
class Beside:
    """The model of the candidate that cores have beside them, and what is found of its answers."""

    backend: Backend
    verdict: Verdict
    tally: Tally


@dataclass(slots=True)
class Served:
    """One block that was served: what the core said of its events, and what is to be written."""

    answered: Answered
    out: OutBlock


def serve(parts: Parts, block: Block) -> Iterator[Served]:
    """The way of an event but for its ends: decode, event, order, core, encode."""
    core = parts.shards.of(block.origin)
    if core.waiting is not None and core.waiting.policy.behind is not None:
        for piece in pieces(parts.decode, parts.event, block):
            yield from _arrived(parts, core, core.waiting, piece)
        return
    for first, part in parts.watch.parts(block):
        parts.watch.serving(part)
        served = []
        for piece in pieces(parts.decode, parts.event, part, first):
            reading = piece if core.waiting is None else _arrive(core.waiting, piece)[0]
            served.append(answer(parts, core, reading))
            if reading.message is not None:
                core.mark(reading.message)
        parts.watch.served(part)
        yield from served


def _arrived(parts: Parts, core: Core, waiting: Waiting, piece: Reading) -> Iterator[Served]:
    """What is refused of it, or let go by it; all that waits goes on before a message."""
    reading, released = _arrive(waiting, piece)
    if reading.refused or reading.message is not None:
        yield answer(parts, core, reading)
    yield from _in_order(parts, core, released, reading.first)
    if reading.message is not None:
        yield from _in_order(parts, core, waiting.rest(), reading.first + len(reading.block) - 1)
        core.mark(reading.message)


def _arrive(waiting: Waiting, reading: Reading) -> tuple[Reading, Iterable[Released]]:
    """What goes on at once or is refused, and what is let go by it."""
    turn = waiting.arrive(reading.block, reading.records, reading.batch.time, reading.batch.ids)
    return reading.of(turn.kept, turn.refused), turn.released


def mark(parts: Parts, told: Mark) -> Iterator[Served]:
    """What travels between events: those before it that wait go on first, if it means anything."""
    for core in parts.shards.meant(told):
        yield from mark_core(parts, core, told)


def mark_core(parts: Parts, core: Core, told: Mark) -> Iterator[Served]:
    """The same for one core."""
    is_end = parts.shards.partitioned and told.kind == "source_end"
    if core.waiting is not None and (is_end or core.heeds(told)):
        yield from _in_order(parts, core, core.waiting.rest())
    core.mark(told)


def rest(parts: Parts) -> Iterator[Served]:
    """All that wait, once nothing more can come."""
    for _, core in parts.shards.items():
        if core.waiting is not None:
            yield from _in_order(parts, core, core.waiting.rest())


def _in_order(parts: Parts, core: Core, released: Iterable[Released], first: int = 0) -> Iterator[Served]:
    """Records that have waited are read once more, as if they had come only now.

    Who let them go is told from `first` on, in the block that was read.
    """
    for block, by in released:
        for start, part in parts.watch.parts(block):
            parts.watch.serving(part)
            let_go = (by[start : start + len(part)] + first).tolist()
            served = answer(parts, core, read(parts.decode, parts.event, part), let_go)
            parts.watch.served(part)
            yield served


def answer(parts: Parts, core: Core, reading: Reading, by: Sequence[int] | None = None) -> Served:
    """Core, encode; `by` as in `Released`, by default each by itself."""
    block, batch, records = reading.block, reading.batch, reading.records
    outputs = core.process(batch)
    refused = reading.refused | {int(records[i]): reason for i, reason in outputs.refused.items()}
    drops = core.waiting is not None and core.waiting.policy.drops
    let_go = range(reading.first, reading.first + len(block)) if by is None else by
    rejected = tuple(_rejected(block, i, let_go[i], refused[i], drops) for i in sorted(refused))
    answered = Answered(outputs, batch, core.cause_names)
    buffer, ends = parts.format(parts.encode.columns(answered, reading.decoded, records), len(outputs))
    keys = [batch.keys[i] for i in outputs.accepted.tolist()]
    silent = () if reading.message is None else (len(block) - 1,)
    return Served(answered, OutBlock(buffer, ends, keys, records[outputs.accepted], block, rejected, silent))


def _rejected(block: Block, i: int, by: int, reason: str, drops: bool) -> Rejected:
    position, number = int(block.positions[i]), int(block.numbers[i])
    kept = not (drops and reason == DUPLICATE)
    return Rejected(block.origin_of(i), position, number, reason, block.record(i), i, kept, by)
