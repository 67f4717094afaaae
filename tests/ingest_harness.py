"""Producers and consumers over a network that breaks, around a pipeline that loses power.

What producers were told must be on the disk, what consumers got must be what the log says, byte for byte. The
clients here are written from docs/protocol.md, not with streamrnn.client.
"""

from __future__ import annotations

import json
import random
import sys
from contextlib import contextmanager
from dataclasses import replace

from crash_harness import BASE, Job, _deaf, in_pieces, no_sabotage, swapped
from sim_parts import Later, Ticks
from simfs import Crash, SimFS
from simnet import SimNet

from streamrnn import build
from streamrnn.commit.job import build_job
from streamrnn.config.load import load_pipeline
from streamrnn.log import ingest, layout
from streamrnn.net.protocol import Refusal
from streamrnn.pipeline import run
from streamrnn.sources import ingest as source
from streamrnn.sources import logged

MODEL = """
decode: {type: jsonl}
event: {key: k, time: {field: log.time, unit: us}, inputs: {x: [{field: x}]}}
reset: [{type: gap, gap_s: 3}]
model: {type: formula, state: {s: 0.5}, update: {s: 0.3*s + x}, output: {y: "1.0 * s"}}
encode:
  type: jsonl
  include: [k, log.producer, log.seq]
  fields: {y: {type: output, output: y}, n: {type: meta, name: steps}, at: {type: meta, name: position}}
limits: {max_line_bytes: 200}
dead_letter: {path: bad.txt}
"""
LIVE = """
source: {type: socket, listen: "unix:in", durability: log, log: ingest}
sink: {type: socket, to: consumers, listen: "unix:out", log: out, emit: EMIT}
checkpoint: {dir: job, every_s: 2, keep: 2}
"""
ORACLE = """
source: {type: log, path: ingest, records: enveloped}
sink: {type: file, path: oracle.txt}
"""
MOST_TURNS = 1500


class Clock(Ticks):
    """Time passes at every look; the date jumps, in both directions."""

    def __init__(self, rng):
        super().__init__(rng)
        self.date_us = rng.choice([10**15, 2 * 10**15])

    def wall_us(self):
        self.date_us += self.rng.choice([1000, 1000, 500_000, 4_000_000, -9_000_000])
        return self.date_us


class Producer:
    def __init__(self, name, rng, n):
        self.name, self.rng = name, rng
        self.records = [self.record(i) for i in range(n)]
        self.acked, self.epoch = 0, None
        self.wire, self.out, self.zombies = None, bytearray(), []
        self.sent = 0
        self.forged, self.must_have = set(), set()
        """Records under used numbers: those that were sent, and those that must have been seen."""
        self.on_wire, self.known = set(), None

    def record(self, i):
        if self.rng.random() < 0.1:
            return self.rng.choice([b"nonsense", b"z" * 300, b'"\xff"', b'{"k": 1, "x": "1 2"}'])
        return json.dumps({"k": self.rng.choice("abc"), "x": self.rng.randrange(99), "i": i}).encode()

    @property
    def is_done(self):
        return self.acked == len(self.records)

    def hear(self):
        for line in self.wire.read() if self.wire else ():
            told = json.loads(line)
            if "error" in told:
                assert told["error"]["code"] in ("fenced", "replaced"), told
                self.wire.leave()
                self.wire = None
                if told["error"]["code"] == "fenced":
                    self.epoch = None
                return
            at = told["welcome"]["next"] if "welcome" in told else told["ack"]
            assert set(told.get("seq_conflict", ())) <= {seq for seq, _ in self.forged}, told
            if self.known is None:
                self.known = at
            elif at > self.known:  # so all before it, on this connection, was looked at
                self.must_have |= self.on_wire
            if at < self.acked:
                raise AssertionError(f"{self.name} was told {self.acked} are safe, and {at} are there")
            if "welcome" in told:
                self.epoch = told["welcome"]["epoch"]
                if self.sent is None:
                    self.send_from(at)
            self.acked = at

    def send_from(self, at):
        self.sent = at
        records, self.on_wire = self.records[at:], set()
        if at < self.acked and self.rng.random() < 0.5:
            seq = self.rng.choice([at, self.rng.randrange(at, self.acked)])
            fresh = (seq, b'{"k": "other"}' if seq % 2 else b"other")
            seq, forged = self.rng.choice([fresh, *(each for each in sorted(self.forged) if each[0] >= at)])
            if len(self.records[seq]) < 200:  # what is too long is not there to be compared
                records[seq - at] = forged
                self.on_wire = {(seq, forged)}
                self.forged |= self.on_wire
        self.out = bytearray(b"".join(record + b"\n" for record in records))

    def turn(self, net):
        self.hear()
        rng = self.rng
        for wire, out in self.zombies:
            wire.write(out[:40])
            del out[:40]
        if self.wire is not None and (self.wire.is_over or rng.random() < 0.01):
            if rng.random() < 0.5:
                self.wire.leave()
            else:
                self.zombies.append((self.wire, self.out))
            self.wire = None
            if rng.random() < 0.2:
                self.epoch = None  # it has begun again and knows nothing
        if self.wire is None and not self.is_done:
            self.wire = net.connect("in")
            if self.wire is None:
                return
            hello = {"producer": self.name} | ({} if self.epoch is None else {"epoch": self.epoch})
            self.sent = self.known = None
            self.on_wire = set()
            self.out = bytearray()
            if rng.random() < 0.5:
                hello["seq"] = rng.choice([0, rng.randrange(self.acked + 1)])
                self.send_from(hello["seq"])
            self.wire.write(json.dumps({"hello": hello}).encode() + b"\n")
        if self.wire is not None:
            count = rng.choice([0, 10, 60, 200])
            self.wire.write(self.out[:count])
            del self.out[:count]


class Consumer:
    def __init__(self, rng):
        self.rng, self.next, self.seen = rng, 0, {}
        self.wire, self.left, self.at = None, 0, 0

    def hear(self):
        for line in self.wire.read() if self.wire else ():
            if self.left:
                self.left -= 1
                if self.seen.setdefault(self.at, line) != line:
                    raise AssertionError(f"output {self.at} was {self.seen[self.at]}, is {line}")
                self.at += 1
                self.next = max(self.next, self.at)
                continue
            told = json.loads(line)
            assert "error" not in told, told
            if "outputs" in told:
                self.left, self.at = told["outputs"], told["from"]

    def turn(self, net):
        self.hear()
        if self.wire is not None and (self.wire.is_over or self.rng.random() < 0.02):
            self.wire.leave()
            self.wire = None
        if self.wire is None:
            self.wire = net.connect("out")
            self.left = 0
            if self.wire is not None:
                start = self.rng.choice([self.next, self.rng.randrange(self.next + 1), "earliest"])
                self.wire.write(json.dumps({"hello": {"from": start}}).encode() + b"\n")


class IngestJob(Job):
    def __init__(self, emit="immediate"):
        super().__init__(LIVE.replace("EMIT", emit) + MODEL, {"x": b""})
        self.oracle = load_pipeline(ORACLE + MODEL, "oracle.yaml", self.registry, self.context, {})
        self.files = {}

    def seed(self, number, sabotage=None):
        """What is wrong after many lives, if anything; and how many of them ended in a loss of power."""
        rng = random.Random(number)
        self.people = [Producer(f"p{i}", rng, rng.randrange(5, 30)) for i in range(rng.randrange(1, 5))]
        self.people += [Consumer(rng) for _ in range(2)]
        fs, crashes = SimFS({}, rng), 0
        with (sabotage or no_sabotage)():
            try:
                while not self.life(fs, rng, crashes >= 5):
                    crashes += 1
                    fs = fs.after_crash(rng)
                fs.crash_at = None
            except Exception as error:
                return f"{type(error).__name__}: {error}", crashes
        try:
            self.check(fs)
        except Exception as error:
            return f"{type(error).__name__}: {error}", crashes
        return None, crashes

    def life(self, fs, rng, to_the_end):
        """Whether it came to the end of everything."""
        net, left = SimNet(rng), [MOST_TURNS if to_the_end else rng.randrange(10, 400)]
        if not to_the_end:
            fs.crash_at = rng.randrange(1, rng.choice([30, 80, 200]))
            fs.crash_kind = rng.choice([None, "sync", "sync", "sync_folder"])
        context = replace(self.context, fs=fs, net=net, clock=Clock(rng), aside=lambda work: Later(work, rng))
        idle = [0]

        def stopping():
            for person in self.people:
                person.turn(net)
            left[0] -= 1
            return left[0] < 0 or (idle[0] > 5 and self.is_done(fs))

        def told(report):
            idle[0] = 0 if report.events else idle[0] + 1

        try:
            with swapped(build, "probe", self.probed):
                pipeline = build_job(self.spec, self.registry, context)
            pipeline.parts.max_batch_events = rng.choice([1, 3, 64])
            with in_pieces(rng):
                run(pipeline, stopping, told)
        except Crash:
            pass
        finally:
            net.end()
            for person in self.people:
                person.hear()
                person.wire = None
        if to_the_end and left[0] < 0:
            raise AssertionError("it does not come to an end")
        return not fs.dead and left[0] >= 0 and self.is_done(fs)

    def is_done(self, fs):
        producers = [person for person in self.people if isinstance(person, Producer)]
        ends = {layout.end_of(fs, BASE / "out" / "0")} | {
            p.next for p in self.people if isinstance(p, Consumer)
        }
        return all(producer.is_done for producer in producers) and len(ends) == 1

    def check(self, fs):
        logged, lines, conflicts = {}, [json.loads(line) for line in whole(fs, "ingest")], {}
        times = [envelope["time"] for envelope in lines]
        assert times == sorted(times), "time went back in the log"
        for envelope in lines:
            if "conflict" in envelope:
                conflicts.setdefault(envelope["producer"], []).append((envelope["seq"], record_of(envelope)))
            elif "value" in envelope or "text" in envelope or "base64" in envelope:
                logged.setdefault(envelope["producer"], []).append((envelope["seq"], envelope))
        for person in self.people:
            if isinstance(person, Producer):
                found = logged.pop(person.name, [])
                assert [seq for seq, _ in found] == list(range(len(person.records))), (
                    f"{person.name}: {found}"
                )
                seen = conflicts.pop(person.name, [])
                assert len(seen) == len(set(seen)), f"{person.name}: refused twice {seen}"
                assert person.must_have <= set(seen) <= person.forged, f"{person.name}: refused {seen}"
                for record, (_, envelope) in zip(person.records, found, strict=True):
                    assert record_of(envelope) == record[: len(record_of(envelope))], (record, envelope)
        assert not logged
        out = whole(fs, "out")
        for person in self.people:
            if isinstance(person, Consumer):
                assert [person.seen[i] for i in range(len(out))] == out
        with swapped(build, "probe", self.probed):
            pipeline = build.build_pipeline(self.oracle, self.registry, replace(self.context, fs=fs))
        run(pipeline, lambda: False, lambda report: None)
        assert fs.content(BASE / "oracle.txt").splitlines() == out, "outputs are not those of the log"


def whole(fs, log):
    folder = BASE / log / "0"
    data = b"".join(fs.content(layout.segment_path(folder, first)) for first in layout.segments(fs, folder))
    return data.split(b"\n")[:-1]


def record_of(envelope):
    if "value" in envelope:
        return json.dumps(envelope["value"]).encode()
    if "text" in envelope:
        return envelope["text"].encode()
    import base64

    return base64.b64decode(envelope["base64"])


@contextmanager
def _ack_first():
    acknowledge, sync = source.IngestSource._acknowledge, ingest.IngestLog.sync

    def early(self):
        owner = owners.get(self)
        if owner is not None:
            acknowledge(owner)
        sync(self)

    owners = {}
    init = source.IngestSource.__init__

    def noted(self, *args):
        init(self, *args)
        owners[self._log] = self

    with swapped(source.IngestSource, "__init__", noted), swapped(ingest.IngestLog, "sync", early):
        yield


@contextmanager
def _no_dedupe():
    append = source.IngestSource._append

    def all_of_it(self, client, frames):
        client.skips = 0
        append(self, client, frames)

    with swapped(source.IngestSource, "_append", all_of_it):
        yield


@contextmanager
def _no_conflicts():
    with swapped(ingest.IngestLog, "check_again", lambda *_: []):
        yield


@contextmanager
def _conflicts_not_learnt():
    with swapped(ingest.Window, "has_conflict", lambda *_: False):
        yield


@contextmanager
def _wall_clock():
    unwrap, rng = logged.unwrap, random.Random(3)

    def late(frames):
        opened = unwrap(frames)
        opened.fields["log.time"] = opened.fields["log.time"] + rng.randrange(10**7)
        return opened

    with swapped(logged, "unwrap", late):
        yield


@contextmanager
def _time_goes_back():
    with swapped(ingest.IngestLog, "_now", lambda self: self._clock.wall_us()):
        yield


@contextmanager
def _not_fenced():
    with swapped(source.IngestSource, "_turn_away", _stay):
        yield


def _stay(self, client, refusal):
    """Say nothing and go on with both connections of a producer."""
    if not isinstance(refusal, Refusal) or client.epoch == 0:
        self._forget(client)


@contextmanager
def _tail_not_learnt():
    with swapped(ingest.IngestLog, "_learn_line", lambda self, line: True):
        yield


SABOTAGES = {
    "acknowledged before the fsync": _ack_first,
    "no fsync of the ingest log": _deaf(
        lambda kind, name, before: kind == "sync" and name.endswith("0.jsonl")
    ),
    "no fsync of the ingest log's folder": _deaf(
        lambda kind, name, before: kind == "sync_folder" and name == "0"
    ),
    "records sent again are taken again": _no_dedupe,
    "another record of a used number goes unseen": _no_conflicts,
    "another record of a used number is refused anew each time": _conflicts_not_learnt,
    "time is that of serving, not of the log": _wall_clock,
    "time in the log goes back": _time_goes_back,
    "an older connection goes on": _not_fenced,
    "producers forgotten that no commit knows, torn lines kept": _tail_not_learnt,
}


def main():
    job, most = IngestJob(), int(sys.argv[1]) if len(sys.argv) > 1 else 50
    wanted = [name for name in SABOTAGES if sys.argv[2:3] in ([], ["-v"]) or sys.argv[2] in name]
    for name, sabotage in {"none": None, **{name: SABOTAGES[name] for name in wanted}}.items():
        seen = [job.seed(number, sabotage) for number in range(most)]
        wrong = [number for number, (why, _) in enumerate(seen) if why]
        first = f"seed {wrong[0] + 1}" if wrong else "never"
        print(f"| {name} | {first} | {len(wrong)} of {most} |", flush=True)
        if "-v" in sys.argv:
            print(sum(crashes for _, crashes in seen), *(seen[number] for number in wrong[:2]))


if __name__ == "__main__":
    main()
