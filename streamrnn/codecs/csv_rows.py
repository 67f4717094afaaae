"""Columns as CSV records."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from streamrnn.codecs.shortest import shortest
from streamrnn.errors import OptionError

if TYPE_CHECKING:
    from streamrnn.builtins.codecs import CsvConfig
    from streamrnn.events import Column, IntArray
    from streamrnn.ports import Place


def encoder(config: CsvConfig) -> Callable[[Mapping[str, Column], int], tuple[bytes, IntArray]]:
    """A new encoder for one sink; see `CsvCodec.encoder`."""
    return _Encoder(config)


class _Encoder:
    def __init__(self, config: CsvConfig) -> None:
        self._delimiter, self._null = config.delimiter, config.null[0] if config.null else ""
        self._special = {config.delimiter, '"', "\n", "\r"}
        self._names = None if config.header is True else config.header
        self._wants_header = config.header is True
        self.framing = None if self._wants_header else (0, 1)

    def __call__(self, columns: Mapping[str, Column], n: int) -> tuple[bytes, IntArray]:
        """See `Codec.encoder`. Raises `ValueError` for a column that has not n values."""
        if any(len(column) != n for column in columns.values()):
            lengths = [len(column) for column in columns.values()]
            raise ValueError(f"expected columns of {n} values, found {lengths}")
        if not n:
            return b"", np.empty(0, np.int64)
        if self._names is not None and set(self._names) != set(columns):
            text = f"expected the columns to be written, {', '.join(columns)}, found {', '.join(self._names)}"
            raise OptionError((("header",), text))
        names = list(columns) if self._names is None else self._names
        texts = [self._texts(columns[name]) for name in names]
        rows = [self._delimiter.join(row) for row in zip(*texts, strict=True)] if texts else [""] * n
        if self._wants_header:
            self._wants_header = False
            rows[0] = f"{self._delimiter.join(map(self._quoted, names))}\n{rows[0]}"
        records = [f"{row}\n".encode() for row in rows]
        return b"".join(records), np.cumsum([len(record) for record in records], dtype=np.int64)

    def place(self) -> Place:
        """See `Resumable.place`: whether the header is written."""
        return {"began": not self._wants_header}

    def resume(self, place: Place) -> None:
        """See `Resumable.resume`."""
        self._wants_header = not place["began"]

    def _texts(self, column: Column) -> Sequence[str]:
        if isinstance(column, np.ndarray):
            if column.dtype.kind == "f" and column.dtype.itemsize <= 4:
                column = shortest(np.ascontiguousarray(column, np.float32))
            is_plain = column.ndim == 1 and column.dtype.kind in "iuf"
            is_plain = is_plain and (column.dtype.kind != "f" or bool(np.isfinite(column).all()))
            column = column.tolist()
            if is_plain:
                return list(map(repr, column))
        kinds = set(map(type, column))
        if kinds == {str} and self._special.isdisjoint("".join(column)):
            return list(column)
        if kinds == {int}:
            return list(map(repr, column))
        return [self._text(value) for value in column]

    def _text(self, value: Any) -> str:
        if isinstance(value, msgspec.Raw):
            value = msgspec.json.decode(value)
        if isinstance(value, str):
            return self._quoted(value)
        text = msgspec.json.encode(value).decode()
        return self._null if text == "null" else self._quoted(text)

    def _quoted(self, text: str) -> str:
        if self._special.isdisjoint(text):
            return text
        return '"' + text.replace('"', '""') + '"'
