"""The events of one partition on their way into order: those that wait, the largest time, the ids met."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from streamrnn.limits import key_hash
from streamrnn.order import records as r
from streamrnn.order.seen import Seen
from streamrnn.order.settle import GONE, Arrivals, Held, settle

if TYPE_CHECKING:
    from streamrnn.events import Array, Block, IntArray
    from streamrnn.order.policy import Policy

_FIRST_CAPACITY = 1024
_SLACK_BYTES = 1 << 20


class Released(NamedTuple):
    """Records that go on, and with which record each was let go: int64 [n], that one's index in its block."""

    block: Block
    by: IntArray


@dataclass(frozen=True)
class Turn:
    """What became of some arrivals, by their index among them: `refused` with the reason; `kept` went on.

    Where events may have to wait, nobody is in `kept`, and who goes on is in `released`.
    """

    refused: Mapping[int, str]
    kept: IntArray
    released: Iterator[Released]


class Waiting:
    """Is one with the state of a partition: it goes into the commits with it.

    `heads` is what a codec says must stand before records; `limit` bounds the records of a block.
    """

    def __init__(self, policy: Policy, heads: r.Heads | None, limit: int) -> None:
        self.policy, self._heads, self._limit = policy, heads, limit
        self._seen = None if policy.remember is None else Seen(policy.remember)
        self._largest: int | None = None
        self._chunks: dict[int, r.Chunk] = {}
        self._next_chunk = 0
        self._chunk_bytes = 0
        self._table = np.zeros((8, _FIRST_CAPACITY), np.int64)
        self._used = self._events = self._bytes = 0

    def __len__(self) -> int:
        """Events that wait."""
        return self._events

    def arrive(self, block: Block, rows: IntArray, time: IntArray | None, ids: Sequence[str] | None) -> Turn:
        """The events of these records of a block, in log order."""
        if not len(rows):
            return Turn({}, rows, iter(()))
        time = np.zeros(len(rows), np.int64) if time is None else time
        arriving = r.table(block, rows, time, self._next_chunk)
        hashes = [] if ids is None else list(map(key_hash, ids))
        times, sizes = (self._table[each, : self._used] for each in (r.TIME, r.SIZE))
        held = Held(times, sizes, self._events, self._bytes)
        settled = settle(
            self.policy, self._largest, held, Arrivals(time, arriving[r.SIZE], hashes), self._seen
        )
        self._largest = settled.largest
        if self.policy.behind is None:
            return Turn(settled.refused, settled.leaving, iter(()))
        self._chunks[self._next_chunk] = r.Chunk.of(block, self._heads)
        self._chunk_bytes += len(block.buffer)
        self._next_chunk += 1
        released = self._move(settled.leaving, rows[settled.by], arriving, settled.entering)
        return Turn(settled.refused, rows[:0], released)

    def rest(self) -> Iterator[Released]:
        """All that wait, in order: nothing can come any more that would go before them."""
        live = np.flatnonzero(self._table[r.TIME, : self._used] != GONE)
        order = live[np.argsort(self._table[r.TIME, live], kind="stable")]
        return self._move(order, np.zeros_like(order), self._table[:, :0], order[:0])

    def frozen(self) -> Callable[[], dict[str, Array]]:
        """All of it as it is now, as arrays; to be asked for later, on any thread."""
        records, chunks = self._live(), dict(self._chunks)
        clock = np.array([] if self._largest is None else [self._largest], np.int64)
        seen = self._seen.frozen() if self._seen is not None else None

        def arrays() -> dict[str, Array]:
            found = {"clock": clock}
            if seen is not None:
                found["seen"] = seen()
            if records.shape[1]:
                found |= r.packed(r.gather(chunks, records), records[r.TIME])
            return found

        return arrays

    def load(self, arrays: Mapping[str, Array]) -> None:
        """The reverse of `frozen`, in place of what there is."""
        self._largest = int(arrays["clock"][0]) if len(arrays["clock"]) else None
        if self._seen is not None and "seen" in arrays:
            self._seen.load(arrays["seen"])
        self._chunks.clear()
        self._used = self._events = self._bytes = self._chunk_bytes = 0
        if "records" in arrays:
            self._begin_with(*r.unpacked(arrays))

    def _begin_with(self, block: Block, time: IntArray) -> None:
        """All that wait lie in this block, in the order in which they came."""
        self._chunks = {self._next_chunk: r.Chunk.of(block, self._heads)}
        self._chunk_bytes = len(block.buffer)
        self._used = self._events = self._bytes = 0
        self._enter(r.table(block, np.arange(len(block)), time, self._next_chunk))
        self._next_chunk += 1

    def _move(
        self, leaving: IntArray, by: IntArray, arriving: IntArray, entering: IntArray
    ) -> Iterator[Released]:
        """Let some leave, of those that wait and of those that arrive, and others enter."""
        held = leaving < self._used
        records = np.empty((len(arriving), len(leaving)), np.int64)
        records[:, held] = self._table[:, leaving[held]]
        records[:, ~held] = arriving[:, leaving[~held] - self._used]
        chunks = {number: self._chunks[number] for number in np.unique(records[r.CHUNK]).tolist()}
        self._leave(leaving[held], records[:, held])
        self._enter(arriving[:, entering])
        if arriving.shape[1] and not len(entering):
            self._drop(self._next_chunk - 1)
        if self._chunk_bytes > 2 * self._bytes + _SLACK_BYTES:
            self._compact()
        return self._blocks(chunks, records, by)

    def _blocks(self, chunks: Mapping[int, r.Chunk], records: IntArray, by: IntArray) -> Iterator[Released]:
        for start in range(0, len(by), self._limit):
            part = slice(start, start + self._limit)
            yield Released(r.gather(chunks, records[:, part]), by[part])

    def _enter(self, records: IntArray) -> None:
        used = self._used + records.shape[1]
        if used > self._table.shape[1]:
            live = self._live()
            self._used = live.shape[1]
            used = self._used + records.shape[1]
            self._table = np.zeros((8, max(_FIRST_CAPACITY, 2 * used)), np.int64)
            self._table[:, : self._used] = live
        self._table[:, self._used : used] = records
        self._used, self._events = used, self._events + records.shape[1]
        self._bytes += int(records[r.SIZE].sum())
        if records.shape[1]:
            self._chunks[int(records[r.CHUNK, 0])].left += records.shape[1]

    def _leave(self, numbers: IntArray, records: IntArray) -> None:
        self._table[r.TIME, numbers] = GONE
        self._events -= len(numbers)
        self._bytes -= int(records[r.SIZE].sum())
        for number, count in zip(*np.unique(records[r.CHUNK], return_counts=True), strict=True):
            chunk = self._chunks[int(number)]
            chunk.left -= int(count)
            if not chunk.left:
                self._drop(int(number))

    def _drop(self, number: int) -> None:
        self._chunk_bytes -= len(self._chunks.pop(number).block.buffer)

    def _live(self) -> IntArray:
        table = self._table[:, : self._used]
        return table[:, table[r.TIME] != GONE]

    def _compact(self) -> None:
        """Let go of the bytes of records that have left, where others of their blocks wait on."""
        live = self._live()
        connection = live[r.CONNECTION]
        block = r.gather(self._chunks, live)
        block.connection = connection
        self._begin_with(block, live[r.TIME])
