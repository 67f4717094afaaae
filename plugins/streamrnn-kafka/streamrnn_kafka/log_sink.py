"""Outputs to Kafka's own log files."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

from streamrnn.errors import SinkError, SourceError
from streamrnn_kafka.log_writer import PartitionWriter
from streamrnn_kafka.outputs import framing_of, partition_of, records_of
from streamrnn_kafka.segments import segments

if TYPE_CHECKING:
    from streamrnn.context import Context
    from streamrnn.events import OutBlock
    from streamrnn.ports import Place
    from streamrnn_kafka.options import KafkaLogSinkConfig


class KafkaLogSink:
    """The `kafka_log` sink: what comes from a partition of Kafka goes to that of the same number.

    What comes from elsewhere goes to partition 0. There may be others in the folder; none is written twice at
    a time.
    """

    def __init__(self, context: Context, config: KafkaLogSinkConfig) -> None:
        self._fs, self._config, self._log = context.fs, config, context.log
        self._folder = context.path(config.path)
        self._resuming = context.resuming
        """Whether a place is still to come, before which nothing that is there is touched."""
        self._framing: tuple[int, int] | None = None
        self._writers: dict[int, PartitionWriter] = {}
        self._lock: BinaryIO | None = None
        with _told_as(config.topic):
            self._fs.make_folder(self._folder)
            self._lock = self._fs.lock(self._folder / f".{config.topic}.lock")
        if self._lock is None:
            raise SinkError(f"{self._folder}: topic {config.topic} is being written by another run")
        topic = re.compile(rf"{re.escape(config.topic)}-(0|[1-9][0-9]*)")
        for found in map(topic.fullmatch, self._fs.names(self._folder)):
            if found and segments(self._fs, self._folder / found[0]):
                self._writer(int(found[1]))

    def attach(self, source: object, encode: Callable[..., object]) -> None:
        """See `Sink`."""
        self._framing = framing_of(encode)
        if give_times := getattr(source, "give_times", None):
            give_times()

    @property
    def comparing(self) -> bool:
        """Whether there are records ahead that an earlier run wrote, to be made again."""
        return any(writer.comparing for writer in self._writers.values())

    def write(self, block: OutBlock) -> None:
        """See `Sink.write`: each batch of outputs is a batch of records, and nothing is held back."""
        if not len(block):
            return
        with _told_as(self._config.topic):
            writer = self._writer(partition_of(block.block.origin))
            writer.append(*records_of(block, self._framing or (0, 0)))

    def flush(self) -> None:
        """See `Sink.flush`."""
        for writer in self._writers.values():
            with _told_as(writer.name):
                writer.sync()

    def place(self) -> Place:
        """See `Resumable.place`."""
        places = {}
        for number, writer in self._writers.items():
            with _told_as(writer.name):
                places[str(number)] = writer.place()
        return {"partitions": places}

    def resume(self, place: Place) -> None:
        """See `Resumable.resume`; what is served again after a broken commit is compared record by record."""
        again, known = place.pop("again", False), place["partitions"]
        for number in sorted({*self._writers, *map(int, known)}):
            with _told_as(f"{self._config.topic}-{number}"):
                self._writer(number).resume(known.get(str(number)), again)
        self._resuming = False

    def close(self) -> None:
        """See `Sink.close`."""
        if self._lock is None or self._lock.closed:
            return
        try:
            self.flush()
        finally:
            for writer in self._writers.values():
                writer.close()
            self._lock.close()

    def _writer(self, number: int) -> PartitionWriter:
        if number not in self._writers:
            folder = self._folder / f"{self._config.topic}-{number}"
            writer = PartitionWriter(self._fs, folder, self._config, self._resuming)
            if writer.cut_bytes:
                text = "%s: cut %d bytes of a batch that was not written whole"
                self._log.warning(text, writer.name, writer.cut_bytes)
            self._writers[number] = writer
        return self._writers[number]


def build(config: KafkaLogSinkConfig, context: Context) -> KafkaLogSink:
    """The sink, gone on behind what is there. Raises `SinkError`."""
    return KafkaLogSink(context, config)


@contextmanager
def _told_as(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SinkError(f"{name}: cannot write {error.filename or ''}: {error.strerror}") from error
    except SourceError as error:  # what is there was read
        raise SinkError(str(error)) from error
