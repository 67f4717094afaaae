"""What a pipeline has done since the exporter began, in plain numbers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streamrnn.events import Report


@dataclass
class Rising:
    """A count that began anew whenever it fell: a pipeline was built again meanwhile."""

    total: int = 0
    _last: int = 0

    def hear(self, count: int) -> None:
        """It stands at `count` now."""
        self.total += count - self._last if count >= self._last else count
        self._last = count


@dataclass
class Numbers:
    """Written on the pipeline's thread alone, read on another while it goes on."""

    events: int = 0
    outputs: int = 0
    batches: int = 0
    commits: int = 0
    commit_bytes: int = 0
    failures: int = 0
    live_keys: int = 0
    held: int = 0
    up: int = 0
    evicted: Rising = field(default_factory=Rising)
    expired: Rising = field(default_factory=Rising)
    rejected: Counter[str] = field(default_factory=Counter)
    """By code."""
    phases: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("read", "serve", "write", "commit"), 0.0)
    )
    """Seconds in all."""

    def add(self, report: Report) -> None:
        """One batch more."""
        self.batches += 1
        self.events += report.events
        self.outputs += report.outputs
        self.live_keys, self.held = report.live_keys, report.held
        self.evicted.hear(report.evicted)
        self.expired.hear(report.expired)
        if report.rejected:
            self.rejected.update(event.code for event in report.rejected)
        phases = self.phases
        phases["read"] += report.read_s
        phases["serve"] += report.serve_s
        phases["write"] += report.write_s
