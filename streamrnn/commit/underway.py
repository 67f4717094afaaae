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

from streamrnn.events import Origin

if TYPE_CHECKING:
    from streamrnn.context import FileSystem
    from streamrnn.events import Block

NAME = "UNDERWAY"
DIGEST_BYTES = 16
SIZE = 8192
_MAGIC = b"srnnrun1"
_HEAD = struct.Struct("<8sBBxxxxxxq36s")
_RANGE = struct.Struct("<qqqq16s")
_STATE, _SIGNALLED, _RANGE_AT, _ORIGIN_AT = 8, 9, 64, 128
_ENDED, _BETWEEN, _SERVING = 0, 1, 2
_NOTHING = bytes(DIGEST_BYTES)
_BOOT = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Death:
    """What a run was serving when it ended without a word: `count` records of a partition.

    They stood at the positions `first` to `last`, and `number` is that of the first. `digest` is that of the
    only one, if it was served alone under suspicion, else "". `run` numbers the runs of a folder.
    """

    run: int
    origin: Origin
    first: int
    last: int
    number: int
    count: int
    digest: str


class Underway:
    """The memory of one folder of commits. `death` is what the last run left, None if that ended well.

    One that had a signal, or ended between two batches, leaves nothing that an event could be blamed for.
    """

    def __init__(self, fs: FileSystem, memory: memoryview) -> None:
        self._memory = memory
        self._boot = _boot(fs)
        magic, state, signalled, run, boot = _HEAD.unpack_from(self._memory)
        known = magic == _MAGIC
        self.run = run + 1 if known else 1
        self._origin: Origin | None = None
        died = known and state == _SERVING and not signalled and boot == self._boot
        self.death = self._read(run) if died else None

    def begin(self, after: int) -> None:
        """This run has begun, its number above `after`; what the last one left is gone."""
        self.run = max(self.run, after + 1)
        self._memory[_STATE] = _ENDED
        _HEAD.pack_into(self._memory, 0, _MAGIC, _BETWEEN, False, self.run, self._boot)

    def serving(self, block: Block, is_alone: bool) -> None:
        """These records are served from now on."""
        if block.origin is not self._origin and block.origin != self._origin:
            self._put_origin(block.origin)
        digest = digest_of(block.record(0)) if is_alone else _NOTHING
        positions = block.positions
        first, last, number = positions[0], positions[-1], block.numbers[0]
        _RANGE.pack_into(self._memory, _RANGE_AT, first, last, number, len(positions), digest)
        self._memory[_STATE] = _SERVING

    def served(self) -> None:
        """And have been."""
        self._memory[_STATE] = _BETWEEN

    def signalled(self) -> None:
        """The run was told to end; however it does, that is why. May be called on any thread."""
        self._memory[_SIGNALLED] = True

    def close(self) -> None:
        """The run has ended by itself; twice is fine."""
        self._memory[_STATE] = _ENDED

    def _put_origin(self, origin: Origin) -> None:
        text = msgspec.json.encode([origin.source, origin.partition])
        text = text[: SIZE - _ORIGIN_AT - 2]  # a name as long as that is read by nobody, and none is blamed
        struct.pack_into(f"<H{len(text)}s", self._memory, _ORIGIN_AT, len(text), text)
        self._origin = origin

    def _read(self, run: int) -> Death | None:
        first, last, number, count, digest = _RANGE.unpack_from(self._memory, _RANGE_AT)
        (size,) = struct.unpack_from("<H", self._memory, _ORIGIN_AT)
        text = bytes(self._memory[_ORIGIN_AT + 2 : _ORIGIN_AT + 2 + size])
        try:
            origin = Origin(*msgspec.json.decode(text, type=tuple[str, str]))
        except msgspec.MsgspecError:
            return None
        alone = digest.hex() if digest != _NOTHING else ""
        return Death(run, origin, min(first, last), max(first, last), number, count, alone)


def digest_of(record: bytes) -> bytes:
    """What tells a record from others that come to stand at its position."""
    return blake2b(record, digest_size=DIGEST_BYTES).digest()


def _boot(fs: FileSystem) -> bytes:
    """Which start of the machine this is: a machine that went down is no fault of an event."""
    try:
        return fs.read_bytes(_BOOT)[:36].ljust(36)
    except OSError:
        return b" " * 36
