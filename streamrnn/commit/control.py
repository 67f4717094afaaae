"""`control.log`: what was asked of a job from outside the stream, on the disk before it takes effect.

One JSON object a line: its `sequence` from 1, the `commit` behind which it takes effect, the `events` up to
there, the `position` of the source by partition, and the `command`, an object with one key that says what
it is. Nothing is served between that commit and the command, so that a run that dies in between need only
look whether the manifest it goes on from knows the line already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from streamrnn.errors import StateError
from streamrnn.events import Mark, Origin

if TYPE_CHECKING:
    from streamrnn.context import Context, FileSystem
    from streamrnn.core import Core, Shards

NAME = "control.log"
_ORIGIN = Origin("control", NAME)


class Entry(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One line; docs/daemon.md lists the commands."""

    sequence: int
    command: dict[str, Any]
    commit: int = 0
    events: int = 0
    position: dict[str, Any] = msgspec.field(default_factory=dict)


def read(fs: FileSystem, folder: Path) -> tuple[list[Entry], int]:
    """All lines of a folder's log, and where the last whole one ends: a crash may leave a part of one.

    Raises `StateError` for a line that is none of ours.
    """
    path = folder / NAME
    if fs.status(path) is None:
        return [], 0
    try:
        data = fs.read_bytes(path)
    except OSError as error:
        raise StateError(f"{path}: cannot read: {error.strerror}") from error
    whole = data[: data.rfind(b"\n") + 1]
    try:
        entries = msgspec.json.Decoder(Entry).decode_lines(whole)
    except msgspec.MsgspecError as error:
        raise StateError(
            f"{path}: expected one command a line, as the daemon writes them: {error}"
        ) from error
    for before, entry in zip([0, *(each.sequence for each in entries)], entries, strict=False):
        if entry.sequence != before + 1:
            raise StateError(f"{path}: expected sequence {before + 1}, found {entry.sequence}")
    return entries, len(whole)


class ControlLog:
    """The log of a folder that this run holds. `done` is the last line that took effect."""

    def __init__(self, folder: Path, context: Context, done: int = 0) -> None:
        self._folder, self._fs = folder, context.fs
        self.entries, self._size = read(context.fs, folder)
        self.done = done
        self._is_cut = False

    def append(
        self, command: Mapping[str, Any], commit: int, events: int, position: Mapping[str, Any]
    ) -> Entry:
        """A line more, on the disk when this returns. Raises `StateError` if it cannot be written."""
        entry = Entry(
            sequence=len(self.entries) + 1,
            commit=commit,
            events=events,
            position=dict(position),
            command=dict(command),
        )
        path = self._folder / NAME
        line = msgspec.json.encode(entry) + b"\n"
        try:
            with closing(self._fs.open_write(path, append=True)) as file:
                if not self._is_cut:
                    self._fs.truncate(file, self._size)
                    self._is_cut = True
                self._fs.write(file, line)
                self._fs.sync(file)
            self._fs.sync_folder(self._folder)
        except OSError as error:
            raise StateError(f"{path}: cannot write: {error.strerror}") from error
        self._size += len(line)
        self.entries.append(entry)
        return entry

    def due(self, commit: int) -> Iterator[Entry]:
        """Lines that a crash kept from taking effect; all of them belong behind this commit.

        Those behind another one, of a commit that was found broken, are no longer true of what follows.
        """
        for entry in self.entries[self.done :]:
            if entry.commit == commit:
                yield entry


def chosen(core: Core, reset: Mapping[str, Any]) -> list[str] | None:
    """The live keys of a core that a command `reset` means; None stands for all of them."""
    if reset.get("all"):
        return None
    if "glob" in reset:
        return core.keys_like(reset["glob"])
    return core.store.alive(list(dict.fromkeys(reset["keys"])))


def apply_reset(shards: Shards, reset: Mapping[str, Any], heed: Callable[[Core, Mark], object]) -> int:
    """Let the keys begin anew that a command `reset` means, of all partitions or one; how many.

    `heed` lets a core hear of a mark, as `Pipeline.heed` does.
    """
    count = 0
    for partition, core in shards.items():
        if reset.get("partition") not in (None, partition):
            continue
        if core.waiting is not None:  # who they are shows once those that wait have been served
            heed(core, Mark("control", _ORIGIN, keys=()))
        keys = chosen(core, reset)
        count += len(core) if keys is None else len(keys)
        heed(core, Mark("control", _ORIGIN, keys=None if keys is None else tuple(keys)))
    return count
