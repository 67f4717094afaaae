"""Memory of keys that lost their row, so that one that comes back says so: 8-byte hashes in arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from streamrnn.core.slots import Slots
from streamrnn.limits import EVICTED, NEW, UNKNOWN

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamrnn.events import Array, IntArray

    Hashes = NDArray[np.uint64]

_LEAST = 1024


def hashes_of(keys: Iterable[bytes]) -> Hashes:
    """`limits.key_hash` of many keys."""
    digests = b"".join([blake2b(key, digest_size=8).digest() for key in keys])
    return np.frombuffer(digests, ">u8").astype(np.uint64)


@dataclass(frozen=True, slots=True)
class Change:
    """What some keys that came and went make of the memory: `added` go in, the places in `dropped` fall out.

    Places of those added follow the last one in use. `forgot` is what `Gone.forgot` becomes.
    """

    added: Hashes
    cause: int
    dropped: IntArray
    forgot: bool


class Gone:
    """Hashes of keys that are gone and why. Once one was forgotten, an unheard key is `unknown`, not `new`.

    They lie in the order in which they went, from `_head` to `_tail`; those that were recalled leave holes.
    """

    def __init__(self, remember: int) -> None:
        self.remember, self.forgot = remember, False
        self._slots = Slots()
        self._secret, self._odd = np.random.default_rng().integers(0, 1 << 63, 2, np.uint64)
        self._names = np.zeros(_LEAST, np.uint64)
        self._causes = np.zeros(_LEAST, np.uint8)
        self._held = np.zeros(_LEAST, np.bool_)
        self._head = self._tail = self._count = 0
        self.is_saved = False
        """Whether it is as the last segment has it."""

    def __len__(self) -> int:
        return self._count

    def foresee(self, begun: Hashes, left: Hashes) -> tuple[IntArray, Change]:
        """What happens if keys begin, in this order, and each of the last `len(left)` of them evicts one.

        A newcomer is recalled before a victim is remembered, so that a full memory cannot forget it. The
        newcomers' cause bits, int64 [n], and the change; nothing is changed yet.
        """
        self._make_room(len(left))
        hits = self._find(begun) if self._count else np.full(len(begun), -1, np.int64)
        again = len(left) > 0 and self._overlap(begun, left, hits)
        return (self._each if again else self._together)(begun, left, hits)

    def release(self, left: Hashes, cause: int) -> None:
        """Remember keys with a cause bit, in this order."""
        self._make_room(len(left))
        dropped = self._oldest(max(0, self._count + len(left) - self.remember), len(left))
        self.apply(Change(left, cause, dropped, self.forgot or len(dropped) > 0))

    def apply(self, change: Change) -> None:
        """Make it so."""
        self.is_saved = False
        count, dropped = len(change.added), change.dropped
        places = np.arange(self._tail, self._tail + count)
        self._names[places], self._causes[places], self._held[places] = change.added, change.cause, True
        before = dropped[dropped < self._tail]
        self._tail += count
        self._held[dropped] = False
        self._slots.remove(before)
        stay = places[self._held[places]]
        self._slots.add(stay, self._mixed(self._names[stay]))
        self._count += count - len(dropped)
        self.forgot = change.forgot
        while self._head < self._tail and not self._held[self._head]:
            step = self._held[self._head : min(self._tail, self._head + _LEAST)]
            self._head += int(step.argmax()) if step.any() else len(step)

    def items(self) -> list[tuple[int, int]]:
        """Pairs of hash and cause, the longest remembered first."""
        held = np.flatnonzero(self._held[self._head : self._tail]) + self._head
        names, causes = self._names[held], self._causes[held]
        return list(zip(names.tolist(), causes.tolist(), strict=True))

    def frozen(self) -> Callable[[], tuple[Array, Array]]:
        """Hashes and causes as they are now, the longest remembered first, to be asked for on any thread.

        They count as saved from here on.
        """
        self.is_saved = True
        used = slice(self._head, self._tail)
        names, causes, held = self._names[used].copy(), self._causes[used].copy(), self._held[used].copy()
        return lambda: (names[held], causes[held])

    def load(self, names: Hashes, causes: IntArray, forgot: bool) -> None:
        """What `frozen` gave; if those are more than are to be remembered now, the last of them."""
        excess = max(0, len(names) - self.remember)
        self._head = self._tail = self._count = 0
        self._held[:] = False
        self._slots = Slots()
        self.forgot = forgot
        self.release(names[excess:], 0)
        self._causes[self._head : self._tail] = causes[excess:]
        self.forgot = forgot or excess > 0
        self.is_saved = excess == 0

    def _together(self, begun: Hashes, left: Hashes, hits: IntArray) -> tuple[IntArray, Change]:
        """Where nothing that is recalled could have been forgotten meanwhile."""
        known = hits >= 0
        sizes = self._count - np.cumsum(known)
        sizes[len(begun) - len(left) :] += np.arange(1, len(left) + 1)
        over = np.maximum.accumulate(sizes - self.remember) if len(left) else sizes - self.remember
        forgotten = max(0, int(over[-1])) if len(left) else 0
        causes = np.full(len(begun), UNKNOWN if self.forgot else NEW, np.int64)
        if forgotten:
            causes[1:][over[:-1] > 0] = UNKNOWN
        causes[known] = self._causes[hits[known]]
        dropped = np.concatenate([hits[known], self._oldest(forgotten, len(left))])
        return causes, Change(left, EVICTED, dropped, self.forgot or forgotten > 0)

    def _each(self, begun: Hashes, left: Hashes, hits: IntArray) -> tuple[IntArray, Change]:
        """One after the other."""
        place = dict(zip(begun.tolist(), hits.tolist(), strict=True))
        reach = self._oldest(min(self._count, len(begun) + len(left)), 0).tolist()
        oldest = chain(reach, range(self._tail, self._tail + len(left)))
        first, size, forgot, dropped = len(begun) - len(left), self._count, self.forgot, dict[int, None]()
        causes = np.zeros(len(begun), np.int64)
        for i, name in enumerate(begun.tolist()):
            at = place.get(name, -1)
            if at >= 0 and at not in dropped:
                causes[i] = self._causes[at] if at < self._tail else EVICTED
                dropped[at] = None
                size -= 1
            else:
                causes[i] = UNKNOWN if forgot else NEW
            if i >= first:
                place[int(left[i - first])] = self._tail + i - first
                size += 1
                if size > self.remember:
                    dropped[next(at for at in oldest if at not in dropped)] = None
                    size, forgot = size - 1, True
        return causes, Change(left, EVICTED, np.fromiter(dropped, np.int64, len(dropped)), forgot)

    def _overlap(self, begun: Hashes, left: Hashes, hits: IntArray) -> bool:
        """Whether a key that begins may be forgotten before, or is one of those that leave."""
        if len(np.intersect1d(begun, left)):
            return True
        known = hits[hits >= 0]
        reach = self._oldest(min(self._count, len(left)), 0)
        return len(known) > 0 and (len(reach) < len(left) or bool(known.min() <= reach[-1]))

    def _oldest(self, count: int, added: int) -> IntArray:
        """The places of those remembered longest, int64 [count], once `added` more are there."""
        stop = self._head
        found = np.zeros(0, np.int64)
        while len(found) < count and stop < self._tail:
            stop = min(self._tail, self._head + 2 * max(count, stop - self._head, _LEAST))
            found = np.flatnonzero(self._held[self._head : stop]) + self._head
        return np.concatenate([found, np.arange(self._tail, self._tail + added)])[:count]

    def _find(self, names: Hashes) -> IntArray:
        """The place of each hash, int64 [n]; -1 where it is not remembered."""
        mixed = self._mixed(names)
        places = self._slots.find(mixed)
        wrong = (places >= 0) & (self._names[places] != names)
        for i in np.flatnonzero(wrong).tolist():  # another with the same 31 bits
            walk = (at for at in self._slots.walk(int(mixed[i])) if self._names[at] == names[i])
            places[i] = next(walk, -1)
        return places

    def _mixed(self, names: Hashes) -> Hashes:
        """Hashes that nobody can foresee, since anybody can find keys whose names begin alike."""
        mixed: Hashes = (names + self._secret) * (self._odd | np.uint64(1))
        return mixed ^ mixed >> np.uint64(32)

    def _make_room(self, count: int) -> None:
        """Room for so many more at the end, where the holes were."""
        if self._tail + count <= len(self._names):
            return
        held = np.flatnonzero(self._held[self._head : self._tail]) + self._head
        names, causes = self._names[held], self._causes[held]
        size = max(_LEAST, 3 * (len(held) + count) // 2)
        self._names, self._causes = np.zeros(size, np.uint64), np.zeros(size, np.uint8)
        self._held = np.arange(size) < len(held)
        self._names[: len(held)], self._causes[: len(held)] = names, causes
        self._head, self._tail = 0, len(held)
        self._slots.fill(np.arange(len(held)), self._mixed(names))
