"""Memory of keys that lost their row, so that one that comes back says so: 8-byte hashes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from streamrnn.limits import NEW, UNKNOWN

Undo = list[Callable[[], object]]


class Gone:
    """Hashes of keys that are gone and why. Once one was forgotten, an unheard key is `unknown`, not `new`.

    The queue may hold hashes that were recalled since; an entry counts only while its stamp is in `_entries`.
    """

    def __init__(self, remember: int) -> None:
        self.remember, self.forgot = remember, False
        self._entries: dict[int, tuple[int, int]] = {}
        self._queue: deque[tuple[int, int]] = deque()
        self._stamp = 0

    def __len__(self) -> int:
        return len(self._entries)

    def recall(self, name: int, undo: Undo) -> int:
        """The cause bit of a key that begins; it is remembered no longer."""
        entry = self._entries.pop(name, None)
        if entry is None:
            return UNKNOWN if self.forgot else NEW
        undo.append(lambda: self._entries.__setitem__(name, entry))
        return entry[1]

    def add(self, name: int, cause: int, undo: Undo) -> None:
        """Remember a key; at the ceiling, the one remembered longest is forgotten."""
        before = self._entries.get(name)
        self._stamp += 1
        self._entries[name] = (self._stamp, cause)
        self._queue.append((self._stamp, name))
        undo.append(lambda: self._restore(name, before))
        if len(self._entries) > self.remember:
            self._forget(undo)

    def compact(self) -> None:
        """Drop recalled hashes from the queue; called between batches, when nothing can be undone."""
        if len(self._queue) > 2 * len(self._entries) + 1024:
            self._queue = deque(item for item in self._queue if self._counts(item))

    def items(self) -> list[tuple[int, int]]:
        """Pairs of hash and cause, the longest remembered first."""
        return [(name, self._entries[name][1]) for stamp, name in self._queue if self._counts((stamp, name))]

    def frozen(self) -> Callable[[], list[tuple[int, int]]]:
        """What `items` would say now, to be asked for later, on any thread."""
        entries = self._entries.copy()

        def items() -> list[tuple[int, int]]:
            return [(name, cause) for name, (_, cause) in sorted(entries.items(), key=lambda item: item[1])]

        return items

    def load(self, items: list[tuple[int, int]], forgot: bool) -> None:
        """The reverse of `items`."""
        self._entries = {name: (stamp, cause) for stamp, (name, cause) in enumerate(items)}
        self._queue = deque((stamp, name) for stamp, (name, _) in enumerate(items))
        self._stamp, self.forgot = len(items), forgot

    def _counts(self, item: tuple[int, int]) -> bool:
        entry = self._entries.get(item[1])
        return entry is not None and entry[0] == item[0]

    def _forget(self, undo: Undo) -> None:
        item = self._queue.popleft()
        while not self._counts(item):
            undo.append(lambda item=item: self._queue.appendleft(item))  # type: ignore[misc]
            item = self._queue.popleft()
        entry, forgot = self._entries.pop(item[1]), self.forgot
        self.forgot = True
        undo.append(lambda: self._unforget(item, entry, forgot))

    def _unforget(self, item: tuple[int, int], entry: tuple[int, int], forgot: bool) -> None:
        self._queue.appendleft(item)
        self._entries[item[1]] = entry
        self.forgot = forgot

    def _restore(self, name: int, before: tuple[int, int] | None) -> None:
        self._queue.pop()
        if before is None:
            del self._entries[name]
        else:
            self._entries[name] = before
