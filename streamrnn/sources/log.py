"""Events from the partitions of a log."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from streamrnn.codecs.lines import LineFramer
from streamrnn.errors import OptionError, SourceError
from streamrnn.events import Mark, Origin
from streamrnn.log import layout
from streamrnn.log.envelope import Opened, longest_line, offset_at, unwrap
from streamrnn.log.layout import LogError
from streamrnn.log.reading import PartitionReader
from streamrnn.ports import EndOfStream

if TYPE_CHECKING:
    from streamrnn.builtins.logs import LogSourceConfig
    from streamrnn.context import Context
    from streamrnn.events import Block, Frames
    from streamrnn.ports import Framer, Place

_POLL_S = 0.02


class LogSource:
    """The `log` source: partition after partition to its end, or all of them in turns as they grow.

    Positions are offsets. Which partitions there are is settled at the start; while they are followed, new
    ones join.
    """

    partitioned = True

    def __init__(
        self, context: Context, config: LogSourceConfig, new_framer: Callable[..., LineFramer]
    ) -> None:
        self._context, self._fs, self._clock = context, context.fs, context.clock
        self._folder, self._config, self._new_framer = context.path(config.path), config, new_framer
        self._readers: dict[str, PartitionReader] = {}
        self._turns: deque[str] = deque()
        """Partitions that have not ended, the next one first."""
        self._is_settled = self._closed = False
        if not config.follow:
            self._check_found()

    def read(self, limit: int, wait_ms: int) -> Block | Mark | None:
        """See `Source.read`. A block holds records of one partition."""
        if self._closed:
            raise EndOfStream
        deadline_s = self._clock.monotonic() + wait_ms / 1000
        self._settle()
        while True:
            with self._telling():
                found = self._next(limit)
            if found is not None:
                return found
            if not self._config.follow:
                raise EndOfStream
            left_s = deadline_s - self._clock.monotonic()
            if left_s <= 0:
                return None
            self._clock.sleep(min(_POLL_S, left_s))

    def position(self) -> Mapping[str, int]:
        """See `Source.position`: offsets."""
        return {name: reader.offset for name, reader in self._readers.items()}

    lag_unit = "bytes"

    def lag(self) -> Mapping[str, int]:
        """See `Source`."""
        return {name: reader.lag_bytes() for name, reader in list(self._readers.items())}

    def place(self) -> Place:
        """See `Resumable.place`."""
        self._settle()
        ended = [name for name in self._readers if name not in self._turns]
        with self._telling():
            places = {name: reader.place() for name, reader in self._readers.items()}
        return {"partitions": places, "ended": ended}

    def resume(self, place: Place) -> None:
        """See `Resumable.resume`."""
        with self._telling():
            for name, inside in place["partitions"].items():
                self._reader(name).resume(inside)
        self._turns = deque(name for name in self._readers if name not in place["ended"])
        self._is_settled = True
        if not self._config.follow and (new := [n for n in self._names() if n not in self._readers]):
            text = "%s: partitions that this run did not begin with; start a new checkpoint dir to read them"
            self._context.log.warning(text, ", ".join(new))

    def close(self) -> None:
        """See `Source.close`."""
        self._closed = True
        for reader in self._readers.values():
            reader.close()

    def _next(self, limit: int) -> Block | Mark | None:
        """What comes next, of whichever partition has something."""
        if self._config.follow:
            self._join()
        ends = layout.committed_ends(self._fs, self._folder)
        for name in list(self._turns):
            end = None if ends is None else ends.get(name, 0)
            block = self._take(name, limit, end)
            if not self._config.follow:
                return block or self._end(name, end)
            self._turns.rotate(-1)
            if block is not None:
                return block
        return None

    def _take(self, name: str, limit: int, end: int | None) -> Block | None:
        """The next records of a partition that are there."""
        reader = self._readers[name]
        while True:
            while not (frames := reader.take(limit)):
                if not reader.advance(end):
                    return None
            if block := self._block(name, frames):
                return block

    def _block(self, name: str, frames: Frames) -> Block | None:
        opened = unwrap(frames) if self._config.records == "enveloped" else Opened(frames)
        block = opened.frames.block(Origin("log", name))
        block.fields = {"log.offset": block.positions, "log.partition": [name] * len(block), **opened.fields}
        return block if len(block) else None

    def _end(self, name: str, end: int | None) -> Mark:
        reader = self._readers[name]
        there = end if end is not None else layout.end_of(self._fs, self._folder / name)
        if reader.offset > there:
            where = f"{self._config.path}: partition {name}"
            raise LogError(f"{where}: expected at least {reader.offset} records, found {there}: it was cut")
        if reader.is_torn and end is None:
            self._context.log.warning(
                "%s: partition %s: its last line has no end and is not read", self._config.path, name
            )
        reader.close()
        self._turns.popleft()
        return Mark("source_end", Origin("log", name), reader.offset)

    def _settle(self) -> None:
        """At the first look, find out which partitions there are and where to begin in each."""
        if self._is_settled:
            return
        self._is_settled = True
        with self._telling():
            for name in self._names():
                self._reader(name).seek(self._start(name))
        self._turns = deque(self._readers)

    def _join(self) -> None:
        """Take in partitions that were made since; from their first record, whatever `start` says."""
        for name in self._names():
            if name not in self._readers:
                self._reader(name).seek(self._first(name))
                self._turns.append(name)

    def _names(self) -> list[str]:
        if self._config.partitions is not None:
            return self._config.partitions
        return layout.partitions(self._fs, self._folder)

    def _first(self, name: str) -> int:
        return next(iter(layout.segments(self._fs, self._folder / name)), 0)

    def _start(self, name: str) -> int:
        start, folder = self._config.start, self._folder / name
        if start == "earliest":
            return self._first(name)
        if start == "latest":
            ends = layout.committed_ends(self._fs, self._folder)
            return layout.end_of(self._fs, folder) if ends is None else ends.get(name, 0)
        if start.offset is not None:
            return start.offset
        if self._config.records == "enveloped":
            return offset_at(self._fs, folder, start.time_us)
        return layout.offset_at(self._fs, folder, start.time_us)

    def _reader(self, name: str) -> PartitionReader:
        if name not in self._readers:
            self._readers[name] = PartitionReader(self._fs, self._folder / name, self._new_framer)
        return self._readers[name]

    def _check_found(self) -> None:
        there = layout.partitions(self._fs, self._folder)
        if missing := [name for name in self._names() if name not in there]:
            raise SourceError(
                f"{self._config.path}: found no partition {', '.join(missing)}; it has "
                f"{', '.join(there) or 'none'}"
            )
        if not there:
            raise SourceError(
                f"{self._config.path}: expected a folder with a folder for each partition, found none in it; "
                "set follow to true to wait for them"
            )

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except LogError as error:
            raise SourceError(str(error)) from error
        except OSError as error:
            where = error.filename or self._config.path
            raise SourceError(f"{where}: cannot read: {error.strerror}") from error


def build(config: LogSourceConfig, context: Context, new_framer: Callable[..., Framer]) -> LogSource:
    """The source. Raises `SourceError` if a partition is missing, `OptionError` for a codec without lines."""

    def new_line_framer(position: int = 0) -> LineFramer:
        framer = new_framer(position)
        assert isinstance(framer, LineFramer)
        return framer

    first = new_framer()
    if not isinstance(first, LineFramer):
        text = "a log holds one record a line, and this codec's are none; expected decode: {type: jsonl}"
        raise OptionError((("type",), text))
    if config.records == "enveloped":
        return LogSource(context, config, partial(LineFramer, longest_line(first.limit)))
    return LogSource(context, config, new_line_framer)
