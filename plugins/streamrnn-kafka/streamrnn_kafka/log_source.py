"""Events from Kafka's own log files."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from streamrnn.errors import SourceError
from streamrnn.events import Mark, Origin
from streamrnn.ports import EndOfStream
from streamrnn_kafka.log_reader import PartitionReader
from streamrnn_kafka.record_fields import RecordFields

if TYPE_CHECKING:
    from streamrnn.context import Context
    from streamrnn.events import Block
    from streamrnn.ports import Place
    from streamrnn_kafka.options import KafkaLogSourceConfig

_POLL_S = 0.05


class KafkaLogSource:
    """The `kafka_log` source: partitions in turns, each in the order of its offsets.

    Unless it follows, it ends at the offsets that the log had when the first run began.
    """

    partitioned = True

    def __init__(self, context: Context, config: KafkaLogSourceConfig) -> None:
        self._context, self._config = context, config
        self._fields = RecordFields("kafka_log", config.max_value_bytes)
        self._folder = context.path(config.path)
        self._readers = {number: self._reader(number) for number in self._numbers()}
        self._ended: set[int] = set()
        """Partitions whose end was told."""
        self._turn = 0
        """Index of the partition that comes next."""
        self._started = self._closed = False

    def supply(self, paths: Sequence[str]) -> Sequence[str]:
        """See `Source`."""
        return self._fields.supply(paths)

    def give_times(self) -> None:
        """From now on blocks say when their records were made."""
        self._fields.needs_time = True

    def read(self, limit: int, wait_ms: int) -> Block | Mark | None:
        """See `Source.read`."""
        deadline_s = self._context.clock.monotonic() + wait_ms / 1000
        self._start()
        while True:
            if self._closed or len(self._ended) == len(self._readers):
                raise EndOfStream
            if found := self._round(limit):
                return found
            left_s = deadline_s - self._context.clock.monotonic()
            if left_s <= 0:
                return None
            self._context.clock.sleep(min(_POLL_S, left_s))

    def position(self) -> Mapping[str, int]:
        """See `Source.position`: offsets."""
        self._start()
        return {reader.name: reader.next_offset for reader in self._readers.values()}

    def place(self) -> Place:
        """See `Resumable.place`."""
        self._start()
        places = {str(number): reader.place() for number, reader in self._readers.items()}
        return {"partitions": places, "ended": sorted(self._ended), "turn": self._turn}

    def resume(self, place: Place) -> None:
        """See `Resumable.resume`."""
        known = {int(number): inside for number, inside in place["partitions"].items()}
        if new := sorted(self._readers.keys() - known):
            names = ", ".join(map(self._name, new))
            text = "%s: not among the partitions this run began with; start a new checkpoint dir to read it"
            self._context.log.warning(text, names)
        if missing := sorted(known.keys() - self._readers):
            names = ", ".join(map(self._name, missing))
            raise SourceError(f"{names}: read by the run of the last commit, and gone from {self._folder}")
        self._readers = {number: self._readers[number] for number in known}
        for number, inside in known.items():
            with _told_as(self._name(number)):
                self._readers[number].wanted = self._fields.wanted
                self._readers[number].resume(inside)
        self._ended, self._turn = set(place["ended"]), place["turn"]
        self._started = True

    def close(self) -> None:
        """See `Source.close`."""
        self._closed = True
        for reader in self._readers.values():
            reader.close()

    def _round(self, limit: int) -> Block | Mark | None:
        """What the next partition that has something gives."""
        numbers = list(self._readers)
        for step in range(len(numbers)):
            number = numbers[(self._turn + step) % len(numbers)]
            if number in self._ended:
                continue
            reader = self._readers[number]
            with _told_as(reader.name):
                records = reader.take(limit)
            if records is not None:
                self._turn = (self._turn + step + 1) % len(numbers)
                return self._fields.block(records, self._config.topic, number)
            if not self._config.follow:
                return self._end(number)
        return None

    def _end(self, number: int) -> Mark:
        reader = self._readers[number]
        if not reader.has_ended:
            text = "%s: a transaction that has not ended holds up what comes from offset %d on; left out"
            self._context.log.warning(text, reader.name, reader.next_offset)
        self._ended.add(number)
        return Mark("source_end", Origin("kafka_log", reader.name), reader.next_offset)

    def _start(self) -> None:
        """Settle where each partition begins and, unless it is followed, ends."""
        if self._started:
            return
        self._started = True
        for number in self._readers:
            with _told_as(self._name(number)):
                self._start_at(self._readers[number])

    def _start_at(self, reader: PartitionReader) -> None:
        config, start, end = self._config, reader.log_start(), reader.log_end()
        if config.from_offset is not None:
            at = config.from_offset
            if not start <= at <= end:
                raise SourceError(
                    f"{reader.name}: from_offset: expected {start} to {end}, what the log holds, found {at}"
                )
        elif config.from_timestamp is not None:
            at = reader.offset_at(config.from_timestamp)
        else:
            at = start if config.start == "earliest" else end
        reader.wanted = self._fields.wanted
        reader.seek(at)
        if not config.follow:
            reader.end = end
            if torn := reader.torn():
                self._context.log.warning("%s", torn)

    def _numbers(self) -> Sequence[int]:
        """The partitions to read. Raises `SourceError` if one of those asked for is not there."""
        topic = re.compile(rf"{re.escape(self._config.topic)}-(0|[1-9][0-9]*)")
        names = self._context.fs.names(self._folder)
        there = sorted(int(found[1]) for found in map(topic.fullmatch, names) if found)
        wanted = there if self._config.partitions is None else self._config.partitions
        missing = sorted(set(wanted) - set(there))
        if missing or not wanted:
            expected = ", ".join(map(self._name, missing)) or f"{self._config.topic}-0 or the like"
            raise SourceError(f"{self._folder}: expected a folder {expected}, found {_shown(names)}")
        return wanted

    def _name(self, number: int) -> str:
        return f"{self._config.topic}-{number}"

    def _reader(self, number: int) -> PartitionReader:
        committed = self._config.isolation == "read_committed"
        folder = self._folder / self._name(number)
        return PartitionReader(self._context.fs, folder, committed, self._config.compacted)


def build(
    config: KafkaLogSourceConfig, context: Context, new_framer: Callable[..., object]
) -> KafkaLogSource:
    """The source, its partitions found. Raises `SourceError` if there are none."""
    return KafkaLogSource(context, config)


def _shown(names: Sequence[str]) -> str:
    return ", ".join([*names[:5], *(["..."] if len(names) > 5 else [])]) or "nothing"


@contextmanager
def _told_as(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SourceError(f"{name}: cannot read {error.filename or ''}: {error.strerror}") from error
