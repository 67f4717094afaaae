"""The keys of a commit as JSON lines, and such lines read again into a commit.

The first line says what the states mean, each of the others what is known of one key.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from streamrnn.commit.keys import CAUSES, FRESH, HIDDEN, KeyStates
from streamrnn.commit.recovery import differences
from streamrnn.core.columns import ADDED
from streamrnn.errors import StateError
from streamrnn.values import canonical

if TYPE_CHECKING:
    from streamrnn.events import Array

FORMAT = 1
SHOWN = 10
"""Mistakes of a file that are told, at most."""
_DECLARED = ("event.key", "event.time", "event.inputs", "reset", "model.context")


@dataclass
class Line:
    """What one line says of a key: a value for each of the columns and tensors of its partition's rows."""

    key: str
    partition: str
    sequence: int
    columns: dict[str, Any]
    tensors: dict[str, Array]


class _WrongError(Exception):
    """What is wrong with a line."""


def exported(commit: Sequence[KeyStates]) -> Iterator[dict[str, Any]]:
    """The meaning, then all keys, sorted: the form in which two jobs that served the same are equal."""
    for manifest in [states.manifest for states in commit[:1]]:
        yield {"streamrnn": "state", "format": FORMAT, **meaning_of(manifest)}
    for states in commit:
        named = {"partition": states.partition} if states.partition else {}
        for key in sorted(states.rows):
            yield named | {"key": key, "facts": states.facts(key), "state": states.state(key)}


def meaning_of(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What must be the same where a key's state is to go on: the model, and all that an event is to it."""
    model = {f"model.{name}": manifest["model"][name] for name in ("meaning", "fingerprint", "state")}
    return {name: manifest["pipeline"][name] for name in _DECLARED} | model


def mismatch(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Lines that tell two meanings apart; none if state can be taken over from one to the other."""
    same_model = now["model.meaning"] and was.get("model.meaning") == now["model.meaning"]
    told = [name for name in now if not (same_model and name == "model.fingerprint")]
    return list(differences({n: was.get(n) for n in told}, {n: now[n] for n in told}))


def read(name: str, lines: Iterable[bytes], commit: Sequence[KeyStates]) -> list[Line]:
    """The lines of an exported file, checked against the commit that they are to be laid over.

    Raises `StateError` with all that does not fit, or the first of it.
    """
    numbered = ((number, line) for number, line in enumerate(lines, 1) if line.strip())
    _check_meaning(name, next(numbered, (1, b""))[1], commit[0].manifest)
    partitions = {states.partition: states for states in commit}
    found: dict[tuple[str, str], Line] = {}
    wrong: list[str] = []
    for number, text in numbered:
        try:
            line = _line(_parsed(text), partitions)
            if found.setdefault((line.partition, line.key), line) is not line:
                raise _WrongError("a second line for this key")
        except _WrongError as error:
            wrong.append(f"{name}:{number}: {error}")
    if wrong:
        more = [f"and {len(wrong) - SHOWN} more"] if len(wrong) > SHOWN else []
        raise StateError("\n".join([*wrong[:SHOWN], *more, "nothing was imported"]))
    return list(found.values())


def _check_meaning(name: str, text: bytes, manifest: Mapping[str, Any]) -> None:
    hint = "expected what `streamrnn state export` writes, its first line with it"
    try:
        header = _parsed(text)
    except _WrongError as error:
        raise StateError(f"{name}:1: {error}; {hint}") from error
    if header.get("streamrnn") != "state" or header.get("format") != FORMAT:
        raise StateError(f"{name}:1: found {_shown(header)}; {hint}, in format {FORMAT}")
    if lines := mismatch(header, meaning_of(manifest)):
        told = f"{name}: its states are of another pipeline than the commits:"
        ways = "export from a job with the same model, keys, time, inputs and rules; nothing was imported"
        raise StateError("\n".join([told, *lines, ways]))


def _parsed(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise _WrongError(f"not valid JSON: {error}") from error
    if not isinstance(found, dict):
        raise _WrongError(f"expected an object, found {_shown(found)}")
    return found


def _line(given: Mapping[str, Any], partitions: Mapping[str, KeyStates]) -> Line:
    _check_names("fields", given.keys() - {"partition"}, {"key", "facts", "state"})
    key, partition, facts = given["key"], given.get("partition", ""), given["facts"]
    if not isinstance(key, str):
        raise _WrongError(f"key: expected a text, found {_shown(key)}")
    if partition not in partitions:
        known = ", ".join(f"'{each}'" for each in partitions)
        raise _WrongError(f"partition: expected one of the commit, {known}, found {_shown(partition)}")
    if not isinstance(facts, dict):
        raise _WrongError(f"facts: expected an object, found {_shown(facts)}")
    states = partitions[partition]
    wanted = {name for name in states.columns if name not in HIDDEN}
    _check_names("facts", facts.keys() - ADDED, wanted - ADDED)
    causes = states.header["causes"]
    columns = {n: _column(n, facts[n], states.columns[n], causes) for n in wanted & facts.keys()}
    columns["fresh"], tensors = _state(given["state"], states.tensors)
    if columns["sequence"] < 1:
        raise _WrongError(f"facts.sequence: expected 1 or more, found {columns['sequence']}")
    return Line(key, partition, columns["sequence"], columns, tensors)


def _check_names(what: str, found: Iterable[str], wanted: Iterable[str]) -> None:
    found, wanted = set(found), set(wanted)
    if missing := wanted - found:
        raise _WrongError(f"{what}: missing {', '.join(sorted(missing))}")
    if more := found - wanted:
        raise _WrongError(f"{what}: the commit knows no {', '.join(sorted(more))}")


def _column(name: str, value: Any, column: Array, causes: Sequence[str]) -> Any:
    if name in CAUSES:
        if not isinstance(value, list) or not all(cause in causes for cause in value):
            text = f"expected a list of {', '.join(causes)}, found {_shown(value)}"
            raise _WrongError(f"facts.{name}: {text}")
        return sum(1 << causes.index(cause) for cause in set(value))
    if name == "quarantined":
        if not isinstance(value, bool):
            raise _WrongError(f"facts.{name}: expected true or false, found {_shown(value)}")
        return value
    if column.dtype == object:
        return canonical(value)
    return _numbers(f"facts.{name}", value, column)[()]


def _state(value: Any, tensors: Mapping[str, Array]) -> tuple[int, dict[str, Array]]:
    """How the next event finds its state, and what is stored till then."""
    for fresh, word in FRESH.items():
        if value == word:
            return fresh, {name: np.zeros(array.shape[1:], array.dtype) for name, array in tensors.items()}
    if not isinstance(value, dict):
        words = " or ".join(f'"{word}"' for word in FRESH.values())
        raise _WrongError(f"state: expected tensors by name, or {words}, found {_shown(value)}")
    _check_names("state", value, tensors)
    return 0, {name: _numbers(f"state.{name}", value[name], array) for name, array in tensors.items()}


def _numbers(path: str, value: Any, rows: Array) -> Array:
    """An array of the shape and type of one row of `rows`."""
    shape, dtype = rows.shape[1:], rows.dtype
    try:
        given = np.asarray(value)
    except ValueError:  # lists of different lengths
        given = np.asarray(None)
    kinds = {"b": "b", "f": "fiu"}.get(dtype.kind, "iu")
    if given.shape != shape or (given.size and given.dtype.kind not in kinds):
        what = f"{dtype}{list(shape)}" if shape else f"one {dtype}"
        raise _WrongError(f"{path}: expected {what}, found {_shown(value)}")
    with np.errstate(over="ignore", invalid="ignore"):
        found = given.astype(dtype)
    fits = np.isfinite(found).all() if dtype.kind == "f" else (found == given).all()
    if not fits:
        raise _WrongError(f"{path}: beyond the range of {dtype}: {_shown(value)}")
    return found


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
