"""MessagePack: one map per record, each after its length as a big-endian uint32."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from streamrnn.codecs.msgpack_records import LENGTH_BYTES, MsgpackFramer
from streamrnn.codecs.strict import MOST_LEVELS
from streamrnn.events import Columns

if TYPE_CHECKING:
    from streamrnn.builtins.codecs import MsgpackConfig
    from streamrnn.context import Context
    from streamrnn.events import Block, Column, IntArray

_NOT_FINITE = re.compile(rb"\xcb[\x7f\xff][\xf0-\xff]|\xca[\x7f\xff][\x80-\xff]")
"""Infinities and NaN as MessagePack has them."""
_NOT_FINITE_STARTS = (b"\xcb\x7f", b"\xcb\xff", b"\xca\x7f", b"\xca\xff")
_PLAIN = {str, int, float, bool, bytes, type(None)}


class MsgpackCodec:
    """The `msgpack` codec; without state of its own, so that one serves any number of streams."""

    def __init__(self, config: MsgpackConfig) -> None:
        self._vectors = {name: np.dtype(kind).newbyteorder("<") for name, kind in config.vectors.items()}

    def framer(self, max_record_bytes: int, position: int = 0) -> MsgpackFramer:
        """See `Codec.framer`."""
        return MsgpackFramer(max_record_bytes, position)

    def decoder(self, fields: Sequence[str], verbatim: Sequence[str]) -> Callable[[Block], Columns]:
        """Lists of Python values by dotted path; a vector field is an array [n, k] where all have length k.

        Refused are records that are no map or have bytes after it, that have equal keys in a map in which a
        field of `fields` or `verbatim` is looked for, hold maps and lists more than 64 deep, keys that are no
        texts, texts that are not UTF-8, infinities, NaN, or an extension type; and vectors that are not
        binary, not whole or not finite. A refused record's row in an array is zeros.
        """
        return _Decoder(self._vectors, tuple(dict.fromkeys((*fields, *verbatim))))

    def encoder(self) -> Callable[[Mapping[str, Column], int], tuple[bytes, IntArray]]:
        """One map per record with the columns' names as keys; infinities and NaN are written as nil."""
        return _Encoder(self._vectors)


def build(config: MsgpackConfig, context: Context) -> MsgpackCodec:
    """The codec."""
    return MsgpackCodec(config)


class _Decoder:
    """Decodes every record whole, which checks all of it, and picks the fields out of it."""

    def __init__(self, vectors: Mapping[str, np.dtype[Any]], paths: Sequence[str]) -> None:
        self._vectors = {path: kind for path, kind in vectors.items() if path in paths}
        self._paths = paths
        self._decode = msgspec.msgpack.Decoder(dict[str, Any]).decode
        self._tree: dict[str, Any] = {}
        for path in paths:
            node = self._tree
            for name in path.split("."):
                node = node.setdefault(name, {})

    def __call__(self, block: Block) -> Columns:
        """See `Codec.decoder`."""
        refused, empty = dict(block.refused), dict[str, Any]()
        maps = [empty] * len(block)
        may_be_odd = any(start in block.buffer for start in _NOT_FINITE_STARTS)
        for index, (start, end) in enumerate(zip(block.starts.tolist(), block.ends.tolist(), strict=True)):
            if index not in refused:
                record = block.buffer[start:end]
                try:
                    maps[index] = self._map(record, may_be_odd)
                except ValueError as error:
                    refused[index] = str(error)
        columns: dict[str, Column] = {}
        for path in self._paths:
            names = path.split(".")
            if len(names) == 1:
                values = [found.get(path) for found in maps]
            else:
                values = [_walk(found, names, index, refused) for index, found in enumerate(maps)]
            kind = self._vectors.get(path)
            columns[path] = values if kind is None else _vectors(values, path, kind, refused)
        for column in columns.values():
            for index in refused:
                column[index] = 0 if isinstance(column, np.ndarray) else None  # type: ignore[index]
        return Columns(len(block), columns, refused)

    def _map(self, record: bytes, may_be_odd: bool) -> dict[str, Any]:
        """The map that a record is. Raises `ValueError`."""
        try:
            found: dict[str, Any] = self._decode(record)
        except RecursionError:
            raise ValueError(f"nested too deeply: expected at most {MOST_LEVELS} levels") from None
        except UnicodeDecodeError as error:
            raise ValueError(f"not valid UTF-8: {error.reason}") from None
        except msgspec.MsgspecError as error:
            raise ValueError(_in_plain_words(str(error))) from None
        is_plain = _PLAIN.issuperset(map(type, found.values()))
        if not is_plain or (may_be_odd and _NOT_FINITE.search(record) is not None):
            for value in found.values():
                _check(value, 2)
        _twice(record, len(found), self._tree)
        return found


def _check(value: Any, level: int) -> None:
    """Raise `ValueError` for what no field may hold."""
    kind = type(value)
    if kind is dict or kind is list:
        if level > MOST_LEVELS:
            raise ValueError(f"nested too deeply: expected at most {MOST_LEVELS} levels")
        for inner in value.values() if kind is dict else value:
            _check(inner, level + 1)
        if kind is dict and not all(type(name) is str for name in value):
            raise ValueError("expected texts as the keys of a map, found others")
    elif kind is float and not isfinite(value):
        raise ValueError(f"expected finite numbers, found {value}")
    elif kind not in _PLAIN:
        raise ValueError("expected no extension types, found one")


def _twice(record: bytes, length: int, tree: Mapping[str, Any], prefix: str = "") -> None:
    """Raise `ValueError` if a map that fields are read from has equal keys; `length` of its keys differ."""
    if _entries(record) != length:
        raise ValueError(f"a field stands twice{f' in {prefix}' if prefix else ''}")
    below = {name: inner for name, inner in tree.items() if inner}
    if below:
        values = _RAW_MAP.decode(record)
        for name in below.keys() & values.keys():
            inner = bytes(values[name])
            if isinstance(value := msgspec.msgpack.decode(inner), dict):
                _twice(inner, len(value), below[name], f"{prefix}.{name}" if prefix else name)


_RAW_MAP = msgspec.msgpack.Decoder(dict[str, msgspec.Raw])


def _entries(record: bytes) -> int:
    """How many entries a map says it has."""
    first = record[0]
    if first < 0x90:
        return first & 0xF
    return int.from_bytes(record[1 : 3 if first == 0xDE else 5])


def _walk(value: Any, names: Sequence[str], index: int, refused: dict[int, str]) -> Any:
    """What a path leads to; None if a part is missing."""
    for depth, name in enumerate(names):
        if value is None:
            return None
        if not isinstance(value, dict):
            at, kind = ".".join(names[:depth]), type(value).__name__
            refused.setdefault(index, f"expected a map at {at}, found {_KINDS.get(kind, kind)}")
            return None
        value = value.get(name)
    return value


def _vectors(values: list[Any], path: str, kind: np.dtype[Any], refused: dict[int, str]) -> Column:
    """Binary values as an array [n, k], or as lists where their lengths differ or one is missing."""
    zeros = b""
    for index, value in enumerate(values):
        if value is not None and (type(value) is not bytes or len(value) % kind.itemsize):
            found = (
                f"{len(value)} bytes" if type(value) is bytes else _KINDS.get(type(value).__name__, "others")
            )
            refused.setdefault(
                index, f"expected binary at {path}, {kind.itemsize} bytes a number, found {found}"
            )
        elif value is not None and index not in refused:
            zeros = bytes(len(value))
    filled = (
        [zeros if index in refused else value for index, value in enumerate(values)] if refused else values
    )
    if None in filled or len(set(map(len, filled))) != 1 or not filled[0]:
        rows = [None if value is None else np.frombuffer(value, kind) for value in filled]
        for index, row in enumerate(rows):
            if row is not None and not np.isfinite(row).all():
                refused.setdefault(index, f"expected finite numbers at {path}")
        return [None if row is None else row.tolist() for row in rows]
    array = np.frombuffer(bytearray(b"".join(filled)), kind).reshape(len(filled), -1)
    for index in np.flatnonzero(~np.isfinite(array).all(axis=1)).tolist():
        refused.setdefault(index, f"expected finite numbers at {path}")
    return array


def _in_plain_words(text: str) -> str:
    if match := _MISMATCH.match(text):
        if match[1] == "str":
            return "expected texts as the keys of a map, found others"
        return f"expected a map, found {match[2]}"
    if text == "Input data was truncated":
        return "not valid MessagePack: the record ends in the midst of it"
    return f"not valid MessagePack: {text.removeprefix('MessagePack data is malformed: ')}"


_MISMATCH = re.compile(r"Expected `(\w+)`, got `(\w+)`")
_KINDS = {"int": "number", "float": "number", "str": "text", "bool": "true or false", "list": "list"}
_KINDS |= {"dict": "map", "bytes": "binary"}


class _Encoder:
    framing = (LENGTH_BYTES, 0)

    def __init__(self, vectors: Mapping[str, np.dtype[Any]]) -> None:
        self._vectors = vectors
        self._encode = msgspec.msgpack.Encoder().encode

    def __call__(self, columns: Mapping[str, Column], n: int) -> tuple[bytes, IntArray]:
        """See `Codec.encoder`. Raises `ValueError` for a column that has not n values."""
        if any(len(column) != n for column in columns.values()):
            raise ValueError(f"expected columns of {n} values, found {[len(c) for c in columns.values()]}")
        values = [self._values(name, column) for name, column in columns.items()]
        names = tuple(columns)
        rows = zip(*values, strict=True) if values else [()] * n
        records = [self._encode(dict(zip(names, row, strict=True))) for row in rows]
        lengths = np.fromiter(map(len, records), np.int64, n)
        prefixes = lengths.astype(">u4").tobytes()
        parts: list[bytes] = [b""] * (2 * n)
        parts[::2] = [prefixes[at : at + LENGTH_BYTES] for at in range(0, len(prefixes), LENGTH_BYTES)]
        parts[1::2] = records
        return b"".join(parts), np.cumsum(lengths + LENGTH_BYTES)

    def _values(self, name: str, column: Column) -> Sequence[Any]:
        if name in self._vectors:
            kind = self._vectors[name]
            return [None if row is None else np.asarray(row, kind).tobytes() for row in column]
        if isinstance(column, np.ndarray):
            finite = column.dtype.kind != "f" or bool(np.isfinite(column).all())
            values: list[Any] = column.tolist()
            return values if finite else [_without_nan(value) for value in values]
        return [msgspec.json.decode(value) if isinstance(value, msgspec.Raw) else value for value in column]


def _without_nan(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_nan(inner) for inner in value]
    return value if isfinite(value) else None
