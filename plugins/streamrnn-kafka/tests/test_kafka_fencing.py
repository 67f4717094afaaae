"""A partition changes hands while its last owner is at some step of a commit and does not know."""

import asyncio
import time

import kafka_broker as kafka
import pytest
from aiokafka import TopicPartition
from streamrnn_kafka.live_sink import FENCED, Producer
from streamrnn_kafka.options import KafkaSinkConfig
from streamrnn_kafka.security import access
from streamrnn_kafka.state_files import StateFiles
from test_kafka_group import (
    PARTITIONS,
    PIPELINE,
    Member,
    answers,
    brokers,
    events,
    files,
    offsets_moved,
    outputs,
    topics,
    wait_until,
)
from test_kafka_log_pipeline import REGISTRY, context_at

from streamrnn.commit.job import build_job
from streamrnn.config.load import load_pipeline
from streamrnn.testing import quiet_context

pytestmark = [pytest.mark.slow, pytest.mark.skipif(kafka.MISSING is not None, reason=str(kafka.MISSING))]
__all__ = ["brokers", "topics"]
GROUP = "fenced"
ROWS = ([b"key"] * 3, [b"value"] * 3, [-1] * 3)
STAGES = ("idle", "begun", "sent", "flushed", "offsets sent", "committed")


def reached(config):
    return access(config, quiet_context())


async def owner(config, name, stage, at):
    """A producer that has come as far as a stage of its commit of an offset."""
    producer, stages = Producer(config, reached(config), name), STAGES[: STAGES.index(stage) + 1]
    await producer.client.start()
    if "begun" in stages:
        await producer.begin()
    if "sent" in stages:
        await producer.send(ROWS, 0)
    if "flushed" in stages:
        await producer.flush()
    if "offsets sent" in stages:
        await producer.client.send_offsets_to_transaction({at[0]: at[1:]}, GROUP)
    if "committed" in stages:
        await producer.client.commit_transaction()
        producer.in_transaction = False
    return producer


async def change_of_hands(brokers, source, sink, stage):
    """What the first owner could still do, and what is committed after that: offset and visible outputs."""
    name, config = kafka.name("transaction"), KafkaSinkConfig(brokers=brokers, topic=sink)
    partition = TopicPartition(source, 0)
    first = await owner(config, name, stage, (partition, 5, "first"))
    second = Producer(config, reached(config), name)
    await second.client.start()
    seen = await kafka.committed(brokers, GROUP, partition)
    failed = 0
    for step in (
        lambda: first.send(ROWS, 0),
        lambda: first.commit(GROUP, {partition: (7, "late")}),
        lambda: first.commit(GROUP, {partition: (9, "later")}),
    ):
        try:
            await asyncio.wait_for(step(), 20)
        except FENCED:
            failed += 1
    await first.stop()
    await second.send(ROWS, 0)
    await second.commit(GROUP, {partition: (6, "second")})
    await second.stop()
    return seen, failed, await kafka.committed(brokers, GROUP, partition)


@pytest.mark.parametrize("stage", STAGES)
def test_who_lost_a_partition_can_commit_nothing_more(brokers, topics, stage):
    source, sink = topics
    seen, failed, at_last = kafka.run(change_of_hands(brokers, source, sink, stage))
    assert seen == ((5, "first") if stage == "committed" else None)
    assert failed >= 2
    assert at_last == (6, "second")
    visible = kafka.run(kafka.found(brokers, sink))[0]
    assert len(visible) == (6 if stage == "committed" else 3)


async def steal(brokers, sink, transaction):
    """Take over a partition's transactions, as its next owner would."""
    config = KafkaSinkConfig(brokers=brokers, topic=sink)
    thief = Producer(config, reached(config), transaction)
    await thief.client.start()
    await thief.stop()


def test_a_member_that_lost_a_partition_serves_the_others_and_ends_if_the_group_does_not_know(
    brokers, topics, tmp_path
):
    source, sink = topics
    sent, folder, group = list(events(3000, int(time.time() * 1000))), tmp_path / "state", kafka.name("group")
    text = PIPELINE.format(brokers=brokers, source=source, sink=sink, group=group, folder=folder)
    kafka.run(kafka.put(brokers, source, sent[:1000]))
    first = Member(tmp_path / "a", text)
    wait_until(lambda: offsets_moved(folder, PARTITIONS, 0), [first])
    kafka.run(steal(brokers, sink, f"streamrnn.{group}.{source}-3"))
    kafka.run(kafka.put(brokers, source, sent[1000:]))
    _, err = first.process.communicate(timeout=60)
    assert first.process.returncode == 3, err
    taken = f"{source}-3"
    assert f"{taken}: another member has taken over and serves anew what was not committed" in err
    assert f"{taken}: another writes for this partition, but the group has not given it away" in err
    ends = {f"{source}-{p}": len(records) for p, records in answers(sent).items()}
    there = {name: int(file[:20]) for name, file in files(folder).items()}
    assert there.keys() == ends.keys()
    second = Member(tmp_path / "b", text)
    # What was written for the lost partition before the loss was known is there, and means nothing.
    wait_until(lambda: kafka.run(committed_all(brokers, group, source)) == ends, [second])
    code, err = second.stop()
    assert code == 0, err
    assert outputs(brokers, sink) == answers(sent)


async def committed_all(brokers, group, source):
    found = {}
    for number in range(PARTITIONS):
        at = await kafka.committed(brokers, group, TopicPartition(source, number))
        found[f"{source}-{number}"] = at[0] if at else 0
    return found


async def commit_as_another(brokers, sink, group, partition, at):
    config = KafkaSinkConfig(brokers=brokers, topic=sink)
    another = Producer(config, reached(config), f"streamrnn.{group}.{partition.topic}-{partition.partition}")
    await another.client.start()
    await another.commit(group, {partition: at})
    await another.stop()


def test_what_another_has_changed_meanwhile_does_not_stay(brokers, topics, tmp_path):
    source, sink = topics
    kafka.run(kafka.put(brokers, source, events(400, int(time.time() * 1000))))
    group = kafka.name("group")
    text = PIPELINE.format(brokers=brokers, source=source, sink=sink, group=group, folder="state")
    context, _ = context_at(tmp_path)
    job = build_job(load_pipeline(text, "p.yaml", REGISTRY, context, {}), REGISTRY, context)
    try:
        commits, shards, end_s = job.commits, job.parts.shards, time.monotonic() + 60
        while shards.events < 400 and time.monotonic() < end_s:
            job.run_once(wait_ms=50)
        commits.revoked(range(PARTITIONS))
        before = {n: shards.at(f"{source}-{n}") for n in range(PARTITIONS)}
        changed = TopicPartition(source, 3)
        offset = commits._resting[3][0]
        note = StateFiles(commits.folder, context, commits._files._fixed, 2, "another").save(
            f"{source}-3", {}, offset, before[2]
        )
        kafka.run(commit_as_another(brokers, sink, group, changed, (offset, note)))
        offsets = commits.assigned(range(PARTITIONS))
        assert offsets[3] == offset
        after = {n: shards.at(f"{source}-{n}") for n in range(PARTITIONS)}
        assert [n for n in range(PARTITIONS) if after[n] is not before[n]] == [3]
        assert after[3].snapshot() == before[2].snapshot()
    finally:
        job.close()
