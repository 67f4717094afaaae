"""Members of a group: partitions and their state go from one process to another, and no output twice.

STREAMRNN_EVENTS=100000 makes as many events.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import threading
import time
from collections import defaultdict
from typing import ClassVar

import kafka_broker as kafka
import pytest
from aiokafka import AIOKafkaProducer
from streamrnn_kafka.group_commits import GroupCommits
from streamrnn_kafka.live_sink import TransactionalSink
from test_kafka_log_pipeline import REGISTRY, context_at

from streamrnn.commit.job import build_job
from streamrnn.config.load import load_pipeline
from streamrnn.pipeline import run

EVENTS = int(os.environ.get("STREAMRNN_EVENTS", "8000"))
PARTITIONS = 8
PIPELINE = """
source: {{type: kafka, brokers: "{brokers}", topic: {source}, group: {group}, session_timeout_s: 6}}
decode: {{type: jsonl}}
event: {{key: kafka.key, time: {{field: kafka.timestamp, unit: ms}}, inputs: {{x: [{{field: x}}]}}}}
reset: [{{type: every, events: 50}}]
model: {{type: formula, state: {{s: 0.5}}, update: {{s: 0.5*s + x}}, output: {{y: "1.0 * s"}}}}
encode:
  type: jsonl
  include: [kafka.offset, kafka.partition]
  fields: {{y: {{type: output, output: y}}, n: {{type: meta, name: steps}}}}
sink: {{type: kafka, brokers: "{brokers}", topic: {sink}}}
checkpoint: {{dir: {folder}, every_s: 0.3}}
limits: {{max_batch_events: 256}}
"""
pytestmark = [pytest.mark.slow, pytest.mark.skipif(kafka.MISSING is not None, reason=str(kafka.MISSING))]


@pytest.fixture(scope="module")
def brokers(tmp_path_factory):
    with kafka.running(tmp_path_factory.mktemp("broker")) as address:
        yield address


@pytest.fixture(autouse=True)
def _nobody_is_left():
    yield
    while Member.alive:
        Member.alive.pop().stop(signal.SIGKILL)


@pytest.fixture
def topics(brokers):
    source, sink = kafka.name("in"), kafka.name("out")
    kafka.run(kafka.make_topics(brokers, **{source: PARTITIONS, sink: PARTITIONS}))
    return source, sink


def events(n, start_ms):
    """n events over keys that each stay in one partition; a hot one among them."""
    rng = random.Random(n)
    for i in range(n):
        key = 0 if rng.random() < 0.2 else rng.randrange(400)
        value = json.dumps({"x": rng.randrange(-64, 64) / 8}).encode()
        yield key % PARTITIONS, f"k{key}".encode(), value, start_ms + i, []


def answers(sent):
    """What one process would answer, event by event: (offset, key, value as text) by partition."""
    state, steps, told = {}, {}, defaultdict(list)
    for partition, key, value, _, _ in sent:
        if steps.get(key, 50) == 50:
            state[key], steps[key] = 0.5, 0
        steps[key] += 1
        state[key] = 0.5 * state[key] + json.loads(value)["x"]
        offset = len(told[partition])
        record = {
            "kafka.offset": offset,
            "kafka.partition": partition,
            "y": state[key],
            "n": steps[key],
        }
        told[partition].append((key, record))
    return told


class Member:
    """A process of the group."""

    alive: ClassVar[list[Member]] = []

    def __init__(self, folder, text):
        folder.mkdir()
        (folder / "p.yaml").write_text(text)
        self.process = subprocess.Popen(
            kafka.RUN, cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        )
        self.alive.append(self)

    def stop(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        _, err = self.process.communicate(timeout=60)
        return self.process.returncode, err


def files(folder):
    return {path.parent.name: path.name for path in sorted(folder.glob("*/*.state"))}


def wait_until(done, members, seconds=120):
    end = time.monotonic() + seconds
    while not done():
        for member in members:
            assert member.process.poll() is None, member.process.communicate()[1]
        assert time.monotonic() < end, "nothing more happens"
        time.sleep(0.1)


def outputs(brokers, topic):
    found = kafka.run(kafka.found(brokers, topic))
    return {p: [(key, json.loads(value)) for _, key, value, _ in records] for p, records in found.items()}


def offsets_moved(folder, partitions, above):
    """Whether every partition has a state at an offset above one."""
    at = {name: int(file[:20]) for name, file in files(folder).items()}
    return len(at) == partitions and min(at.values()) > above


def test_one_is_killed_and_one_is_added_and_every_output_comes_once(brokers, topics, tmp_path):
    source, sink = topics
    sent = list(events(EVENTS, int(time.time() * 1000)))
    folder = tmp_path / "state"
    group = kafka.name("group")
    text = PIPELINE.format(brokers=brokers, source=source, sink=sink, group=group, folder=folder)
    share = EVENTS // 4
    kafka.run(kafka.put(brokers, source, sent[:share]))
    # The test broker does not get over the death of a group's leader, who is the first to come.
    first = Member(tmp_path / "a", text)
    wait_until(lambda: offsets_moved(folder, PARTITIONS, 0), [first])
    second = Member(tmp_path / "b", text)
    wait_until(lambda: kafka.run(kafka.sharing(brokers, group)) == 2, [first, second])
    kafka.run(kafka.put(brokers, source, sent[share : 2 * share]))
    assert second.stop(signal.SIGKILL)[0] == -signal.SIGKILL
    third = Member(tmp_path / "c", text)
    kafka.run(kafka.put(brokers, source, sent[2 * share :]))
    wait_until(lambda: at_ends(folder, source, sent), [first, third])
    for member in (first, third):
        code, err = member.stop()
        assert code == 0, err
    assert outputs(brokers, sink) == answers(sent)


JOIN_S = 15
"""How long a member may take to be given its partitions."""


class Died(Exception):
    """The end of a member at a step of its commit."""


def life(folder, text, monkeypatch, step, lives):
    """A member in this process that dies at a step of its second commit, or at none."""
    context, _ = context_at(folder)
    spec = load_pipeline(text, "p.yaml", REGISTRY, context, {})
    commit, calls = TransactionalSink.commit, [0]

    def dying(self, group, offsets):
        calls[0] += 1
        if step == "state written" and calls[0] == 2:
            raise Died
        lost = commit(self, group, offsets)
        if step == "committed" and calls[0] == 2:
            raise Died
        return lost

    commit_one, ones = AIOKafkaProducer.commit_transaction, [0]

    async def dying_at_one(self):
        ones[0] += 1
        if step == "transaction prepared" and ones[0] == PARTITIONS + 2:
            raise Died
        await commit_one(self)

    with monkeypatch.context() as patched:
        patched.setattr(TransactionalSink, "commit", dying)
        patched.setattr(AIOKafkaProducer, "commit_transaction", dying_at_one)
        pipeline, quiet_s = build_job(spec, REGISTRY, context), [time.monotonic() + JOIN_S]

        def told(report):
            quiet_s[0] = time.monotonic() if report.events else quiet_s[0]

        try:
            run(pipeline, lambda: time.monotonic() - quiet_s[0] > 1.5, told)
        except Died:
            lives.append(step)


def test_a_member_that_dies_at_a_step_of_a_commit_changes_nothing(brokers, topics, tmp_path, monkeypatch):
    source, sink = topics
    sent = list(events(3000, int(time.time() * 1000)))
    kafka.run(kafka.put(brokers, source, sent))
    text = PIPELINE.format(brokers=brokers, source=source, sink=sink, group=kafka.name("g"), folder="state")
    often = text.replace("every_s: 0.3", "every_s: 0.001").replace("events: 256", "events: 4")
    lives, steps = [], ["state written", "transaction prepared", "committed"] * 2
    for step in steps:
        life(tmp_path, often, monkeypatch, step, lives)
    life(tmp_path, text, monkeypatch, None, lives)
    assert lives == steps
    assert outputs(brokers, sink) == answers(sent)


def test_what_stays_with_a_member_is_not_loaded_anew(brokers, topics, tmp_path, monkeypatch):
    source, sink = topics
    sent, loaded, shares = list(events(3000, int(time.time() * 1000))), [], []
    load, assigned = GroupCommits._load, GroupCommits.assigned

    def loading(self, number, *at):
        loaded.append(number)
        load(self, number, *at)

    def sharing(self, partitions):
        offsets = assigned(self, partitions)
        shares.append(set(partitions))
        return offsets

    monkeypatch.setattr(GroupCommits, "_load", loading)
    monkeypatch.setattr(GroupCommits, "assigned", sharing)
    folder, group = tmp_path / "state", kafka.name("group")
    text = PIPELINE.format(brokers=brokers, source=source, sink=sink, group=group, folder=folder)
    context, _ = context_at(tmp_path)
    job = build_job(load_pipeline(text, "p.yaml", REGISTRY, context, {}), REGISTRY, context)
    stopped = threading.Event()
    first = threading.Thread(target=run, args=(job, stopped.is_set, lambda report: None))
    first.start()
    try:
        kafka.run(kafka.put(brokers, source, sent[:1000]))
        wait_until(lambda: offsets_moved(folder, PARTITIONS, 0), [])
        second = Member(tmp_path / "b", text)
        wait_until(lambda: len(shares[-1]) == PARTITIONS // 2, [second])
        kept = shares[-1]
        kafka.run(kafka.put(brokers, source, sent[1000:2000]))
        wait_until(lambda: at_ends(folder, source, sent[:2000]), [second])
        assert loaded == []
        code, err = second.stop()
        assert code == 0, err
        kafka.run(kafka.put(brokers, source, sent[2000:]))
        wait_until(lambda: at_ends(folder, source, sent), [])
    finally:
        stopped.set()
        first.join()
    assert set(loaded) == set(range(PARTITIONS)) - kept
    assert outputs(brokers, sink) == answers(sent)


def at_ends(folder, source, sent):
    """Whether the state of every partition stands behind all that was sent."""
    ends = {f"{source}-{p}": len(records) for p, records in answers(sent).items()}
    return {name: int(file[:20]) for name, file in files(folder).items()} == ends
