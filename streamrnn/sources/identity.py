"""What tells a file from others by what was read of it."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streamrnn.ports import Place

FIRST_BYTES = 1 << 12
LAST_BYTES = 1 << 12


def identity(first: bytes, last: bytes, length: int) -> Place:
    """That of a file by its first `length` bytes, of which the first and the last are given."""
    return {"bytes": length, "first": _hash(first), "last_bytes": len(last), "last": _hash(last)}


def _hash(data: bytes) -> str:
    return blake2b(data, digest_size=16).hexdigest()
