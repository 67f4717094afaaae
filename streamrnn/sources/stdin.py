"""Events from standard input."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from streamrnn.errors import SourceError
from streamrnn.events import Mark, Origin
from streamrnn.ports import EndOfStream
from streamrnn.prefix import prefix_of, unlike
from streamrnn.sources.framers import place_in, resumed, tell_unfinished

if TYPE_CHECKING:
    from streamrnn.builtins.ends import StdinConfig
    from streamrnn.context import Context
    from streamrnn.events import Block
    from streamrnn.ports import Framer, Place
    from streamrnn.sources.logged_stdin import LoggedStdinSource

_READ_BYTES = 1 << 18
_ORIGIN = Origin("stdin", "stdin")
_PATH = Path("/dev/stdin")
"""The open file once more, with a position of its own."""


class StdinSource:
    """The `stdin` source: gives what has arrived, be it one record, and one `source_end` at the end."""

    def __init__(self, context: Context, framer: Framer) -> None:
        self._context = context
        self._framer = framer
        self._ended = self._stopped = False
        self._fed = 0
        self._marked = False
        offset: Callable[[], int | None] = getattr(context.stdin, "offset", lambda: None)
        self._began = offset()
        """Where in a regular file this run began to read; None for a pipe or a terminal."""

    def read(self, limit: int, wait_ms: int) -> Block | Mark | None:
        """See `Source.read`."""
        deadline_s = self._context.clock.monotonic() + wait_ms / 1000
        left_ms = wait_ms
        while not (frames := self._framer.take(limit)):
            if self._stopped:
                self._tell_unfinished()
                raise EndOfStream
            if self._ended:
                return self._end()
            if left_ms < 0 or not self._receive(left_ms):
                return None
            # An unfinished record may take many reads; it gets no more time than was allowed for all.
            left_ms = int((deadline_s - self._context.clock.monotonic()) * 1000)
        return frames.block(_ORIGIN)

    def position(self) -> Mapping[str, int]:
        """See `Source.position`: bytes, counted from where this process began to read."""
        return {_ORIGIN.partition: self._framer.position}

    def place(self) -> Place | None:
        """See `Resumable.place`: that of a regular file."""
        if self._began is None:
            return None
        inside = place_in(self._framer)
        try:
            before = prefix_of(self._context.fs, _PATH, self._began + inside["position"])
        except OSError as error:
            raise SourceError(f"stdin: cannot read: {error.strerror}") from error
        return {"began": self._began, "framer": inside, "before": before, "ended": self._marked}

    def resume(self, place: Place) -> None:
        """See `Resumable.resume`."""
        if self._began is None:
            raise SourceError(
                "stdin: expected a regular file, as at the last commit, found a pipe or a device"
            )
        try:
            why = unlike(self._context.fs, _PATH, place["before"])
            self._context.stdin.seek(place["began"] + place["framer"]["position"])  # type: ignore[attr-defined]
        except OSError as error:
            raise SourceError(f"stdin: cannot read: {error.strerror}") from error
        if why:
            raise SourceError(f"stdin: {why}")
        self._began, self._ended, self._marked = place["began"], place["ended"], place["ended"]
        self._framer = resumed(self._framer, place["framer"])

    def stop(self) -> None:
        """See `Source`; a regular file can be read again, but what was taken of it is served all the same."""
        self._stopped = True

    def close(self) -> None:
        """See `Source.close`; standard input belongs to the process and stays open."""

    def _receive(self, wait_ms: int) -> bool:
        """Feed what arrives; False if nothing did."""
        try:
            data = self._context.stdin.read(_READ_BYTES, wait_ms)
        except OSError as error:
            raise SourceError(f"stdin: cannot read: {error.strerror}") from error
        if data:
            self._fed += len(data)
            self._framer.feed(data)
        elif data is not None:
            self._ended = True
            self._framer.finish()
        return data is not None

    def _tell_unfinished(self) -> None:
        if self._began is None and not self._ended:
            tell_unfinished(self._context.log, "stdin", self._framer, self._fed)

    def _end(self) -> Mark:
        if self._marked:
            raise EndOfStream
        self._marked = True
        return Mark("source_end", _ORIGIN, self._framer.position)


def build(
    config: StdinConfig, context: Context, new_framer: Callable[..., Framer]
) -> StdinSource | LoggedStdinSource:
    """The source; nothing is read yet. Raises `SourceError` and `OptionError` for its log, if any."""
    if config.durability == "log":
        from streamrnn.sources.logged import Logged
        from streamrnn.sources.logged_stdin import LoggedStdinSource

        logged = Logged("stdin", config, context, new_framer(), names=0)
        return LoggedStdinSource(context, new_framer, logged)
    return StdinSource(context, new_framer())
