"""Which ids were met: the last so many of them, as hashes of 8 bytes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from streamrnn.events import Array


class Seen:
    """The last `remember` ids that were added; meeting one again does not make it younger."""

    def __init__(self, remember: int) -> None:
        self._remember = remember
        self._added = 0
        self._queue: deque[int] = deque()
        """Those that count, oldest first; the last of them has the stamp `_added`."""
        self._stamps: dict[int, int] = {}

    def repeats(self, hashes: Sequence[int]) -> list[int]:
        """Which of them, added one after the other unless it is known by then, are known: indices."""
        if len(set(hashes)) == len(hashes) and self._stamps.keys().isdisjoint(hashes):
            return []
        found, own, added = [], dict[int, int](), self._added
        for i, name in enumerate(hashes):
            stamp = own.get(name) or self._stamps.get(name, 0)
            if stamp and stamp > added - self._remember:
                found.append(i)
            else:
                added += 1
                own[name] = added
        return found

    def knows(self, name: int) -> bool:
        """Whether an id is among them."""
        return name in self._stamps

    def add(self, hashes: Iterable[int]) -> None:
        """These, of which none is known when its turn comes."""
        for name in hashes:
            self._added += 1
            self._stamps[name] = self._added
            self._queue.append(name)
            if len(self._queue) > self._remember:
                del self._stamps[self._queue.popleft()]

    def frozen(self) -> Callable[[], Array]:
        """All of them as they are now, uint64, oldest first; to be asked for later, on any thread."""
        names = list(self._queue)
        return lambda: np.array(names, np.uint64)

    def load(self, hashes: Array) -> None:
        """The reverse of `frozen`."""
        self._queue.clear()
        self._stamps.clear()
        self.add(hashes.tolist())
