"""Where refused events go: a file of JSON lines, or the log, at a bounded rate."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import msgspec

from streamrnn.notices import Notices
from streamrnn.output_file import OutputFile

if TYPE_CHECKING:
    from streamrnn.context import Context
    from streamrnn.events import Rejected


class Rejects(Protocol):
    """Takes refused events in input order."""

    def write(self, rejected: Sequence[Rejected]) -> None:
        """Those of one batch."""
        ...

    def close(self) -> None:
        """No more will come."""
        ...


class RejectFile(OutputFile):
    """One JSON object a line: where the event stood, why it was refused, the record as text or base64."""

    def __init__(self, path: str, context: Context) -> None:
        super().__init__(context.fs, context.path(path), f"dead_letter: {path}", context.resuming)

    def write(self, rejected: Sequence[Rejected]) -> None:
        """See `Rejects.write`."""
        self.append(b"".join(map(_line, rejected)))


class RejectLog:
    """Reasons as warnings, at a bounded rate."""

    def __init__(self, context: Context) -> None:
        self._notices = Notices(context, "%d more events were refused; `dead_letter:` keeps them all")

    def write(self, rejected: Sequence[Rejected]) -> None:
        """See `Rejects.write`."""
        for event in rejected:
            self._notices.warn("%s:%d: refused: %s", event.origin.partition, event.number, event.reason)

    def close(self) -> None:
        """See `Rejects.close`."""
        self._notices.close()


def _line(event: Rejected) -> bytes:
    record = {
        "source": event.origin.source,
        "partition": event.origin.partition,
        "number": event.number,
        "position": event.position,
        "code": event.code,
        "reason": event.reason,
    }
    try:
        record["raw"] = event.raw.decode()
    except UnicodeDecodeError:
        record["raw_base64"] = base64.b64encode(event.raw).decode()
    return msgspec.json.encode(record) + b"\n"
