"""Differences in the models themselves, found by changing one thing at a time until the answers agree."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from streamrnn.errors import ModelError
from streamrnn.verify.compare import Gap
from streamrnn.verify.inputs import column_names
from streamrnn.verify.stream import CARRIED, INITIAL

if TYPE_CHECKING:
    from streamrnn.events import IntArray
    from streamrnn.offline import Offline
    from streamrnn.verify.evidence import Evidence, Side
    from streamrnn.verify.stream import Stream

_SAMPLE_EVENTS = 200
_AFTER = 8
"""Events behind the first that differs, so that one agreement by chance is not enough."""
_STEPS_MAX = 2_000_000
"""Events that may be played in search of a cause."""


@dataclass(frozen=True)
class Hypothesis:
    """A model over a stream changed by `change` that may give the answers of `side`."""

    text: str
    model: Offline
    side: Side
    change: Callable[[Stream], Stream]


@dataclass
class Search:
    """Tries hypotheses on a part of the log, and what fits there on all of it."""

    evidence: Evidence
    tried: int = 0
    steps: int = 0

    @property
    def exhausted(self) -> bool:
        """Whether so much was tried that it must end."""
        return self.steps > _STEPS_MAX

    def first(self, hypotheses: Iterator[Hypothesis]) -> str | None:
        """The first hypothesis under which everything agrees, in words; None if none does."""
        stages: dict[str, list[Stream]] = {}
        for hypothesis in hypotheses:
            if self.exhausted:
                return None
            side = hypothesis.side
            if side.name not in stages:
                stages[side.name] = [*map(side.stream.take, self._samples(side)), side.stream]
            self.tried += 1
            worst = 0.0
            for stream in stages[side.name]:
                gap = self._gap(hypothesis, stream)
                if gap:
                    break
                worst = gap.worst
            else:
                return f"{hypothesis.text}; this explains all of it (largest distance left {worst:.2g})"
        return None

    def agrees(self, model: Offline, side: Side) -> bool:
        """Whether a model gives a side's answers to that side's own stream."""
        gap = self.evidence.same(model, side, side.stream)
        return gap is not None and not gap

    def _gap(self, hypothesis: Hypothesis, stream: Stream) -> Gap:
        """What the hypothesis leaves different; everything, if the model does not take the stream."""
        self.steps += len(stream)
        try:
            gap = self.evidence.same(hypothesis.model, hypothesis.side, hypothesis.change(stream))
        except ModelError:
            gap = None
        return Gap(np.arange(len(stream))) if gap is None else gap

    def _samples(self, side: Side) -> list[IntArray]:
        """Beginnings of keys in which answers differ: the shortest, and some more; indices in order."""
        evidence = self.evidence
        at = evidence.common[0 if side is evidence.live else 1]
        differs = np.zeros(len(side.stream), np.bool_)
        differs[at[evidence.gap.events]] = True
        heads = []
        for events in side.stream.by_key():
            wrong = np.flatnonzero(differs[events])
            if len(wrong):
                heads.append(events[: wrong[0] + 1 + _AFTER])
        heads.sort(key=len)
        total = np.cumsum([len(head) for head in heads])
        some = heads[: max(1, int((total <= _SAMPLE_EVENTS).sum()))]
        return [heads[0], np.sort(np.concatenate(some))] if heads else []


def about_state(evidence: Evidence) -> Iterator[Hypothesis]:
    """A model that forgets at every event, or never."""
    live, reference = evidence.live, evidence.reference
    for model, side, mistaken in (
        (reference.model, live, "the live model"),
        (live.model, reference, "the reference's model"),
    ):
        for word, change in (("at every event", _always), ("never", _never)):
            text = f"state: {mistaken} forgets {word}, as the other one does if it is reset {word}"
            yield Hypothesis(text, model, side, change)


def about_gates(evidence: Evidence) -> Iterator[Hypothesis]:
    """What the models say of themselves that could be otherwise."""
    live, reference = evidence.live, evidence.reference
    for own, other, whose in (
        (live, reference, "the live model"),
        (reference, live, "the reference's model"),
    ):
        for variant in own.model.variants():
            yield Hypothesis(f"{variant.text}, in {whose}", variant.model, other, lambda stream: stream)


def about_columns(evidence: Evidence) -> Iterator[Hypothesis]:
    """Two columns of an input in each other's place, one moved, or all backwards, in the model itself."""
    live, reference = evidence.live, evidence.reference
    for spec in reference.model.inputs:
        own = spec.name if spec.name in live.stream.x else next(iter(live.stream.x))
        names = column_names(live.spec, own)
        width = int(np.prod(live.stream.x[own].shape[1:], dtype=np.int64))
        for text, order in _orders(names if len(names) == width else [f"{own}[{j}]" for j in range(width)]):
            yield Hypothesis(
                f"feature order: the live model reads {text}",
                reference.model,
                live,
                _rearranged(own, np.argsort(order)),
            )


def _orders(names: list[str]) -> Iterator[tuple[str, IntArray]]:
    """Orders of the columns, each as indices into the order of now."""
    width = len(names)
    for i in range(width):
        for j in range(i + 1, width):
            order = np.arange(width)
            order[[i, j]] = j, i
            yield f"'{names[i]}' and '{names[j]}' in each other's place", order
    if width > 2:
        yield "all columns backwards", np.arange(width)[::-1]
    for i in range(width):
        for j in range(width):
            if abs(i - j) > 1:
                order = np.insert(np.delete(np.arange(width), i), j, i)
                yield f"'{names[i]}' in place {j} instead of {i}", order


def _rearranged(name: str, order: IntArray) -> Callable[[Stream], Stream]:
    def change(stream: Stream) -> Stream:
        array = stream.x[name]
        flat = array.reshape(len(array), -1)[:, order]
        return replace(stream, x={**stream.x, name: flat.reshape(array.shape)})

    return change


def _always(stream: Stream) -> Stream:
    return replace(stream, fresh=np.full_like(stream.fresh, INITIAL))


def _never(stream: Stream) -> Stream:
    fresh = np.full_like(stream.fresh, CARRIED)
    fresh[[events[0] for events in stream.by_key()]] = INITIAL
    return replace(stream, fresh=fresh)
