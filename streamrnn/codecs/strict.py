"""What JSON text must be besides well-formed, line by line, and cheap proofs of it for whole blocks."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from math import isinf
from typing import TYPE_CHECKING, Any

import numpy as np

from streamrnn.codecs.nesting import Nesting

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamrnn.events import Block, BoolArray, IntArray

MOST_LEVELS = 64
MOST_DIGITS = 400
"""The longest number in characters; float64 needs no more than 17 digits and an exponent."""
_BIT_5 = 32
"""Makes { of [ and } of ], e of E, and of nothing else what they become."""
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_NUMBER = re.compile(rb"-?[0-9][0-9.eE+-]*")
_LONG, _HUGE = re.compile(rb"[0-9]{128}"), re.compile(rb"[eE]\+?[0-9]{3}")
"""One of them stands in every number that is too long or beyond a float64: any other has at most 127 digits
before the point and a power of ten of two digits."""
_ALL_DIGITS = 0x0101010101010101
_WORD = 8


class Strict:
    """Rules for objects of which the named fields are read; `names` is a tree, {"a": {"b": {}}} for a.b."""

    def __init__(self, names: Mapping[str, Any]) -> None:
        self._names = names
        self._flat = sorted(set(_flat(names)))
        self._needles = [f'"{name}"'.encode() for name in self._flat]
        masked = np.array([_masked(needle) for needle in self._needles], np.uint64).reshape(-1, 2, 1)
        self._masks, self._words = masked[:, 0], masked[:, 1]
        self._escapes, self._escape_starts = _escapes("".join(self._flat))

    def problem(self, line: bytes) -> str | None:
        """Why a line that is well-formed JSON is refused all the same: its numbers, or a field twice."""
        large = _HUGE.search(line) or (len(line) > 128 and _LONG.search(line))
        if large and (found := _number_problem(line)):
            return found
        if b"\\" in line or any(line.count(needle) > 1 for needle in self._needles):
            twice = _twice(_PAIRS.decode(line.decode()), self._names, "")
            return None if twice is None else f"field '{twice}' stands twice"
        return None

    def suspects(self, block: Block) -> BoolArray:
        """bool [n]: records that must be looked at one by one.

        Of all others it is certain that they begin with { and end with }, are UTF-8, not too deep, and break
        no rule of `problem` if they are well-formed.
        """
        if not block.buffer:
            return np.ones(len(block), np.bool_)
        view = np.frombuffer(block.buffer, np.uint8)
        starts, ends = block.starts, block.ends
        bad: BoolArray = ends <= starts
        bad |= (view.take(starts, mode="clip") != ord("{")) | (view[ends - 1] != ord("}"))
        if block.refused:
            bad[list(block.refused)] = True
        _mark(bad, block, _not_utf8(block))
        _mark(bad, block, self._escaped(block.buffer))
        folded = view | _BIT_5
        longest = int((ends - starts).max())
        _mark(bad, block, _large(view, folded, longest))
        _mark_deep(bad, block, folded, longest)
        self._mark_repeated(bad, block, view)
        return bad

    def _escaped(self, buffer: bytes) -> IntArray:
        """Where a character of a name that is read is written as an escape."""
        if b"\\" not in buffer or not any(start in buffer for start in self._escape_starts):
            return _nowhere()
        return np.array([match.start() for match in self._escapes.finditer(buffer)], np.int64)

    def _mark_repeated(self, bad: BoolArray, block: Block, view: NDArray[np.uint8]) -> None:
        """Records in which a name that is read may be a key twice: all keys end in `":` without a space."""
        is_colon = view[1:] == ord(":")
        spaced = is_colon & (view[:-1] <= ord(" "))
        if spaced.any():
            _mark(bad, block, np.flatnonzero(spaced))
        colons = np.flatnonzero(is_colon & (view[:-1] == ord('"'))) + 1
        words = np.ndarray((len(view) + 1,), "<u8", bytes(_WORD) + block.buffer, 0, (1,))[colons]
        found = (words & self._masks) == self._words
        nesting = Nesting(block, view)
        for name in np.flatnonzero(~_one_each(block, colons, found)).tolist():
            at = colons[found[name]]
            rows = _rows(block, at)
            repeated = np.zeros(len(block), np.bool_)
            repeated[rows[1:][rows[1:] == rows[:-1]]] = True
            if np.count_nonzero(repeated) > len(block) // 8:  # the name stands elsewhere too, and may
                repeated[:] = False
                repeated[nesting.twice(at)] = True
            bad |= repeated


def is_too_deep(line: bytes) -> bool:
    """Whether objects and lists lie in each other more than 64 deep."""
    if line.count(b"{") + line.count(b"[") <= MOST_LEVELS:
        return False
    folded = np.frombuffer(_STRING.sub(b"", line), np.uint8) | _BIT_5
    steps = (folded == ord("{")).astype(np.int64) - (folded == ord("}"))
    return bool(steps.cumsum().max(initial=0) > MOST_LEVELS)


def number_problem(number: bytes) -> str | None:
    """Why a number, well-formed as JSON has them, is refused."""
    if len(number) > MOST_DIGITS:
        return f"number of more than {MOST_DIGITS} characters"
    return f"number out of range: {_short(number)}" if isinf(float(number)) else None


class _Pairs(list[tuple[str, Any]]):
    """An object as it is written, equal names included."""


_PAIRS = json.JSONDecoder(object_pairs_hook=_Pairs)


def _number_problem(line: bytes) -> str | None:
    numbers = _NUMBER.findall(_STRING.sub(b'""', line))
    return next(filter(None, map(number_problem, numbers)), None)


def _short(number: bytes) -> str:
    text = number.decode()
    return text if len(text) <= 20 else f"{text[:17]}..."


def _twice(value: Any, names: Mapping[str, Any], prefix: str) -> str | None:
    """The path of the first name that stands twice in one object."""
    if not isinstance(value, _Pairs):
        return None
    seen: set[str] = set()
    for name, inner in value:
        if name in names:
            if name in seen:
                return prefix + name
            seen.add(name)
            if found := _twice(inner, names[name], f"{prefix}{name}."):
                return found
    return None


def _flat(names: Mapping[str, Any]) -> Iterable[str]:
    for name, below in names.items():
        yield name
        yield from _flat(below)


def _masked(needle: bytes) -> tuple[int, int]:
    """Which of the 8 bytes before a colon to look at, and what they are where the key is `needle`."""
    tail = needle[-_WORD:]
    mask, word = (part.rjust(_WORD, b"\0") for part in (b"\xff" * len(tail), tail))
    return int.from_bytes(mask, "little"), int.from_bytes(word, "little")


def _escapes(characters: str) -> tuple[re.Pattern[bytes], set[bytes]]:
    """All ways to write one of the characters, or its first half, as an escape; and how those begin."""
    units = {character.encode("utf-16-be")[:2].hex() for character in characters}
    slash = {rb"\/"} if "/" in characters else set()
    starts = {f"\\u{unit[:3]}".encode() for unit in units if unit[:3].isdecimal()}
    if len(starts) < len({unit[:3] for unit in units}):
        starts = {rb"\u"}  # hexadecimal letters, which may be of either case
    pattern = "|".join([rf"\\u(?i:{'|'.join(sorted(units))})"] * bool(units) + [r"\\/"] * len(slash))
    return re.compile(pattern.encode()), starts | slash


def _nowhere() -> IntArray:
    return np.empty(0, np.int64)


def _rows(block: Block, at: IntArray) -> IntArray:
    """Which record a byte belongs to; one between two records, to that before it."""
    rows: IntArray = np.maximum(np.searchsorted(block.starts, at, "right") - 1, 0)
    return rows


def _mark(bad: BoolArray, block: Block, at: IntArray) -> None:
    if len(at):
        bad[_rows(block, at)] = True


def _one_each(block: Block, colons: IntArray, found: BoolArray) -> BoolArray:
    """bool [names]: names that stand at one place among the keys of each record, where all have as many."""
    n, width = len(block), len(colons) // len(block)
    if not width or len(colons) != n * width:
        return np.zeros(len(found), np.bool_)
    fits = (colons[::width] >= block.starts) & (colons[width - 1 :: width] < block.ends)
    table = found.reshape(-1, n, width)
    places = table[:, 0].argmax(axis=1)
    one_each = np.array([np.count_nonzero(row) == n for row in found], np.bool_) & fits.all()
    one_each &= table[np.arange(len(found)), :, places].all(axis=1)
    return one_each


def _not_utf8(block: Block) -> IntArray:
    """The first bad byte of each record that has one; each search goes on behind the record before."""
    if block.buffer.isascii():
        return _nowhere()
    found: list[int] = []
    view, begin = memoryview(block.buffer), 0
    while begin < len(view):
        try:
            str(view[begin:], "utf-8")
            break
        except UnicodeDecodeError as error:
            found.append(begin + error.start)
            row = int(_rows(block, np.array(found[-1:]))[0])
            begin = max(int(block.ends[row]), found[-1] + 1)
    return np.array(found, np.int64)


def _large(view: NDArray[np.uint8], folded: NDArray[Any], longest: int) -> IntArray:
    """Where `_LONG` or `_HUGE` matches in a number, or seems to."""
    is_digit = (view - ord("0")) < 10
    long = _nowhere()
    if longest >= 128:
        run = is_digit[: len(view) // _WORD * _WORD].view(np.uint64) == _ALL_DIGITS
        for length in (1, 2, 4):  # 128 digits hold at least 15 whole words; 8 in a row are reason enough
            run = run[length:] & run[:-length]
        long = np.flatnonzero(run) * _WORD
    is_e = (folded[1:-3] == ord("e")) & is_digit[:-4]
    if not is_e.any():
        return long
    exponents = np.flatnonzero(is_e) + 1
    first = exponents + 1 + (view.take(exponents + 1, mode="clip") == ord("+"))
    huge = np.ones(len(first), np.bool_)
    for more in range(3):
        huge &= is_digit.take(first + more, mode="clip")
    return np.concatenate([long, exponents[huge]])


def _mark_deep(bad: BoolArray, block: Block, folded: NDArray[Any], longest: int) -> None:
    """Records nested too deeply; only those with many brackets are looked at in full."""
    if longest < 2 * MOST_LEVELS + 2:  # too short to close so many
        return
    brackets = folded == ord("{")
    # Every record that is not bad begins with one, and the one too deep has more than all levels.
    if np.count_nonzero(brackets) < np.count_nonzero(~bad) + MOST_LEVELS:
        return
    bits = np.zeros(-(-len(brackets) // 64) * _WORD, np.uint8)
    bits[: -(-len(brackets) // 8)] = np.packbits(brackets)
    each = np.bitwise_count(bits.view(np.uint64))
    if int(each.max()) * (longest // 64 + 2) <= MOST_LEVELS:
        return
    before = np.concatenate([[0], np.cumsum(each, dtype=np.int64)])
    counts = before[-(-block.ends // 64)] - before[block.starts // 64]
    for index in np.flatnonzero(counts > MOST_LEVELS).tolist():
        bad[index] |= is_too_deep(block.record(index))


def runs(bad: BoolArray) -> Sequence[tuple[int, int]]:
    """The stretches of records that are not bad, as half-open ranges."""
    edges = np.flatnonzero(np.diff(np.concatenate([[True], bad, [True]]).astype(np.int8)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
