"""The verdict on one log, as data and as text."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from streamrnn.verify.boundaries import record_place
from streamrnn.verify.compare import first_number
from streamrnn.verify.evidence import Evidence


@dataclass(frozen=True)
class Verdict:
    """What was compared and what came out; `first` is empty and there are no `causes` where all is equal.

    `records` were read; `refused` tells of the first that live refused. `only_one` counts events that one
    side served and the other refused, `differing` those served by both whose answers differ.
    """

    equal: bool
    records: int
    events: int
    segments: int
    keys: int
    only_one: int
    differing: int
    largest: float
    largest_at: str
    first: dict[str, Any] = field(default_factory=dict)
    causes: list[str] = field(default_factory=list)
    note: str = ""
    refused: str = ""

    def __str__(self) -> str:
        if not self.events and not self.only_one:
            return f"nothing was compared: of {self.records} records none was served{self.refused}"
        size = f"{self.events} events in {self.segments} segments of {self.keys} keys"
        largest = f"largest distance {self.largest:.2g}{self.largest_at}"
        if self.equal:
            return f"equal: {size}, {largest}"
        lines = [f"different: {self.differing} of {size}, {largest}"]
        if self.only_one:
            lines.append(f"  {self.only_one} more were served by one side only")
        if self.first:
            lines += [
                f"  first: {line}" if i == 0 else f"         {line}" for i, line in enumerate(self._first())
            ]
        lines += [f"  cause: {cause}" for cause in self.causes]
        return "\n".join([*lines, *([f"  note:  {self.note}"] if self.note else [])])

    def _first(self) -> list[str]:
        found = self.first
        return [
            f"key {found['key']!r}, {found['place']}, event {found['step']} since its reset",
            f"{found['tensor']}: {found['live']:.7g} live, {found['reference']:.7g} in the reference, "
            f"distance {found['distance']:.2g}",
        ]


def judge(evidence: Evidence, causes: list[str], note: str = "") -> Verdict:
    """The verdict, with the causes that were found."""
    ours, theirs = evidence.common
    live, reference, gap = evidence.live.stream, evidence.reference.stream, evidence.gap
    only_one = len(live) + len(reference) - len(ours) - len(theirs)
    largest_at = ""
    if gap.worst_at and gap.worst:
        event, output = gap.worst_at
        largest_at = f" ('{output}', {record_place(evidence, int(live.records[ours[event]]))})"
    return Verdict(
        equal=len(ours) > 0 and not gap and not only_one,
        records=evidence.log.length,
        events=len(ours),
        segments=sum(1 for _ in reference.segments()),
        keys=len(set(reference.keys)),
        only_one=only_one,
        differing=len(gap.events),
        largest=gap.worst,
        largest_at=largest_at,
        first=_first(evidence) if gap else {},
        causes=causes,
        note=note,
        refused=_first_refusal(evidence),
    )


def _first_refusal(evidence: Evidence) -> str:
    refused = evidence.live.refused
    return f"; {record_place(evidence, min(refused))}: {refused[min(refused)]}" if refused else ""


def _first(evidence: Evidence) -> dict[str, Any]:
    """The first event that differs, and the first of its numbers that does."""
    ours, theirs = evidence.common
    at = int(evidence.gap.events[0])
    live, event = evidence.live, int(ours[at])
    y = {name: array[event] for name, array in live.y.items()}
    expected = {name: evidence.reference.y[name][int(theirs[at])] for name in y}
    number = first_number(y, expected, evidence.tolerance)
    events = next(own for own in live.stream.segments() if event in own)
    return {
        "key": live.stream.keys[event],
        "place": record_place(evidence, int(live.stream.records[event])),
        "step": int((events <= event).sum()),
        "tensor": number.output + "".join(f"[{i}]" for i in number.index),
        "live": number.found,
        "reference": number.expected,
        "distance": number.distance,
    }
