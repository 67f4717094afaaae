"""What a replay found, for a person and for a program."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from streamrnn.replay.compare import Comparison
from streamrnn.replay.until import Until

if TYPE_CHECKING:
    from streamrnn.events import Rejected
    from streamrnn.line import Served
    from streamrnn.replay.outputs import Record
    from streamrnn.replay.values import Values

_REFUSALS_SHOWN = 3
_SHOWN_BYTES = 400


@dataclass
class Tally:
    """Counts what passes: events that were read, outputs of them, refused ones and the first of those."""

    events: int = 0
    outputs: int = 0
    refused: int = 0
    refusals: list[Rejected] = field(default_factory=list)
    last: str = ""
    """Where the last event stood."""

    def count(self, served_blocks: Iterable[Served]) -> Iterator[Served]:
        """The same blocks, counted."""
        for served in served_blocks:
            block, rejected = served.out.block, served.out.rejected
            self.events += len(block)
            self.outputs += len(served.out)
            self.refused += len(rejected)
            self.refusals += rejected[: _REFUSALS_SHOWN - len(self.refusals)]
            self.last = stands(block.origin.partition, int(block.numbers[-1]), int(block.positions[-1]))
            yield served


@dataclass
class Told:
    """A difference as it is told: where, whose event it answers, both records, and the field in which."""

    kind: str
    message: str = ""
    line: int | None = None
    byte: int | None = None
    key: str | None = None
    event: str | None = None
    until: str | None = None
    steps: int | None = None
    cause: tuple[str, ...] = ()
    recorded: str | None = None
    replayed: str | None = None
    field: str = ""


def stands(partition: str, number: int, position: int) -> str:
    """A record in words, as `verify` has it; the byte is what `--until` takes."""
    return f"record {number} of {partition} (byte {position})"


def told(comparison: Comparison, values: Values, tolerance: float) -> Told | None:
    """The first difference; None if there is none."""
    if comparison.first is None:
        return None
    was, now = comparison.first
    if was is None:
        found = Told("replayed only", message="the replay answers where nothing was recorded")
    elif now is None:
        found = Told("recorded only", message="the replay has no such output")
    else:
        name, message = values.difference(was, now, tolerance) or ("", "the same values in other bytes")
        found = Told("changed", message, field=name)
    if was is not None:
        frames = was.frames
        found.line, found.byte = int(frames.numbers[was.at]), int(frames.positions[was.at])
        found.recorded = _shown(was.data)
    if now is not None:
        found.replayed = _shown(now.data)
        _tell_event(found, now)
    return found


def _tell_event(found: Told, record: Record) -> None:
    assert record.served is not None
    answered, out, i = record.served.answered, record.served.out, record.output
    at, block = int(out.records[i]), out.block
    found.key = out.keys[i]
    found.until = f"{block.origin.partition}:{int(block.positions[at])}"
    found.event = stands(block.origin.partition, int(block.numbers[at]), int(block.positions[at]))
    found.steps = int(answered.outputs.steps[i])
    bits = int(answered.outputs.cause[i])
    names = enumerate(answered.cause_names)
    found.cause = tuple(name for bit, name in names if bits >> bit & 1)


@dataclass
class Report:
    """What was served, up to `until`, and what came of a comparison, if there was one."""

    tally: Tally
    until: Until | None = None
    path: Path | None = None
    comparison: Comparison = field(default_factory=Comparison)
    first: Told | None = None

    def lines(self, since: str) -> Iterator[str]:
        """All of it; `since` says where the replay began."""
        if self.path is not None:
            yield self._verdict()
        if self.first is not None:
            yield from self._first(self.first)
        tally = self.tally
        if not tally.events:
            yield f"replayed: no event, there is none behind {since}"
            return
        yield (
            f"replayed: {tally.events:,} events from {since} to {tally.last}, {tally.outputs:,} outputs, "
            f"{tally.refused:,} refused"
        )
        for event in tally.refusals:
            yield f"  refused: {stands(event.origin.partition, event.number, event.position)}: {event.reason}"
        if (more := tally.refused - len(tally.refusals)) > 0:
            yield f"  and {more:,} more"
        if not self._reached:
            yield f"  the data ended before {self.until}"

    def data(self) -> dict[str, Any]:
        """The same for a program."""
        counts = {name: getattr(self.tally, name) for name in ("events", "outputs", "refused", "last")}
        first = None if self.first is None else asdict(self.first)
        return counts | {"until_reached": self._reached} | self._counts() | {"first": first}

    @property
    def _reached(self) -> bool:
        return self.until is None or self.until.reached

    def _counts(self) -> dict[str, int | None]:
        names = ("equal", "changed", "recorded_only", "replayed_only")
        return {name: None if self.path is None else getattr(self.comparison, name) for name in names}

    def _verdict(self) -> str:
        found = self.comparison
        if not found.different:
            return f"equal: {found.equal:,} outputs, as recorded in {self.path}"
        total = found.equal + found.different
        return (
            f"different: {found.equal:,} of {total:,} outputs are as recorded in {self.path}; "
            f"{found.changed:,} changed, {found.recorded_only:,} recorded only, {found.replayed_only:,} "
            "replayed only"
        )

    def _first(self, first: Told) -> Iterator[str]:
        at = f"line {first.line} of {self.path} (byte {first.byte})" if first.line else "an output more"
        yield f"  first: {at}"
        if first.event is not None:
            cause = f", begun by {', '.join(first.cause)}" if first.cause else ""
            yield f"         key '{first.key}', {first.event}, event {first.steps} since its reset{cause}"
        yield f"         {first.field + ': ' if first.field else ''}{first.message}"
        if first.recorded is not None:
            yield f"         recorded {first.recorded}"
        if first.replayed is not None:
            yield f"         replayed {first.replayed}"
        if first.until is not None and first.key is not None:
            look = f"--until {quote(first.until)} --inspect {quote(first.key)}"
            yield f"         the state of its key behind it: {look}"


def _shown(data: bytes) -> str:
    text = data.decode("utf-8", "backslashreplace")
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text if len(text) <= _SHOWN_BYTES else f"{text[: _SHOWN_BYTES - 3]}..."
