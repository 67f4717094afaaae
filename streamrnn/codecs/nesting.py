"""Which object each key of many JSON lines belongs to, without decoding them."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamrnn.events import Block, BoolArray, IntArray

_BIT_5 = 32


class Nesting:
    """The brackets of a block outside its strings. Right for well-formed records without backslashes."""

    def __init__(self, block: Block, view: NDArray[np.uint8]) -> None:
        self._block, self._view = block, view

    def twice(self, colons: IntArray) -> IntArray:
        """Records in which two of the keys that end before these colons may stand in one object."""
        index = np.maximum(np.searchsorted(self._brackets, colons) - 1, 0)
        levels, found = self._levels[index], []
        for level in np.unique(levels).tolist():
            opened = np.flatnonzero(self._is_open & (self._levels == level))
            here = levels == level
            objects = np.searchsorted(opened, index[here], "right")
            found.append(colons[here][1:][objects[1:] == objects[:-1]])
        rows = self._rows(colons)
        again = rows[1:][rows[1:] == rows[:-1]]
        return np.concatenate([self._rows(np.concatenate(found)), again[self._escaped[again]]])

    def _rows(self, at: IntArray) -> IntArray:
        rows: IntArray = np.maximum(np.searchsorted(self._block.starts, at, "right") - 1, 0)
        return rows

    @cached_property
    def _escaped(self) -> BoolArray:
        """bool [n]: records with a backslash, after which a quote need not be one."""
        escaped = np.zeros(len(self._block), np.bool_)
        escaped[self._rows(np.flatnonzero(self._view == ord("\\")))] = True
        return escaped

    @cached_property
    def _brackets(self) -> IntArray:
        """Where the brackets are outside of strings: behind an even number of the record's quotes."""
        folded: NDArray[Any] = self._view | _BIT_5
        found = np.flatnonzero((folded == ord("{")) | (folded == ord("}")))
        quotes = np.flatnonzero(self._view == ord('"'))
        before = np.searchsorted(quotes, self._block.starts)[self._rows(found)]
        outside: IntArray = found[(np.searchsorted(quotes, found) - before) % 2 == 0]
        return outside if len(outside) else np.zeros(1, np.int64)

    @cached_property
    def _is_open(self) -> BoolArray:
        is_open: BoolArray = (self._view[self._brackets] | _BIT_5) == ord("{")
        return is_open

    @cached_property
    def _levels(self) -> IntArray:
        """How many objects and lists are open after each bracket, counted from its record's start."""
        levels = np.concatenate([[0], np.cumsum(np.where(self._is_open, 1, -1))])
        before = levels[np.searchsorted(self._brackets, self._block.starts)]
        relative: IntArray = levels[1:] - before[self._rows(self._brackets)]
        return relative
