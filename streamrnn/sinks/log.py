"""Outputs to a log: those of each input partition to the output partition of the same name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamrnn.errors import SinkError
from streamrnn.log import layout
from streamrnn.log.layout import LogError
from streamrnn.log.writing import PartitionWriter, remove_old

if TYPE_CHECKING:
    from streamrnn.builtins.logs import LogSinkConfig
    from streamrnn.context import Context
    from streamrnn.events import OutBlock
    from streamrnn.log.rolling import Rolling
    from streamrnn.ports import Place, Source

WHOLE = "0"
"""The partition for outputs of a source that has none."""


class LogSink:
    """The `log` sink. An output's offset is its sequence number within its partition.

    With `holds_back`, readers are told how far they may read only once a commit says so.
    """

    def __init__(self, context: Context, path: str, rolling: Rolling, holds_back: bool) -> None:
        self._fs, self._clock, self._told = context.fs, context.clock, path
        self.folder, self._rolling, self._holds_back = context.path(path), rolling, holds_back
        self._by_partition = False
        self._writers: dict[str, PartitionWriter] = {}
        with self._telling("open"):
            self._fs.make_folder(self.folder)
            lock = self._fs.lock(self.folder / layout.LOCK)
            if lock is None:
                raise SinkError(f"{path}: in use by another run; a log has one writer at a time")
            self._lock = lock
            if not holds_back:
                layout.publish_none(self._fs, self.folder)
            for name in layout.partitions(self._fs, self.folder):
                self._writer(name)

    def attach(self, source: Source, encode: Callable[..., Any]) -> None:
        """See `Sink`: whether the source has partitions."""
        self._by_partition = getattr(source, "partitioned", False)

    @property
    def comparing(self) -> bool:
        """Whether there are still outputs ahead that an earlier run wrote, to be made again."""
        return any(writer.comparing for writer in self._writers.values())

    def write(self, block: OutBlock) -> None:
        """See `Sink.write`."""
        if not len(block):
            return
        name = block.block.origin.partition if self._by_partition else WHOLE
        if not layout.is_partition(name):
            raise SinkError(f"{self._told}: no partition can have the name {name!r}")
        if block.buffer.count(b"\n") != len(block):
            raise SinkError(
                f"{self._told}: expected one line an output, which the codec of `encode` does not write; use "
                "encode: {type: jsonl}"
            )
        with self._telling("write"):
            self._writer(name).append(block.buffer, block.ends)

    def end(self, partition: str) -> int:
        """The offset of a partition's next output."""
        writer = self._writers.get(partition)
        return 0 if writer is None else writer.end

    def flush(self) -> None:
        """See `Sink.flush`."""
        with self._telling("write to the disk"):
            for writer in self._writers.values():
                writer.sync()

    def place(self) -> Place:
        """See `Resumable.place`."""
        return self.placing()()

    def placing(self) -> Callable[[], Place]:
        """See `Resumable`."""
        noted = {name: writer.placing() for name, writer in self._writers.items()}

        def durable() -> Place:
            with self._telling("write to the disk"):
                return {"partitions": {name: place() for name, place in noted.items()}}

        return durable

    def resume(self, place: Place) -> None:
        """See `Resumable.resume`."""
        again, known = place.pop("again", False), place["partitions"]
        with self._telling("cut to its last commit"):
            if missing := [name for name in known if known[name]["offset"] and name not in self._writers]:
                raise SinkError(f"{self._told}: partition {', '.join(missing)} is gone")
            for name, writer in self._writers.items():
                if again:
                    writer.compare(known.get(name))
                else:
                    writer.cut(known.get(name))

    def committed(self, place: Place, oldest: Place | None) -> None:
        """See `ports.Committing`: let readers have it, and remove what is old."""
        ends = {name: each["offset"] for name, each in place["partitions"].items()}
        with self._telling("publish"):
            if self._holds_back:
                layout.publish_ends(self._fs, self.folder, ends)
            for name, end in ends.items():
                remove_old(self._fs, self._clock, self.folder / name, self._rolling, end)

    def close(self) -> None:
        """See `Sink.close`."""
        if self._lock.closed:
            return
        try:
            self.flush()
        finally:
            for writer in self._writers.values():
                writer.close()
            self._lock.close()

    def _writer(self, name: str) -> PartitionWriter:
        if name not in self._writers:
            folder = self.folder / name
            self._writers[name] = PartitionWriter(self._fs, self._clock, folder, self._rolling)
        return self._writers[name]

    @contextmanager
    def _telling(self, what: str) -> Iterator[None]:
        try:
            yield
        except LogError as error:
            raise SinkError(str(error)) from error
        except OSError as error:
            where = f": {Path(error.filename).name}" if error.filename else ""
            raise SinkError(f"{self._told}{where}: cannot {what}: {error.strerror}") from error


def build(config: LogSinkConfig, context: Context) -> LogSink:
    """The sink, its folder made and locked. Raises `SinkError` if that is impossible."""
    return LogSink(context, config.path, config.rolling(), config.emit == "committed")
