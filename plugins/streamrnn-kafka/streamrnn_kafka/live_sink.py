"""Outputs to a topic on a broker."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import IllegalOperation, InvalidProducerEpoch, KafkaError, ProducerFenced
from aiokafka.partitioner import murmur2

from streamrnn.errors import OptionError, SinkError
from streamrnn_kafka.loop_thread import LoopThread
from streamrnn_kafka.outputs import framing_of, partition_of, records_of
from streamrnn_kafka.records import NO_TIMESTAMP
from streamrnn_kafka.security import access, reasons
from streamrnn_kafka.topics import partitions_of

if TYPE_CHECKING:
    from streamrnn.context import Context
    from streamrnn.events import OutBlock
    from streamrnn.ports import Place
    from streamrnn_kafka.options import KafkaSinkConfig

_BATCH_BYTES = 1 << 19
"""Size of a batch: brokers take up to twice as much, unless they are told otherwise."""
_STOP_S = 5
_MOST_UNDER_WAY = 64
"""Batches that are sent and not answered yet, beyond which the pipeline waits."""
FENCED = (ProducerFenced, InvalidProducerEpoch, IllegalOperation)
"""What the client says where another has taken over: the last, where it noticed so on its own."""

Rows = tuple[Sequence[bytes | None], Sequence[bytes], Sequence[int]]


class Producer:
    """One producer of the client, and what it has sent."""

    def __init__(self, config: KafkaSinkConfig, access: Mapping[str, Any], transaction: str | None) -> None:
        self._topic, self.transactional = config.topic, transaction is not None
        compression = None if config.compression == "none" else config.compression
        more: dict[str, Any] = {}
        if transaction is not None:
            timeout_ms = int(config.transaction_timeout_s * 1000)
            more = {"transactional_id": transaction, "transaction_timeout_ms": timeout_ms}
        self.client = AIOKafkaProducer(
            **access,
            enable_idempotence=True,
            compression_type=compression,
            max_batch_size=_BATCH_BYTES,
            **more,
        )
        self._under_way: deque[asyncio.Future[Any]] = deque()
        self.in_transaction = False

    async def send(self, rows: Rows, partition: int) -> None:
        """Send records to a partition, in order; waits if too much is under way."""
        await self.begin()
        batch = self.client.create_batch()
        for key, value, time in zip(*rows, strict=True):
            timestamp = None if time == NO_TIMESTAMP else time
            if batch.append(key=key, value=value, timestamp=timestamp) is None:
                await self._send_batch(batch, partition)
                batch = self.client.create_batch()
                batch.append(key=key, value=value, timestamp=timestamp)
        await self._send_batch(batch, partition)

    async def begin(self) -> None:
        """Begin a transaction, if there are to be any and none has begun."""
        if self.transactional and not self.in_transaction:
            await self.client.begin_transaction()
            self.in_transaction = True

    async def flush(self) -> None:
        """Return when all that was sent is with the broker."""
        while self._under_way:
            await self._under_way.popleft()

    async def commit(self, group: str, offsets: Mapping[TopicPartition, tuple[int, str]]) -> None:
        """Make what was sent visible, and the offsets those of the group."""
        await self.begin()
        await self.flush()
        await self.client.send_offsets_to_transaction(offsets, group)
        await self.client.commit_transaction()
        self.in_transaction = False

    async def stop(self) -> None:
        """Give it up, with what is not committed."""
        # Whoever is fenced cannot abort, and need not: the other has. The client says so in many ways.
        with suppress(Exception):
            if self.in_transaction:
                await asyncio.wait_for(self.client.abort_transaction(), _STOP_S)
        self.in_transaction = False
        with suppress(Exception):
            await asyncio.wait_for(self.client.stop(), _STOP_S)

    async def _send_batch(self, batch: Any, partition: int) -> None:
        batch.close()
        future = await self.client.send_batch(batch, self._topic, partition=partition)
        future.add_done_callback(_seen)
        self._under_way.append(future)
        while len(self._under_way) > _MOST_UNDER_WAY or (self._under_way and self._under_way[0].done()):
            await self._under_way.popleft()


def _seen(future: asyncio.Future[Any]) -> None:
    """Count an error as noticed, even if nobody waits for this future any more."""
    if not future.cancelled():
        future.exception()


class KafkaSink:
    """The `kafka` sink with `delivery: at_least_once`: one idempotent producer."""

    def __init__(self, context: Context, config: KafkaSinkConfig) -> None:
        self._context, self._config = context, config
        self._framing = (0, 0)
        self._closed = False
        self._access = access(config, context)
        self._thread = LoopThread("kafka-sink")
        try:
            with reasons() as why, _told(why):
                self._thread.call(self._connect())
        except BaseException:
            self._thread.close()
            raise

    def attach(self, source: Any, encode: Callable[..., object]) -> None:
        """See `Sink`."""
        self._framing = framing_of(encode)
        if give_times := getattr(source, "give_times", None):
            give_times()
        numbers = getattr(source, "partitions", None) or [0]
        if self._config.partition == "same" and max(numbers) >= self._partitions:
            text = (
                f"the source has partitions up to {max(numbers)}, topic {self._config.topic} only "
                f"{self._partitions}; set partition to by_key, or add partitions to the topic"
            )
            raise OptionError((("partition",), text))

    def write(self, block: OutBlock) -> None:
        """See `Sink.write`."""
        if not len(block):
            return
        source = partition_of(block.block.origin)
        with _told():
            self._thread.call(self._write(source, records_of(block, self._framing)))

    def flush(self) -> None:
        """See `Sink.flush`."""
        with _told():
            self._thread.call(self._flush())

    def place(self) -> Place:
        """See `Resumable.place`."""
        self.flush()
        return {"topic": self._config.topic}

    def resume(self, place: Place) -> None:
        """See `Resumable.resume`; what was sent cannot be taken back."""
        text = "sink: outputs to topic %s that followed the last commit are sent once more"
        self._context.log.warning(text, self._config.topic)

    def close(self) -> None:
        """See `Sink.close`."""
        if self._closed:
            return
        self._closed = True
        try:
            with _told():
                self._thread.call(self._stop())
        finally:
            self._thread.close()

    async def _connect(self) -> None:
        admin = AIOKafkaAdminClient(**self._access)
        try:
            await admin.start()
            self._partitions = len(await partitions_of(admin, self._config.topic))
        finally:
            await admin.close()
        if not self._partitions:
            raise SinkError(
                f"expected topic {self._config.topic} at {self._config.brokers}, found no such topic"
            )
        await self._begin()

    async def _begin(self) -> None:
        self._producer = Producer(self._config, self._access, None)
        await self._producer.client.start()

    async def _write(self, source: int, rows: Rows) -> None:
        await self._send(self._producer, source, rows)

    async def _send(self, producer: Producer, source: int, rows: Rows) -> None:
        if self._config.partition == "same":
            await producer.send(rows, source)
            return
        for partition, part in self._by_key(rows):
            await producer.send(part, partition)

    def _by_key(self, rows: Rows) -> Iterator[tuple[int, Rows]]:
        """The records of each partition, chosen as Kafka's own clients do; those without a key go to 0."""
        where = [0 if key is None else (murmur2(key) & 0x7FFFFFFF) % self._partitions for key in rows[0]]
        for partition in sorted(set(where)):
            index = [i for i, at in enumerate(where) if at == partition]
            keys, values, times = ([column[i] for i in index] for column in rows)  # type: ignore[attr-defined]
            yield partition, (keys, values, times)

    async def _flush(self) -> None:
        await self._producer.flush()

    async def _stop(self) -> None:
        try:
            await self._producer.flush()
        finally:
            await self._producer.client.stop()


class TransactionalSink(KafkaSink):
    """The `kafka` sink with `delivery: exactly_once`: a producer for each partition of the source.

    Each has a transactional id that is the partition's alone, so that whoever takes a partition over aborts
    what the one before has not committed, and keeps it from committing anything later.
    """

    def __init__(self, context: Context, config: KafkaSinkConfig) -> None:
        self.transaction_timeout_s = config.transaction_timeout_s
        self._producers: dict[int, Producer] = {}
        self._lost: set[int] = set()
        """Partitions that another writes for by now."""
        self._prefix = ""
        super().__init__(context, config)

    def attach(self, source: Any, encode: Callable[..., object]) -> None:
        """See `Sink`."""
        super().attach(source, encode)
        options = getattr(source, "config", None)
        group, brokers = getattr(options, "group", None), getattr(options, "brokers", None)
        if group is None or brokers != self._config.brokers:
            text = (
                "exactly_once needs a source of type kafka with a group on the same brokers, written the "
                "same; set delivery to at_least_once otherwise"
            )
            raise OptionError((("delivery",), text))
        self._prefix = f"streamrnn.{group}.{getattr(options, 'topic', '')}"

    def acquire(self, partitions: Sequence[int]) -> None:
        """See `Transactions`."""
        with _told():
            self._thread.call(self._acquire(partitions))

    def commit(self, group: str, offsets: Mapping[int, tuple[int, str]]) -> set[int]:
        """See `Transactions`."""
        with _told():
            return self._thread.call(self._commit(group, offsets))

    def release(self, partitions: Sequence[int]) -> None:
        """See `Transactions`."""
        with _told():
            self._thread.call(self._release(partitions))

    async def _begin(self) -> None:
        """Producers come with the partitions."""

    async def _acquire(self, partitions: Sequence[int]) -> None:
        await self._release(partitions)
        made = {
            number: Producer(self._config, self._access, f"{self._prefix}-{number}") for number in partitions
        }
        self._producers.update(made)
        # A start waits for an id, and the broker gives none before the last one's transaction has ended.
        await asyncio.gather(*(producer.client.start() for producer in made.values()))

    async def _commit(self, group: str, offsets: Mapping[int, tuple[int, str]]) -> set[int]:
        source = self._prefix.removeprefix(f"streamrnn.{group}.")
        work = {n: {TopicPartition(source, n): pair} for n, pair in offsets.items() if n not in self._lost}
        done = await asyncio.gather(
            *(self._producers[number].commit(group, pair) for number, pair in work.items()),
            return_exceptions=True,
        )
        for number, error in zip(work, done, strict=True):
            if isinstance(error, FENCED):
                self._lost.add(number)
            elif isinstance(error, BaseException):
                raise error
        return self._lost & offsets.keys()

    async def _release(self, partitions: Sequence[int]) -> None:
        held = [self._producers.pop(number) for number in partitions if number in self._producers]
        self._lost -= set(partitions)
        await asyncio.gather(*(producer.stop() for producer in held))

    async def _write(self, source: int, rows: Rows) -> None:
        if source in self._lost:
            return
        try:
            await self._send(self._producers[source], source, rows)
        except FENCED:
            self._lost.add(source)

    async def _flush(self) -> None:
        await asyncio.gather(*(p.flush() for n, p in self._producers.items() if n not in self._lost))

    async def _stop(self) -> None:
        await self._release(list(self._producers))


def build(config: KafkaSinkConfig, context: Context) -> KafkaSink:
    """The sink, connected, its topic found. Raises `SinkError`."""
    return (TransactionalSink if config.delivery == "exactly_once" else KafkaSink)(context, config)


@contextmanager
def _told(why: Sequence[str] = ()) -> Iterator[None]:
    try:
        yield
    except (KafkaError, OSError) as error:
        raise SinkError("; ".join([f"kafka: {type(error).__name__}: {error}", *why])) from error
