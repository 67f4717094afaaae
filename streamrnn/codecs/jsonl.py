"""JSON Lines: one JSON object per line (RFC 8259 in UTF-8)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from streamrnn.codecs.lines import LineFramer
from streamrnn.codecs.shortest import shortest
from streamrnn.errors import OptionError
from streamrnn.events import Columns

if TYPE_CHECKING:
    from pydantic import BaseModel

    from streamrnn.context import Context
    from streamrnn.events import Block, Column, IntArray

_MOST_LEVELS = 64
_BIT_5 = 32
"""Makes { of [ and } of ], and of nothing else."""
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_UNNAMEABLE = re.compile(r'["\\\x00-\x1f]')
"""What a struct's field cannot be called, since its name is compared unescaped."""
_MISMATCH = re.compile(r"Expected `(.+?)`, got `(.+?)`(?: - at `\$\.(.*)`)?", re.DOTALL)
_AT = re.compile(r" - at `\$\.(.*)`", re.DOTALL)
_KINDS = {"int": "number", "float": "number", "str": "string", "bool": "true or false"}


class JsonlCodec:
    """The `jsonl` codec; without state of its own, so that one serves any number of streams."""

    def framer(self, max_record_bytes: int, position: int = 0) -> LineFramer:
        """See `Codec.framer`."""
        return LineFramer(max_record_bytes, position)

    def decoder(self, fields: Sequence[str], verbatim: Sequence[str]) -> Callable[[Block], Columns]:
        """Lists of Python values by dotted path, and `msgspec.Raw` for paths in `verbatim` alone.

        `a.b` is field b of the object in field a; a field with a dot in its own name cannot be reached. A
        field that is missing, in whole or because a field above it is missing or null, is None; a field
        above it that is anything else but an object has the record refused. So are more than 64 levels of
        nesting, text that is not UTF-8, and numbers in `fields` beyond a float64. Fields that nobody named
        are checked for syntax only. Of equal names in one object the last counts.

        A `Raw` keeps its whole block in memory; `copy` it to keep it for long. A verbatim field is a Python
        value where other fields lie inside it.
        """
        return _Decoder(fields, verbatim)

    def encoder(self) -> Callable[[Mapping[str, Column], int], tuple[bytes, IntArray]]:
        """One object per line with the columns' names as keys, in their order; a dot in a name stays one.

        Float32 and float16 are written as the shortest decimal that reads back as the same float32, float64
        likewise; infinities and NaN, which JSON lacks, as null. Rows of an array [n, k] are JSON arrays.
        """
        return _Encoder()


def build(config: BaseModel, context: Context) -> JsonlCodec:
    """The codec; it has no options and touches nothing of the world."""
    return JsonlCodec()


class _Refusal(Exception):
    """A verdict on one record, with the reason."""


@dataclass(slots=True)
class _Node:
    """A name in the declared paths. A `leaf` is wanted itself, `raw` if only verbatim."""

    path: str = ""
    leaf: bool = False
    raw: bool = False
    children: dict[str, _Node] = field(default_factory=dict)
    struct: Any = None
    blank: Any = None
    """A `struct` with nothing in it, which stands for a missing or refused one."""

    def below(self) -> list[_Node]:
        """All leaves under this one."""
        found: list[_Node] = []
        for child in self.children.values():
            found += [child] if child.leaf else []
            found += child.below()
        return found

    def compile(self) -> Any:
        """The type to decode this node as."""
        if self.leaf:
            return msgspec.Raw if self.raw and not self.children else Any
        rename = {f"f{index}": name for index, name in enumerate(self.children)}
        types = [child.compile() for child in self.children.values()]
        fields = [(name, kind, None) for name, kind in zip(rename, types, strict=True)]
        self.struct = msgspec.defstruct("Record", fields, rename=rename, gc=False)
        self.blank = self.struct()
        return self.struct | None


def _tree(fields: Sequence[str], verbatim: Sequence[str]) -> _Node:
    root = _Node()
    for path in (*fields, *verbatim):
        node = root
        for name in path.split("."):
            below = f"{node.path}.{name}" if node is not root else name
            node = node.children.setdefault(name, _Node(below))
        node.leaf, node.raw = True, path not in fields
        if _UNNAMEABLE.search(path):
            text = f"expected a field without quotes, backslashes and control characters, found {path!r}"
            raise OptionError(((), text))
    root.compile()
    return root


class _Decoder:
    """Decodes a block at once where it is clean, else line by line; the verdicts are the same."""

    def __init__(self, fields: Sequence[str], verbatim: Sequence[str]) -> None:
        self._paths = tuple(dict.fromkeys((*fields, *verbatim)))
        self._root = _tree(fields, verbatim)
        self._json = msgspec.json.Decoder(self._root.struct)
        self._walks = any(leaf.children for leaf in self._root.below())

    def __call__(self, block: Block) -> Columns:
        """See `Codec.decoder`."""
        lines = _lines(block)
        if lines is not None:
            try:
                records = self._json.decode_lines(lines)
                if len(records) == len(block):
                    return self._columns(records)
            except (msgspec.MsgspecError, _Refusal):
                pass
        return self._line_by_line(block)

    def _line_by_line(self, block: Block) -> Columns:
        refused = dict(block.refused)
        records = [self._root.blank] * len(block)
        for index in range(len(block)):
            if index not in refused:
                try:
                    records[index] = self._decode(block.record(index))
                except _Refusal as refusal:
                    refused[index] = str(refusal)
        columns = self._columns(records)
        columns.refused = refused
        return columns

    def _decode(self, line: bytes) -> Any:
        try:
            line.decode()
        except UnicodeDecodeError as error:
            raise _Refusal(f"not valid UTF-8 (byte {error.start})") from None
        if _is_too_deep(line):
            raise _Refusal(f"nested too deeply: expected at most {_MOST_LEVELS} levels")
        try:
            record = self._json.decode(line)
        except msgspec.MsgspecError as error:
            raise _Refusal(_in_plain_words(error)) from None
        if self._walks:
            self._columns([record])
        return record

    def _columns(self, records: Sequence[Any]) -> Columns:
        found: dict[str, Column] = {}
        _collect(self._root, records, found)
        return Columns(len(records), {path: found[path] for path in self._paths})


def _collect(node: _Node, records: Sequence[Any], found: dict[str, Column]) -> None:
    """Put the columns of all leaves under `node` into `found`, given its structs."""
    for index, child in enumerate(node.children.values()):
        values = list(map(attrgetter(f"f{index}"), records))
        if child.leaf:
            found[child.path] = values
            for leaf in child.below():
                found[leaf.path] = [_walk(value, child, leaf) for value in values]
        else:
            _collect(child, [child.blank if value is None else value for value in values], found)


def _walk(value: Any, above: _Node, leaf: _Node) -> Any:
    """The value of a leaf inside the value of a node above it that is wanted as well."""
    path = above.path
    for name in leaf.path.removeprefix(f"{path}.").split("."):
        if value is None:
            return None
        if not isinstance(value, dict):
            kind = "array" if isinstance(value, list) else _KINDS[type(value).__name__]
            raise _Refusal(f"expected a JSON object at {path}, found {kind}")
        path, value = f"{path}.{name}", value.get(name)
    return value


def _lines(block: Block) -> bytes | None:
    """The records as lines to decode at once, or None if one of them needs a look of its own.

    A decoder of lines takes any white space between two objects for the end of a line. It can be trusted
    where every line begins with { and ends with }, for no object contains "}\\n{", and the counts agree.
    """
    if block.refused or not len(block):
        return None
    starts, ends = block.starts, block.ends
    view = np.frombuffer(block.buffer, np.uint8)
    if not ((ends > starts) & (view[starts] == ord("{")) & (view[ends - 1] == ord("}"))).all():
        return None
    gap = starts[1:] - ends[:-1]
    crlf = (gap == 2) & (view[starts[1:] - 2] == ord("\r"))
    if ((view[starts[1:] - 1] == ord("\n")) & ((gap == 1) | crlf)).all():
        lines = block.buffer[starts[0] : ends[-1]]
    else:
        lines = b"\n".join([block.record(index) for index in range(len(block))])
    return lines if _is_utf8(lines) and _is_flat(view, block) else None


def _is_utf8(lines: bytes) -> bool:
    if lines.isascii():
        return True
    try:
        lines.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_flat(view: Any, block: Block) -> bool:
    """Whether no record is nested too deeply; only those with many brackets are looked at in full."""
    brackets = np.flatnonzero((view | _BIT_5) == ord("{"))
    if len(brackets) < len(block) + _MOST_LEVELS:
        return True
    counts = np.searchsorted(brackets, block.ends) - np.searchsorted(brackets, block.starts)
    suspects = np.flatnonzero(counts > _MOST_LEVELS).tolist()
    return not any(_is_too_deep(block.record(index)) for index in suspects)


def _is_too_deep(line: bytes) -> bool:
    if line.count(b"{") + line.count(b"[") <= _MOST_LEVELS:
        return False
    folded = np.frombuffer(_STRING.sub(b"", line), np.uint8) | _BIT_5
    steps = (folded == ord("{")).astype(np.int64) - (folded == ord("}"))
    return bool(steps.cumsum().max(initial=0) > _MOST_LEVELS)


def _in_plain_words(error: msgspec.MsgspecError) -> str:
    text = str(error)
    if mismatch := _MISMATCH.fullmatch(text):
        found, path = mismatch[2], mismatch[3]
        return f"expected a JSON object{f' at {path}' if path else ''}, found {_KINDS.get(found, found)}"
    if isinstance(error, msgspec.ValidationError):
        return _AT.sub(r" at \1", text[0].lower() + text[1:])
    if text == "Input data was truncated":
        return "not valid JSON: the line ends in the midst of it"
    return f"not valid JSON: {text.removeprefix('JSON is malformed: ')}"


class _Encoder:
    """Encodes rows of structs, one type for each set of names."""

    def __init__(self) -> None:
        self._json = msgspec.json.Encoder()
        self._rows: dict[tuple[str, ...], Callable[..., Any]] = {}

    def __call__(self, columns: Mapping[str, Column], n: int) -> tuple[bytes, IntArray]:
        """See `Codec.encoder`. Raises `ValueError` for a column that has not n values."""
        values = [_values(column) for column in columns.values()]
        if any(len(column) != n for column in values):
            raise ValueError(f"expected columns of {n} values, found {[len(column) for column in values]}")
        row = self._row(tuple(columns))
        buffer, ends = self._encode(row, values, n)
        if len(ends) != n:
            values = [[_on_one_line(value) for value in column] for column in values]
            buffer, ends = self._encode(row, values, n)
        return buffer, ends

    def _encode(
        self, row: Callable[..., Any], values: Sequence[Sequence[Any]], n: int
    ) -> tuple[bytes, IntArray]:
        buffer = self._json.encode_lines(list(map(row, *values)) if values else [{}] * n)
        return buffer, np.flatnonzero(np.frombuffer(buffer, np.uint8) == ord("\n")) + 1

    def _row(self, names: tuple[str, ...]) -> Callable[..., Any]:
        if names not in self._rows:
            self._rows[names] = _row_type(names)
        return self._rows[names]


def _row_type(names: tuple[str, ...]) -> Callable[..., Any]:
    rename = {f"f{index}": name for index, name in enumerate(names)}
    try:
        return msgspec.defstruct("Row", list(rename), rename=rename, gc=False)
    except ValueError:  # a struct's names are written unescaped, so it refuses those with quotes
        return lambda *values: dict(zip(names, values, strict=True))


def _values(column: Column) -> Sequence[Any]:
    if not isinstance(column, np.ndarray):
        return column
    if column.dtype.kind == "f" and column.dtype.itemsize <= 4:
        column = shortest(np.ascontiguousarray(column, np.float32))
    values: list[Any] = column.tolist()
    return values


def _on_one_line(value: Any) -> Any:
    """A `Raw` without line breaks, which JSON has only between tokens; a message may have come in several."""
    return msgspec.Raw(bytes(value).replace(b"\n", b" ")) if isinstance(value, msgspec.Raw) else value
