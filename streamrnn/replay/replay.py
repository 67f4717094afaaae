"""A pipeline that serves recorded data and writes nothing."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from streamrnn.build import build_pipeline
from streamrnn.commit import control
from streamrnn.commit.parking import Parking, Parks
from streamrnn.config.recorded import log_of
from streamrnn.context import ManualClock
from streamrnn.core.shards import WHOLE
from streamrnn.events import Block, Mark, Origin
from streamrnn.line import Parts, Served, mark, mark_core, rest, serve
from streamrnn.ports import EndOfStream
from streamrnn.replay.until import Until

if TYPE_CHECKING:
    from streamrnn.backend import Backend
    from streamrnn.commit.control import Entry
    from streamrnn.config.spec import PipelineSpec
    from streamrnn.context import Context
    from streamrnn.core.probe import Verdict
    from streamrnn.events import OutBlock
    from streamrnn.registry import Registry

_NO_MARKS = ("stdin", "socket", "http", "websocket")
"""Sources of which the end of a file that recorded them is none of their own."""


@dataclass
class Replay:
    """Iterate to serve block after block, up to and with the event that `until` names.

    `parts` are those of the pipeline but for the sink and the file of refused events; between two blocks the
    state of its keys is in `parts.shards`. `limit` bounds the events of a block: with 1 every step is seen.
    What the pipeline has parked is refused here too, under whatever name its recorded data has.
    """

    parts: Parts
    source_name: str
    keeps_marks: bool
    until: Until | None = None
    limit: int | None = None
    by_hand: deque[Entry] = field(default_factory=deque)
    """What was asked of the job from outside the stream, each behind so many accepted events."""
    placed: Sequence[Entry] = ()
    """The same where only the place in each partition says when it was."""
    _done: dict[str, int] = field(default_factory=dict)
    """How many of `placed` took effect, by partition."""

    def __iter__(self) -> Iterator[Served]:
        while not self._is_over:
            room = self._obey()
            try:
                found = self.parts.source.read(min(room, self.limit or self.parts.max_batch_events), 0)
            except EndOfStream:
                for partition, _ in list(self.parts.shards.items()):
                    yield from self._obey_at(partition, None)
                yield from rest(self.parts)
                return
            if isinstance(found, Mark):
                yield from self._mark(found)
            elif found:
                yield from self._serve(found)

    def close(self) -> None:
        """Give the model and the recorded data back."""
        with ExitStack() as closing:
            closing.callback(self.parts.source.close)
            closing.callback(self.parts.backend.close)

    def _obey(self) -> int:
        """Do what is due by hand; how many records may be read until the next of it."""
        shards = self.parts.shards
        while self.by_hand:
            if (room := self.by_hand[0].events - shards.events) > 0:
                return room
            command = self.by_hand.popleft().command
            if "reset" in command:
                control.apply_reset(shards, command["reset"], lambda core, told: core.mark(told))
        return self.parts.max_batch_events

    @property
    def _is_over(self) -> bool:
        return self.until is not None and self.until.reached

    def _mark(self, told: Mark) -> Iterator[Served]:
        if self.until is not None:
            self.until.left(told.origin)
        if self.keeps_marks and not self._is_over:
            yield from mark(self.parts, told)

    def _serve(self, block: Block) -> Iterator[Served]:
        count = len(block) if self.until is None else self.until.cut(block, self.parts)
        # Limits on time go by the kind of source; the commit knows it under the name it had.
        block.origin = Origin(self.source_name, block.origin.partition)
        if count:
            yield from self._serve_between(block.part(0, count))

    def _serve_between(self, block: Block) -> Iterator[Served]:
        """Serve records with what was asked by hand between them."""
        partition = block.origin.partition
        is_parted = self.parts.shards.partitioned
        core, start = partition if is_parted else WHOLE, 0
        for entry in self.placed[self._done.get(core, 0) :]:
            place = entry.position.get(partition, 0) if is_parted else next(iter(entry.position.values()))
            at = int(np.searchsorted(block.positions, place))
            if at == len(block):
                break
            if at > start:
                yield from serve(self.parts, block.part(start, at))
                start = at
            yield from self._obey_at(core, self._done.get(core, 0) + 1)
        yield from serve(self.parts, block.part(start, len(block)) if start else block)

    def _obey_at(self, partition: str, until: int | None) -> Iterator[Served]:
        """Let keys of a partition begin anew, by the commands up to a number, or by all."""
        shards, served = self.parts.shards, list[Served]()
        for entry in self.placed[self._done.get(partition, 0) : until]:
            reset = entry.command["reset"]
            if reset.get("partition") in (None, partition):
                told = {**reset, "partition": partition}
                control.apply_reset(
                    shards, told, lambda core, mark: served.extend(mark_core(self.parts, core, mark))
                )
        self._done[partition] = len(self.placed) if until is None else until
        yield from served


def build_replay(spec: PipelineSpec, registry: Registry, context: Context, original: PipelineSpec) -> Replay:
    """The pipeline `spec`, whose source is recorded data, as a replay of `original`, whose source was live.

    Raises what `build_pipeline` raises.
    """
    parts = build_unwritten(spec, registry, replace(context, clock=ManualClock()), original)
    name, options = original.source.component.name, original.source.options
    keeps_marks = name not in _NO_MARKS and not getattr(options, "follow", False)
    return Replay(parts, name, keeps_marks)


def build_unwritten(
    spec: PipelineSpec,
    registry: Registry,
    context: Context,
    original: PipelineSpec,
    model: tuple[Backend, Verdict] | None = None,
) -> Parts:
    """What serves recorded data, the source of `spec`, as `original` would, and writes nothing.

    What `original` has parked is refused. Raises what `build_pipeline` raises, of which `model` is known.
    """
    file = spec.file.model_copy(update={"dead_letter": None, "candidate": None})
    alone = replace(spec, file=file, candidate=None)
    parts = build_pipeline(alone, registry, context, sink=_Nowhere(), model=model).parts
    if original.file.checkpoint is not None:
        entries, _ = control.read(context.fs, context.path(original.file.checkpoint.dir))
        parts.watch = Parks(Parking.of(entries))
    if log_of(original) and spec.source.component.name == "log":
        parts.shards.partitioned = False  # the log of a source that has no partitions itself
        parts.shards.forget()
    return parts


class _Nowhere:
    """A sink of nothing: outputs are compared on their way."""

    def write(self, block: OutBlock) -> None: ...
    def flush(self) -> None: ...
    def close(self) -> None: ...
