"""Events from a pipe, by way of a log: what was read is not lost, though it cannot be read again."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from streamrnn.errors import SourceError
from streamrnn.events import Mark, Origin
from streamrnn.log.ingest import PARTITION
from streamrnn.ports import EndOfStream
from streamrnn.sources.logged import LoggedSource

if TYPE_CHECKING:
    from streamrnn.context import Context
    from streamrnn.events import Block
    from streamrnn.ports import Framer
    from streamrnn.sources.logged import Logged

_READ_BYTES = 1 << 18


class LoggedStdinSource(LoggedSource):
    """The `stdin` source with `durability: log`: what has arrived is on the disk before it is served.

    A pipe tells nobody what was taken: what it held when a run died is lost, what was served is not.
    """

    def __init__(self, context: Context, new_framer: Callable[..., Framer], logged: Logged) -> None:
        super().__init__(logged)
        self._stdin, self._framer = context.stdin, new_framer()
        self._ended = self._marked = False

    def read(self, limit: int, wait_ms: int) -> Block | Mark | None:
        """See `Source.read`."""
        self._logged.recover()
        if not self._ended:
            self._receive(0 if self._logged.backlog else wait_ms)
        block = self._logged.next_block(limit)
        if block is None and self._ended:
            if self._marked:
                raise EndOfStream
            self._marked = True
            return Mark("source_end", Origin("stdin", PARTITION), self._logged.offset)
        return block

    def close(self) -> None:
        """See `Source.close`; standard input belongs to the process and stays open."""
        self._logged.close()

    def _receive(self, wait_ms: int) -> None:
        try:
            data = self._stdin.read(_READ_BYTES, wait_ms)
        except OSError as error:
            raise SourceError(f"stdin: cannot read: {error.strerror}") from error
        if data:
            self._framer.feed(data)
        elif data is not None:
            self._ended = True
            self._framer.finish()
        with self._logged.telling():
            while frames := self._framer.take(1 << 16):
                self._logged.log.append(None, frames)
            self._logged.log.sync()
