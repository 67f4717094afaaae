"""Outputs to standard output."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streamrnn.errors import SinkError

if TYPE_CHECKING:
    from streamrnn.builtins.ends import StdoutConfig
    from streamrnn.context import Context
    from streamrnn.events import OutBlock


class StdoutSink:
    """The `stdout` sink: each batch in one piece, nothing held back."""

    def __init__(self, context: Context) -> None:
        self._stream = context.stdout

    def write(self, block: OutBlock) -> None:
        """See `Sink.write`."""
        try:
            if block.buffer:
                self._stream.write(block.buffer)
        except BrokenPipeError as error:
            raise SinkError("stdout was closed by its reader") from error
        except OSError as error:
            raise SinkError(f"stdout: cannot write: {error.strerror}") from error

    def flush(self) -> None:
        """See `Sink.flush`; a pipe or terminal has what was written, and can make it no more durable."""

    def close(self) -> None:
        """See `Sink.close`; standard output belongs to the process and stays open."""


def build(config: StdoutConfig, context: Context) -> StdoutSink:
    """The sink; nothing is written yet."""
    return StdoutSink(context)
