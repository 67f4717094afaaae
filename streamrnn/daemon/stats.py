"""What a pipeline has done since the daemon began, in plain numbers that are added to once per batch."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from streamrnn.hookspecs import hookimpl

if TYPE_CHECKING:
    from streamrnn.context import Clock
    from streamrnn.core import Shards
    from streamrnn.daemon.tap import Tap
    from streamrnn.events import Rejected, Report
    from streamrnn.line import Served

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_PARTITIONS = 64
EVENTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096, 16384, 65536)


@dataclass
class Histogram:
    """Counts of values by upper bounds; the last count is of those above all bounds."""

    bounds: Sequence[float]
    total: float = 0.0
    counts: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def add(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def quantile(self, share: float) -> float | None:
        """The bound below which this share of the values lies; None without any, the last one if above it."""
        wanted, seen = share * sum(self.counts), 0
        for bound, count in zip(self.bounds, self.counts, strict=False):
            seen += count
            if count and seen >= wanted:
                return bound
        return self.bounds[-1] if seen < sum(self.counts) else None


@dataclass
class Steps:
    """Calls of the model: waves, the events in them, calls of `scan`, the events in those."""

    waves: int = 0
    wave_events: int = 0
    scans: int = 0
    scan_events: int = 0

    def __add__(self, other: Steps) -> Steps:
        return Steps(
            self.waves + other.waves,
            self.wave_events + other.wave_events,
            self.scans + other.scans,
            self.scan_events + other.scan_events,
        )


class Stats:
    """The numbers of one pipeline, over all its starts; an `Onlooker`, and an observer of commits.

    Written on the pipeline's thread alone. Others read while it goes on: a number may be of the batch before.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.ticks_per_s: int | None = None
        """What a second of the pipeline's times has; None in one without time."""
        self.batches = self.events = self.outputs = self.live_keys = 0
        self.held = 0
        """Events that wait for earlier ones."""
        self.evicted_keys = self.expired_keys = 0
        self.begun_keys = self.first_keys = 0
        """Keys that began since the start, and those that were there then."""
        self.rejected = Counter[str]()
        """By code."""
        self.resets = Counter[str]()
        """By cause, those of new keys among them."""
        self.serve_s, self.write_s = Histogram(SECONDS), Histogram(SECONDS)
        self.batch_events = Histogram(EVENTS)
        self.largest_time: int | None = None
        """Of all events, in the rules' ticks."""
        self.position: dict[str, int] = {}
        """Where the last event of each partition began; of many partitions only some."""
        self.commits = self.commit_number = self.commit_bytes = 0
        self.commit_events = 0
        self.commit_s = 0.0
        self.taps: list[Tap] = []
        """Who listens; replaced as a whole, never changed."""
        self._earlier = Steps()
        self._shards: Shards | None = None
        self._begun_s = self._served_s = self._writing_s = 0.0

    def starts(self, shards: Shards) -> None:
        """A pipeline with these keys begins."""
        self._shards = shards
        self.live_keys = self.first_keys = len(shards)
        self.begun_keys = 0

    def stops(self) -> None:
        """It has ended; what its model did stays counted."""
        self._earlier, self._shards = self.steps, None

    @property
    def steps(self) -> Steps:
        """What the model was called for."""
        servers = [core.server for _, core in self._shards.items()] if self._shards is not None else []
        found = (Steps(s.calls, s.stepped, s.scans, s.scanned) for s in servers)
        return sum(found, self._earlier)

    @property
    def hot_key_depth(self) -> int | None:
        """Events of the busiest key in the last batch; None while nothing is served."""
        if self._shards is None:
            return None
        return max((core.server.depth for _, core in self._shards.items()), default=0)

    @property
    def released_keys(self) -> int:
        """Keys that were evicted or expired since the pipeline last began."""
        return max(0, self.first_keys + self.begun_keys - self.live_keys)

    @property
    def event_age_s(self) -> float | None:
        """How far the largest time of all events lies behind the clock; None in a pipeline without time."""
        if self.largest_time is None or self.ticks_per_s is None:
            return None
        return self._clock.wall_us() / 1e6 - self.largest_time / self.ticks_per_s

    def begun(self) -> None:
        """See `Onlooker.begun`."""
        self._begun_s = self._clock.monotonic()
        if self._served_s:
            self._writing_s += self._begun_s - self._served_s

    def served(self, served: Served) -> None:
        """See `Onlooker.served`."""
        self._served_s = self._clock.monotonic()
        self.serve_s.add(self._served_s - self._begun_s)
        answered = served.answered
        cause = answered.outputs.cause
        if cause.any():
            self._count(cause[cause != 0], answered.cause_names)
        if answered.batch.time is not None and len(answered.batch.time):
            largest = int(answered.batch.time.max())
            self.largest_time = largest if self.largest_time is None else max(largest, self.largest_time)
        block = served.out.block
        if len(self.position) > _PARTITIONS:
            self.position.clear()
        self.position[block.origin.partition] = int(block.positions[-1])
        for tap in self.taps:
            tap.offer(block, served)

    def written(self, report: Report) -> None:
        """See `Onlooker.written`."""
        self.write_s.add(self._writing_s)
        self._writing_s = self._served_s = 0.0
        self.batch_events.add(report.events)
        self.batches += 1
        self.events += report.events
        self.outputs += report.outputs
        self.live_keys, self.held = report.live_keys, report.held
        self.evicted_keys, self.expired_keys = report.evicted, report.expired
        if report.rejected:
            self._refused(report.rejected)

    def _count(self, cause: np.ndarray, names: Sequence[str]) -> None:
        for bits, count in zip(*np.unique(cause, return_counts=True), strict=True):
            for bit, name in enumerate(names):
                if bits >> bit & 1:
                    self.resets[name] += int(count)
            if bits & 0b1111:  # the causes of a key that had no row
                self.begun_keys += int(count)

    def _refused(self, rejected: Sequence[Rejected]) -> None:
        self.rejected.update(event.code for event in rejected)

    @hookimpl
    def streamrnn_checkpoint_done(self, number: int, events: int, bytes: int, duration_s: float) -> None:
        """Count a commit."""
        self.committed(number, events, bytes, duration_s)

    def committed(self, number: int, events: int, bytes: int, duration_s: float) -> None:
        """This one is the last."""
        self.commits += number != self.commit_number
        self.commit_number, self.commit_events = number, events
        self.commit_bytes, self.commit_s = bytes, duration_s
