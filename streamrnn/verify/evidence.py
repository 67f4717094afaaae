"""What the search for a cause has to go on."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from streamrnn.verify.compare import Gap, Tolerance, compare
from streamrnn.verify.models import answers, fitted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from streamrnn.backend import Arrays
    from streamrnn.config.spec import PipelineSpec
    from streamrnn.events import IntArray
    from streamrnn.offline import Offline
    from streamrnn.verify.stream import Log, Stream


@dataclass(frozen=True)
class Side:
    """The live pipeline or the reference: its file, stream and model, and the answers [n, *shape] it gave."""

    name: str
    spec: PipelineSpec
    stream: Stream
    model: Offline
    y: Arrays
    refused: Mapping[int, str]


@dataclass
class Evidence:
    """Both sides over the same log; the reference's outputs have the live ones' names."""

    log: Log
    live: Side
    reference: Side
    outputs: Mapping[str, str]
    tolerance: Tolerance = field(default_factory=Tolerance)

    @cached_property
    def common(self) -> tuple[IntArray, IntArray]:
        """The events that both sides accepted: their places in the live stream and in the reference's."""
        there, at = self.reference.stream.find(self.live.stream.records)
        return np.flatnonzero(there), at[there]

    @cached_property
    def gap(self) -> Gap:
        """The answers to common events compared; events count in `common`."""
        ours, theirs = self.common
        live = {name: y[ours] for name, y in self.live.y.items()}
        return compare(live, {name: self.reference.y[name][theirs] for name in live}, self.tolerance)

    def same(self, model: Offline, side: Side, stream: Stream) -> Gap | None:
        """How a model's answers to a part of a side's stream, or to it changed, compare with that side's own.

        None if the model cannot take the stream. `stream` has only records of the side's.
        """
        taken = fitted(stream, model.inputs)
        if taken is None:
            return None
        found = answers(model, taken)
        at = side.stream.find(stream.records)[1]
        expected = {name: side.y[name][at] for name in self.outputs}
        renamed = {
            ours: found[ours if ours in found else theirs].reshape(expected[ours].shape)
            for ours, theirs in self.outputs.items()
        }
        return compare(renamed, expected, self.tolerance)
