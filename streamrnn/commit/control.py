"""What was decided beside the stream and decides what comes out of it, by position: `control.log`.

A decision is durable before it takes effect, so that whoever serves the same events again takes it again.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from streamrnn.errors import StateError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from streamrnn.context import FileSystem

NAME = "control.log"
_WAY_OUT = "put back the file as it was, or remove it to go on as if nothing had been decided"


class Entry(msgspec.Struct):
    """One decision, a line of JSON. `sequence` counts from 1.

    `position` says by partition before which position it takes effect, `command` holds what is done under
    its name, such as `{"park": {...}}`.
    """

    sequence: int
    position: dict[str, int]
    command: dict[str, Any]


def read(fs: FileSystem, folder: Path) -> list[Entry]:
    """The decisions in a folder of commits, in order. A last line without its end was never in effect.

    Raises `StateError` for a file that is damaged.
    """
    path = folder / NAME
    if fs.status(path) is None:
        return []
    decoder = msgspec.json.Decoder(Entry)
    try:
        lines = fs.read_bytes(path).split(b"\n")[:-1]
        entries = [decoder.decode(line) for line in lines]
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise StateError(f"{path}: cannot be read: {error}; {_WAY_OUT}") from error
    if [entry.sequence for entry in entries] != list(range(1, len(entries) + 1)):
        raise StateError(f"{path}: expected decisions numbered from 1 on, some are not there: {_WAY_OUT}")
    return entries


def append(fs: FileSystem, folder: Path, position: Mapping[str, int], command: Mapping[str, Any]) -> Entry:
    """Write one more decision, durably. Raises `StateError`, and then it must not take effect."""
    path = folder / NAME
    entry = Entry(len(read(fs, folder)) + 1, dict(position), dict(command))
    try:
        held = fs.read_bytes(path) if fs.status(path) is not None else b""
        with closing(fs.open_write(path, append=True)) as file:
            whole = held.rfind(b"\n") + 1
            if whole < len(held):
                fs.truncate(file, whole)
            fs.write(file, msgspec.json.encode(entry) + b"\n")
            fs.sync(file)
        fs.sync_folder(folder)
    except OSError as error:
        raise StateError(f"{path}: cannot be written: {error.strerror}") from error
    return entry
