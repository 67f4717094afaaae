"""One log for all pipelines: a record is one line, whatever stands in it."""

from __future__ import annotations

import json
import logging
import sys
import threading
from typing import TYPE_CHECKING, Any, TextIO

from streamrnn.daemon.fleet import LOG

if TYPE_CHECKING:
    from streamrnn.context import Clock

_LONGEST = 8192
_THREAD = "pipeline:"


class Lines(logging.Formatter):
    """JSON objects for programs; for people on a terminal short lines of text.

    Control characters are escaped in both, and long texts cut: keys and bytes of events stand in messages,
    and a line break or an escape sequence among them must not pass for a line of ours.
    """

    def __init__(self, clock: Clock, for_people: bool) -> None:
        super().__init__()
        self._clock, self._for_people = clock, for_people

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter.format`."""
        message = _cut(record.getMessage())
        pipeline = pipeline_of(record)
        if self._for_people:
            start = f"{self._time()[11:19]} {record.levelname.lower():7} "
            return start + escaped(f"{pipeline}: {message}" if pipeline else message)
        told: dict[str, Any] = {"time": self._time(), "level": record.levelname.lower()}
        if pipeline:
            told["pipeline"] = pipeline
        told["message"] = message
        if not record.name.startswith(LOG):
            told["logger"] = record.name
        if record.exc_info and record.exc_info[0] is not None:
            told["traceback"] = _cut(self.formatException(record.exc_info), at_end=True)
        return json.dumps(told, ensure_ascii=True)

    def _time(self) -> str:
        from datetime import UTC, datetime, timedelta

        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=self._clock.wall_us())
        return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def pipeline_of(record: logging.LogRecord) -> str:
    """Whose record it is: its pipeline's logger says so, or else the thread that it came from."""
    if record.name.startswith(LOG + "."):
        return record.name[len(LOG) + 1 :]
    thread = record.threadName or ""
    return thread[len(_THREAD) :] if thread.startswith(_THREAD) else ""


def escaped(text: str) -> str:
    """Without control characters, line breaks and other things that move a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def log_to(stream: TextIO, clock: Clock, level: int, for_people: bool | None = None) -> None:
    """Send everything that is logged in this process to a stream; for people if that is a terminal."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(Lines(clock, stream.isatty() if for_people is None else for_people))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("streamrnn").setLevel(level)
    threading.excepthook = _thread_died
    sys.excepthook = lambda kind, error, trace: logging.getLogger("streamrnn.daemon").critical(
        "died", exc_info=(kind, error, trace)
    )


def _thread_died(died: threading.ExceptHookArgs) -> None:
    name = died.thread.name if died.thread else "a thread"
    caught = died.exc_value or died.exc_type()
    logging.getLogger("streamrnn.daemon").critical("%s died", name, exc_info=caught)


def _cut(text: str, at_end: bool = False) -> str:
    if len(text) <= _LONGEST:
        return text
    return "..." + text[-_LONGEST:] if at_end else text[:_LONGEST] + "..."
