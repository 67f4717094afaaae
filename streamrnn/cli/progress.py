"""How a run is going, on a terminal; and how it went."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, TextIO

from rich.console import Console

if TYPE_CHECKING:
    from rich.status import Status

    from streamrnn.context import Clock
    from streamrnn.events import Report
    from streamrnn.pipeline import Committer

_EVERY_S = 0.2


class Progress:
    """A line that is redrawn while the run goes on (on a terminal only), and a summary at its end.

    It begins with `live_keys`, which an earlier run left.
    """

    def __init__(
        self, clock: Clock, stream: TextIO, quiet: bool, commits: Committer | None = None, live_keys: int = 0
    ) -> None:
        self._clock, self._quiet, self._commits = clock, quiet, commits
        self._console = Console(file=stream, highlight=False)
        self._status: Status | None = None
        self._start = self._drawn = clock.monotonic()
        self.events = self.rejected = self.held = self.evicted = self.expired = 0
        self.live_keys = live_keys

    def __enter__(self) -> Progress:
        if not self._quiet and self._console.is_terminal:
            self._status = self._console.status(self._line("serving"))
            self._status.start()
        return self

    def told(self, report: Report) -> None:
        """Count a batch, and redraw now and then."""
        self.events += report.events
        self.rejected += len(report.rejected)
        self.live_keys, self.held = report.live_keys, report.held
        self.evicted, self.expired = report.evicted, report.expired
        now = self._clock.monotonic()
        if self._status is not None and now - self._drawn >= _EVERY_S:
            self._drawn = now
            self._status.update(self._line("serving"))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status is not None:
            self._status.stop()
        if not self._quiet:
            self._console.print(self._line("served" if error is None else "stopped after"), soft_wrap=True)
            if self._commits is not None:
                self._console.print(_commits_line(self._commits), soft_wrap=True)

    def _line(self, verb: str) -> str:
        seconds = max(self._clock.monotonic() - self._start, 1e-9)
        told = (self.evicted, "evicted"), (self.expired, "expired"), (self.held, "waiting")
        more = "".join(f", {count:,} {what}" for count, what in told if count)
        return (
            f"{verb} {self.events:,} events in {seconds:.1f} s ({self.events / seconds:,.0f}/s), "
            f"{self.live_keys:,} live keys{more}, {self.rejected:,} rejected"
        )


def _commits_line(commits: Committer) -> str:
    """How many there were, what the last one holds, and how long the stream waited for them."""
    made = commits.made
    if made is None:
        return f"no commit was needed in {commits.folder}"
    return (
        f"commits: {commits.count:,} in {commits.folder}; number {made.number}, the last, holds "
        f"{made.events:,} events, {made.bytes:,} bytes written in {made.duration_s:.2f} s; "
        f"the stream stood still for {1000 * commits.longest_s:.1f} ms at most"
    )
