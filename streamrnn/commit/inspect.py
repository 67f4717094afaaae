"""One key of a commit, in words."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from streamrnn.commit.keys import KeyStates

_TICKS = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def inspected(states: KeyStates, key: str) -> Iterator[tuple[str, str]]:
    """Names and texts: where the key stands, then its state by tensor, then its columns as they are kept.

    Raises `StateError` without such a key.
    """
    facts, state = states.facts(key), states.state(key)
    yield "commit", f"{states.number}, of {states.manifest['events']} events"
    if states.partition:
        yield "partition", states.partition
    yield "key", json.dumps(key)
    yield "last_event", _place(states, facts["sequence"], facts["position"], facts["last_time"])
    yield "last_reset", _last_reset(states, facts)
    if isinstance(state, str):
        yield "next_event", f"begins anew, from the {state} state"
    else:
        yield "next_event", "goes on from this state"
        for name, values in state.items():
            yield f"state.{name}", json.dumps(values)
    for name, value in facts.items():
        yield name, json.dumps(value)


def _last_reset(states: KeyStates, facts: dict[str, Any]) -> str:
    why = ", ".join(facts.get("reset_cause") or ["for a reason that this commit does not know"])
    time = facts["reset_time"] if facts["reset_known"] else None
    shown = f"{why}: {_place(states, facts['reset_sequence'], facts['reset_position'], time)}"
    pending = facts["pending"]
    if pending and pending != facts.get("reset_cause"):
        return f"{', '.join(pending)}: not shown yet, the next output names it; before that {shown}"
    if pending:
        return f"{shown}, behind it; the next output names it"
    return f"{shown}; {facts['steps']} events since"


def _place(states: KeyStates, number: int, position: int, time: int | None) -> str:
    told = f"event {number}, byte {position}"
    moment = None if time is None else _moment(states, time)
    return f"{told}, {moment}" if moment else told


def _moment(states: KeyStates, time: int) -> str | None:
    """A time as RFC 3339 has it; None in a pipeline without time, or beyond the years that this can write."""
    declared = states.manifest["pipeline"]["event.time"]
    if declared is None:
        return None
    unit = "us" if declared["unit"] == "rfc3339" else declared["unit"]
    ticks = _TICKS[declared.get("resolution") or unit]
    seconds, rest = divmod(time, ticks)
    try:
        moment = (_EPOCH + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S")
    except OverflowError:
        return None
    fraction = f".{rest * (1_000_000_000 // ticks):09d}".rstrip("0") if rest else ""
    return f"{moment}{fraction}Z"
