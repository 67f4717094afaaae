"""The state of a commit by key, read without the model it belongs to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from streamrnn.commit import manifest as m
from streamrnn.commit import recovery
from streamrnn.core.segment import parse
from streamrnn.core.shards import WHOLE
from streamrnn.errors import StateError
from streamrnn.values import from_bytes, unpack

if TYPE_CHECKING:
    from streamrnn.context import FileSystem
    from streamrnn.events import Array


@dataclass
class KeyStates:
    """The keys of a commit, or of one `partition` of it, which is "" where the source has none.

    `columns` and `tensors` hold a row for each, which `rows` gives by key.
    """

    number: int
    partition: str = WHOLE
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
            where = f" in partition '{self.partition}'" if self.partition else ""
            others = len(self.rows)
            raise StateError(f"commit {self.number} has no key '{key}'{where}; it has {others} others")
        return self.rows[key]


def load(fs: FileSystem, folder: Path, number: int | None = None) -> list[KeyStates]:
    """The keys of a commit by partition, sorted; of the newest commit if no number is given.

    Raises `StateError` if it is broken.
    """
    numbers = m.commit_numbers(fs.names(folder))
    if not numbers:
        raise StateError(f"{folder}: expected the folder of a pipeline's commits, found none in it")
    number = numbers[0] if number is None else number
    try:
        manifest = recovery.read_manifest(fs, folder, number)
        found = recovery.segments_of(fs, folder, manifest)
        return [_states(number, partition, blobs) for partition, blobs in found]
    except m.BrokenError as error:
        others = ", ".join(str(other) for other in numbers if other != number) or "none"
        raise StateError(f"commit {number} in {folder}: {error}; other commits: {others}") from error


def load_partition(fs: FileSystem, folder: Path, number: int | None, partition: str | None) -> KeyStates:
    """The keys of one partition, which may be left out where there is only one."""
    found = {states.partition: states for states in load(fs, folder, number)}
    if partition is None and len(found) == 1:
        partition = next(iter(found))
    if partition not in found:
        asked = f"found no partition '{partition}'" if partition else "expected --partition"
        raise StateError(f"{folder}: {asked}; the commit has state of {', '.join(found) or 'none'}")
    return found[partition]


def _states(number: int, partition: str, blobs: Iterable[bytes]) -> KeyStates:
    states = KeyStates(number, partition)
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


def moved(
    before: Sequence[KeyStates], after: Sequence[KeyStates]
) -> Iterator[tuple[str, str, str, list[str]]]:
    """Partition, key, whether it came, went or changed, and the tensors whose bytes differ; sorted."""
    old, new = ({states.partition: states for states in commit} for commit in (before, after))
    for name in sorted({*old, *new}):
        nothing = KeyStates(0, name)
        for key, what, tensors in _moved(old.get(name, nothing), new.get(name, nothing)):
            yield name, key, what, tensors


def _moved(before: KeyStates, after: KeyStates) -> Iterator[tuple[str, str, list[str]]]:
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


def exported(commit: Sequence[KeyStates]) -> Iterator[dict[str, Any]]:
    """All keys, sorted: the form in which two jobs that served the same are equal."""
    for states in commit:
        named = {"partition": states.partition} if states.partition else {}
        for key in sorted(states.rows):
            yield named | {"key": key, "facts": states.facts(key), "state": states.state(key)}


def verified(fs: FileSystem, folder: Path) -> Iterator[tuple[int, str | None]]:
    """Every commit of a folder, oldest first, with what is wrong with it or None."""
    for number in reversed(m.commit_numbers(fs.names(folder))):
        try:
            load(fs, folder, number)
        except StateError as error:
            yield number, str(error)
        else:
            yield number, None
