"""The state of a commit by key, read without the model it belongs to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from streamrnn.commit import manifest as m
from streamrnn.commit import recovery
from streamrnn.core.segment import parse
from streamrnn.errors import StateError
from streamrnn.values import from_bytes, unpack

if TYPE_CHECKING:
    from streamrnn.context import FileSystem
    from streamrnn.events import Array


@dataclass
class KeyStates:
    """All keys of one commit; `columns` and `tensors` hold a row for each, which `rows` gives by key."""

    number: int
    causes: tuple[str, ...] = ()
    rows: dict[str, int] = field(default_factory=dict)
    columns: dict[str, Array] = field(default_factory=dict)
    tensors: dict[str, Array] = field(default_factory=dict)

    def state(self, key: str) -> dict[str, Any]:
        """The model's state of a key by tensor, as nested lists. Raises `StateError` without such a key."""
        row = self._row(key)
        return {name: array[row].tolist() for name, array in self.tensors.items()}

    def facts(self, key: str) -> dict[str, Any]:
        """What is known of a key beside its state. Raises `StateError` without such a key."""
        row = self._row(key)
        found = {name: column[row] for name, column in self.columns.items()}
        values = {name: v.item() if isinstance(v, np.generic) else v for name, v in found.items()}
        bits = values.pop("pending")
        return values | {"pending": [name for bit, name in enumerate(self.causes) if bits >> bit & 1]}

    def _row(self, key: str) -> int:
        if key not in self.rows:
            raise StateError(f"commit {self.number} has no key '{key}'; it has {len(self.rows)} others")
        return self.rows[key]


def load(fs: FileSystem, folder: Path, number: int | None = None) -> KeyStates:
    """The keys of a commit, of the newest if no number is given. Raises `StateError` if it is broken."""
    numbers = m.commit_numbers(fs.names(folder))
    if not numbers:
        raise StateError(f"{folder}: expected the folder of a pipeline's commits, found none in it")
    number = numbers[0] if number is None else number
    try:
        manifest = recovery.read_manifest(fs, folder, number)
        blobs = recovery.segments_of(fs, folder, manifest)
    except m.BrokenError as error:
        others = ", ".join(str(other) for other in numbers if other != number) or "none"
        raise StateError(f"commit {number} in {folder}: {error}; other commits: {others}") from error
    states = KeyStates(number)
    keys: dict[int, str | None] = {}
    for blob in blobs:
        _lay(states, keys, blob)
    states.rows = {key: row for row, key in keys.items() if key is not None}
    return states


def _lay(states: KeyStates, keys: dict[int, str | None], blob: bytes) -> None:
    """Lay one segment over what came before it."""
    header, tensors = parse(blob)
    states.causes = tuple(header["causes"])
    rows = tensors["rows"]
    held = unpack(tensors["key.bytes"], tensors["key.offsets"])
    for row, key, live in zip(rows.tolist(), held, tensors["live"].tolist(), strict=True):
        keys[row] = key.decode() if live else None
    needed = int(rows.max(initial=-1)) + 1
    for name, array in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == "column":
            _put(states.columns, rest, needed, rows, array)
        elif kind == "state":
            _put(states.tensors, rest, needed, rows, array)
        elif name.endswith(".bytes") and name != "key.bytes":
            field_name = name.removesuffix(".bytes")
            values = np.empty(len(rows), object)
            values[:] = [from_bytes(v) for v in unpack(array, tensors[f"{field_name}.offsets"])]
            _put(states.columns, field_name, needed, rows, values)


def _put(into: dict[str, Array], name: str, needed: int, rows: Array, array: Array) -> None:
    old = into.get(name)
    held = 0 if old is None else len(old)
    if needed > held:
        grown = np.zeros((needed, *array.shape[1:]), array.dtype)
        if old is not None:
            grown[:held] = old
        into[name] = grown
    elif old is None:
        into[name] = array[:0]
    into[name][rows] = array


def moved(before: KeyStates, after: KeyStates) -> Iterator[tuple[str, str, list[str]]]:
    """Keys that came, went or changed between two commits, sorted, with the tensors whose bytes differ."""
    for key in sorted({*before.rows, *after.rows}):
        if key not in before.rows:
            yield key, "came", []
        elif key not in after.rows:
            yield key, "went", []
        else:
            a, b = before.rows[key], after.rows[key]
            names = [n for n, t in after.tensors.items() if before.tensors[n][a].tobytes() != t[b].tobytes()]
            if names or before.columns["sequence"][a] != after.columns["sequence"][b]:
                yield key, "changed", names


def exported(states: KeyStates) -> Iterator[dict[str, Any]]:
    """All keys, sorted: the form in which two jobs that served the same are equal."""
    for key in sorted(states.rows):
        yield {"key": key, "facts": states.facts(key), "state": states.state(key)}


def verified(fs: FileSystem, folder: Path) -> Iterator[tuple[int, str | None]]:
    """Every commit of a folder, oldest first, with what is wrong with it or None."""
    for number in reversed(m.commit_numbers(fs.names(folder))):
        try:
            load(fs, folder, number)
        except StateError as error:
            yield number, str(error)
        else:
            yield number, None
