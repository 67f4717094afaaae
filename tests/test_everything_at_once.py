"""One machine that does to a pipeline whatever can happen to it, in any order, and looks on after each step.

The model is the definitions, one event at a time. STREAMRNN_MACHINE=2000 runs as many examples of 50 steps.
"""

from __future__ import annotations

import errno
import json
import os
import random
from contextlib import contextmanager
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from crash_follow import FOLLOW_SABOTAGES as FOLLOWED
from crash_follow import LOG, Script, is_caught_up
from crash_harness import BASE, REGISTRY, in_pieces, swapped
from crash_harness import SABOTAGES as FILES
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from ingest_harness import SABOTAGES as INGEST
from model_of_all import MOST_BYTES, MOST_KEYS, ORDERS, PIPELINE, Model
from sim_parts import Later, Ticks
from simfs import Crash, SimFS
from simnet import SimNet

from streamrnn import build
from streamrnn.commit.job import build_job
from streamrnn.config.load import load_pipeline
from streamrnn.context import Context
from streamrnn.core.probe import probe
from streamrnn.errors import StreamrnnError
from streamrnn.log import layout
from streamrnn.order.waiting import Waiting
from streamrnn.testing import quiet_context

EXAMPLES = int(os.environ.get("STREAMRNN_MACHINE", "0"))
SOURCES = {
    "followed": "source: {type: file, path: log, follow: true, rotate_wait_s: 0}",
    "socket": 'source: {type: socket, listen: "unix:in", durability: log, log: ingest}',
}
BAD = [b"nonsense", b'{"k": "a"}', b'"\xff"', b"z" * (MOST_BYTES + 9), b'{"k": "a", "t": 1, "x": "1"}', b"[]"]
POISON = [b"NaN", b"1e999", b"-Infinity", b"1e300"]
MESSAGES = [
    {"keys": "a"},
    {"keys": ["b", "never"], "k": "a"},
    {"glob": "[ab]*"},
    {"glob": "new?"},
    {"glob": "*"},
    {"all": True},
    {"all": False},
    {"glob": "a", "all": True},
]
KEYS = st.sampled_from("abc")
EVENTS = st.tuples(
    KEYS, st.sampled_from([-9, -5, -3, -1, 0, 1, 2, 3, 12, 90]), st.integers(-9, 9), st.sampled_from("ab")
)
"""Key, how much later than the one before, or how far behind it, x, w."""


class Clock(Ticks):
    """Looked at often, and at times set anew by somebody."""

    date_us = 10**15

    def wall_us(self):
        self.date_us += 1000
        return self.date_us


@cache
def understood(kind, order):
    """The pipeline, and what is found when its model is probed."""
    text = SOURCES[kind] + PIPELINE.replace("ORDER", ORDERS[order])
    context = quiet_context(base_dir=BASE, fs=SimFS({LOG: b""}))
    return load_pipeline(text, "job.yaml", REGISTRY, context, {})


@cache
def probed(_):
    return probe(build.load_backend(understood("followed", "by time"), Context(base_dir=BASE)))


class Person:
    """A producer: all its records, how many of them it was told are safe, and how it is connected."""

    def __init__(self, name):
        self.name, self.records, self.acked = name, [], 0
        self.wire, self.epoch, self.is_welcome = None, None, False

    def connect(self, net, back=0):
        """Anew, and from `back` records before what is safe if that is asked for."""
        self.wire, self.is_welcome = net.connect("in"), False
        if self.wire is not None:
            hello = {"producer": self.name} | ({} if self.epoch is None else {"epoch": self.epoch})
            if back:
                hello["seq"] = max(0, self.acked - back)
            self.wire.write(json.dumps({"hello": hello}).encode() + b"\n")
            if back:
                self.send_from(hello["seq"])

    def send_from(self, at):
        self.is_welcome = True
        self.wire.write(b"".join(record + b"\n" for record in self.records[at:]))

    def hear(self):
        for line in self.wire.read() if self.wire is not None else ():
            told = json.loads(line)
            if "error" in told:
                assert told["error"]["code"] in ("fenced", "replaced"), told
                self.epoch = None if told["error"]["code"] == "fenced" else self.epoch
                self.wire = None
                return
            at = told["welcome"]["next"] if "welcome" in told else told["ack"]
            assert at >= self.acked, "what it was told is safe is lost"
            self.acked = at
            if "welcome" in told:
                self.epoch = told["welcome"]["epoch"]
                if not self.is_welcome:
                    self.send_from(at)
        if self.wire is not None and self.wire.is_over:
            self.wire = None


class World(RuleBasedStateMachine):
    """A pipeline, its disk, its network and those who use it."""

    @initialize(
        kind=st.sampled_from(sorted(SOURCES)),
        order=st.sampled_from(sorted(ORDERS)),
        seed=st.integers(0, 2**32),
    )
    def begin(self, kind, order, seed):
        self.kind, self.rng, self.now_s = kind, random.Random(seed), 1000
        self.spec = understood(kind, order)
        self.context = quiet_context(base_dir=BASE, clock=Clock(self.rng))
        self.model = Model(self.spec, replace(self.context, fs=SimFS({LOG: b""})))
        self.fs, self.script, self.half = SimFS({LOG: b""}, self.rng), Script(0, 0), b""
        self.people, self.net, self.lines = [Person("p"), Person("q")], None, 0
        self.pipeline, self.is_new = None, True
        self.start()

    # lives
    def start(self):
        self.net = SimNet(self.rng, breaks=0.0)
        context = replace(self.context, fs=self.fs, net=self.net, aside=lambda work: Later(work, self.rng))
        with swapped(build, "probe", probed_alike):
            self.pipeline = build_job(self.spec, REGISTRY, context)
        self.pipeline.parts.max_batch_events = self.rng.choice([1, 3, 64])
        self.pipeline.open()

    def end_life(self, fs):
        self.net.end()
        for person in self.people:
            person.hear()
            person.wire = None
        self.fs = fs
        self.start()

    def go(self, turns):
        for _ in range(turns):
            for person in self.people:
                person.hear()
            self.pipeline.run_once(wait_ms=0)
        for person in self.people:
            person.hear()

    # those who write
    def write(self, line, end=b"\n"):
        if self.kind == "followed":
            if self.is_new:  # a rotated file that holds what another begins with is taken for a copy of it
                self.is_new = False
                self.write(self.event("a", 1, 1))
            self.script.done += 1
            self.script._append(self.fs, line + end)
            *lines, self.half = (self.half + line + end).split(b"\n")
            for each in lines:
                self.take(each)
        else:
            person = self.rng.choice(self.people)
            person.records.append(line)
            if person.is_welcome and person.wire is not None:
                person.wire.write(line + end)

    @property
    def is_half_too_long(self):
        """Whether the line that has not ended is refused, of which the model does not know yet."""
        return self.kind == "followed" and len(self.half) > MOST_BYTES + 1  # the last may be "\r"

    def take(self, line):
        """A line of the log that is followed; an empty one is none."""
        if line:
            self.model.read(line)

    def event(self, k, dt, x, **more):
        self.now_s += max(0, dt)
        made = {"k": k, "t": self.now_s + min(0, dt), "x": x, "u": self.rng.randrange(8), **more}
        return json.dumps(made).encode()

    @rule(events=st.lists(EVENTS, min_size=1, max_size=6))
    def send(self, events):
        for k, dt, x, w in events:
            self.write(self.event(k, dt, x / 2, w=w))

    @rule(line=st.sampled_from(BAD))
    def send_bad(self, line):
        self.write(line)

    @rule(message=st.sampled_from(MESSAGES))
    def send_message(self, message):
        self.write(json.dumps({"op": "reset", **message}).encode())

    @rule(k=KEYS, value=st.sampled_from(POISON))
    def send_poison(self, k, value):
        self.write(self.event(k, 1, 0).replace(b'"x": 0', b'"x": ' + value))

    @rule(names=st.integers(1, 4))
    def evict(self, names):
        for _ in range(names):
            self.write(self.event(f"new{self.rng.randrange(20)}", 1, 1))

    @rule(size=st.integers(1, 30))
    def half_a_line(self, size):
        line = self.event("a", 1, 1)[:size]
        if self.kind == "followed":
            self.write(line, b"")
        elif wires := [person for person in self.people if person.is_welcome and person.wire is not None]:
            wires[0].wire.write(line)
            wires[0].wire.leave()
            wires[0].wire = None

    @precondition(lambda self: self.kind == "socket")
    @rule(which=st.integers(0, 1))
    def disconnect(self, which):
        if self.people[which].wire is not None:
            self.people[which].wire.leave()
            self.people[which].wire = None

    @precondition(lambda self: self.kind == "socket")
    @rule(which=st.integers(0, 1), back=st.sampled_from([0, 1, 5]))
    def connect_or_resend(self, which, back):
        self.people[which].connect(self.net, back)

    @precondition(lambda self: self.kind == "followed")
    @rule()
    def rotate(self):
        self.script.done += 1
        self.script._rename(self.fs, None)
        self.take(self.half)
        self.half, self.is_new = b"", True

    @precondition(lambda self: self.kind == "followed" and not self.half)
    @rule()
    def truncate(self):
        for _ in range(60):
            self.go(1)
            if is_caught_up(self.fs, self.pipeline.parts.source):
                self.script.done += 1
                self.script._copytruncate(self.fs, None)
                self.is_new = True
                return

    # what befalls the pipeline
    @rule(turns=st.integers(1, 6))
    def run_on(self, turns):
        self.go(turns)

    @rule()
    def checkpoint(self):
        self.pipeline.commits.commit()

    @rule(by_us=st.sampled_from([-(10**7), 10**7, 315 * 10**12, -315 * 10**12]))
    def clock_jump(self, by_us):
        self.context.clock.date_us += by_us

    @rule(luck=st.sampled_from([0.0, 0.5, 1.0]), turns=st.integers(0, 3))
    def power_is_lost(self, luck, turns):
        self.go(turns)
        self.end_life(self.fs.after_crash(self.rng, luck))

    @rule(at=st.integers(1, 12), is_kill=st.booleans(), is_commit=st.booleans())
    def power_is_lost_in_the_midst(self, at, is_kill, is_commit):
        self.fs.crash_at = len(self.fs.done) + at
        try:
            self.go(6)
            if is_commit:
                self.pipeline.commits.commit()
        except Crash:
            pass
        self.fs.dead = False
        self.end_life(self.fs.as_seen(self.rng) if is_kill else self.fs.after_crash(self.rng))

    @rule()
    def sigterm(self):
        list(self.pipeline.stop())
        self.pipeline.close()
        self.end_life(self.fs.as_seen(self.rng))

    @rule(at=st.integers(1, 8), code=st.sampled_from([errno.ENOSPC, errno.EIO]))
    def disk_full(self, at, code):
        self.fs.fail_at, self.fs.code = len(self.fs.done) + at, code
        try:
            self.go(4)
            self.pipeline.commits.commit()
        except StreamrnnError as error:
            self.told = str(error)
            self.pipeline.close(error)
            self.fs.fail_at = None
            self.end_life(self.fs.after_crash(self.rng))
        self.fs.fail_at = None

    @rule(byte=st.integers(0, 10**6))
    def restore_from_the_commit_before(self, byte):
        """The newest one is damaged; nothing else happens until what outputs hold was made again."""
        names = [name for name in self.fs.names(BASE / "job") if name.startswith("commit-")]
        if len(names) < 2:
            return
        inode = self.fs.cached[str(BASE / "job" / names[-1])]
        for content in (inode.cached, inode.durable):
            content[byte % len(content)] ^= 1
        self.end_life(self.fs.as_seen(self.rng))
        self.go(200)
        assert not self.pipeline.parts.sink.comparing
        assert not self.pipeline.parts.rejects.comparing
        for _ in names:
            self.write(self.event("a", 1, 1))
            self.go(3)
            self.pipeline.commits.commit()

    # what must hold
    def logged(self):
        """Durable lines of the ingest log."""
        folder = BASE / "ingest" / "0"
        found = []
        for first in layout.segments(self.fs, folder):
            inode = self.fs.names_durable.get(str(layout.segment_path(folder, first)))
            found += bytes(inode.durable).split(b"\n")[:-1] if inode is not None else []
        return found

    def learn(self):
        """Let the model read what is new in the ingest log; how many records each producer has there."""
        counts, lines = {}, [json.loads(line) for line in self.logged()]
        for i, line in enumerate(lines):
            record = line.get("text") if "value" not in line else json.dumps(line["value"])
            if record is None and "base64" not in line:
                continue
            counts[line["producer"]] = counts.get(line["producer"], 0) + 1
            if i >= self.lines:
                self.model.read(b"?" if record is None or "refused" in line else record.encode())
        self.lines = max(self.lines, len(lines))
        return counts

    @invariant()
    def outputs_are_a_prefix_of_what_the_log_comes_to(self):
        if self.kind == "socket":
            counts = self.learn()
            assert all(person.acked <= counts.get(person.name, 0) for person in self.people)
        outputs, codes = self.written()
        assert outputs == self.model.outputs[: len(outputs)]
        if self.is_half_too_long and codes.count("too_long") > self.model.refused.count("too_long"):
            del codes[len(codes) - 1 - codes[::-1].index("too_long")]
        wanted = self.model.refused[: len(codes)]
        assert len(codes) == len(wanted)
        assert codes == [code or was for code, was in zip(wanted, codes, strict=True)]

    @invariant()
    def memory_is_bounded(self):
        shards = self.pipeline.parts.shards
        assert len(shards) <= MOST_KEYS
        assert shards.held <= (
            5 if self.spec.file.order and self.spec.file.order.max_held_events == 5 else 10**5
        )

    def written(self):
        outputs = [json.loads(line) for line in (self.fs.content(BASE / "out.txt") or b"").splitlines()]
        codes = [json.loads(line)["code"] for line in (self.fs.content(BASE / "bad.txt") or b"").splitlines()]
        return outputs, codes

    def teardown(self):
        """Everything is read in the end, and the state is that of the model."""
        if not hasattr(self, "pipeline") or self.pipeline is None:
            return
        for person in self.people if self.kind == "socket" else ():
            while person.acked < len(person.records):
                if person.wire is None:
                    person.connect(self.net)
                self.go(1)
        self.go(200)
        if self.kind == "socket":
            self.learn()
        outputs, codes = self.written()
        assert outputs == self.model.outputs
        assert len(codes) == len(self.model.refused) + self.is_half_too_long
        shards = self.pipeline.parts.shards
        assert shards.held == len(self.model.order.waiting)
        (core,) = (core for _, core in shards.items())
        rows = {core.store.keys.names.key(row): row for row in range(len(core.store.keys.names))}
        columns = core.store.columns
        found = {
            key: (
                core.store.slab.read(np.array([row]))["s"].tobytes(),
                *(int(columns[name][row]) for name in ("steps", "last_time", "sequence")),
            )
            for key, row in rows.items()
            if key is not None and columns["epoch"][row] == core.store.epoch  # else it is reset when it comes
        }
        assert found.items() <= self.model.keys().items()
        assert sorted(filter(None, rows)) == sorted(self.model.keys())
        self.pipeline.close()


def probed_alike(backend):
    """The same model in every life."""
    return probed(None)


def run(examples, steps, **more):
    with in_pieces(random.Random(1)):
        run_state_machine_as_test(
            World,
            settings=settings(
                max_examples=examples,
                stateful_step_count=steps,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
                report_multiple_bugs=False,
                **more,
            ),
        )


@pytest.mark.slow
@pytest.mark.timeout(0 if EXAMPLES else 300)
def test_whatever_happens_in_any_order():
    if EXAMPLES:
        run(EXAMPLES, 50, print_blob=True)
    else:
        run(60, 30, derandomize=True)


@contextmanager
def _those_that_wait_are_not_kept():
    frozen = Waiting.frozen

    def without(self):
        clock = frozen(self)()["clock"]
        return lambda: {"clock": clock}

    with swapped(Waiting, "frozen", without):
        yield


SABOTAGES = {
    "no fsync of output": FILES["no fsync of output"],
    "no cut on recovery": FILES["no cut on recovery"],
    "no fsync of the ingest log": INGEST["no fsync of the ingest log"],
    "of rotated files the newest is read first": FOLLOWED["of those the newest is read first"],
    "those that wait are not kept": _those_that_wait_are_not_kept,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SABOTAGES)
def test_a_sabotage_is_noticed(name):
    noticed = pytest.raises((AssertionError, ValueError, StreamrnnError))
    with SABOTAGES[name](), noticed:
        run(300, 30, derandomize=True, phases=[Phase.generate])
