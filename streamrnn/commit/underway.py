"""Which records a run is serving, put where it outlives the process: what a sudden end has left of it.

A few numbers go into memory that is a file of the job's folder, before and behind each batch. That costs no
call of the system; the next run finds them there however this one ended, but for a loss of power.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from streamrnn.events import Origin

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from streamrnn.context import FileSystem
    from streamrnn.events import Block

NAME = "UNDERWAY"
DIGEST_BYTES = 16
_MAGIC = b"srnnrun1"
_HEAD = struct.Struct("<8sBBxxxxxxq36s")
_SERVED = struct.Struct("<qqq16s")
_STATE, _SIGNALLED, _SERVED_AT, _ORIGINS_AT, _RECORDS_AT = 8, 9, 64, 128, 16_384
_RECORD_BYTES = 16
_ENDED, _BETWEEN, _SERVING = 0, 1, 2
_NOTHING = bytes(DIGEST_BYTES)
_BOOT = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Death:
    """What a run was serving when it ended without a word: the positions of records, by where they are from.

    `number` is that of the first. `digest` is that of the only one, if it was served alone under suspicion,
    else "". `run` numbers the runs of a folder, `taken` are the records that this one had begun to serve.
    """

    run: int
    records: Mapping[Origin, list[int]]
    number: int
    digest: str
    taken: int


def size_for(records: int) -> int:
    """Bytes of memory in which so many can be named."""
    return _RECORDS_AT + _RECORD_BYTES * records


class Underway:
    """The memory of one folder of commits. `death` is what the last run left, None if that ended well.

    One that had a signal, or ended between two batches, leaves nothing that an event could be blamed for.
    """

    def __init__(self, fs: FileSystem, memory: memoryview) -> None:
        self._memory = memory
        self._records = np.frombuffer(memory[_RECORDS_AT:], np.int64).reshape(-1, 2)
        self._origin: Origin | None = None
        self._boot = _boot(fs)
        magic, state, signalled, run, boot = _HEAD.unpack_from(memory)
        known = magic == _MAGIC
        self.run, self._taken = run + 1 if known else 1, 0
        died = known and state == _SERVING and not signalled and boot == self._boot
        self.death = self._read(run) if died else None

    def begin(self, after: int) -> None:
        """This run has begun, its number above `after`; what the last one left is gone."""
        self.run = max(self.run, after + 1)
        self._memory[_STATE] = _ENDED
        _HEAD.pack_into(self._memory, 0, _MAGIC, _BETWEEN, False, self.run, self._boot)

    def serving(self, block: Block, is_alone: bool) -> int:
        """These records are served from now on; how many there were in this run, with them."""
        n = len(block.positions)
        self._taken += n
        if block.origins is not None or (block.origin is not self._origin and block.origin != self._origin):
            self._put_origins(block)
        if n == 1:  # many times as fast as a slice
            self._records[0, 0] = block.positions[0]
        else:
            self._records[:n, 0] = block.positions[: len(self._records)]
        digest = digest_of(block.record(0)) if is_alone else _NOTHING
        _SERVED.pack_into(self._memory, _SERVED_AT, n, block.numbers[0], self._taken, digest)
        self._memory[_STATE] = _SERVING
        return self._taken

    def served(self) -> None:
        """And have been."""
        self._memory[_STATE] = _BETWEEN

    def signalled(self) -> None:
        """The run was told to end; however it does, that is why. May be called on any thread."""
        self._memory[_SIGNALLED] = True

    def close(self) -> None:
        """The run has ended by itself; twice is fine."""
        self._memory[_STATE] = _ENDED

    def _put_origins(self, block: Block) -> None:
        several: Sequence[Origin] = block.origins or [block.origin]
        numbers = {origin: i for i, origin in enumerate(dict.fromkeys(several))}
        self._records[: len(several), 1] = [numbers[origin] for origin in several[: len(self._records)]]
        if block.origins is None:
            self._records[:, 1] = 0
        text = msgspec.json.encode([[origin.source, origin.partition] for origin in numbers])
        text = text[: _RECORDS_AT - _ORIGINS_AT - 4]  # so many that they are cut are read as none
        struct.pack_into(f"<I{len(text)}s", self._memory, _ORIGINS_AT, len(text), text)
        self._origin = None if block.origins else block.origin

    def _read(self, run: int) -> Death | None:
        n, number, taken, digest = _SERVED.unpack_from(self._memory, _SERVED_AT)
        (size,) = struct.unpack_from("<I", self._memory, _ORIGINS_AT)
        text = bytes(self._memory[_ORIGINS_AT + 4 : _ORIGINS_AT + 4 + size])
        found: dict[Origin, list[int]] = {}
        try:
            origins = [Origin(*each) for each in msgspec.json.decode(text, type=list[tuple[str, str]])]
            for position, of in self._records[:n].tolist():
                found.setdefault(origins[of], []).append(position)
        except (msgspec.MsgspecError, IndexError):
            return None
        return Death(run, found, number, digest.hex() if digest != _NOTHING else "", taken)


def digest_of(record: bytes) -> bytes:
    """What tells a record from others that come to stand at its position."""
    return blake2b(record, digest_size=DIGEST_BYTES).digest()


def _boot(fs: FileSystem) -> bytes:
    """Which start of the machine this is: a machine that went down is no fault of an event."""
    try:
        return fs.read_bytes(_BOOT)[:36].ljust(36)
    except OSError:
        return b" " * 36
