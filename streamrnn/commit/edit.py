"""Changes to the state in a folder of commits that no run is using, each of them a commit of its own.

Source and outputs stay where they are: the next run goes on from there, with the state as it was changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from streamrnn.commit import exports, recovery
from streamrnn.commit import manifest as m
from streamrnn.commit.control import ControlLog
from streamrnn.commit.keys import KeyStates, states_of
from streamrnn.commit.writer import Making, Writer
from streamrnn.core.frozen import Piece, encode_pieces
from streamrnn.core.key_names import Packed
from streamrnn.core.shards import BESIDE
from streamrnn.errors import StateError
from streamrnn.globs import matches
from streamrnn.limits import CONTROL, EVICTED, INITIAL, key_hash

if TYPE_CHECKING:
    from streamrnn.context import Context
    from streamrnn.core.segment import Chunks
    from streamrnn.events import Array, IntArray


@dataclass
class Change:
    """Rows of a partition as they are to be, and what its header and its memory of gone keys become."""

    states: KeyStates
    keys: Sequence[str] = ()
    rows: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))
    columns: Mapping[str, Array] = field(default_factory=dict)
    tensors: Mapping[str, Array] = field(default_factory=dict)
    header: dict[str, Any] = field(default_factory=dict)
    gone: Sequence[tuple[int, int]] | None = None

    def encoded(self) -> Chunks:
        """The segment of it, to be laid over those that are there."""
        states = self.states
        columns = {name: self.columns.get(name, column[:0]) for name, column in states.columns.items()}
        state = {name: self.tensors.get(name, array[:0]) for name, array in states.tensors.items()}
        piece = Piece(self.rows, np.ones(len(self.rows), np.bool_), Packed.of(self.keys), columns, state)
        header = states.header | {"kind": "delta", "part": 0} | self.header
        gone = states.gone if self.gone is None else self.gone
        names, causes = (
            np.array([name for name, _ in gone], np.uint64),
            np.array([why for _, why in gone], np.int64),
        )
        return encode_pieces(header, [piece], lambda: (names, causes))


class Editing:
    """The newest commit of a folder, held until it is closed. `keys` by partition are what can be changed."""

    def __init__(
        self,
        folder: Path,
        context: Context,
        found: recovery.Found,
        keys: Sequence[KeyStates],
        control: ControlLog,
    ) -> None:
        self.folder, self._found, self._control = folder, found, control
        self.keys = {states.partition: states for states in keys}
        self._writer = Writer(folder, context, found.chain, keep=len(found.chain.kept) + 1)

    def reset(self, chosen: Mapping[str, Sequence[str]], why: str, asked: Mapping[str, Any]) -> int:
        """Reset keys, by partition, as a control message would: their next events begin anew, and say so.

        The number of the new commit; `why` is kept in it. `asked` is the same as control.log has it, which
        this is written to first: what stands there happens, though it be at the next start.
        """
        changes = [_reset(self.keys[partition], keys) for partition, keys in chosen.items() if keys]
        return self._commit(changes, why, self._written_down(asked))

    def reset_all(self, why: str, partitions: Sequence[str], asked: Mapping[str, Any]) -> int:
        """Reset every key of these partitions, as `reset` does."""
        changes = [_reset_all(self.keys[partition]) for partition in partitions]
        return self._commit(changes, why, self._written_down(asked))

    def import_lines(self, lines: Sequence[exports.Line], why: str) -> int:
        """Lay what the lines say over the keys; those that are not there are added, as if heard last."""
        changes = []
        for partition, states in self.keys.items():
            if own := [line for line in lines if line.partition == partition]:
                changes.append(_imported(states, own))
        return self._commit(changes, why)

    def _written_down(self, asked: Mapping[str, Any]) -> dict[str, int]:
        """What a manifest says of control.log once the reset is in it."""
        was = self._found.manifest
        place = {name: _end(states) for name, states in self.keys.items() if not name.startswith(BESIDE)}
        self._control.append({"reset": dict(asked)}, was["number"], was["events"], place)
        return {"control": len(self._control.entries)}

    def _commit(self, changes: Sequence[Change], why: str, more: Mapping[str, Any] | None = None) -> int:
        was, number = self._found.manifest, self._found.chain.number + 1
        added = sum(c.header.get("sequence", c.states.header["sequence"]) for c in changes)
        added -= sum(change.states.header["sequence"] for change in changes)
        manifest = was | {"number": number, "events": was["events"] + added, "edited": why} | dict(more or {})
        outputs = {name: partial(was["outputs"].get, name) for name in was["outputs"]}
        making = Making(manifest, outputs, [], list(was["segments"]))
        try:
            for change in changes:
                self._writer.write_part(making, change.states.partition, False, change.encoded)
            self._writer.write_manifest(making)
        except OSError as error:
            where = error.filename or self.folder
            raise StateError(f"{where}: cannot write: {error.strerror}; the last commit stands") from error
        return number


@contextmanager
def editing(folder: Path, context: Context) -> Iterator[Editing]:
    """Hold a folder of commits. Raises `StateError` if a run has it, or its newest commit is broken."""
    if not m.commit_numbers(context.fs.names(folder)):
        raise StateError(f"{folder}: expected the folder of a pipeline's commits, found none in it")
    try:
        lock = context.fs.lock(folder / m.LOCK)
    except OSError as error:
        raise StateError(f"{error.filename or folder}: {error.strerror}") from error
    if lock is None:
        raise StateError(
            f"{folder} is in use by a run; stop it first, its next start goes on from the change"
        )
    with closing(lock):
        keys: list[KeyStates] = []

        def read(manifest: m.Manifest, segments: Iterator[tuple[str, Iterator[bytes]]]) -> None:
            keys[:] = states_of(manifest, segments)

        found = recovery.Recovery(folder, context).restore(read)
        if found.fell_back:
            raise StateError(
                f"{folder}: the newest commit is broken, and what its outputs hold has to be compared first: "
                "run the pipeline, which goes on from the one before it, then stop it and try again"
            )
        control = ControlLog(folder, context, found.manifest.get("control", 0))
        if any(control.due(found.manifest["number"])):
            raise StateError(
                f"{folder}: control.log has what was asked of a run that died, and the next one does: "
                "run the pipeline, then stop it and try again"
            )
        yield Editing(folder, context, found, keys, control)


def of_partition(states: Mapping[str, KeyStates], partition: str | None) -> Mapping[str, KeyStates]:
    """Those of one partition; all if it is None. Raises `StateError` if there is no such one."""
    if partition is None:
        return states
    if partition not in states:
        known = ", ".join(states) or "none"
        raise StateError(f"no partition '{partition}'; the commit has state of {known}")
    return {partition: states[partition]}


def named(states: Mapping[str, KeyStates], keys: Sequence[str]) -> dict[str, list[str]]:
    """Each of these keys wherever it is, by partition. Raises `StateError` for those that are nowhere."""
    asked = list(dict.fromkeys(keys))
    chosen = {name: [key for key in asked if key in each.rows] for name, each in states.items()}
    there = {key for found in chosen.values() for key in found}
    if missing := [key for key in asked if key not in there]:
        raise StateError("\n".join(_absence(states, key) for key in missing))
    return chosen


def matching(states: Mapping[str, KeyStates], pattern: str) -> dict[str, list[str]]:
    """The keys that a pattern matches, by partition, sorted. Raises `StateError` if there are none."""
    match = matches(pattern).fullmatch
    chosen = {name: sorted(filter(match, each.rows)) for name, each in states.items()}
    if not any(chosen.values()):
        total = sum(len(each.rows) for each in states.values())
        raise StateError(f"no key matches '{pattern}', of {total}; `streamrnn state ls` lists them")
    return chosen


def _absence(states: Mapping[str, KeyStates], key: str) -> str:
    for each in states.values():
        for name, cause in each.gone:
            if name == key_hash(key):
                why = "evicted" if cause == EVICTED else "expired"
                return f"key '{key}' has no state to reset: it was {why}, and begins anew when it returns"
    total = sum(len(each.rows) for each in states.values())
    return f"no key '{key}' among {total}; `streamrnn state ls` lists them as they are written here"


def _reset(states: KeyStates, keys: Sequence[str]) -> Change:
    rows = np.array([states.rows[key] for key in keys], np.int64)
    columns = {name: column[rows] for name, column in states.columns.items()}
    columns["pending"] |= CONTROL
    if "quarantined" in columns:
        columns["quarantined"][:] = 0
    columns["fresh"][:], columns["reset_known"][:], columns["steps"][:] = INITIAL, False, 0
    tensors = {name: np.zeros_like(array[rows]) for name, array in states.tensors.items()}
    return Change(states, keys, rows, columns, tensors)


def _end(states: KeyStates) -> int:
    """The position behind the last accepted event, as far as keys tell; 0 without any."""
    rows = np.array(list(states.rows.values()), np.int64)
    if not len(rows):
        return 0
    newest = rows[states.columns["sequence"][rows].argmax()]
    return int(states.columns["position"][newest]) + 1


def _reset_all(states: KeyStates) -> Change:
    epochs = states.epochs
    return Change(states, header={"epochs": epochs | {CONTROL: max(epochs.values(), default=0) + 1}})


def _imported(states: KeyStates, lines: Sequence[exports.Line]) -> Change:
    new = sorted((line for line in lines if line.key not in states.rows), key=lambda line: line.sequence)
    sequence, rows = states.header["sequence"], dict(states.rows)
    for line, row in zip(new, _free_rows(states), strict=False):
        rows[line.key] = row
    numbers = {line.key: sequence + i for i, line in enumerate(new, 1)}
    for line in lines:
        own = numbers.get(line.key)
        line.columns["sequence"] = own or states.columns["sequence"][rows[line.key]]
        line.columns["epoch"] = epoch = max(states.epochs.values(), default=0)
        line.columns["quarantined"] = epoch + 1 if line.columns.get("quarantined") else 0
    names = {key_hash(line.key) for line in lines}
    return Change(
        states,
        [line.key for line in lines],
        np.array([rows[line.key] for line in lines], np.int64),
        {name: _stacked(column, [line.columns.get(name, 0) for line in lines])
         for name, column in states.columns.items()},
        {name: np.stack([line.tensors[name] for line in lines]) for name in states.tensors},
        {"sequence": sequence + len(new)},
        [(name, cause) for name, cause in states.gone if name not in names],
    )  # fmt: skip


def _free_rows(states: KeyStates) -> Iterator[int]:
    taken = set(states.rows.values())
    yield from (row for row in range(states.capacity) if row not in taken)
    row = states.capacity
    while True:
        yield row
        row += 1


def _stacked(like: Array, values: Sequence[Any]) -> Array:
    column = np.empty(len(values), like.dtype)
    column[:] = values
    return column
