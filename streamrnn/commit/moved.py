"""What differs between two commits, key by key."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from streamrnn.commit.keys import HIDDEN, KeyStates
from streamrnn.errors import StateError


@dataclass(frozen=True)
class Moved:
    """A key that `came`, `went` or `changed`; of a change the tensors and the columns that differ."""

    partition: str
    key: str
    what: str
    tensors: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()


def moved(before: Sequence[KeyStates], after: Sequence[KeyStates]) -> Iterator[Moved]:
    """The keys that differ, sorted. A state that the next event does not look at counts as that event's.

    Raises `StateError` if the two do not keep the same tensors.
    """
    old, new = ({states.partition: states for states in commit} for commit in (before, after))
    for name in sorted({*old, *new}):
        nothing = KeyStates(0, name)
        yield from _moved(old.get(name, nothing), new.get(name, nothing))


def _moved(before: KeyStates, after: KeyStates) -> Iterator[Moved]:
    if before.rows and after.rows and (_layout(before) != _layout(after)):
        raise StateError(
            f"the commits keep other tensors: {_layout(before)} in {before.number}, "
            f"{_layout(after)} in {after.number}; states of two models cannot be compared"
        )
    for key in sorted({*before.rows, *after.rows}):
        if key not in before.rows:
            yield Moved(after.partition, key, "came")
        elif key not in after.rows:
            yield Moved(after.partition, key, "went")
        elif found := _changed(before, after, key):
            yield Moved(after.partition, key, "changed", *found)


def _layout(states: KeyStates) -> dict[str, str]:
    return {name: f"{array.dtype}{list(array.shape[1:])}" for name, array in states.tensors.items()}


def _changed(before: KeyStates, after: KeyStates, key: str) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    a, b = before.rows[key], after.rows[key]
    found = before.columns["fresh"][a], after.columns["fresh"][b]
    if any(found):  # the numbers are not what the next event finds
        tensors = tuple(after.tensors) if found[0] != found[1] else ()
    else:
        pairs = ((name, before.tensors[name][a], array[b]) for name, array in after.tensors.items())
        tensors = tuple(name for name, was, now in pairs if was.tobytes() != now.tobytes())
    shared = [name for name in sorted(after.columns) if name in before.columns and name not in HIDDEN]
    columns = tuple(name for name in shared if before.fact(name, a) != after.fact(name, b))
    return (tensors, columns) if tensors or columns else None
