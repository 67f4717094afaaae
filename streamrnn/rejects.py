"""Where refused events go: a file of JSON lines, or the log, at a bounded rate."""

from __future__ import annotations

import base64
import errno
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import msgspec

from streamrnn.errors import SinkError

if TYPE_CHECKING:
    from streamrnn.context import Context
    from streamrnn.events import Rejected

_CANNOT_SYNC = (errno.EINVAL, errno.ENOTSUP)
"""What fsync answers for a pipe or a device, which keep nothing."""
_LOGGED_AT_ONCE = 10
_LOGGED_PER_S = 1.0


class Rejects(Protocol):
    """Takes refused events in input order."""

    def write(self, rejected: Sequence[Rejected]) -> None:
        """Those of one batch."""
        ...

    def close(self) -> None:
        """No more will come."""
        ...


class RejectFile:
    """One JSON object a line: where the event stood, why it was refused, the record as text or base64."""

    def __init__(self, path: str, context: Context) -> None:
        self._path, self._fs = path, context.fs
        try:
            context.fs.make_parents(context.path(path))
            self._file = context.fs.open_write(context.path(path), append=False)
        except OSError as error:
            raise SinkError(f"dead_letter: cannot open {path}: {error.strerror}") from error

    def write(self, rejected: Sequence[Rejected]) -> None:
        """See `Rejects.write`."""
        left = memoryview(b"".join(map(_line, rejected)))
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            raise SinkError(f"dead_letter: cannot write {self._path}: {error.strerror}") from error

    def close(self) -> None:
        """See `Rejects.close`."""
        if self._file.closed:
            return
        try:
            self._fs.sync(self._file)
        except OSError as error:
            if error.errno not in _CANNOT_SYNC:
                text = f"dead_letter: cannot write {self._path} to the disk: {error.strerror}"
                raise SinkError(text) from error
        finally:
            self._file.close()


class RejectLog:
    """Reasons as warnings: the first few, then about one a second with the number of those in between."""

    def __init__(self, context: Context) -> None:
        self._log, self._clock = context.log, context.clock
        self._allowance, self._last, self._silent = float(_LOGGED_AT_ONCE), context.clock.monotonic(), 0

    def write(self, rejected: Sequence[Rejected]) -> None:
        """See `Rejects.write`."""
        now = self._clock.monotonic()
        earned = self._allowance + (now - self._last) * _LOGGED_PER_S
        self._allowance, self._last = min(_LOGGED_AT_ONCE, earned), now
        for event in rejected:
            if self._allowance < 1:
                self._silent += 1
                continue
            self._allowance -= 1
            more = f" ({self._silent} more since the last one shown)" if self._silent else ""
            self._silent = 0
            self._log.warning(
                "%s:%d: refused: %s%s", event.origin.partition, event.number, event.reason, more
            )

    def close(self) -> None:
        """See `Rejects.close`."""
        if self._silent:
            self._log.warning("%d more events were refused; `dead_letter:` keeps them all", self._silent)


def _line(event: Rejected) -> bytes:
    record = {
        "source": event.origin.source,
        "partition": event.origin.partition,
        "number": event.number,
        "position": event.position,
        "reason": event.reason,
    }
    try:
        record["raw"] = event.raw.decode()
    except UnicodeDecodeError:
        record["raw_base64"] = base64.b64encode(event.raw).decode()
    return msgspec.json.encode(record) + b"\n"
