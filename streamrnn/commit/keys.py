"""The state of a commit by key, read without the model it belongs to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from streamrnn.commit import manifest as m
from streamrnn.commit import recovery
from streamrnn.core.columns import catch_up
from streamrnn.core.segment import parse
from streamrnn.core.shards import WHOLE
from streamrnn.errors import StateError
from streamrnn.limits import INITIAL, ZEROS
from streamrnn.values import from_bytes, unpack

if TYPE_CHECKING:
    from streamrnn.context import FileSystem
    from streamrnn.events import Array

FRESH = {INITIAL: "initial", ZEROS: "zeros"}
"""In place of the state of a key whose next event begins anew: what that event finds."""
CAUSES = ("pending", "reset_cause")
"""Columns of cause bits."""
HIDDEN = ("epoch", "fresh")
"""Columns that say nothing which the others and the state do not."""


@dataclass
class KeyStates:
    """The keys of a commit, or of one `partition` of it, which is "" where the source has none.

    `columns` and `tensors` hold a row for each, which `rows` gives by key; resets of all keys are applied to
    the columns. `header` is that of the newest segment, `gone` the hashes and causes of keys without a row,
    `manifest` that of the commit.
    """

    number: int
    partition: str = WHOLE
    header: dict[str, Any] = field(default_factory=dict)
    manifest: m.Manifest = field(default_factory=dict)
    gone: list[tuple[int, int]] = field(default_factory=list)
    rows: dict[str, int] = field(default_factory=dict)
    columns: dict[str, Array] = field(default_factory=dict)
    tensors: dict[str, Array] = field(default_factory=dict)

    @property
    def capacity(self) -> int:
        """Rows there are, those of no key among them."""
        return len(self.columns["sequence"])

    @property
    def epochs(self) -> dict[int, int]:
        """The last reset of all keys by its cause bits."""
        return {int(bits): epoch for bits, epoch in self.header["epochs"].items()}

    def state(self, key: str) -> dict[str, Any] | str:
        """The model's state of a key by tensor, as nested lists, or a word of `FRESH`.

        Raises `StateError` without such a key.
        """
        row = self.row(key)
        if word := FRESH.get(int(self.columns["fresh"][row])):
            return word
        return {name: array[row].tolist() for name, array in self.tensors.items()}

    def facts(self, key: str) -> dict[str, Any]:
        """What is known of a key beside its state, as JSON has it. Raises `StateError` without such a key."""
        row = self.row(key)
        return {name: self.fact(name, row) for name in sorted(self.columns) if name not in HIDDEN}

    def fact(self, name: str, row: int) -> Any:
        """One column of one row."""
        value = self.columns[name][row]
        if name == "quarantined":
            return bool(value)
        if name in CAUSES:
            return [cause for bit, cause in enumerate(self.header["causes"]) if value >> bit & 1]
        if isinstance(value, bytes):  # a field's value that is no text and no number
            return json_value(value)
        return value.item() if isinstance(value, np.generic) else value

    def row(self, key: str) -> int:
        """The row of a key. Raises `StateError` if it has none."""
        if key not in self.rows:
            where = f" in partition '{self.partition}'" if self.partition else ""
            others = len(self.rows)
            raise StateError(f"commit {self.number} has no key '{key}'{where}; it has {others} others")
        return self.rows[key]


def json_value(canonical: bytes) -> Any:
    """What a canonical value of a field stands for that is neither text nor number."""
    import json

    return json.loads(canonical)


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
        return states_of(manifest, recovery.segments_of(fs, folder, manifest))
    except m.BrokenError as error:
        others = ", ".join(str(other) for other in numbers if other != number) or "none"
        raise StateError(f"commit {number} in {folder}: {error}; other commits: {others}") from error


def states_of(manifest: m.Manifest, segments: Iterable[tuple[str, Iterable[bytes]]]) -> list[KeyStates]:
    """The keys of a commit: its segments by partition, laid one over the other."""
    return [_states(manifest, partition, blobs) for partition, blobs in segments]


def load_partition(fs: FileSystem, folder: Path, number: int | None, partition: str | None) -> KeyStates:
    """The keys of one partition, which may be left out where there is only one."""
    found = {states.partition: states for states in load(fs, folder, number)}
    if partition is None and len(found) == 1:
        partition = next(iter(found))
    if partition not in found:
        asked = f"found no partition '{partition}'" if partition else "expected --partition"
        raise StateError(f"{folder}: {asked}; the commit has state of {', '.join(found) or 'none'}")
    return found[partition]


def _states(manifest: m.Manifest, partition: str, blobs: Iterable[bytes]) -> KeyStates:
    states = KeyStates(manifest["number"], partition, manifest=manifest)
    keys: dict[int, str | None] = {}
    for blob in blobs:
        _lay(states, keys, blob)
    states.rows = {key: row for row, key in keys.items() if key is not None}
    nothing = np.zeros(0, np.int64)
    for name, column in states.columns.items():  # a column may be younger than some of the segments
        _put(states.columns, name, states.capacity, nothing, column[:0])
    catch_up(states.columns, states.epochs)
    states.columns["epoch"][:] = max(states.epochs.values(), default=0)
    return states


def _lay(states: KeyStates, keys: dict[int, str | None], blob: bytes) -> None:
    """Lay one segment over what came before it."""
    states.header, tensors = parse(blob)
    if "gone.hash" in tensors:
        states.gone = list(zip(tensors["gone.hash"].tolist(), tensors["gone.cause"].tolist(), strict=True))
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
        into[name] = array[:0].copy()
    into[name][rows] = array


def verified(fs: FileSystem, folder: Path) -> Iterator[tuple[int, str | None, str]]:
    """Every commit of a folder, oldest first, with what is wrong with it or None, and what made it.

    That is "" for a run, else the words of an edit.
    """
    for number in reversed(m.commit_numbers(fs.names(folder))):
        try:
            found = load(fs, folder, number)
        except StateError as error:
            yield number, str(error), ""
        else:
            yield number, None, found[0].manifest.get("edited", "") if found else ""
