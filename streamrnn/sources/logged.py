"""What sources have in common that put a log between what cannot be read again and the pipeline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Literal, Protocol

from streamrnn.codecs.lines import LineFramer
from streamrnn.errors import OptionError, SourceError
from streamrnn.events import Origin
from streamrnn.log.envelope import longest_line, unwrap
from streamrnn.log.ingest import PARTITION, IngestLog
from streamrnn.log.layout import LogError
from streamrnn.log.reading import PartitionReader
from streamrnn.log.rolling import Rolling

if TYPE_CHECKING:
    from streamrnn.context import Context
    from streamrnn.events import Block, Column
    from streamrnn.ports import Framer, Place


class LogOptions(Protocol):
    """The options of such a source."""

    @property
    def log(self) -> str | None: ...  # noqa: D102
    @property
    def keep_bytes(self) -> int | None: ...  # noqa: D102
    @property
    def keep_s(self) -> float | None: ...  # noqa: D102


class Logged:
    """An ingest log, and where in it the pipeline is. Raises `SourceError`.

    `kind` is the source's type.
    """

    def __init__(
        self,
        kind: Literal["socket", "stdin", "http", "websocket"],
        config: LogOptions,
        context: Context,
        framer: Framer,
        names: int,
    ) -> None:
        if not isinstance(framer, LineFramer):
            raise OptionError(
                (
                    ("durability",),
                    "an ingest log holds one record a line, and this codec's are none; expected decode: "
                    "{type: jsonl}",
                )
            )
        assert config.log is not None
        self._origin, self._told = Origin(kind, PARTITION), config.log
        with self.telling():
            self.log = IngestLog(
                context, config.log, Rolling(keep_bytes=config.keep_bytes, keep_s=config.keep_s), names
            )
        most = longest_line(framer.limit)
        self._reader = PartitionReader(context.fs, self.log.folder, partial(LineFramer, most))
        self._is_recovered = False

    def recover(self) -> None:
        """Find out what the log has, unless that is known."""
        if not self._is_recovered:
            self._is_recovered = True
            with self.telling():
                self.log.recover(None)
                self._reader.seek(self.log.first)

    def place(self) -> Place:
        """See `Resumable.place`."""
        self.recover()
        with self.telling():
            return {"log": self.log.place(), "reader": self._reader.place()}

    def resume(self, place: Place) -> None:
        """See `Resumable.resume`."""
        self._is_recovered = True
        with self.telling():
            self.log.recover(place["log"])
            self._reader.resume(place["reader"])

    def committed(self, place: Place, oldest: Place | None) -> None:
        """See `ports.Committing`: what no commit needs any more may go."""
        with self.telling():
            self.log.remove_old((oldest or place)["reader"]["offset"])

    @property
    def offset(self) -> int:
        """Of the next record to serve."""
        return self._reader.offset

    @property
    def backlog(self) -> int:
        """Lines of the log that were not served."""
        return self.log.end - self._reader.offset

    def next_block(self, limit: int) -> Block | None:
        """Records that are on the disk."""
        with self.telling():
            while True:
                while not (frames := self._reader.take(limit)):
                    if not self._reader.advance(self.log.end):
                        return None
                opened = unwrap(frames)
                if count := len(opened.frames):
                    block = opened.frames.block(self._origin)
                    given: dict[str, Column] = {
                        "log.offset": block.positions,
                        "log.partition": [PARTITION] * count,
                    }
                    block.fields = {**given, **opened.fields}
                    return block

    def close(self) -> None:
        """Give everything back; twice is fine."""
        self._reader.close()
        self.log.close()

    @contextmanager
    def telling(self) -> Iterator[None]:
        """What is wrong with the log, as a `SourceError`."""
        try:
            yield
        except LogError as problem:
            raise SourceError(str(problem)) from problem
        except OSError as problem:
            where = problem.filename or self._told
            raise SourceError(f"{where}: cannot write or read: {problem.strerror}") from problem


class LoggedSource:
    """What such sources answer by their log alone."""

    partitioned = False

    def __init__(self, logged: Logged) -> None:
        self._logged = logged

    def position(self) -> Mapping[str, int]:
        """See `Source.position`: an offset in the log."""
        return {PARTITION: self._logged.offset}

    lag_unit = "records"

    def lag(self) -> Mapping[str, int]:
        """See `Source`: what the log has."""
        return {PARTITION: self._logged.backlog}

    def place(self) -> Place:
        """See `Resumable.place`."""
        return self._logged.place()

    def resume(self, place: Place) -> None:
        """See `Resumable.resume`."""
        self._logged.resume(place)

    def committed(self, place: Place, oldest: Place | None) -> None:
        """See `ports.Committing`."""
        self._logged.committed(place, oldest)
