"""CSV: records of delimited texts, with a header (RFC 4180 in UTF-8)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from streamrnn.codecs.csv_records import CsvFramer
from streamrnn.codecs.csv_rows import encoder
from streamrnn.codecs.strict import number_problem
from streamrnn.events import Block, Columns

if TYPE_CHECKING:
    from streamrnn.builtins.codecs import CsvConfig
    from streamrnn.context import Context
    from streamrnn.events import BoolArray, Column, IntArray

_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_NUMBER_CHARACTERS = b"0123456789+-.eE,"
_SHORT_BYTES = 128
"""In a record of no more bytes no number is too long, and only an exponent makes one too large."""


class CsvCodec:
    """The `csv` codec; without state of its own, so that one serves any number of streams."""

    def __init__(self, config: CsvConfig) -> None:
        self._config = config

    def framer(self, max_record_bytes: int, position: int = 0) -> CsvFramer:
        """See `Codec.framer`."""
        has_header = self._config.header is True
        return CsvFramer(max_record_bytes, position, self._config.delimiter, has_header)

    def decoder(self, fields: Sequence[str], verbatim: Sequence[str]) -> Callable[[Block], Columns]:
        """Lists of Python values by column name; a dot in a name is only a dot.

        A text listed in `null` is None, and so is every value of a column that the header does not name. A
        field of type `number`, or without a type and written as JSON writes numbers, is an int or a float;
        any other is a text, also 007, 1., +1 and " 1". Quotes around a field change nothing. Refused are
        records of more or fewer fields than columns, quotes elsewhere than around a field or doubled in one,
        text that is not UTF-8, numbers beyond a float64, and all records under a header that names a column
        of `fields` or `verbatim` twice.
        """
        return _Decoder(self._config, tuple(dict.fromkeys((*fields, *verbatim))))

    def heads(self, block: Block) -> list[tuple[int, bytes]]:
        """See `Codec.heads`: the headers."""
        if self._config.header is not True:
            return [(0, b"")]
        return [(low, text) for low, _, text in stretches(block)]

    def encoder(self) -> Callable[[Mapping[str, Column], int], tuple[bytes, IntArray]]:
        """Records with line feeds at their ends, before the first one the header, unless `header` is a list.

        None, infinities and NaN are written as the first text of `null`; true, false, lists and objects as
        JSON. Floats are written as `JsonlCodec` does. Raises `OptionError` where `header` is a list of other
        columns.
        """
        return encoder(self._config)


def build(config: CsvConfig, context: Context) -> CsvCodec:
    """The codec."""
    return CsvCodec(config)


class _Decoder:
    def __init__(self, config: CsvConfig, paths: Sequence[str]) -> None:
        self._paths, self._types, self._null = paths, config.types, config.null
        self._names = None if config.header is True else list(config.header)
        self._delimiter = config.delimiter
        escaped = re.escape(config.delimiter)
        self._field = re.compile(rf'(?:"((?:[^"]|"")*+)"|([^"{escaped}]*+))({escaped}|\Z)')

    def __call__(self, block: Block) -> Columns:
        """See `Codec.decoder`."""
        refused = dict(block.refused)
        texts: dict[str, list[str | None]] = {path: [] for path in self._paths}
        for low, high, names in self._parts(block):
            for path, column in self._split(block, low, high, names, refused).items():
                texts[path] += column
        is_short = not len(block) or int((block.ends - block.starts).max()) <= _SHORT_BYTES
        columns = {path: self._typed(texts[path], path, is_short, refused) for path in texts}
        for column in columns.values():
            for index in refused:
                column[index] = None
        return Columns(len(block), dict(columns), refused)

    def _parts(self, block: Block) -> list[tuple[int, int, list[str] | None]]:
        """Stretches of records under one header, and its names; a header stands before its first record."""
        if self._names is not None or not len(block):
            return [(0, len(block), self._names)]
        return [(low, high, self._header(text)) for low, high, text in stretches(block)]

    def _header(self, text: bytes) -> list[str] | None:
        try:
            return self._record(text.decode()) if text else None
        except ValueError:
            return None

    def _split(
        self, block: Block, low: int, high: int, names: list[str] | None, refused: dict[int, str]
    ) -> dict[str, list[str | None]]:
        """The texts of the wanted columns."""
        nothing: list[str | None] = [None] * (high - low)
        twice = [path for path in self._paths if names and names.count(path) > 1]
        if names is None or twice:
            reason = f"field '{twice[0]}' stands twice in the header" if twice else _NO_HEADER
            for index in range(low, high):
                refused.setdefault(index, reason)
            return dict.fromkeys(self._paths, nothing)
        places = {path: names.index(path) for path in self._paths if path in names}
        is_plain = self._plain(block, low, high, len(names))
        rows = np.flatnonzero(is_plain) + low
        values = self._plain_values(block, rows)
        found = {path: values[place :: len(names)] for path, place in places.items()}
        if len(rows) < high - low:
            found = self._with_others(block, low, is_plain, found, (places, len(names)), refused)
        return {path: found.get(path, nothing) for path in self._paths}

    def _plain(self, block: Block, low: int, high: int, width: int) -> BoolArray:
        """Which records can be split at delimiters and are right then."""
        starts, ends = block.starts[low:high], block.ends[low:high]
        view = np.frombuffer(block.buffer, np.uint8)
        delimiters = np.flatnonzero(view == ord(self._delimiter))
        counts = np.searchsorted(delimiters, ends) - np.searchsorted(delimiters, starts)
        is_plain: BoolArray = counts == width - 1
        if b'"' in block.buffer:
            quotes = np.flatnonzero(view == ord('"'))
            is_plain &= np.searchsorted(quotes, ends) == np.searchsorted(quotes, starts)
        if not _is_utf8(block.buffer):
            odd = [index for index in range(low, high) if not _is_utf8(block.record(index))]
            is_plain[np.array(odd, np.int64) - low] = False
        is_plain[[index - low for index in block.refused if low <= index < high]] = False
        return is_plain

    def _plain_values(self, block: Block, rows: IntArray) -> list[str | None]:
        """The fields of all these records in one list."""
        if not len(rows):
            return []
        starts, ends = block.starts[rows], block.ends[rows]
        lines = block.buffer[starts[0] : ends[-1]]
        if lines.count(b"\n") == len(rows) - 1 and (starts[1:] - ends[:-1] == 1).all():
            text = lines.replace(b"\n", self._delimiter.encode())
        else:
            text = self._delimiter.encode().join([block.record(index) for index in rows.tolist()])
        return list(text.decode().split(self._delimiter))

    def _with_others(
        self,
        block: Block,
        low: int,
        is_plain: BoolArray,
        plain: dict[str, list[str | None]],
        shape: tuple[dict[str, int], int],
        refused: dict[int, str],
    ) -> dict[str, list[str | None]]:
        """Put the texts of records that are not plain between those that are."""
        places, width = shape
        columns = {}
        for path, values in plain.items():
            columns[path] = np.full(len(is_plain), None, object)
            columns[path][is_plain] = values
        for index in np.flatnonzero(~is_plain).tolist():
            if low + index in refused:
                continue
            try:
                fields = self._record(block.record(low + index).decode())
                if len(fields) != width:
                    raise ValueError(f"expected {width} fields, found {len(fields)}")
                for path, place in places.items():
                    columns[path][index] = fields[place]
            except UnicodeDecodeError as error:
                refused[low + index] = f"not valid UTF-8 (byte {error.start})"
            except ValueError as error:
                refused[low + index] = str(error)
        return {path: column.tolist() for path, column in columns.items()}

    def _record(self, text: str) -> list[str]:
        """The fields of one record. Raises `ValueError`."""
        if '"' not in text:
            return text.split(self._delimiter)
        fields, at = [], 0
        while match := self._field.match(text, at):
            quoted, plain, end = match.groups()
            fields.append(plain if quoted is None else quoted.replace('""', '"'))
            if not end:
                return fields
            at = match.end()
        raise ValueError(f"expected quotes around a whole field, doubled inside it (field {len(fields) + 1})")

    def _typed(
        self, texts: list[str | None], path: str, is_short: bool, refused: dict[int, str]
    ) -> list[Any]:
        """Texts as values."""
        kind = self._types.get(path)
        has_null = any(text in texts for text in self._null)
        if kind != "text" and is_short and not has_null and (values := _all_numbers(texts)) is not None:
            return values
        values = [None if text in self._null else text for text in texts] if has_null else texts
        if kind == "text":
            return values
        made: dict[str | None, Any] = {text: _number(text) for text in set(values) if text is not None}
        types: set[type] = set(map(type, made.values()))
        if types == {str} and kind is None:
            return values
        values = [made.get(text) for text in values]
        if types <= {int, float} or (kind is None and ValueError not in types):
            return values
        for index, value in enumerate(values):
            if isinstance(value, ValueError):
                refused.setdefault(index, f"{value} at {path}")
            elif isinstance(value, str) and kind == "number":
                refused.setdefault(index, f"expected a number at {path}, found {_shown(value)}")
        return values


def stretches(block: Block) -> list[tuple[int, int, bytes]]:
    """First record and end of each stretch under one header, and the header without its line end."""
    gaps = np.flatnonzero(block.starts[1:] - block.ends[:-1] > 2).tolist()
    found, low, header = [], 0, block.buffer[: block.starts[0]]
    for index in gaps:
        text = block.buffer[block.ends[index] : block.starts[index + 1]]
        if text.strip(b"\r\n"):
            found.append((low, index + 1, header.strip(b"\r\n")))
            low, header = index + 1, text
    return [*found, (low, len(block), header.strip(b"\r\n"))]


_NO_HEADER = (
    "expected a header before the records, found none to read; the option `header` can name the columns"
)


def _all_numbers(texts: list[str | None]) -> list[Any] | None:
    """All texts as numbers, if every one of them is one."""
    if None in texts:
        return None
    joined = ",".join(texts).encode()  # type: ignore[arg-type]
    if joined.translate(None, _NUMBER_CHARACTERS):
        return None
    try:
        values: list[Any] = msgspec.json.decode(b"[" + joined + b"]")
    except msgspec.MsgspecError:
        return None
    return values if len(values) == len(texts) else None


def _number(text: str) -> Any:
    """A number, the text if it is none, or why it is refused."""
    if not _NUMBER.fullmatch(text):
        return text
    if problem := number_problem(text.encode()):
        return ValueError(problem)
    return float(text) if any(sign in text for sign in ".eE") else int(text)


def _is_utf8(data: bytes) -> bool:
    try:
        return data.isascii() or bool(data.decode())
    except UnicodeDecodeError:
        return False


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:37]}...")
