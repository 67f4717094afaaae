"""Field values in the one form in which reset rules compare and keep them.

Typed equality: 1, "1" and true differ; 1 and 1.0, 0.0 and -0.0 are the same number; an absent field is
null, a value of its own. A canonical value is None, a str, an int, a float, or bytes that stand for
anything else (true, false, lists, objects), so that Python's own == and hash tell what is equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

if TYPE_CHECKING:
    from streamrnn.events import Array, Column, IntArray

_PLAIN = {str, int, float, type(None)}


def canonical(value: Any) -> Any:
    """One field value in canonical form."""
    if type(value) in _PLAIN:
        return value
    return msgspec.json.encode(_normal(value), order="deterministic")


def canonical_column(column: Column) -> Array:
    """A column in canonical form: an object array [n]."""
    values = column.tolist() if isinstance(column, np.ndarray) else column
    out = np.empty(len(values), dtype=object)
    out[:] = values if set(map(type, values)) <= _PLAIN else list(map(canonical, values))
    return out


def oversized(column: Array, limit: int) -> IntArray:
    """Indices of canonical values that take more than `limit` bytes to keep."""
    suspects = [i for i, v in enumerate(column) if isinstance(v, str | bytes) and 4 * len(v) > limit]
    return np.array([i for i in suspects if len(to_bytes(column[i])) > limit], dtype=np.int64)


def to_bytes(value: Any) -> bytes:
    """A canonical value as bytes, for a segment of state."""
    if isinstance(value, bytes):
        return b"j" + value
    if isinstance(value, str):
        return b"s" + value.encode()
    return b"v" + msgspec.json.encode(value)


def from_bytes(data: bytes) -> Any:
    """The reverse of `to_bytes`."""
    kind, rest = data[:1], data[1:]
    if kind == b"s":
        return rest.decode()
    return rest if kind == b"j" else msgspec.json.decode(rest)


def pack(values: Sequence[bytes]) -> tuple[Array, IntArray]:
    """Byte strings as one uint8 array and int64 [n + 1] offsets."""
    lengths = np.fromiter(map(len, values), np.int64, len(values))
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    return np.frombuffer(b"".join(values), np.uint8), offsets


def unpack(data: Array, offsets: IntArray) -> list[bytes]:
    """The reverse of `pack`."""
    buffer, ends = data.tobytes(), offsets.tolist()
    return [buffer[start:stop] for start, stop in pairwise(ends)]


def _normal(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list | tuple):
        return [_normal(item) for item in value]
    if isinstance(value, dict):
        return {str(name): _normal(item) for name, item in value.items()}
    return value
