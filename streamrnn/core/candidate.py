"""A second model on the same events: compared with the first one, and answering for some of the keys.

Both models have cores of their own and are given every event, so that either can go on alone at any moment
with the states it would have had.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from streamrnn.core.core import Core
from streamrnn.core.gone import hashes_of
from streamrnn.events import Outputs

if TYPE_CHECKING:
    from streamrnn.events import Array, Batch, BoolArray, IntArray, Mark

WORST = 20
"""Keys that are remembered for how much their answers differed."""


@dataclass
class Tally:
    """What two models have answered to the same events, since the candidate began in this process.

    The distance of two answers is the largest |a - b| / (1 + |a|) of all their numbers. `differing` events
    are further apart than `tolerance`; `apart` are those that only one model answered. `worst` has the
    largest distance of each of the keys that differ most, those first.
    """

    tolerance: float
    events: int = 0
    differing: int = 0
    apart: int = 0
    answered: int = 0
    """Events whose answer was the candidate's."""
    largest: float = 0.0
    worst: dict[str, float] = field(default_factory=dict)
    error: str = ""
    """Why the candidate serves no more."""

    def compare(self, keys: Sequence[str], mine: Outputs, theirs: Outputs) -> None:
        """Add the answers to a batch, whose keys are given."""
        both, a, b = np.intersect1d(mine.accepted, theirs.accepted, assume_unique=True, return_indices=True)
        self.events += len(both)
        self.apart += len(mine.accepted) + len(theirs.accepted) - 2 * len(both)
        if not len(both):
            return
        distance = np.zeros(len(both))
        for name, array in mine.y.items():
            distance = np.maximum(distance, _distance(array[a], theirs.y[name][b]))
        differing = distance > self.tolerance
        self.differing += int(differing.sum())
        self.largest = max(self.largest, float(distance.max()))
        if differing.any():
            self._remember(keys, both, distance)

    def _remember(self, keys: Sequence[str], index: IntArray, distance: Array) -> None:
        most = np.argsort(-distance, kind="stable")[: 4 * WORST]
        for i in most[distance[most] > self.tolerance].tolist():
            key = keys[int(index[i])]
            self.worst[key] = max(self.worst.get(key, 0.0), float(distance[i]))
        kept = sorted(self.worst, key=lambda key: (-self.worst[key], key))[:WORST]
        self.worst = {key: self.worst[key] for key in kept}


@dataclass(frozen=True)
class Share:
    """The keys whose answers are the candidate's: `share` of all, other ones with another `salt`."""

    share: float = 0.0
    salt: str = ""

    def holds(self, keys: Sequence[str]) -> BoolArray:
        """bool [n]; of a key always the same."""
        salt = f"{self.salt}\0"
        hashes = hashes_of([f"{salt}{key}".encode() for key in keys])
        if self.share >= 1:  # the largest hashes are 2**64 as floats
            return np.ones(len(keys), np.bool_)
        held: BoolArray = hashes.astype(np.float64) < self.share * 2.0**64
        return held


class WithCandidate(Core):
    """A core that serves as it would alone, but for keys whose answers are those of `candidate`.

    Without a share, nothing that the candidate raises reaches the stream: it is told with `on_failure`, and
    the candidate serves no more.
    """

    candidate: Core | None

    def __init__(
        self,
        *given: Any,
        candidate: Core,
        share: Share,
        tally: Tally,
        on_failure: Callable[[str], None],
    ) -> None:
        super().__init__(*given)
        self.candidate, self._share, self.tally, self._on_failure = candidate, share, tally, on_failure

    def process(self, batch: Batch) -> Outputs:
        """See `Core.process`."""
        mine = super().process(batch)
        theirs = self._beside(batch)
        if theirs is None:
            return mine
        self.tally.compare(batch.keys, mine, theirs)
        if not self._share.share:
            return mine
        is_theirs = self._share.holds(batch.keys)
        self.tally.answered += int(is_theirs[theirs.accepted].sum())
        return _merged(mine, theirs, is_theirs)

    def mark(self, mark: Mark) -> None:
        """See `Core.mark`."""
        super().mark(mark)
        if self.candidate is not None:
            self.candidate.mark(mark)

    def _beside(self, batch: Batch) -> Outputs | None:
        if self.tally.error:
            self.candidate = None
        if self.candidate is None:
            return None
        try:
            return self.candidate.process(batch)
        except Exception as error:
            if self._share.share:
                raise
            self.tally.error, self.candidate = f"{type(error).__name__}: {error}", None
            self._on_failure(self.tally.error)
            return None


def _distance(a: Array, b: Array) -> Array:
    """float64 [n]: the largest |a - b| / (1 + |a|) of each row."""
    flat, other = (each.reshape(len(each), -1).astype(np.float64) for each in (a, b))
    found: Array = (np.abs(flat - other) / (1 + np.abs(flat))).max(axis=1, initial=0.0)
    return found


def _merged(mine: Outputs, theirs: Outputs, is_theirs: BoolArray) -> Outputs:
    """Each event's answer, or refusal, by whoever answers for its key."""
    a, b = np.flatnonzero(~is_theirs[mine.accepted]), np.flatnonzero(is_theirs[theirs.accepted])
    accepted = np.concatenate([mine.accepted[a], theirs.accepted[b]])
    order = np.argsort(accepted, kind="stable")

    def both(one: Array, other: Array) -> Array:
        joined: Array = np.concatenate([one[a], other[b]])[order]
        return joined

    refused = {i: why for i, why in mine.refused.items() if not is_theirs[i]}
    refused |= {i: why for i, why in theirs.refused.items() if is_theirs[i]}
    y = {name: both(array, theirs.y[name]) for name, array in mine.y.items()}
    steps, cause = both(mine.steps, theirs.steps), both(mine.cause, theirs.cause)
    return Outputs(accepted[order], y, steps, cause, refused)
