"""Features over columns: values or numbers in, float64 or int64 [n, width] out."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from streamrnn.errors import OptionError
from streamrnn.values import canonical, canonical_column

if TYPE_CHECKING:
    from streamrnn.builtins import features as config
    from streamrnn.context import Context
    from streamrnn.events import Array, BoolArray, Column


def numbers(column: Column, path: str, refused: dict[int, str]) -> Array:
    """float64 [n] of a field's values; anything but a finite number is refused."""
    if isinstance(column, np.ndarray) and column.dtype.kind in "iuf":
        values = column.astype(np.float64)
    elif set(map(type, column)) <= {int, float}:
        values = _plain_numbers(column)
    else:
        values = _mixed_numbers(column, path, refused)
    for i in not_finite(values):
        refused.setdefault(i, f"{path}: expected a finite number, found {_short(str(column[i]))}")
    return values


def not_finite(values: Array) -> list[int]:
    """Rows with a number that is not finite; asked row by row only where there is one."""
    finite = np.isfinite(values)
    if finite.all():
        return []
    rows: list[int] = np.flatnonzero(~finite.reshape(len(values), -1).all(axis=1)).tolist()
    return rows


def _plain_numbers(column: Column) -> Array:
    try:
        return np.fromiter(column, np.float64, len(column))
    except OverflowError:  # an integer beyond the range of a double
        return np.array([_number(value) for value in column], np.float64)


def _mixed_numbers(column: Column, path: str, refused: dict[int, str]) -> Array:
    values = np.zeros(len(column), np.float64)
    for i, value in enumerate(column):
        if type(value) in (int, float):
            values[i] = _number(value)
        else:
            refused.setdefault(i, f"{path}: expected a number, found {shown(value)}")
    return values


def _number(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return np.inf


def shown(value: Any) -> str:
    """A field's value for a message, on one line and cut short."""
    if value is None:
        return "nothing"
    text = (
        msgspec.json.encode(value).decode() if not isinstance(value, msgspec.Raw) else bytes(value).decode()
    )
    return _short(text)


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


class Lookup:
    """The place of a value in a list, typed: 1, "1" and true differ."""

    def __init__(self, known: Sequence[Any], first: int, unknown: int | None) -> None:
        self._places = {canonical(value): first + at for at, value in enumerate(known)}
        self._unknown = -1 if unknown is None else unknown

    def places(self, column: Column, refused: dict[int, str]) -> Array:
        """int64 [n]; -1 and refused where a value is not known and no index stands for those."""
        values = canonical_column(column)
        found = np.fromiter(map(self._places.get, values, repeat(self._unknown)), np.int64, len(values))
        for i in np.flatnonzero(found < 0).tolist():
            refused.setdefault(
                i, f"expected one of the {len(self._places)} known values, found {shown(column[i])}"
            )
        return found


class OneHot(Lookup):
    """`streamrnn.builtins.features.OneHot`."""

    def encode(self, column: Column, refused: dict[int, str]) -> Array:
        """See `Feature.encode`."""
        width = len(self._places)
        found = self.places(column, refused)
        out = np.zeros((len(found), width + 1), np.float64)
        out[np.arange(len(found)), found] = 1.0  # an unknown value's 1 falls into the column cut off below
        return np.ascontiguousarray(out[:, :width])


class Vocab(Lookup):
    """`streamrnn.builtins.features.Vocab`."""

    def encode(self, column: Column, refused: dict[int, str]) -> Array:
        """See `Feature.encode`."""
        return np.maximum(self.places(column, refused), 0)[:, None]


class Vector:
    """`streamrnn.builtins.features.Vector`."""

    def __init__(self, length: int) -> None:
        self._length = length

    def encode(self, column: Column, refused: dict[int, str]) -> Array:
        """See `Feature.encode`."""
        if isinstance(column, np.ndarray) and column.ndim == 2 and column.shape[1] == self._length:
            return column.astype(np.float64)
        if set(map(type, column)) == {list} and set(map(len, column)) == {self._length}:
            flat = list(chain.from_iterable(column))
            if set(map(type, flat)) <= {int, float}:
                return self._finite(_plain_numbers(flat).reshape(len(column), self._length), refused)
        return self._one_by_one(column, refused)

    def _one_by_one(self, column: Column, refused: dict[int, str]) -> Array:
        out = np.zeros((len(column), self._length), np.float64)
        for i, values in enumerate(column):
            if not isinstance(values, list) or len(values) != self._length:
                found = f"one of {len(values)}" if isinstance(values, list) else shown(values)
                refused.setdefault(i, f"expected a list of {self._length} numbers, found {found}")
            elif not set(map(type, values)) <= {int, float}:
                odd = next(value for value in values if type(value) not in (int, float))
                refused.setdefault(i, f"expected a list of {self._length} numbers, found {shown(odd)} in it")
            else:
                out[i] = [_number(value) for value in values]
        return self._finite(out, refused)

    def _finite(self, values: Array, refused: dict[int, str]) -> Array:
        for i in not_finite(values):
            refused.setdefault(i, "expected finite numbers, found one beyond the range of float64")
        return values


class Standardize:
    """`streamrnn.builtins.features.Standardize`."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self._mean, self._std = np.array(mean, np.float64), np.array(std, np.float64)

    def encode(self, column: Array, refused: dict[int, str]) -> Array:
        """See `Feature.encode`. Raises `OptionError` if it has means for another width."""
        if column.shape[1] != len(self._mean):
            text = f"expected {column.shape[1]} means, one per number, found {len(self._mean)}"
            raise OptionError((("standardize",), text))
        return (column - self._mean) / self._std


class Scale:
    """`streamrnn.builtins.features.Scale`."""

    def __init__(self, offset: float, by: float) -> None:
        self._offset, self._by = offset, by

    def encode(self, column: Array, refused: dict[int, str]) -> Array:
        """See `Feature.encode`."""
        return (column - self._offset) * self._by


class Log1p:
    """`streamrnn.builtins.features.Log1p`."""

    def encode(self, column: Array, refused: dict[int, str]) -> Array:
        """See `Feature.encode`."""
        low: BoolArray = np.any(column <= -1, axis=1)
        for i in np.flatnonzero(low).tolist():
            refused.setdefault(i, f"log1p: expected a number above -1, found {column[i].min()}")
        return np.log1p(np.where(low[:, None], 0.0, column))


def one_hot(config: config.OneHot, context: Context) -> OneHot:
    """Build from the YAML item; the index of an unknown value is -1 and refused, or one past the known."""
    unknown = len(config.one_hot) if config.unknown == "zeros" else None
    return OneHot(config.one_hot, 0, unknown)


def vocab(config: config.Vocab, context: Context) -> Vocab:
    """Build from the YAML item."""
    return Vocab(config.vocab, config.first, config.unknown)


def vector(config: config.Vector, context: Context) -> Vector:
    """Build from the YAML item."""
    return Vector(config.vector)


def standardize(config: config.Standardize, context: Context) -> Standardize:
    """Build from the YAML item; raises `OptionError` if the file is not what it should be."""
    given = config.standardize
    if given.path is None:
        return Standardize(given.mean or [], given.std or [])
    try:
        raw = context.fs.read_bytes(context.path(given.path))
        scaler = msgspec.json.decode(raw, type=dict[str, Any])
        mean, std = (msgspec.convert(scaler.get(name), list[float]) for name in ("mean", "std"))
    except (OSError, msgspec.MsgspecError) as error:
        where, why = ("standardize", "from"), error.strerror if isinstance(error, OSError) else error
        raise OptionError((where, f"expected a JSON file with the lists mean and std: {why}")) from error
    if len(mean) != len(std) or not all(value > 0 for value in std):
        raise OptionError((("standardize", "from"), "expected as many std as mean, all of them above 0"))
    return Standardize(mean, std)


def scale(config: config.Scale, context: Context) -> Scale:
    """Build from the YAML item."""
    if isinstance(config.scale, float | int):
        return Scale(0.0, config.scale)
    return Scale(config.scale.offset, config.scale.by)


def log1p(config: config.Log1p, context: Context) -> Log1p:
    """Build from the YAML item."""
    return Log1p()
