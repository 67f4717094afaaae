"""What lies before a byte of a file, in a few bytes: whether a file is still the one that was left."""

from __future__ import annotations

from contextlib import closing
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import BinaryIO

    from streamrnn.context import FileSystem
    from streamrnn.ports import Place

_LOOKED_AT = 4096


def prefix_of(fs: FileSystem, path: Path, length: int | None) -> Place:
    """The first `length` bytes of a file, all if None, as their number and a hash of the last of them."""
    with closing(fs.open_read(path)) as file:
        return prefix_in(fs, file, fs.status_of(file).st_size if length is None else length)


def prefix_in(fs: FileSystem, file: BinaryIO, length: int) -> Place:
    """The same of a file that is open for reading."""
    start = max(0, length - _LOOKED_AT)
    last = fs.read_at(file, start, length - start)
    return {"bytes": length, "last": blake2b(last, digest_size=16).hexdigest()}


def unlike(fs: FileSystem, path: Path, prefix: Place) -> str | None:
    """What is wrong with a file that should begin as `prefix` says; None if it does. Raises `OSError`."""
    status = fs.status(path)
    if status is None:
        return f"expected at least {prefix['bytes']} bytes, found no file"
    if status.st_size < prefix["bytes"]:
        return f"expected at least {prefix['bytes']} bytes, found {status.st_size}: it was cut"
    if prefix_of(fs, path, prefix["bytes"]) != prefix:
        return f"its bytes before byte {prefix['bytes']} are not those of the last commit: it was replaced"
    return None
