"""Blocks as a pipeline understands them: events, what is refused, and messages that come between."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from streamrnn.events import Mark

if TYPE_CHECKING:
    from streamrnn.event import EventStage
    from streamrnn.events import Batch, Block, Columns, IntArray
    from streamrnn.rules import Asked


@dataclass(slots=True)
class Reading:
    """A block as it is understood: `batch` are its events, int64 [m] `records` says which record each is.

    `refused` has the reason by record. The last record may be a `message`, to be heeded once the others are
    served. The block begins with record `first` of the one that was read.
    """

    block: Block
    decoded: Columns
    batch: Batch
    records: IntArray
    refused: dict[int, str]
    message: Mark | None = None
    first: int = 0

    def of(self, kept: IntArray, refused: Mapping[int, str]) -> Reading:
        """With some of the events, and others refused; both are indices of the batch."""
        more = {int(self.records[i]): why for i, why in refused.items()}
        return replace(
            self, batch=self.batch.take(kept), records=self.records[kept], refused=self.refused | more
        )

    def part(self, start: int, stop: int) -> Reading:
        """Records start..stop of it, at least one."""
        inside = np.flatnonzero((self.records >= start) & (self.records < stop))
        return Reading(
            self.block.part(start, stop),
            self.decoded.take(np.arange(start, stop)),
            self.batch.take(inside),
            self.records[inside] - start,
            {i - start: reason for i, reason in self.refused.items() if start <= i < stop},
            first=self.first + start,
        )


def read(decode: Callable[[Block], Columns], event: EventStage, block: Block) -> Reading:
    """A block without messages."""
    decoded = decode(block)
    return Reading(block, decoded, *event.read(decoded, block))


def pieces(
    decode: Callable[[Block], Columns], event: EventStage, block: Block, first: int = 0
) -> Iterator[Reading]:
    """A block, cut behind each message; it begins with record `first` of what was read."""
    decoded = decode(block)
    messages = event.messages(decoded) if event.message_rules else {}
    whole = Reading(block, decoded, *event.read(decoded, block, messages), first=first)
    start = 0
    for at in sorted(messages):
        piece = whole.part(start, at + 1)
        piece.message = _mark(block, at, messages[at])
        yield piece
        start = at + 1
    if start < len(block):
        yield whole.part(start, len(block)) if start else whole


def _mark(block: Block, at: int, asked: Asked) -> Mark:
    return Mark("control", block.origin_of(at), int(block.positions[at]), asked.keys, asked.glob)
