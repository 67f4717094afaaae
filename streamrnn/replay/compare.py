"""Two streams of outputs beside each other: how many are equal, and the first that is not."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streamrnn.replay.outputs import Record

_WINDOW = 32
"""So many outputs are looked at to find where both go on alike after a difference."""

Equal = Callable[["Record", "Record"], bool]


@dataclass
class Comparison:
    """How many outputs are `equal`, how many `changed`, and how many stand on one side alone.

    `first` is the first difference: what was recorded and what came now, None for one that is missing.
    """

    equal: int = 0
    changed: int = 0
    recorded_only: int = 0
    replayed_only: int = 0
    first: tuple[Record | None, Record | None] | None = None

    @property
    def different(self) -> int:
        """Outputs that are not equal."""
        return self.changed + self.recorded_only + self.replayed_only

    def differ(self, recorded: Sequence[Record], replayed: Sequence[Record]) -> None:
        """Count outputs in each other's place, and those left over on one side."""
        both = min(len(recorded), len(replayed))
        self.changed += both
        self.recorded_only += len(recorded) - both
        self.replayed_only += len(replayed) - both
        if self.first is None and (recorded or replayed):
            self.first = recorded[0] if recorded else None, replayed[0] if replayed else None


class _Ahead:
    """A stream that can be looked into before it is taken from."""

    def __init__(self, records: Iterable[Record]) -> None:
        self._records = iter(records)
        self._seen: deque[Record] = deque()

    def next(self) -> Record | None:
        """The next one, and it is gone; None at the end."""
        return self._seen.popleft() if self._seen else next(self._records, None)

    def back(self, record: Record) -> None:
        """Put the last one back."""
        self._seen.appendleft(record)

    def look(self, count: int) -> list[Record]:
        """The next ones, fewer only at the end."""
        self._seen.extend(islice(self._records, max(0, count - len(self._seen))))
        return list(islice(self._seen, count))

    def take(self, count: int) -> list[Record]:
        """The next ones, which were looked at, and they are gone."""
        return [self._seen.popleft() for _ in range(count)]

    def rest(self) -> Iterator[Record]:
        """All that is left, one by one."""
        yield from self._seen
        yield from self._records


def compare(recorded: Iterable[Record], replayed: Iterable[Record], equal: Equal, whole: bool) -> Comparison:
    """Compare in order. Unless `whole`, outputs that were recorded behind the last replayed one do not count.

    Where some were added or left out, both sides are aligned again at the next ones with the same bytes.
    """
    was, now, result = _Ahead(recorded), _Ahead(replayed), Comparison()
    while (new := now.next()) is not None:
        if (old := was.next()) is None:
            now.back(new)
            break
        if equal(old, new):
            result.equal += 1
            continue
        was.back(old)
        now.back(new)
        i, j = _alignment(was.look(_WINDOW), now.look(_WINDOW))
        result.differ(was.take(i), now.take(j))
    for record in now.rest():
        result.differ([], [record])
    for record in was.rest() if whole else ():
        result.differ([record], [])
    return result


def _alignment(recorded: Sequence[Record], replayed: Sequence[Record]) -> tuple[int, int]:
    """How many to leave behind on either side so that the next ones are equal; (1, 1) if none are."""
    place: dict[bytes, int] = {}
    for i, record in enumerate(recorded):
        place.setdefault(record.data, i)
    pairs = [(place[record.data], j) for j, record in enumerate(replayed) if record.data in place]
    return min(pairs, key=lambda pair: (max(pair), pair[0] != pair[1]), default=(1, 1))
