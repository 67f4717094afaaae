"""State as bytes: one safetensors blob of rows, columns, keys and tensors. The one format for all hosts.

A base holds every live row, a delta those that changed since; rows keep their numbers, so that a delta is
laid over what came before. A row whose key is empty is free.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from streamrnn.errors import StateError
from streamrnn.values import from_bytes, pack, to_bytes, unpack

if TYPE_CHECKING:
    from streamrnn.core.core import Core
    from streamrnn.events import Array, IntArray

FORMAT = 1
_ROWS_PER_FLAG = 64


class Dirty:
    """Which rows changed since the last segment, a flag per block of rows."""

    def __init__(self, capacity: int) -> None:
        self._flags = np.zeros(0, np.bool_)
        self.gone = True
        self.grow(capacity)

    def grow(self, capacity: int) -> None:
        """Flags for more rows."""
        flags = np.zeros(-(-capacity // _ROWS_PER_FLAG), np.bool_)
        flags[: len(self._flags)] = self._flags
        self._flags = flags

    def touch(self, rows: IntArray) -> None:
        """These rows changed."""
        self._flags[rows // _ROWS_PER_FLAG] = True

    def rows(self, used: int) -> IntArray:
        """All rows of touched blocks, below `used`."""
        blocks = np.flatnonzero(self._flags)
        rows = (blocks[:, None] * _ROWS_PER_FLAG + np.arange(_ROWS_PER_FLAG)).ravel()
        return rows[rows < used]

    def clear(self) -> None:
        """Everything is written."""
        self._flags[:] = False


def write(core: Core, rows: IntArray, base: bool) -> bytes:
    """A segment of these rows; the core's rows count as unchanged afterwards."""
    from safetensors.numpy import save

    keys = [core.keys.key_of[row] for row in rows.tolist()]
    gone = core.keys.gone.items()
    tensors: dict[str, Array] = {
        "rows": rows,
        "live": np.array([key is not None for key in keys], np.bool_),
        "gone.hash": np.array([name for name, _ in gone], np.uint64),
        "gone.cause": np.array([cause for _, cause in gone], np.int64),
    }
    tensors["key.bytes"], tensors["key.offsets"] = pack([(key or "").encode() for key in keys])
    for name, column in core.columns.arrays.items():
        if column.dtype == object:
            packed = pack([to_bytes(value) for value in column[rows]])
            tensors[f"{name}.bytes"], tensors[f"{name}.offsets"] = packed
        else:
            tensors[f"column.{name}"] = column[rows]
    for name, array in core.slab.read(rows).items():
        tensors[f"state.{name}"] = np.ascontiguousarray(array)
    header = _header(core, base)
    core._dirty.clear()
    return save(tensors, metadata={"streamrnn": json.dumps(header, sort_keys=True)})


def read(core: Core, segments: Sequence[bytes]) -> None:
    """Lay segments over an empty core, first a base, then deltas in order."""
    if core.sequence:
        raise StateError("state can only be restored into a core that has served nothing")
    for number, blob in enumerate(segments):
        header, tensors = _parse(blob)
        _check(core, header, number)
        rows = tensors["rows"]
        core._grow(int(rows.max(initial=-1)) + 1)
        _lay(core, rows, tensors)
        core.sequence = header["sequence"]
        core.largest = dict(header["largest"])
        core.epochs = {int(bits): epoch for bits, epoch in header["epochs"].items()}
        gone = zip(tensors["gone.hash"].tolist(), tensors["gone.cause"].tolist(), strict=True)
        core.keys.gone.load(list(gone), header["forgot"])
    core.keys.rebuild()
    core._dirty.clear()


def _header(core: Core, base: bool) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "kind": "base" if base else "delta",
        "fingerprint": core.backend.state.fingerprint,
        "causes": core.cause_names,
        "shard": 0,
        "shards": 1,
        "sequence": core.sequence,
        "largest": core.largest,
        "epochs": core.epochs,
        "forgot": core.keys.gone.forgot,
    }


def _parse(blob: bytes) -> tuple[dict[str, Any], dict[str, Array]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tensors = load(blob)
        (size,) = struct.unpack_from("<Q", blob)
        header = json.loads(blob[8 : 8 + size])["__metadata__"]["streamrnn"]
        return json.loads(header), tensors
    except (SafetensorError, KeyError, ValueError, struct.error) as error:
        raise StateError(f"a segment of state cannot be read: {error}") from error


def _check(core: Core, header: Mapping[str, Any], number: int) -> None:
    if header["format"] != FORMAT:
        raise StateError(f"the state has format {header['format']}, this version reads {FORMAT}")
    if (header["kind"] == "base") != (number == 0):
        raise StateError(f"segment {number} is a {header['kind']}; expected one base, then deltas in order")
    if number and header["sequence"] < core.sequence:
        raise StateError(f"segment {number} is older than the one before it")
    if header["fingerprint"] != core.backend.state.fingerprint:
        raise StateError(
            f"the state is of the model {header['fingerprint'][:12]}, this one is "
            f"{core.backend.state.fingerprint[:12]}: run it with that model, or start without its state"
        )
    if tuple(header["causes"]) != core.cause_names:
        raise StateError(
            f"the state was kept under the reset rules {', '.join(header['causes'][5:]) or '(none)'}, "
            f"this pipeline has {', '.join(core.cause_names[5:]) or '(none)'}"
        )


def _lay(core: Core, rows: IntArray, tensors: Mapping[str, Array]) -> None:
    live = tensors["live"].tolist()
    for row, key, holds in zip(
        rows.tolist(), unpack(tensors["key.bytes"], tensors["key.offsets"]), live, strict=True
    ):
        core.keys.bind(row, key.decode() if holds else None)
    for name, column in core.columns.arrays.items():
        if column.dtype == object:
            values = unpack(tensors[f"{name}.bytes"], tensors[f"{name}.offsets"])
            column[rows] = [from_bytes(value) for value in values]
        else:
            column[rows] = tensors[f"column.{name}"]
    prefix = "state."
    core.slab.write(rows, {n[len(prefix) :]: a for n, a in tensors.items() if n.startswith(prefix)})
