"""Where weights are, without their numbers: the header of a safetensors file, and inline lists.

The format is that of https://huggingface.co/docs/safetensors: the length of the header as 8 bytes, little
endian, a JSON object of tensors, then their bytes without gaps.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from streamrnn.formats import foreign_format

HEADER_BYTES_MAX = 100_000_000
ITEM_BYTES = {"F32": 4, "F64": 8}
OTHER_ITEM_BYTES = {"BOOL": 1, "U8": 1, "I8": 1, "F16": 2, "BF16": 2, "I16": 2, "U16": 2, "I32": 4, "U32": 4}
ITEM_BYTES_KNOWN = {**ITEM_BYTES, **OTHER_ITEM_BYTES, "I64": 8, "U64": 8}


class HeaderError(ValueError):
    """Not a sound safetensors file; the message says what was expected and found."""


@dataclass(frozen=True, slots=True)
class Weight:
    """One tensor: its name for messages, shape and dtype, and either bytes of the file or inline numbers.

    `start` and `stop` are offsets in the file; `dtype` is safetensors' word ("F32"), "inline" for numbers.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    start: int = 0
    stop: int = 0
    values: tuple[float, ...] = ()


@dataclass(slots=True)
class Problems:
    """What is wrong, in the form of `OptionError`."""

    found: list[tuple[tuple[str | int, ...], str]] = field(default_factory=list)

    def add(self, path: Sequence[str | int], message: str) -> None:
        """Note one problem at a path inside the model section."""
        self.found.append((tuple(path), message))


def meant(wrong: str, known: Iterable[str]) -> str:
    """ "; did you mean 'x'?" where something known is near, else ""."""
    near = difflib.get_close_matches(wrong, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def read_header(file: BinaryIO) -> dict[str, Weight]:
    """All tensors of a safetensors file by name, read from its header alone.

    Raises `HeaderError` if the header or an offset is not sound.
    """
    total = file.seek(0, 2)
    file.seek(0)
    first = _read(file, 64)
    # The length of a header may begin as a pickle does; what follows it tells them apart.
    if first[8:9] != b"{" and (foreign := foreign_format(first)):
        raise HeaderError(f"expected a safetensors file, found {foreign}")
    file.seek(0)
    length = int.from_bytes(_read(file, 8), "little")
    if total < 8 or length > min(HEADER_BYTES_MAX, total - 8):
        raise HeaderError(
            f"expected a safetensors file, found {total} bytes that begin with a header length of {length}; "
            "it is cut short or of another format"
        )
    try:
        header = json.loads(_read(file, length), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise HeaderError(f"expected a safetensors file, found a header that is not JSON: {error}") from None
    if not isinstance(header, dict):
        raise HeaderError("expected a safetensors file, found a header that is not an object")
    header.pop("__metadata__", None)
    weights = {name: _entry(name, entry, 8 + length) for name, entry in header.items()}
    _check_places(weights.values(), 8 + length, total)
    return weights


def _read(file: BinaryIO, size: int) -> bytes:
    parts: list[bytes] = []
    while size > 0 and (part := file.read(size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice")
    return found


def _entry(name: str, entry: Any, data_start: int) -> Weight:
    match entry:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [int(start), int(stop)]} if all(
            type(length) is int and length >= 0 for length in shape
        ):
            pass
        case _:
            raise HeaderError(f"{name}: expected dtype, shape and data_offsets, found {str(entry)[:80]}")
    size = math.prod(shape) * ITEM_BYTES_KNOWN[dtype] if dtype in ITEM_BYTES_KNOWN else stop - start
    if not 0 <= start <= stop or stop - start != size:
        raise HeaderError(f"{name}: expected {size} bytes ({dtype} {shape}), found offsets {start} to {stop}")
    return Weight(name, tuple(shape), dtype, data_start + start, data_start + stop)


def _check_places(weights: Iterable[Weight], data_start: int, total: int) -> None:
    end = data_start
    for weight in sorted(weights, key=lambda weight: (weight.start, weight.stop)):
        if weight.start != end:
            raise HeaderError(
                f"{weight.name}: expected its bytes at {end}, found {weight.start}: a gap or overlap"
            )
        end = weight.stop
    if end != total:
        raise HeaderError(
            f"expected {end} bytes, as its header says, found {total}; it is damaged or cut short"
        )


def inline_weights(
    given: Mapping[str, Any], path: Sequence[str | int], problems: Problems
) -> dict[str, Weight]:
    """Weights written in the pipeline file as nested lists of numbers, by name; unsound ones are left out."""
    weights = {}
    for name, nested in given.items():
        try:
            shape = _shape(nested)
            values = tuple(_numbers(nested))
        except (ValueError, OverflowError) as error:
            problems.add(
                (*path, name), f"expected nested lists of equal length of finite numbers, found {error}"
            )
        else:
            weights[name] = Weight(name, shape, "inline", values=values)
    return weights


def _shape(nested: Any) -> tuple[int, ...]:
    if not isinstance(nested, list):
        return ()
    shapes = {_shape(part) for part in nested}
    if len(shapes) != 1:
        raise ValueError("an empty list" if not shapes else "lists of different lengths")
    return (len(nested), *shapes.pop())


def _numbers(nested: Any) -> Iterator[float]:
    if isinstance(nested, list):
        for part in nested:
            yield from _numbers(part)
    elif isinstance(nested, int | float) and not isinstance(nested, bool) and math.isfinite(nested):
        yield float(nested)
    else:
        raise ValueError(repr(nested)[:80])
