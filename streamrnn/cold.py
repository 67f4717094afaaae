"""Keys whose state lies on the disk: the contract of what holds them, and LMDB as the one that ships.

It is scratch space of one run. What survives a crash is in the commits, from which it is filled anew.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from streamrnn.errors import StateError

if TYPE_CHECKING:
    from collections.abc import Callable

    from streamrnn.events import IntArray

_MAP_BYTES = 1 << 42
"""The most it may grow to. Only addresses are taken, no memory and no disk."""
_DIGEST_BYTES, _NUMBER_BYTES = 16, 8
_CHUNK = 4096


class Cold(NamedTuple):
    """One key: a digest of it, the number of its last event (above 0, its own), its time, and all else."""

    digest: bytes
    sequence: int
    time: int
    value: bytes


class Snapshot(Protocol):
    """What a store held at one moment."""

    def each(self, sequences: Sequence[int] | None, count: int) -> Iterator[list[bytes]]:
        """Values at most `count` at a time: of those last events that are there, or of all."""
        ...

    def close(self) -> None:
        """Nobody wants it any more."""
        ...


class ColdStore(Protocol):
    """Holds keys that nobody has heard for a while. All calls come from one thread."""

    def __len__(self) -> int:
        """Keys it holds."""
        ...

    def put(self, keys: Sequence[Cold]) -> None:
        """Hold more keys; none of them is there."""
        ...

    def pop(self, digests: Sequence[bytes]) -> list[bytes]:
        """Give back, and hold no longer, those of these keys that are there."""
        ...

    def pop_at(self, sequences: Sequence[int]) -> list[bytes]:
        """The same by the numbers of their last events, which are there."""
        ...

    def ends(self, count: int, newest: bool = False) -> list[int]:
        """The numbers of the `count` oldest last events, or of the newest; fewer if there are not as many."""
        ...

    def before(self, time: int) -> list[int]:
        """The numbers of the last events of keys whose time lies before `time`, in any order."""
        ...

    def kept(self, sequences: IntArray) -> IntArray:
        """Those of the numbers of last events that are there; int64, sorted as given."""
        ...

    def snapshot(self) -> Snapshot:
        """What it holds now, to be read while it goes on."""
        ...


def lmdb_opener(folder: Path, timed: bool) -> Callable[[], ColdStore]:
    """Opens stores below a folder. Raises `StateError` if the package lmdb is missing.

    `before` may be asked only of those that are `timed`.
    """
    try:
        import lmdb  # noqa: F401
    except ImportError as error:
        raise StateError("state: tiers: [memory, disk] needs lmdb: pip install 'streamrnn[lmdb]'") from error
    return lambda: LmdbStore(folder, timed)


class LmdbStore:
    """Three tables: values by the number of the last event, that number by digest, and by time.

    A value begins with digest and time. The files have no names: whatever ends the process, they are gone.
    """

    def __init__(self, folder: Path, timed: bool) -> None:
        self._folder, self._count, self._timed = folder, 0, timed
        self._env: Any = None

    def _open(self) -> None:
        """Nothing is made before the first key goes cold."""
        import lmdb

        self._failed = lmdb.Error
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix="cold-", dir=self._folder) as scratch:
                # Nothing of it has to survive, so nothing is ever synced.
                self._env = lmdb.open(
                    scratch, map_size=_MAP_BYTES, max_dbs=3, sync=False, metasync=False, meminit=False
                )
        except (OSError, lmdb.Error) as error:
            raise StateError(f"state: {self._folder}: cannot keep keys there: {error}") from error
        self._values, self._digests, self._times = (self._env.open_db(name) for name in (b"v", b"d", b"t"))

    def __len__(self) -> int:
        return self._count

    def put(self, keys: Sequence[Cold]) -> None:
        """See `ColdStore`."""
        if self._env is None:
            self._open()
        numbers = [_number(key.sequence) for key in keys]
        with self._writing() as txn:
            pairs = [
                (number, key.digest + _number(key.time) + key.value)
                for number, key in zip(numbers, keys, strict=True)
            ]
            txn.cursor(self._values).putmulti(pairs)
            digests = [key.digest for key in keys]
            txn.cursor(self._digests).putmulti(sorted(zip(digests, numbers, strict=True)))
            if self._timed:
                times = [(_number(k.time) + number, b"") for number, k in zip(numbers, keys, strict=True)]
                txn.cursor(self._times).putmulti(sorted(times))
        self._count += len(keys)

    def pop(self, digests: Sequence[bytes]) -> list[bytes]:
        """See `ColdStore`."""
        if not self._count:
            return []
        with self._env.begin() as txn:
            numbers = [number for _, number in txn.cursor(self._digests).getmulti(sorted(digests))]
        return self._pop(numbers)

    def pop_at(self, sequences: Sequence[int]) -> list[bytes]:
        """See `ColdStore`."""
        return self._pop([_number(sequence) for sequence in sequences])

    def _pop(self, numbers: Sequence[bytes]) -> list[bytes]:
        if not numbers:
            return []
        with self._writing() as txn:
            found = txn.cursor(self._values).getmulti(sorted(numbers))
            for number, value in found:
                txn.delete(number, db=self._values)
                txn.delete(value[:_DIGEST_BYTES], db=self._digests)
                if self._timed:
                    txn.delete(value[_DIGEST_BYTES : _DIGEST_BYTES + _NUMBER_BYTES] + number, db=self._times)
        self._count -= len(found)
        return [value[_DIGEST_BYTES + _NUMBER_BYTES :] for _, value in found]

    def ends(self, count: int, newest: bool = False) -> list[int]:
        """See `ColdStore`."""
        if not self._count:
            return []
        with self._env.begin() as txn:
            cursor = txn.cursor(self._values)
            keys = (cursor.iterprev if newest else cursor.iternext)(keys=True, values=False)
            return [_read(key) for key, _ in zip(keys, range(count), strict=False)]

    def before(self, time: int) -> list[int]:
        """See `ColdStore`."""
        limit, found = _number(time), list[int]()
        if not self._count:
            return found
        with self._env.begin() as txn:
            for key in txn.cursor(self._times).iternext(keys=True, values=False):
                if key[:_NUMBER_BYTES] >= limit:
                    break
                found.append(_read(key[_NUMBER_BYTES:]))
        return found

    def kept(self, sequences: IntArray) -> IntArray:
        """See `ColdStore`."""
        import numpy as np

        found = [np.zeros(0, np.int64)]
        if self._count:
            with self._env.begin() as txn:
                cursor = txn.cursor(self._values)
                for start in range(0, len(sequences), _CHUNK):
                    numbers = map(_number, sequences[start : start + _CHUNK].tolist())
                    there = [_read(number) for number, _ in cursor.getmulti(numbers)]
                    found.append(np.array(there, np.int64))
        return np.concatenate(found)

    def snapshot(self) -> Snapshot:
        """See `ColdStore`."""
        return _LmdbSnapshot(self._env.begin(), self._values) if self._count else _Nothing()

    def _writing(self) -> Any:
        return _Writing(self._env.begin(write=True), self._failed)


class _Writing:
    """A transaction that is undone by an error, which is told as one of the state."""

    def __init__(self, txn: Any, failed: type[Exception]) -> None:
        self._txn, self._failed = txn, failed

    def __enter__(self) -> Any:
        return self._txn.__enter__()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        try:
            self._txn.__exit__(kind, error, trace)
        except self._failed as failure:
            error = failure
        if isinstance(error, self._failed):
            raise StateError(f"state: keys cannot be put on the disk: {error}") from error


class _LmdbSnapshot:
    def __init__(self, txn: Any, values: Any) -> None:
        self._txn, self._values = txn, values

    def each(self, sequences: Sequence[int] | None, count: int) -> Iterator[list[bytes]]:
        """See `Snapshot`."""
        cursor, start = self._txn.cursor(self._values), _DIGEST_BYTES + _NUMBER_BYTES
        if sequences is not None:
            for at in range(0, len(sequences), count):
                found = cursor.getmulti([_number(sequence) for sequence in sequences[at : at + count]])
                yield [value[start:] for _, value in found]
            return
        chunk: list[bytes] = []
        for value in cursor.iternext(keys=False, values=True):
            chunk.append(value[start:])
            if len(chunk) == count:
                yield chunk
                chunk = []
        yield chunk

    def close(self) -> None:
        """See `Snapshot`."""
        self._txn.abort()


class _Nothing:
    def each(self, sequences: Sequence[int] | None, count: int) -> Iterator[list[bytes]]:
        """See `Snapshot`."""
        yield []

    def close(self) -> None:
        """See `Snapshot`."""


def _number(number: int) -> bytes:
    """Eight bytes that sort as the numbers do, negative ones too."""
    return (number + (1 << 63)).to_bytes(_NUMBER_BYTES, "big")


def _read(number: bytes) -> int:
    return int.from_bytes(number, "big") - (1 << 63)
