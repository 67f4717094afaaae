"""A day of events on a clock of its own: what grows, and by how much.

`python -m benchmarks.soak` serves 86,400,000 events, a thousand for every second of the clock, as fast as the
machine can; `python -m benchmarks.soak 3600000` an hour of them. Every hundredth part of the way it looks at
the process and at its files. Ids come twice, times run up to three seconds behind, a record in a million is
none, a key a second comes and another goes, of which the last 10,000 are remembered, outputs are rotated
every hour, and there is a commit every minute.
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

import numpy as np
from pydantic import BaseModel

from streamrnn.commit.job import build_job
from streamrnn.config.load import load_pipeline
from streamrnn.context import Context, ManualClock
from streamrnn.events import Block, Origin
from streamrnn.hookspecs import Component, hookimpl
from streamrnn.pipeline import run
from streamrnn.ports import EndOfStream
from streamrnn.registry import Registry

A_DAY, PER_S = 86_400_000, 1000
_PIPELINE = """
source: {{type: soak, events: {events}}}
decode: {{type: jsonl}}
event: {{key: k, time: {{field: t, unit: ms}}, inputs: {{x: [{{field: x}}]}}}}
order: {{type: event_time, max_behind_s: 3, duplicates: {{id: [k, t], remember: 10000, then: drop}}}}
reset: [{{type: gap, gap_s: 120}}, {{type: every, events: 50}}]
model: {{type: formula, state: {{s: 0}}, update: {{s: "0.9*s + x"}}, output: {{y: s}}}}
encode: {{type: jsonl, include: [k]}}
sink: {{type: file, path: out.jsonl, rotate: {{max_age_s: 3600, keep: 2}}}}
dead_letter: {{path: bad.jsonl}}
limits: {{max_keys: 60000, idle_s: 600, remember_evicted: 10000}}
checkpoint: {{dir: job, every_s: 60}}
"""
_RECORD = b'{"k":"000000","t":1000000000000,"x":0}\n'
_KEY, _TIME, _X = (_RECORD.index(b) for b in (b'000000"', b"000000000000,", b"0}"))
_BAD_EVERY = 1_000_003


class _Config(BaseModel):
    events: int


class SoakSource:
    """Records by their number alone, so that they can be read again from anywhere."""

    partitioned = False

    def __init__(self, config: _Config, context: Context, new_framer: object) -> None:
        assert isinstance(context.clock, ManualClock)
        self._clock, self._events, self._at = context.clock, config.events, 0
        self._template = np.frombuffer(_RECORD, np.uint8)

    def read(self, limit, wait_ms):
        if self._at == self._events:
            raise EndOfStream
        n = np.arange(self._at, min(self._at + limit, self._events))
        self._at += len(n)
        self._clock.now_s = self._at / PER_S
        same = n - (n % 97 == 0)  # the record before it once more
        mixed = (same.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(20)).astype(np.int64)
        lines = np.tile(self._template, (len(n), 1))
        _write(lines, _KEY, 6, (same // 1000 + mixed % 40_000) % 100_000)
        _write(lines, _TIME, 12, 10_000 + same * 1000 // PER_S - mixed % 3000)
        _write(lines, _X, 1, mixed % 10)
        lines[n % _BAD_EVERY == 0, 0] = ord("?")
        size = lines.shape[1]
        starts = np.arange(len(n)) * size
        return Block(lines.tobytes(), starts, starts + size - 1, n * size, n + 1, Origin("soak", "0"))

    def position(self):
        return {"0": self._at}

    def place(self):
        return {"at": self._at}

    def resume(self, place):
        self._at = place["at"]

    def close(self):
        pass


def _size_bytes(folder: Path) -> int:
    """Of all files in it; a commit that is being made renames and removes some meanwhile."""
    size = 0
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            size += path.stat().st_size
    return size


def _write(lines: np.ndarray, at: int, digits: int, numbers: np.ndarray) -> None:
    """Put numbers into every line, with zeros before them."""
    for place in range(at + digits - 1, at - 1, -1):
        lines[:, place] = numbers % 10 + ord("0")
        numbers = numbers // 10


class Plugin:
    @hookimpl
    def streamrnn_components(self):
        return [Component("source", "soak", _Config, SoakSource, "Events by their number.")]


@dataclass
class Looks:
    """What was seen on the way, a row a look."""

    folder: Path
    every: int
    shows: bool = False
    rows: list[tuple[int, ...]] = field(default_factory=list)
    events = outputs = rejected = 0

    def told(self, report) -> None:
        before = self.events // self.every
        self.events += report.events
        self.outputs += report.outputs
        self.rejected += len(report.rejected)
        if self.events // self.every > before:
            self.look(report)

    def look(self, report) -> None:
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
        files = _size_bytes(self.folder / "job")
        count = len(os.listdir("/proc/self/fd"))
        threads = threading.active_count()
        self.rows.append((self.events, resident, count, threads, files, report.live_keys, report.held))
        if self.shows and len(self.rows) % 8 == 1:
            in_mb = f"{resident / 1e6:.1f} | {count} | {threads} | {files / 1e6:.1f}"
            print(f"| {self.events:,} | {in_mb} | {report.live_keys:,} | {report.held:,} |", flush=True)

    def growth(self) -> dict[str, float]:
        """How much each thing grows with 10^7 events, by the last four fifths of the way."""
        rows = np.array(self.rows[len(self.rows) // 5 :], np.float64)
        names = ("resident_bytes", "descriptors", "threads", "job_bytes", "live_keys", "held")
        slopes = [np.polyfit(rows[:, 0], rows[:, i], 1)[0] for i in range(1, rows.shape[1])]
        return dict(zip(names, (float(slope) * 1e7 for slope in slopes), strict=True))


def soak(folder: Path, events: int, looks: int = 100, shows: bool = False) -> Looks:
    """Serve so many events in a folder."""
    registry = Registry()
    registry.add(Plugin(), "soak")
    context = Context(base_dir=folder, clock=ManualClock())
    spec = load_pipeline(_PIPELINE.format(events=events), "soak.yaml", registry, context, {})
    seen = Looks(folder, events // looks, shows)
    run(build_job(spec, registry, context), lambda: False, seen.told)
    return seen


def main(events: int) -> None:
    print("| events | MB resident | descriptors | threads | MB of commits | live keys | waiting |")
    print("|---|---|---|---|---|---|---|", flush=True)
    started_s = perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        seen = soak(Path(folder), events, shows=True)
    seconds = perf_counter() - started_s
    print(f"{seen.events:,} events, {seen.outputs:,} outputs, {seen.rejected:,} refused in {seconds:,.0f} s")
    for name, grown in seen.growth().items():
        print(f"{name}: {grown:+,.1f} with 10^7 events")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else A_DAY)
