"""The files of state that commits of a group name: of each partition a base, and changes laid over it.

A file is a line of JSON and a segment. Its name holds the offset at which the state stands and the beginning
of its digest; one that holds changes says in its line which file it follows.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamrnn.commit.recovery import refuse_other
from streamrnn.errors import StateError

if TYPE_CHECKING:
    from streamrnn.context import Context
    from streamrnn.core import Core

FORMAT = 2
_READ_FORMATS = (1, 2)
"""Files of format 1 are bases, all of them."""
_NOTE = re.compile(r"streamrnn state (\d+) ([0-9a-f]{64})")
"""What stands beside a committed offset: the format, and the digest of the file of state."""
_FILE = re.compile(r"(\d{20})-([0-9a-f]{16})\.state")
_MOST_FILES = 64
"""So many files make a state at most: whoever loads it reads them all."""


@dataclass(frozen=True)
class _Link:
    """One file of a chain."""

    offset: int
    digest: str
    bytes: int

    @property
    def name(self) -> str:
        return f"{self.offset:020d}-{self.digest[:16]}.state"


_Chain = tuple[_Link, ...]


class StateFiles:
    """Writes and loads them. `fixed` says what the state is of, `where` who has committed it."""

    def __init__(
        self, folder: Path, context: Context, fixed: Mapping[str, Any], keep: int, where: str
    ) -> None:
        self._folder, self._context, self._fs = folder, context, context.fs
        self._fixed, self._keep, self._where = fixed, keep, where
        self._chains: dict[str, _Chain] = {}
        """By partition, what the state at hand was written to, or loaded from."""
        self._kept: dict[str, deque[_Chain]] = {}
        """By partition, the chains of the last commits."""
        self.bytes = 0
        """How much was written, in all."""

    def save(self, partition: str, head: Mapping[str, Any], offset: int, core: Core) -> str:
        """Write the state of a partition, or what changed of it; what is to stand beside its offset."""
        chain = self._chains.get(partition, ())
        anew = not chain or len(chain) >= _MOST_FILES or sum(c.bytes for c in chain[1:]) > chain[0].bytes
        line = {**self._fixed, "group_format": FORMAT, **head, "offset": offset}
        if not anew:
            line["after"] = {"offset": chain[-1].offset, "digest": chain[-1].digest}
        segment = core.snapshot() if anew else core.take_delta()
        data = json.dumps(line, sort_keys=True).encode() + b"\n" + segment
        link = _Link(offset, _digest(data), len(data))
        self._write(self._folder / partition, link.name, data)
        self._chains[partition] = (link,) if anew else (*chain, link)
        return f"streamrnn state {FORMAT} {link.digest}"

    def load(self, partition: str, offset: int, note: str, core: Core) -> str | None:
        """Make a new core what the state of a partition was at a committed offset.

        Returns a sentence for a person, as `Core.restore` does. Raises `StateError`.
        """
        found = _NOTE.fullmatch(note)
        if found is None or int(found[1]) not in _READ_FORMATS:
            raise StateError(
                f"{partition}: {self._where} has committed offset {offset}, but not with state of this "
                "version (its offsets were reset, or another program has committed it); take another group, "
                "or delete this one's offsets to begin anew"
            )
        at: dict[str, Any] | None = {"offset": offset, "digest": found[2]}
        chain, segments = list[_Link](), list[bytes]()
        while at is not None:
            link, line, segment = self._read(partition, at["offset"], at["digest"])
            if not chain:
                refuse_other(self._folder, line["pipeline"], self._fixed["pipeline"])
            chain.append(link)
            segments.append(segment)
            at = line.get("after")
        told = core.restore(reversed(segments))
        self._chains[partition] = tuple(reversed(chain))
        self._kept[partition] = deque([self._chains[partition]], self._keep)
        return told

    def forget(self, partition: str) -> None:
        """Have no more to do with a partition."""
        self._chains.pop(partition, None)
        self._kept.pop(partition, None)

    def committed(self, partition: str) -> None:
        """What was saved last is committed: remove what lies before it, but for the last few commits.

        What lies behind it may be another's, who has taken the partition over while this member slept; that
        one follows what lies here, or nothing.
        """
        chain = self._chains[partition]
        kept = self._kept.setdefault(partition, deque(maxlen=self._keep))
        kept.append(chain)
        needed = {link.name for each in kept for link in each}
        folder = self._folder / partition
        with suppress(OSError):  # whoever comes next will
            for name in self._fs.names(folder):
                if _FILE.fullmatch(name) and int(name[:20]) < chain[-1].offset and name not in needed:
                    self._fs.remove(folder / name)

    def _write(self, folder: Path, name: str, data: bytes) -> None:
        path = folder / name
        unfinished = path.with_suffix(f".{self._context.rng.getrandbits(64):016x}.tmp")
        self.bytes += len(data)
        try:
            self._fs.make_folder(folder)
            with closing(self._fs.open_write(unfinished, append=False)) as file:
                self._fs.write(file, data)
                self._fs.sync(file)
            self._fs.replace(unfinished, path)
            self._fs.sync_folder(folder)
        except OSError as error:
            where = error.filename or folder
            raise StateError(f"checkpoint: {where}: cannot write: {error.strerror}") from error

    def _read(self, partition: str, offset: int, digest: str) -> tuple[_Link, dict[str, Any], bytes]:
        """A file, what its line says, and its segment."""
        path = self._folder / partition / f"{offset:020d}-{digest[:16]}.state"
        try:
            data = self._fs.read_bytes(path)
        except FileNotFoundError as error:
            raise StateError(
                f"{path}: {self._where} has committed {partition} with its state at offset {offset} in this "
                "file, and it is missing; all members of a group need the same checkpoint dir"
            ) from error
        if _digest(data) != digest:
            raise StateError(f"{path}: its {len(data)} bytes do not match their digest")
        line, _, segment = data.partition(b"\n")
        return _Link(offset, digest, len(data)), json.loads(line), segment


def _digest(data: bytes) -> str:
    return blake2b(data, digest_size=32).hexdigest()
