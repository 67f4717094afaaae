"""Events from a topic on a broker."""

from __future__ import annotations

import asyncio
import queue
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.errors import KafkaError, NoOffsetForPartitionError

from streamrnn.errors import SourceError
from streamrnn.ports import EndOfStream
from streamrnn_kafka.group_commits import GroupCommits
from streamrnn_kafka.loop_thread import LoopThread
from streamrnn_kafka.record_fields import RecordFields
from streamrnn_kafka.records import Records
from streamrnn_kafka.security import access, reasons
from streamrnn_kafka.topics import partitions_of

if TYPE_CHECKING:
    from pathlib import Path

    from streamrnn.context import Context
    from streamrnn.events import Block
    from streamrnn.line import Parts
    from streamrnn.ports import Place
    from streamrnn_kafka.options import KafkaSourceConfig


_STOP_S, _SLACK_S = 5, 0.05
_TRIES, _AGAIN_S = 100, 0.1
"""How often a group whose broker is only starting is asked, and after how long."""


class Keeper(Protocol):
    """Keeps the state of partitions that come and go; called on the pipeline's thread, between batches."""

    def revoked(self, partitions: Sequence[int]) -> None:
        """These are about to be given away: commit them, and forget them."""
        ...

    def assigned(self, partitions: Sequence[int]) -> Mapping[int, int]:
        """These have come: make their state what it was, and say at which offset each goes on."""
        ...


@dataclass
class _Request:
    """What the group wants of the pipeline's thread; the group waits until it is done."""

    what: str
    partitions: list[int]
    done: asyncio.Future[None]


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    """Hands what the group decides to the pipeline's thread, and waits for it."""

    def __init__(self) -> None:
        self.requests: queue.SimpleQueue[_Request] = queue.SimpleQueue()
        self.closing = False

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Before the group is formed anew."""
        await self._ask("revoked", revoked)

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """After that."""
        await self._ask("assigned", assigned)

    async def close(self) -> None:
        """Let the group go on without an answer; on its own thread, so that no request comes in between."""
        self.closing = True
        while not self.requests.empty():
            self.requests.get().done.set_result(None)

    async def _ask(self, what: str, partitions: Iterable[TopicPartition]) -> None:
        numbers = sorted(each.partition for each in partitions)
        if (numbers or what == "assigned") and not self.closing:
            request = _Request(what, numbers, asyncio.get_running_loop().create_future())
            self.requests.put(request)
            await request.done


class KafkaSource:
    """The `kafka` source, alone or as a member of a group.

    The client runs on a thread of its own and fetches ahead as much as its limits allow; while the pipeline
    does not read, it waits.
    """

    partitioned = True

    def __init__(self, context: Context, config: KafkaSourceConfig) -> None:
        self._context, self.config = context, config
        self._fields = RecordFields("kafka", config.max_value_bytes)
        self._next: dict[int, int] = {}
        """Where each partition that is read goes on."""
        self._pieces: deque[tuple[int, Records]] = deque()
        self._listener = _Listener()
        self.keeper: Keeper | None = None
        self._started = self._closed = False
        self._access = access(config, context)
        self.thread = LoopThread("kafka-source")
        try:
            with reasons() as why, _told(why):
                self.thread.call(self._connect())
        except BaseException:
            self.thread.close()
            raise

    def commits(
        self, folder: Path, config: Any, parts: Parts, context: Context, fixed: Mapping[str, Any]
    ) -> GroupCommits:
        """See `streamrnn.commit.job.Committed`."""
        self.keeper = found = GroupCommits(folder, config, parts, context, fixed)
        return found

    def supply(self, paths: Sequence[str]) -> Sequence[str]:
        """See `Source`."""
        return self._fields.supply(paths)

    def give_times(self) -> None:
        """From now on blocks say when their records were made."""
        self._fields.needs_time = True

    def read(self, limit: int, wait_ms: int) -> Block | None:
        """See `Source.read`. Whatever the group asks for is done first."""
        if self._closed:
            raise EndOfStream
        with _told():
            self._start()
            self._answer()
            if not self._pieces:
                self._take(self.thread.call(self._fetched(wait_ms, 4 * limit)))
                self._answer()
        if not self._pieces:
            return None
        number, records = self._pieces.popleft()
        if len(records) > limit:
            self._pieces.appendleft((number, records.cut(limit, len(records))))
            records = records.cut(0, limit)
        self._next[number] = int(records.offsets[-1]) + 1
        return self._fields.block(records, self.config.topic, number)

    def position(self) -> Mapping[str, int]:
        """See `Source.position`: offsets."""
        return {f"{self.config.topic}-{number}": at for number, at in self._next.items()}

    lag_unit = "records"

    def lag(self) -> Mapping[str, int]:
        """See `Source`: behind the last record that a fetch has told of."""
        found = {}
        for number, at in list(self._next.items()):
            with suppress(AssertionError):  # it has just gone to another member
                end = self.consumer.highwater(self._partition(number))
                if end is not None:
                    found[f"{self.config.topic}-{number}"] = max(0, end - at)
        return found

    def offsets(self) -> Mapping[int, int]:
        """Where each partition goes on."""
        return self._next

    def place(self) -> Place:
        """See `Resumable.place`."""
        with _told():
            self._start()
        return {"partitions": {str(number): at for number, at in self._next.items()}}

    def resume(self, place: Place) -> None:
        """See `Resumable.resume`."""
        offsets = {int(number): at for number, at in place["partitions"].items()}
        with _told():
            self._assign(offsets)

    def close(self) -> None:
        """See `Source.close`; a group is left, so that others need not wait."""
        if self._closed:
            return
        self._closed = True
        self.thread.call(self._listener.close())
        try:
            with _told():
                self.thread.call(self._stop())
        finally:
            self.thread.close()

    def committed_offsets(self, partitions: Sequence[int]) -> Mapping[int, tuple[int, str]]:
        """What the group has committed, and what was written beside it; not those without a commit."""
        wanted = [self._partition(number) for number in partitions]
        with _told():
            found = self.thread.call(self._committed(wanted))
        return {each.partition: (at.offset, at.metadata) for each, at in found.items() if at.offset >= 0}

    def commit(self, offsets: Mapping[int, tuple[int, str]]) -> None:
        """Commit offsets, each with a text beside it, to the group."""
        with _told():
            self.thread.call(self.consumer.commit({self._partition(n): pair for n, pair in offsets.items()}))

    def first_offsets(self, partitions: Sequence[int]) -> Mapping[int, int]:
        """Where the options say that reading begins."""
        wanted = [self._partition(number) for number in partitions]
        with _told():
            return self.thread.call(self._first(wanted))

    async def _connect(self) -> None:
        config = self.config
        self.consumer = AIOKafkaConsumer(
            **self._access,
            group_id=config.group,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level=config.isolation,
            session_timeout_ms=int(config.session_timeout_s * 1000),
            heartbeat_interval_ms=int(config.session_timeout_s * 1000 / 3),
            partition_assignment_strategy=(StickyPartitionAssignor,),
        )
        self.admin = AIOKafkaAdminClient(**self._access)
        try:
            await self.consumer.start()
            await self.admin.start()
            self.partitions = await partitions_of(self.admin, config.topic)
            self._check_partitions()
        except BaseException:
            await self._stop()
            raise

    async def _stop(self) -> None:
        with suppress(TimeoutError):  # a group that is being formed takes as long as it likes
            await asyncio.wait_for(self._stop_consumer(), _STOP_S)
        await self.admin.close()

    async def _stop_consumer(self) -> None:
        try:
            await self.consumer.stop()
        except asyncio.CancelledError:
            # While a broker is away, the client cancels a fetch of its own, waits for it and gets no further.
            await self.consumer._client.close()

    def _check_partitions(self) -> None:
        config = self.config
        missing = sorted(set(config.partitions or ()) - set(self.partitions))
        if missing or not self.partitions:
            found = f"those up to {self.partitions[-1]}" if self.partitions else "no such topic"
            wanted = f"partition {missing[0]} of " if missing else ""
            raise SourceError(f"expected {wanted}topic {config.topic} at {config.brokers}, found {found}")

    def _start(self) -> None:
        """Begin to read, unless an earlier run is gone on with."""
        if self._started:
            return
        if self.config.group is not None:
            self._started = True
            self.thread.call(self._subscribe())
            return
        wanted = self.config.partitions or self.partitions
        self._assign(self.first_offsets(wanted))

    def _assign(self, offsets: Mapping[int, int]) -> None:
        self._started = True
        first, last = self.thread.call(self._bounds([self._partition(number) for number in offsets]))
        for number, at in offsets.items():
            low, high = first[self._partition(number)], last[self._partition(number)]
            if not low <= at <= high:
                name = f"{self.config.topic}-{number}"
                raise SourceError(
                    f"{name}: expected offset {at} to go on at, found {low} to {high} on the broker"
                )
        self.thread.call(self._seek(offsets, assign=True))
        self._next = dict(offsets)

    async def _fetched(self, wait_ms: int, most: int) -> Mapping[TopicPartition, Sequence[ConsumerRecord]]:
        fetch = self.consumer.getmany(timeout_ms=wait_ms, max_records=most)
        try:
            # While the group is formed anew this waits for its end, which waits for our answer to it.
            found = await asyncio.wait_for(fetch, wait_ms / 1000 + _SLACK_S)
            return found  # type: ignore[no-any-return]
        except TimeoutError:
            return {}
        except NoOffsetForPartitionError:
            # The client looked for a committed offset before we told it where to go on.
            return {}

    async def _committed(self, wanted: Sequence[TopicPartition]) -> Any:
        for left in reversed(range(_TRIES)):
            try:
                return await self.admin.list_consumer_group_offsets(
                    self.config.group, partitions=list(wanted)
                )
            except KafkaError as error:
                if not (error.retriable and left):
                    raise
                await asyncio.sleep(_AGAIN_S)

    async def _subscribe(self) -> None:
        self.consumer.subscribe([self.config.topic], listener=self._listener)

    async def _seek(self, offsets: Mapping[int, int], assign: bool = False) -> None:
        if assign:
            self.consumer.assign([self._partition(number) for number in offsets])
        for number, at in offsets.items():
            self.consumer.seek(self._partition(number), at)

    async def _bounds(self, wanted: Sequence[TopicPartition]) -> tuple[Any, Any]:
        return await self.consumer.beginning_offsets(wanted), await self.consumer.end_offsets(wanted)

    async def _first(self, wanted: Sequence[TopicPartition]) -> Mapping[int, int]:
        config = self.config
        if config.from_offset is not None:
            return {each.partition: config.from_offset for each in wanted}
        first, last = await self._bounds(wanted)
        if config.from_timestamp is not None:
            found = await self.consumer.offsets_for_times(dict.fromkeys(wanted, config.from_timestamp))
            return {each.partition: at.offset if at else last[each] for each, at in found.items()}
        bound = first if config.start == "earliest" else last
        return {each.partition: bound[each] for each in wanted}

    def _answer(self) -> None:
        """Do what the group asks for."""
        while not self._listener.requests.empty():
            request = self._listener.requests.get()
            try:
                self._change(request)
            finally:
                self.thread.loop.call_soon_threadsafe(request.done.set_result, None)

    def _change(self, request: _Request) -> None:
        assert self.keeper is not None
        numbers = request.partitions
        if request.what == "revoked":
            held = [number for number in numbers if number in self._next]
            self.drop(held, lambda: self.keeper.revoked(held) if self.keeper else None)
        else:
            offsets = self.keeper.assigned(numbers)
            self.thread.call(self._seek(offsets))
            self._next.update(offsets)

    def drop(self, numbers: Sequence[int], before: Callable[[], None]) -> None:
        """Read these partitions no more, once `before` was done."""
        try:
            before()
        finally:
            for number in numbers:
                self._next.pop(number, None)
            self._pieces = deque(piece for piece in self._pieces if piece[0] in self._next)

    def _take(self, found: Mapping[TopicPartition, Sequence[ConsumerRecord]]) -> None:
        """Keep what was fetched of partitions that are ours by now, from where they go on."""
        for each, records in found.items():
            at = self._next.get(each.partition)
            wanted = [record for record in records if at is not None and record.offset >= at]
            if wanted:
                self._pieces.append((each.partition, _columns(wanted)))

    def _partition(self, number: int) -> TopicPartition:
        return TopicPartition(self.config.topic, number)


def build(config: KafkaSourceConfig, context: Context, new_framer: Callable[..., object]) -> KafkaSource:
    """The source, connected, its topic found. Raises `SourceError`."""
    return KafkaSource(context, config)


def _columns(records: Sequence[ConsumerRecord]) -> Records:
    return Records(
        np.fromiter([record.offset for record in records], np.int64, len(records)),
        [record.value for record in records],
        [record.key for record in records],
        [record.timestamp for record in records],
        [record.headers for record in records],
    )


@contextmanager
def _told(why: Sequence[str] = ()) -> Iterator[None]:
    try:
        yield
    except (KafkaError, OSError) as error:
        raise SourceError("; ".join([f"kafka: {type(error).__name__}: {error}", *why])) from error
