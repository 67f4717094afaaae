"""State as bytes: one safetensors blob of rows, columns, keys and tensors. The one format for all hosts.

A base holds every live row, a delta those that changed since, each in one part or several; rows keep their
numbers, so that a delta is laid over what came before. A row whose key is empty is free.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from streamrnn.core.columns import ADDED
from streamrnn.core.key_names import Packed
from streamrnn.core.rows import lay
from streamrnn.errors import StateError
from streamrnn.values import from_bytes, pack, to_bytes, unpack

if TYPE_CHECKING:
    from streamrnn.core.store import Store
    from streamrnn.events import Array, IntArray

FORMAT = 1
BESIDE = "beside."
"""Before the names of arrays that are of no key; the last segment that has any has all of them."""


Chunks = list[bytes | memoryview]
"""Buffers that make a file when they are written one after the other."""

_DTYPES = {"f4": "F32", "f8": "F64", "f2": "F16", "i8": "I64", "i4": "I32", "i2": "I16", "i1": "I8"} | {
    "u8": "U64",
    "u4": "U32",
    "u2": "U16",
    "u1": "U8",
    "b1": "BOOL",
}


_NUMPY = {name: np.dtype(f"<{code}") for code, name in _DTYPES.items()}


class Beside(Protocol):
    """What is kept of a shard beside its keys, and goes where they go."""

    def frozen(self) -> Callable[[], Mapping[str, Array]]:
        """All of it as it is now, as arrays by name; what is returned may be asked on any thread."""
        ...

    def load(self, arrays: Mapping[str, Array]) -> None:
        """The reverse, in place of what there is."""
        ...


def encode(header: Mapping[str, Any], tensors: Mapping[str, Sequence[Array]]) -> Chunks:
    """A segment, or a part of one. A tensor's arrays follow each other along the first axis.

    The library that reads the format would need each tensor in one piece: two more copies of all state, made
    while the stream waits for the interpreter.
    """
    described: dict[str, Any] = {"__metadata__": {"streamrnn": json.dumps(header, sort_keys=True)}}
    chunks: Chunks = [b""]
    position = 0
    for name, arrays in tensors.items():
        shape = [sum(map(len, arrays)), *arrays[0].shape[1:]]
        size = sum(array.nbytes for array in arrays)
        place = [position, position + size]
        described[name] = {"dtype": _DTYPES[arrays[0].dtype.str[1:]], "shape": shape, "data_offsets": place}
        position += size
        chunks += [
            np.ascontiguousarray(array).reshape(-1).view(np.uint8).data for array in arrays if array.size
        ]
    text = json.dumps(described).encode()
    text += b" " * (-len(text) % 8)
    chunks[0] = struct.pack("<Q", len(text)) + text
    return chunks


def packed_objects(columns: Sequence[Array]) -> tuple[Array, IntArray]:
    """A column of objects as bytes and int64 [n + 1] offsets."""
    return pack([to_bytes(value) for column in columns for value in column])


def read(store: Store, segments: Iterable[bytes]) -> str | None:
    """Lay segments over an empty store, first a base, then deltas in order, each in all its parts.

    Returns a sentence for a person if the state was kept by another backend of the same model.
    """
    if store.sequence:
        raise StateError("state can only be restored into a core that has served nothing")
    note = None
    for number, blob in enumerate(segments):
        header, tensors = parse(blob)
        note = _check(store, header, number) or note
        rows = tensors["rows"].copy()  # what the rest of the bytes become is only read from
        if store.tiers is None:
            store.grow(max(header.get("rows", 0), int(rows.max(initial=-1)) + 1))
            _lay(store, rows, tensors)
        else:
            store.tiers.restore(rows, tensors["live"], tensors)
        store.sequence = header["sequence"]
        store.largest = dict(header["largest"])
        store.epochs = {int(bits): epoch for bits, epoch in header["epochs"].items()}
        if "gone.hash" in tensors:
            store.keys.gone.load(tensors["gone.hash"], tensors["gone.cause"], header["forgot"])
        beside = {n.removeprefix(BESIDE): array for n, array in tensors.items() if n.startswith(BESIDE)}
        if store.beside is not None and beside:
            store.beside.load(beside)
        store.has_quarantine |= bool(np.any(tensors.get("column.quarantined", 0)))
    store.keys.rebuild()
    if store.tiers is not None:
        store.tiers.settle()
    store.dirty.clear()
    return note


def header_of(store: Store, base: bool) -> dict[str, Any]:
    """What a segment of this moment says of itself; a part adds its number."""
    return {
        "format": FORMAT,
        "rows": len(store.keys.names) if store.tiers is None else store.tiers.count,
        "kind": "base" if base else "delta",
        "fingerprint": store.fingerprint,
        "meaning": store.meaning,
        "causes": store.cause_names,
        "guard": store.limits.guard,
        "shard": 0,
        "shards": 1,
        "sequence": store.sequence,
        "largest": dict(store.largest),
        "epochs": dict(store.epochs),
        "forgot": store.keys.gone.forgot,
    }


def parse(blob: bytes) -> tuple[dict[str, Any], dict[str, Array]]:
    """Header and tensors of a segment; they are views. Raises `StateError` if it cannot be read."""
    try:
        (size,) = struct.unpack_from("<Q", blob)
        described = json.loads(blob[8 : 8 + size])
        header = json.loads(described.pop("__metadata__")["streamrnn"])
        return header, {name: _view(blob, 8 + size, of) for name, of in described.items()}
    except (KeyError, TypeError, ValueError, struct.error) as error:
        raise StateError(f"a segment of state cannot be read: {error}") from error


def _view(blob: bytes, start: int, described: Mapping[str, Any]) -> Array:
    first, last = described["data_offsets"]
    data = np.frombuffer(blob, np.uint8)[start + first : start + last]
    return data.view(_NUMPY[described["dtype"]]).reshape(described["shape"])


def _check(store: Store, header: Mapping[str, Any], number: int) -> str | None:
    if header["format"] != FORMAT:
        raise StateError(f"the state has format {header['format']}, this version reads {FORMAT}")
    part = header.get("part", 0)
    if (header["kind"] == "base") != (number == part) or (part and header["sequence"] != store.sequence):
        raise StateError(f"segment {number} is a {header['kind']}; expected one base, then deltas in order")
    if number and header["sequence"] < store.sequence:
        raise StateError(f"segment {number} is older than the one before it")
    other = header["fingerprint"] != store.fingerprint
    if other and not (store.meaning and header.get("meaning") == store.meaning):
        raise StateError(
            f"the state is of the model {header['fingerprint'][:12]}, this one is "
            f"{store.fingerprint[:12]}: run it with that model, or start without its state"
        )
    if _of_rules(header["causes"], header.get("guard")) != _of_rules(store.cause_names, store.limits.guard):
        raise StateError(
            f"the state was kept under the reset rules {', '.join(header['causes'][5:]) or '(none)'}, "
            f"this pipeline has {', '.join(store.cause_names[5:]) or '(none)'}"
        )
    if not other:
        return None
    return (
        "the state was kept by the same model under another backend or other options of it; what follows is "
        "equal to its continuation but for the last bits"
    )


def _of_rules(causes: Sequence[str], guard: str | None) -> Sequence[str]:
    """The causes but for the last one of a guard that resets, which may come and go."""
    return list(causes[:-1] if guard == "reset" else causes)


def _lay(store: Store, rows: IntArray, tensors: Mapping[str, Array]) -> None:
    keys = Packed.cut(tensors["key.bytes"], np.diff(tensors["key.offsets"]))
    store.keys.bind(rows, tensors["live"], keys)
    for name, column in store.columns.arrays.items():
        if column.dtype == object:
            values = unpack(tensors[f"{name}.bytes"], tensors[f"{name}.offsets"])
            column[rows] = [from_bytes(value) for value in values]
        elif name not in ADDED or f"column.{name}" in tensors:
            lay(column, rows, tensors[f"column.{name}"])
    prefix = "state."
    store.slab.write(rows, {n[len(prefix) :]: a for n, a in tensors.items() if n.startswith(prefix)})
