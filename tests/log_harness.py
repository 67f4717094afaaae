"""Runs a pipeline from a log to a log, whose partitions grow meanwhile, through losses of power."""

from __future__ import annotations

import json
import random
import sys
from contextlib import contextmanager
from dataclasses import replace

from crash_harness import BASE, Job, _deaf, _no_cut, exported, in_pieces, no_sabotage, run_seed, swapped
from sim_parts import Later, Ticks
from simfs import Inode, SimFS

from streamrnn import build
from streamrnn.commit import writer
from streamrnn.commit.job import build_job
from streamrnn.log import layout, writing
from streamrnn.pipeline import run
from streamrnn.sources.log import LogSource

PIPELINE = """
source: {type: log, path: in, follow: true}
decode: {type: jsonl}
event:
  key: k
  time: {field: t, unit: s}
  inputs: {x: [{field: x}]}
reset: [{type: gap, gap_s: 5}, {type: every, events: 7}]
model: {type: formula, state: {s: 0.5}, update: {s: 0.3*s + x}, output: {y: "1.0 * s"}}
encode:
  type: jsonl
  include: [k, log.partition]
  fields: {y: {type: output, output: y}, n: {type: meta, name: steps}, at: {type: meta, name: position}}
sink: {type: log, path: out, emit: committed, segment_bytes: 900, segment_s: 8}
dead_letter: {path: bad.txt}
limits: {max_keys: 4, remember_evicted: 2, max_line_bytes: 200}
checkpoint: {dir: job, every_s: 2, keep: 2}
"""
PARTITIONS = ("0", "1", "2", "late")


def lines(rng, n):
    t, made = 0, []
    for _ in range(n):
        t += rng.choice([0, 1, 1, 7])
        event = {"k": f"k{rng.randrange(7)}", "t": t, "x": rng.randrange(-40, 40) / 8}
        made.append(json.dumps(event))
        if rng.random() < 0.1:
            made.append(rng.choice(["", "nonsense", "z" * 300]))
    return "".join(line + "\n" for line in made).encode()


class LogJob(Job):
    """`partitions` holds all the bytes that each partition comes to; a life begins with what is there."""

    def __init__(self, text=PIPELINE, n=25):
        rng = random.Random(5)
        self.partitions = {name: lines(rng, n) for name in PARTITIONS}
        super().__init__(text, {"bad.txt": b""})
        self.files = {}
        self.promised_ends: dict[str, int] = {}

    def live(self, fs, rng, turns=None, batch=None):
        context = replace(self.context, fs=fs, clock=Ticks(rng), aside=lambda work: Later(work, rng))
        self.look(fs)
        with swapped(build, "probe", self.probed):
            pipeline = build_job(self.spec, self.registry, context)
        pipeline.parts.max_batch_events = batch or rng.choice([1, 3, 8, 64])
        left, idle = [turns], [0]

        def stopping():
            self.look(fs)
            left[0] = None if left[0] is None else left[0] - 1
            whole = not self.grow(fs, rng)
            return (left[0] is not None and left[0] < 0) or (whole and idle[0] > 2)

        def told(report):
            idle[0] = 0 if report.events else idle[0] + 1

        with in_pieces(rng):
            run(pipeline, stopping, told)
        self.look(fs)
        return {name: exported(core) for name, core in pipeline.parts.shards.items()}

    def look(self, fs):
        """What a reader may see must be there, and never become less."""
        ends = layout.committed_ends(fs, BASE / "out") or {}
        for name, end in self.promised_ends.items():
            if ends.get(name, 0) < end:
                raise AssertionError(f"readers could have {end} outputs of {name}, now {ends.get(name, 0)}")
        self.promised_ends = ends

    def grow(self, fs, rng):
        """Let some partition have some more lines, or half of one, durably; whether any was not complete."""
        unfinished = [name for name in PARTITIONS if len(written(fs, name)) < len(self.partitions[name])]
        for name in rng.sample(unfinished, min(len(unfinished), rng.randrange(3))):
            there, whole = written(fs, name), self.partitions[name]
            more = whole[len(there) : len(there) + rng.randrange(1, 200)]
            found = layout.segments(fs, BASE / "in" / name)
            first = found[-1] if found else 0
            if not found or (there.endswith(b"\n") and rng.random() < 0.2):
                first = there.count(b"\n")
            path = str(layout.segment_path(BASE / "in" / name, first))
            inode = fs.cached.setdefault(path, Inode())
            fs.names_durable[path] = inode
            inode.durable += more
            inode.cached += more
        return bool(unfinished)

    def outcome(self, fs, state):
        out = {name: records(fs, BASE / "out" / name) for name in PARTITIONS}
        refused = [json.loads(line) for line in (fs.content(BASE / "bad.txt") or b"").splitlines()]
        by_partition = {name: [r for r in refused if r["partition"] == name] for name in PARTITIONS}
        return out, by_partition, state

    def whole(self):
        self.promised_ends = {}
        fs = SimFS(self.files)
        return self.outcome(fs, self.live(fs, random.Random(0), batch=16))


def written(fs, name):
    folder = BASE / "in" / name
    return b"".join(fs.content(layout.segment_path(folder, first)) for first in layout.segments(fs, folder))


def records(fs, folder):
    """Offsets and records, as a stranger reads them."""
    found = []
    for first in layout.segments(fs, folder):
        for i, line in enumerate(fs.content(layout.segment_path(folder, first)).split(b"\n")[:-1]):
            found.append((first + i, json.loads(line)))
    return found


def seed(job, expected, number, sabotage=None):
    job.promised_ends = {}
    return run_seed(job, expected, number, sabotage)


@contextmanager
def _shared_state():
    with swapped(LogSource, "partitioned", False):
        # The sink goes by partition all the same.
        from streamrnn.sinks.log import LogSink

        with swapped(LogSink, "attach", lambda self, source, encode: setattr(self, "_by_partition", True)):
            yield


@contextmanager
def _published_early():
    publish = writer.Commits._publish

    def early(self, number, data):
        from streamrnn.commit.manifest import decode

        self._chain.places[number] = writer.places_of(decode(data))
        self.tell(number)
        publish(self, number, data)

    with swapped(writer.Commits, "_publish", early):
        yield


@contextmanager
def _stale_segments():
    def segments_removed(self, place):
        found = layout.segments(self._fs, self._folder)
        with swapped(self._fs, "remove", lambda path: None):
            cut(self, place)
        assert found is not None

    cut = writing.PartitionWriter.cut
    with swapped(writing.PartitionWriter, "cut", segments_removed):
        yield


@contextmanager
def _rolled_unsynced():
    with swapped(writing.PartitionWriter, "_roll", lambda self: self.close()):
        yield


SABOTAGES = {
    "partitions share their state": _shared_state,
    "committed end published before the commit": _published_early,
    "no fsync of segments": _deaf(lambda kind, name, before: kind == "sync" and name.endswith(".jsonl")),
    "no fsync of a full segment": _rolled_unsynced,
    "no fsync of a partition's folder": _deaf(
        lambda kind, name, before: kind == "sync_folder" and name in PARTITIONS
    ),
    "no cut on recovery": _no_cut,
    "segments behind the commit are kept on recovery": _stale_segments,
}


def main():
    job = LogJob()
    expected, most = job.whole(), int(sys.argv[1]) if len(sys.argv) > 1 else 100
    for name, sabotage in {"none": no_sabotage, **SABOTAGES}.items():
        seen = [seed(job, expected, number, sabotage) for number in range(most)]
        wrong = [number for number, each in enumerate(seen) if each.wrong]
        first = f"seed {wrong[0] + 1}" if wrong else "never"
        print(f"| {name} | {first} | {len(wrong)} of {most} |", flush=True)
        if "-v" in sys.argv and wrong:
            print(seen[wrong[0]].wrong[:400])


if __name__ == "__main__":
    main()
