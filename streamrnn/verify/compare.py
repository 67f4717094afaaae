"""Where two sets of answers differ, and by how much."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from streamrnn.backend import Arrays
    from streamrnn.events import Array, BoolArray, IntArray


@dataclass(frozen=True)
class Tolerance:
    """Numbers a and b are equal where |a - b| <= absolute + relative |b|, or where both are nan."""

    absolute: float = 1e-5
    relative: float = 1e-4

    def distances(self, found: Array, expected: Array) -> Array:
        """float64 |a - b|, elementwise; inf where one of two is not finite, 0 where both are alike."""
        a, b = found.astype(np.float64), expected.astype(np.float64)
        with np.errstate(invalid="ignore"):
            gap = np.abs(a - b)
        alike = (a == b) | (np.isnan(a) & np.isnan(b))
        return np.where(alike, 0.0, np.where(np.isfinite(gap), gap, np.inf))

    def beyond(self, found: Array, expected: Array) -> BoolArray:
        """Where the distance is over the tolerance."""
        bound = self.absolute + self.relative * np.abs(expected.astype(np.float64))
        gap = self.distances(found, expected)
        return (gap > bound) | np.isinf(gap)


@dataclass(frozen=True)
class Gap:
    """How two sets of answers compare: `events` int64 are those beyond the tolerance.

    `worst` is the largest distance of all, at `worst_at` = (event, output).
    """

    events: IntArray
    worst: float = 0.0
    worst_at: tuple[int, str] | None = None

    def __bool__(self) -> bool:
        return len(self.events) > 0


@dataclass(frozen=True)
class First:
    """One number of one event: the place in its output, both values and their distance."""

    output: str
    index: tuple[int, ...]
    found: float
    expected: float
    distance: float


def compare(found: Arrays, expected: Arrays, tolerance: Tolerance) -> Gap:
    """Outputs of the same names and shapes [n, ...], compared."""
    differs = np.zeros(len(next(iter(found.values()), ())), np.bool_)
    worst, worst_at = 0.0, None
    for name, array in found.items():
        if not array.size:
            continue
        differs |= tolerance.beyond(array, expected[name]).reshape(len(array), -1).any(axis=1)
        gaps = tolerance.distances(array, expected[name]).reshape(len(array), -1).max(axis=1)
        at = int(gaps.argmax())
        if worst_at is None or gaps[at] > worst:
            worst, worst_at = float(gaps[at]), (at, name)
    return Gap(np.flatnonzero(differs), worst, worst_at)


def first_number(found: Arrays, expected: Arrays, tolerance: Tolerance) -> First:
    """The first number of one event, outputs of `shape`, that is beyond the tolerance.

    Raises `ValueError` if there is none.
    """
    for name, array in found.items():
        beyond = np.argwhere(tolerance.beyond(array, expected[name]))
        if len(beyond):
            index = tuple(int(i) for i in beyond[0])
            a, b = array[index], expected[name][index]
            return First(name, index, float(a), float(b), float(tolerance.distances(a, b)))
    raise ValueError("no number of the event differs")


def pair_outputs(found: Iterable[str], expected: Iterable[str]) -> Mapping[str, str] | None:
    """Which output of the second is meant by each of the first: by name, or the only one; None if unclear."""
    ours, theirs = list(found), list(expected)
    if len(ours) == len(theirs) == 1:
        return {ours[0]: theirs[0]}
    return {name: name for name in ours} if set(ours) <= set(theirs) else None
