"""A broker for tests, noida-db or the cluster that STREAMRNN_KAFKA names; what is put there and found."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

GIVEN = os.environ.get("STREAMRNN_KAFKA")
MISSING = None
if GIVEN is None and importlib.util.find_spec("noida_db") is None:
    MISSING = "needs a broker: pip install noida-db==0.2.3, or STREAMRNN_KAFKA=host:port of one"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def running(folder):
    """The address of a broker."""
    if GIVEN is not None:
        yield GIVEN
        return
    import noida_db

    port = free_port()
    program = Path(noida_db.__file__).parent / "noida-db"
    command = [program, "start", "--data-dir", folder, "--only", "kafka", "--kafka-port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(port, process)
            yield f"127.0.0.1:{port}"
        finally:
            process.kill()


def wait_for(port, process, seconds=20):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert process.poll() is None, "the broker ended"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    raise TimeoutError("the broker does not listen")


def name(kind):
    """A name that no other test has, since a cluster may be shared."""
    return f"{kind}-{uuid.uuid4().hex[:12]}"


async def make_topics(brokers, **partitions):
    admin = AIOKafkaAdminClient(bootstrap_servers=brokers)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, n, 1) for topic, n in partitions.items()])
    finally:
        await admin.close()


async def put(brokers, topic, records):
    """Records as (partition, key, value, timestamp in ms, headers)."""
    producer = AIOKafkaProducer(bootstrap_servers=brokers, linger_ms=5)
    await producer.start()
    try:
        for partition, key, value, timestamp, headers in records:
            await producer.send(
                topic, value, key, partition=partition, timestamp_ms=timestamp, headers=headers
            )
        await producer.flush()
    finally:
        await producer.stop()


async def found(brokers, topic, isolation="read_committed"):
    """All records of a topic by partition, as (offset, key, value, timestamp)."""
    consumer = AIOKafkaConsumer(bootstrap_servers=brokers, isolation_level=isolation)
    await consumer.start()
    try:
        partitions = [TopicPartition(topic, p) for p in sorted(await _partitions(brokers, topic))]
        consumer.assign(partitions)
        await consumer.seek_to_beginning()
        ends = await consumer.end_offsets(partitions)
        records = {each.partition: [] for each in partitions}
        quiet = 0
        while quiet < 3:
            batch = await consumer.getmany(timeout_ms=300, max_records=10_000)
            quiet = 0 if batch else quiet + 1
            for each, some in batch.items():
                records[each.partition] += [(r.offset, r.key, r.value, r.timestamp) for r in some]
            if all([await consumer.position(each) >= ends[each] for each in partitions]):
                break
        return records
    finally:
        await consumer.stop()


async def committed(brokers, group, partition):
    """Offset and note of a group, None if it has committed none."""
    admin = AIOKafkaAdminClient(bootstrap_servers=brokers)
    await admin.start()
    try:
        found = await admin.list_consumer_group_offsets(group, partitions=[partition])
        return tuple(found[partition]) if found[partition].offset >= 0 else None
    finally:
        await admin.close()


async def sharing(brokers, group):
    """How many members share the partitions of a group that has settled; 0 while it has not."""
    admin = AIOKafkaAdminClient(bootstrap_servers=brokers)
    await admin.start()
    try:
        (answer,) = await admin.describe_consumer_groups([group])
        (_, _, state, _, _, members) = answer.groups[0]
        return len([assigned for *_, assigned in members if assigned]) if state == "Stable" else 0
    finally:
        await admin.close()


async def _partitions(brokers, topic):
    admin = AIOKafkaAdminClient(bootstrap_servers=brokers)
    await admin.start()
    try:
        (described,) = await admin.describe_topics([topic])
        return [each["partition"] for each in described["partitions"]]
    finally:
        await admin.close()


def run(coroutine):
    return asyncio.run(coroutine)


RUN = [sys.executable, "-m", "streamrnn", "run", "--quiet", "p.yaml"]
