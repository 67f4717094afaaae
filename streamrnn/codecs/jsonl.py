"""JSON Lines: one JSON object per line (RFC 8259 in UTF-8)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from streamrnn.codecs.lines import LineFramer
from streamrnn.codecs.record_tree import KINDS, Refusal, collect, tree
from streamrnn.codecs.shortest import shortest
from streamrnn.codecs.strict import MOST_LEVELS, Strict, is_too_deep, runs
from streamrnn.events import Columns

if TYPE_CHECKING:
    from pydantic import BaseModel

    from streamrnn.context import Context
    from streamrnn.events import Block, Column, IntArray

_FEW = 4
"""So many lines are decoded sooner one by one than at once."""
_MISMATCH = re.compile(r"Expected `(.+?)`, got `(.+?)`(?: - at `\$\.(.*)`)?", re.DOTALL)
_AT = re.compile(r" - at `\$\.(.*)`", re.DOTALL)
_BYTE = re.compile(r"\(byte (\d+)\)$")
_ITEM = re.compile(r"`\$\[(\d+)\]")


class JsonlCodec:
    """The `jsonl` codec; without state of its own, so that one serves any number of streams."""

    def framer(self, max_record_bytes: int, position: int = 0) -> LineFramer:
        """See `Codec.framer`."""
        return LineFramer(max_record_bytes, position)

    def decoder(self, fields: Sequence[str], verbatim: Sequence[str]) -> Callable[[Block], Columns]:
        """Lists of Python values by dotted path, and `msgspec.Raw` for paths in `verbatim` alone.

        `a.b` is field b of the object in field a; a field with a dot in its own name cannot be reached. A
        field that is missing, in whole or because a field above it is missing or null, is None; a field
        above it that is anything else but an object has the record refused. So are a line
        that breaks the rules of `Strict`, whichever fields it breaks them in.

        A `Raw` keeps its whole block in memory; `copy` it to keep it for long. A verbatim field is a Python
        value where other fields lie inside it.
        """
        return _Decoder(fields, verbatim, {})

    def array_decoder(
        self, fields: Sequence[str], verbatim: Sequence[str], arrays: Mapping[str, tuple[int, ...]]
    ) -> Callable[[Block], Columns]:
        """See `Codec`."""
        return _Decoder(fields, verbatim, arrays)

    def encoder(self) -> Callable[[Mapping[str, Column], int], tuple[bytes, IntArray]]:
        """One object per line with the columns' names as keys, in their order; a dot in a name stays one.

        Float32 and float16 are written as the shortest decimal that reads back as the same float32, float64
        likewise; infinities and NaN, which JSON lacks, as null. Rows of an array [n, k] are JSON arrays.
        """
        return _Encoder()


def build(config: BaseModel, context: Context) -> JsonlCodec:
    """The codec; it has no options and touches nothing of the world."""
    return JsonlCodec()


class _Decoder:
    """Decodes lines at once where they are certainly clean, the others one by one; the verdicts agree."""

    def __init__(
        self, fields: Sequence[str], verbatim: Sequence[str], arrays: Mapping[str, tuple[int, ...]]
    ) -> None:
        self._paths = tuple(dict.fromkeys((*fields, *verbatim)))
        self._root, self._typed = tree(fields, verbatim), tree(fields, verbatim, arrays)
        self._json = msgspec.json.Decoder(self._root.struct)
        self._typed_json = msgspec.json.Decoder(self._typed.struct)
        self._all_typed = True
        """Whether all records of this block were what `arrays` says."""
        self._strict = Strict(self._root.names())
        self._walks = any(leaf.children for leaf in self._root.below())

    def __call__(self, block: Block) -> Columns:
        """See `Codec.decoder`."""
        records, refused = [self._root.blank] * len(block), dict(block.refused)
        self._all_typed = True
        if len(block) <= _FEW:
            self._decode_each(block, range(len(block)), records, refused)
        else:
            bad = self._strict.suspects(block)
            self._decode_each(block, np.flatnonzero(bad).tolist(), records, refused)
            for low, high in runs(bad):
                self._decode_run(block, low, high, records, refused)
        try:
            columns = self._columns(records)
        except Refusal:
            self._decode_each(block, range(len(block)), records, refused)
            columns = self._columns(records)
        columns.refused = refused
        return columns

    def _decode_run(
        self, block: Block, low: int, high: int, records: list[Any], refused: dict[int, str]
    ) -> None:
        """Put lines `low` to `high`, none of them suspect, into `records`.

        At a mistake the lines before it are decoded again, and again at once: it costs them no more than
        that. A mistake shows in its own line or at the start of the one after it.
        """
        while high - low > _FEW:
            wrong = self._decode_lines(block, low, high, records)
            if wrong is None:
                return
            before = max(wrong - 1, low)
            self._decode_run(block, low, before, records, refused)
            low = min(wrong + 1, high)
            self._decode_each(block, range(before, low), records, refused)
        self._decode_each(block, range(low, high), records, refused)

    def _decode_lines(self, block: Block, low: int, high: int, records: list[Any]) -> int | None:
        """Decode lines at once; None if that went well, else about which line is wrong.

        A decoder of lines takes any white space between two objects for the end of a line. It can be trusted
        where every line begins with { and ends with }, for no object contains "}\\n{", and the counts agree.
        """
        lines, ends = _lines(block, low, high)
        try:
            found = self._typed_json.decode_lines(lines)
        except msgspec.MsgspecError as error:
            return low + _place(str(error), ends)
        if len(found) != high - low:
            return (low + high) // 2
        records[low:high] = found
        return None

    def _decode_each(
        self, block: Block, indices: Iterable[int], records: list[Any], refused: dict[int, str]
    ) -> None:
        for index in indices:
            if index not in refused:
                try:
                    records[index] = self._decode(block.record(index))
                except Refusal as refusal:
                    records[index], refused[index] = self._root.blank, str(refusal)

    def _decode(self, line: bytes) -> Any:
        try:
            line.decode()
        except UnicodeDecodeError as error:
            raise Refusal(f"not valid UTF-8 (byte {error.start})") from None
        if is_too_deep(line):
            raise Refusal(f"nested too deeply: expected at most {MOST_LEVELS} levels")
        try:
            record = self._decode_object(line)
        except msgspec.MsgspecError as error:
            raise Refusal(_in_plain_words(error)) from None
        if problem := self._strict.problem(line):
            raise Refusal(problem)
        if self._walks:
            self._columns([record])
        return record

    def _decode_object(self, line: bytes) -> Any:
        """A record of the one type or of the other: how a number is read depends on its line alone."""
        try:
            return self._typed_json.decode(line)
        except msgspec.ValidationError:
            record = self._json.decode(line)
            self._all_typed = False
            return record

    def _columns(self, records: Sequence[Any]) -> Columns:
        found: dict[str, Column] = {}
        collect(self._typed if self._all_typed else self._root, records, found)
        return Columns(len(records), {path: found[path] for path in self._paths})


def _lines(block: Block, low: int, high: int) -> tuple[bytes, IntArray]:
    """Records `low` to `high` as lines, and where each of them ends."""
    starts, ends = block.starts[low:high], block.ends[low:high]
    view = np.frombuffer(block.buffer, np.uint8)
    gap = starts[1:] - ends[:-1]
    is_line = view[starts[1:] - 1] == ord("\n")
    if (gap != 1).any():
        is_line &= (gap == 1) | ((gap == 2) & (view[starts[1:] - 2] == ord("\r")))
    if is_line.all():
        return block.buffer[starts[0] : ends[-1]], ends - starts[0]
    lines = b"\n".join([block.record(index) for index in range(low, high)])
    return lines, np.cumsum(ends - starts + 1) - 1


def _place(message: str, ends: IntArray) -> int:
    """Which line an error is about, as far as its message tells."""
    if at := _BYTE.search(message):
        return min(int(np.searchsorted(ends, int(at[1]), "right")), len(ends) - 1)
    if at := _ITEM.search(message):
        return min(int(at[1]), len(ends) - 1)
    return len(ends) // 2


def _in_plain_words(error: msgspec.MsgspecError) -> str:
    text = str(error)
    if mismatch := _MISMATCH.fullmatch(text):
        found, path = mismatch[2], mismatch[3]
        return f"expected a JSON object{f' at {path}' if path else ''}, found {KINDS.get(found, found)}"
    if isinstance(error, msgspec.ValidationError):
        return _AT.sub(r" at \1", text[0].lower() + text[1:])
    if text == "Input data was truncated":
        return "not valid JSON: the line ends in the midst of it"
    return f"not valid JSON: {text.removeprefix('JSON is malformed: ')}"


class _Encoder:
    """Encodes rows of structs, one type for each set of names."""

    framing = (0, 1)

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
