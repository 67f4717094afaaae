"""The shortest decimals of float32 numbers, held in float64: 0.1 instead of 0.10000000149011612."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamrnn.events import BoolArray, IntArray

_FEW = 48
"""Up to here numpy's printing, number by number, is faster than steps over whole arrays."""
_EXACT = 22
"""10**22 is the largest power of ten that a float64 holds exactly."""
_SMALLEST, _LARGEST = 1e-13, 1e27
"""Between these, 6 to 9 digits need no power of ten beyond the exact ones."""
_UP = np.array([10.0 ** max(k, 0) for k in range(-_EXACT, _EXACT + 1)])
_DOWN = np.array([10.0 ** max(-k, 0) for k in range(-_EXACT, _EXACT + 1)])


def shortest(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Float64 numbers of the same shape whose repr is the shortest decimal that reads back as `values`.

    Of several decimals of that length it is the one nearest to the value, as numpy prints it. A decimal of
    at most 9 digits survives a float64 (15 digits), and 9 always tell two float32 apart: Goldberg, "What
    every computer scientist should know about floating-point arithmetic", 1991, theorem 15. Zeros keep
    their sign; infinities and NaN stay what they are.
    """
    if values.size <= _FEW:
        return _printed(values)
    size = np.abs(values)
    within = (size >= _SMALLEST) & (size < _LARGEST)
    easy = within | (size == 0)
    found, short = _rounded(np.where(easy, values, np.float32(0)), np.where(within, size, np.float32(1)))
    rest = ~easy | _lopsided(values) & ~short
    if rest.any():
        found[rest] = _printed(values[rest])
    return found


def _rounded(values: NDArray[np.float32], size: NDArray[np.float32]) -> tuple[NDArray[np.float64], BoolArray]:
    """`values` rounded to the fewest digits of 6 to 9 that read back, and whether 6 did.

    Fewer than 6 need no look of their own: they are 6 with zeros at the end.
    """
    wide = values.astype(np.float64)
    # A logarithm may come out a hair low at a power of ten; the next float32 below is 2e-8 away.
    exponent: IntArray = np.floor(np.log10(size.astype(np.float64)) + 1e-9).astype(np.int64)
    large = bool(exponent.max() >= 6)
    found, good = wide, np.zeros(values.shape, np.bool_)
    for digits in (9, 8, 7, 6):
        power = _EXACT + digits - 1 - exponent
        up = _UP[power]
        if large:
            down = _DOWN[power]
            rounded = np.rint(wide * up / down) / up * down
        else:
            rounded = np.rint(wide * up) / up
        good = rounded.astype(np.float32) == values
        found = np.where(good, rounded, found)
    return found, good


def _lopsided(values: NDArray[np.float32]) -> BoolArray:
    """Powers of two: the float32 below is nearer than the one above, so rounding may pick the wrong side."""
    lopsided: BoolArray = (values.view(np.uint32) & 0x7FFFFF) == 0
    return lopsided


def _printed(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """The same function through numpy's printing: exact for every number, and slower."""
    return values.astype("S32").astype(np.float64)
