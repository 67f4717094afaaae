"""Differences in what is whose: events refused by one side, other keys, other resets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from streamrnn.limits import FIRST_RULE_BIT
from streamrnn.verify.stream import CARRIED

if TYPE_CHECKING:
    from streamrnn.events import BoolArray, IntArray
    from streamrnn.verify.evidence import Evidence, Side
    from streamrnn.verify.stream import Stream

_SHOWN_MAX = 3


def place(evidence: Evidence, side: Side, event: int) -> str:
    """An event of a side's stream in words."""
    record = int(side.stream.records[event])
    return f"key {side.stream.keys[event]!r}, {record_place(evidence, record)}"


def record_place(evidence: Evidence, record: int) -> str:
    """Where a record stands in the log, in words."""
    partition, position, number = evidence.log.place(record)
    return f"record {number} of {partition} (byte {position})"


def refusals(evidence: Evidence) -> Iterator[str]:
    """Events that one side serves and the other refuses."""
    for one, other in ((evidence.live, evidence.reference), (evidence.reference, evidence.live)):
        only = [record for record in other.refused if one.stream.find(np.array([record]))[0].any()]
        if only:
            first = min(only)
            yield (
                f"refusals: {one.name} serves {len(only)} events that {other.name} refuses, first "
                f"{record_place(evidence, first)}: {other.refused[first]}"
            )


def keys(evidence: Evidence) -> Iterator[str]:
    """Events that follow another event on one side than on the other: the key is not the same."""
    ours, theirs = evidence.common
    live = _before(evidence.live.stream, ours)
    reference = _before(evidence.reference.stream, theirs)
    differs = np.flatnonzero(live != reference)
    if len(differs):
        first = int(differs[0])
        record = int(evidence.live.stream.records[ours[first]])
        names = evidence.live.stream.keys[ours[first]], evidence.reference.stream.keys[theirs[first]]
        yield (
            f"keys: {len(differs)} events follow another event of their key than in the reference, first "
            f"{record_place(evidence, record)}, whose key is {names[0]!r} live and {names[1]!r} in the "
            "reference; compare event.key"
        )


def _before(stream: Stream, events: IntArray) -> IntArray:
    """For each of some events, the record of the one before it of the same key, -1 if none, among these."""
    last: dict[str, int] = {}
    found = np.full(len(events), -1)
    for i, event in enumerate(events.tolist()):
        key = stream.keys[event]
        found[i] = last.get(key, -1)
        last[key] = int(stream.records[event])
    return found


def resets(evidence: Evidence) -> Iterator[str]:
    """Events that begin anew on one side alone, or from another state."""
    ours, theirs = evidence.common
    live, reference = evidence.live.stream.fresh[ours], evidence.reference.stream.fresh[theirs]
    sides = (evidence.live, ours), (evidence.reference, theirs)
    for (side, events), (other, _), extra in (
        (sides[1], sides[0], (reference != CARRIED) & (live == CARRIED)),
        (sides[0], sides[1], (live != CARRIED) & (reference == CARRIED)),
    ):
        if extra.any():
            first = int(np.flatnonzero(extra)[0])
            what = "a reset is missing" if other is evidence.live else "a reset too many"
            yield (
                f"{what}: {int(extra.sum())} events begin anew in {side.name} only, first "
                f"{place(evidence, side, int(events[first]))}; {_causes(side, events, extra)}"
            )
    kind = (live != reference) & (live != CARRIED) & (reference != CARRIED)
    if kind.any():
        first = int(ours[np.flatnonzero(kind)[0]])
        yield (
            f"reset to another state: {int(kind.sum())} events begin from zeros on one side and from the "
            f"model's initial state on the other, first {place(evidence, evidence.live, first)}; compare the "
            "rules' `to`"
        )


def _causes(side: Side, events: IntArray, extra: BoolArray) -> str:
    """Why the events begin anew: the rules by name, with their place in the file."""
    causes = side.stream.cause[events[extra]].tolist()
    told: Counter[str] = Counter(
        name for cause in causes for bit, name in enumerate(side.stream.cause_names) if cause >> bit & 1
    )
    names = side.stream.cause_names
    shown = []
    for name, count in told.most_common(_SHOWN_MAX):
        bit = names.index(name)
        rule = bit - FIRST_RULE_BIT
        where = side.spec.tree.file
        if rule >= 0:
            chosen = side.spec.rules[rule]
            line, _ = side.spec.tree.mark(chosen.path)
            shown.append(f"'{name}' ({chosen.component.name}, {where}:{line}) {count} times")
        else:
            shown.append(f"'{name}' ({where}: limits, or a key seen first) {count} times")
    return "the cause there is " + " and ".join(shown)
