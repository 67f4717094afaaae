"""Pipelines on a broker, in this process: where they begin, go on, what they write, and what they refuse."""

import asyncio
import json
import time
from datetime import UTC, datetime

import kafka_broker as kafka
import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from streamrnn_kafka.live_source import build
from streamrnn_kafka.options import KafkaSourceConfig
from test_kafka_group import brokers
from test_kafka_log_pipeline import PARTS, REGISTRY, context_at, lines

from streamrnn.commit.job import build_job
from streamrnn.config.load import load_pipeline
from streamrnn.errors import ConfigError, SinkError, SourceError, StateError
from streamrnn.pipeline import run

pytestmark = pytest.mark.skipif(kafka.MISSING is not None, reason=str(kafka.MISSING))
__all__ = ["brokers"]
NOW_MS = int(time.time() * 1000)


@pytest.fixture
def topic(brokers):
    made = kafka.name("in")
    kafka.run(kafka.make_topics(brokers, **{made: 2}))
    return made


def records(first, last, partitions=2):
    """Records whose value is their number, which is their offset times `partitions` as well."""
    for i in range(first, last):
        value = b'{"x": %d}' % i
        yield i % partitions, b"k%d" % (i % 5), value, NOW_MS + i, [("h", str(i).encode())]


def source(brokers, topic, more=""):
    return f'{{type: kafka, brokers: "{brokers}", topic: {topic}{more}}}'


def serve(folder, outputs=None, **changes):
    """Run until so many outputs were made, or until nothing came for a while; what was warned of."""
    text = "".join(f"{name}: {part}\n" for name, part in (PARTS | changes).items())
    context, told = context_at(folder)
    spec = load_pipeline(text, "p.yaml", REGISTRY, context, {})
    pipeline, made, last_s = build_job(spec, REGISTRY, context), [0], [time.monotonic()]

    def count(report):
        made[0] += report.outputs
        if report.events:
            last_s[0] = time.monotonic()

    def stopping():
        quiet_s = time.monotonic() - last_s[0]
        return (outputs is not None and made[0] >= outputs) or quiet_s > (30 if outputs else 1)

    run(pipeline, stopping, count)
    return told


def test_fields_of_records_and_partitions_of_their_own(brokers, topic, tmp_path):
    kafka.run(kafka.put(brokers, topic, records(0, 20)))
    names = ("key", "offset", "partition", "topic", "timestamp", "headers.h", "headers.none")
    include = ", ".join(f"kafka.{name}" for name in names)
    told = serve(tmp_path, 20, source=source(brokers, topic), encode=f"{{type: jsonl, include: [{include}]}}")
    assert told == []
    found = sorted(lines(tmp_path), key=lambda line: line["kafka.timestamp"])
    state = {}
    for i, line in enumerate(found):
        key = f"k{i % 5}"
        state[i % 2, key] = state.get((i % 2, key), 0) + i
        assert line == {
            "kafka.key": key,
            "kafka.offset": i // 2,
            "kafka.partition": i % 2,
            "kafka.topic": topic,
            "kafka.timestamp": NOW_MS + i,
            "kafka.headers.h": str(i),
            "kafka.headers.none": None,
            "y": float(state[i % 2, key]),
        }


@pytest.mark.parametrize(
    ("option", "first"),
    [(", from: earliest", 0), (", from_offset: 7", 14), (", from_time: {at}", 12), (", partitions: [1]", 0)],
)
def test_where_reading_begins(brokers, topic, tmp_path, option, first):
    kafka.run(kafka.put(brokers, topic, records(0, 40)))
    at = datetime.fromtimestamp((NOW_MS + 12) / 1000, UTC).isoformat(timespec="milliseconds")
    serve(tmp_path, source=source(brokers, topic, option.format(at=at)))
    found = sorted((line["kafka.offset"]) for line in lines(tmp_path))
    per_partition = list(range(first // 2, 20))
    assert found == (per_partition if "partitions" in option else sorted(per_partition * 2))


def test_latest_waits_for_what_comes(brokers, topic, tmp_path):
    kafka.run(kafka.put(brokers, topic, records(0, 40)))
    assert serve(tmp_path, source=source(brokers, topic, ", from: latest")) == []
    assert lines(tmp_path) == []


def test_how_far_behind_it_is(brokers, topic, tmp_path):
    kafka.run(kafka.put(brokers, topic, records(0, 40)))
    context, _ = context_at(tmp_path)
    text = "".join(f"{name}: {part}\n" for name, part in (PARTS | {"source": source(brokers, topic)}).items())
    pipeline = build_job(load_pipeline(text, "p.yaml", REGISTRY, context, {}), REGISTRY, context)
    reading, read = pipeline.parts.source, {}
    while sum(read.values()) < 40:
        block = reading.read(7, 100)
        if block is not None:
            name = block.origin.partition
            read[name] = read.get(name, 0) + len(block)
            assert reading.lag()[name] == 20 - read[name]
    pipeline.close(RuntimeError("seen enough"))
    assert set(read.values()) == {20}


async def transactions(brokers, topic):
    producer = AIOKafkaProducer(bootstrap_servers=brokers, transactional_id=kafka.name("id"))
    await producer.start()
    for i, ends in enumerate([producer.commit_transaction, producer.abort_transaction] * 3):
        await producer.begin_transaction()
        await producer.send_and_wait(topic, b'{"x": %d}' % i, b"k", partition=0, timestamp_ms=NOW_MS)
        await ends()
    await producer.stop()


@pytest.mark.parametrize(
    ("isolation", "seen"), [("read_committed", [0, 2, 4]), ("read_uncommitted", range(6))]
)
def test_aborted_records_are_seen_by_who_wants_to(brokers, topic, tmp_path, isolation, seen):
    kafka.run(transactions(brokers, topic))
    serve(tmp_path, source=source(brokers, topic, f", isolation: {isolation}"))
    assert [line["y"] for line in lines(tmp_path)] == [sum(seen[: i + 1]) for i in range(len(seen))]


CHECKPOINT = "{dir: job, every_s: 0.05}"


def test_a_later_run_goes_on_from_the_commit_to_a_file(brokers, topic, tmp_path):
    parts = {"source": source(brokers, topic), "checkpoint": CHECKPOINT, "limits": "{max_batch_events: 7}"}
    kafka.run(kafka.put(brokers, topic, records(0, 100)))
    serve(tmp_path, 40, **parts)
    kafka.run(kafka.put(brokers, topic, records(100, 200)))
    told = serve(tmp_path, **parts)
    found = sorted((line["kafka.offset"]) for line in lines(tmp_path))
    assert found == sorted([*range(100)] * 2)
    assert told == []
    assert sum(line["y"] for line in lines(tmp_path)[-1:]) > 0


def test_a_group_goes_on_from_its_commit_with_any_sink(brokers, topic, tmp_path):
    group = kafka.name("group")
    parts = {
        "source": source(brokers, topic, f", group: {group}"),
        "checkpoint": CHECKPOINT,
        "sink": "{type: file, path: out.txt, if_exists: append}",
        "encode": "{type: jsonl, include: [kafka.offset, kafka.partition, kafka.key]}",
    }
    kafka.run(kafka.put(brokers, topic, records(0, 100)))
    serve(tmp_path, 100, **parts)
    kafka.run(kafka.put(brokers, topic, records(100, 200)))
    serve(tmp_path, 100, **parts)
    assert sorted(line["kafka.offset"] for line in lines(tmp_path)) == sorted([*range(100)] * 2)
    last = {}
    for i in range(200):
        last[i % 2, f"k{i % 5}"] = last.get((i % 2, f"k{i % 5}"), 0) + i
    found = {(line["kafka.partition"], line["kafka.key"]): line["y"] for line in lines(tmp_path)}
    assert found == last
    assert kafka.run(kafka.committed(brokers, group, TopicPartition(topic, 0)))[0] == 100


async def partitions_by_key(brokers, topic, keys):
    producer = AIOKafkaProducer(bootstrap_servers=brokers)
    await producer.start()
    found = {key: (await producer.send_and_wait(topic, b"", key)).partition for key in keys}
    await producer.stop()
    return found


@pytest.mark.parametrize("partition", ["same", "by_key"])
def test_outputs_to_a_topic_at_least_once(brokers, topic, tmp_path, partition):
    out, other = kafka.name("out"), kafka.name("other")
    kafka.run(kafka.make_topics(brokers, **{out: 3, other: 3}))
    kafka.run(kafka.put(brokers, topic, records(0, 50)))
    sink = f'{{type: kafka, brokers: "{brokers}", topic: {out}, delivery: at_least_once, '
    sink += f"partition: {partition}, compression: lz4}}"
    parts = {"source": source(brokers, topic), "sink": sink, "checkpoint": CHECKPOINT}
    serve(tmp_path, 50, **parts)
    kafka.run(kafka.put(brokers, topic, records(50, 100)))
    (told,) = serve(tmp_path, 50, **parts)
    assert told.endswith("that followed the last commit are sent once more")
    found = kafka.run(kafka.found(brokers, out))
    keys = [b"k%d" % i for i in range(5)]
    where = kafka.run(partitions_by_key(brokers, other, keys))
    for number, some in found.items():
        for _, key, value, timestamp in some:
            number_of_event = timestamp - NOW_MS
            assert key == b"k%d" % (number_of_event % 5)
            assert json.loads(value)["kafka.offset"] == number_of_event // 2
            assert number == (number_of_event % 2 if partition == "same" else where[key])
    assert sorted(r[3] for some in found.values() for r in some) == [NOW_MS + i for i in range(100)]


def refused(folder, error, **changes):
    with pytest.raises(error) as caught:
        serve(folder, 1, **changes)
    return str(caught.value)


def test_mistakes_are_told_before_the_first_event(brokers, topic, tmp_path):
    sink = f'{{type: kafka, brokers: "{brokers}", topic: {topic}'
    in_group = source(brokers, topic, ", group: g")
    small = kafka.name("small")
    kafka.run(kafka.make_topics(brokers, **{small: 1}))
    assert "source.group: needs checkpoint: the state of a partition goes with it" in refused(
        tmp_path, ConfigError, source=in_group
    )
    both = source(brokers, topic, ", group: g, partitions: [0]")
    assert "expected group or partitions, found both" in refused(tmp_path, ConfigError, source=both)
    assert "exactly_once needs a source of type kafka with a group" in refused(
        tmp_path, ConfigError, source=source(brokers, topic), sink=sink + "}"
    )
    assert f"the source has partitions up to 1, topic {small} only 1" in refused(
        tmp_path,
        ConfigError,
        source=source(brokers, topic),
        sink=sink.replace(topic, small) + ", delivery: at_least_once}",
    )
    assert f"expected topic nowhere at {brokers}, found no such topic" in refused(
        tmp_path, SourceError, source=source(brokers, "nowhere")
    )
    assert "found no such topic" in refused(
        tmp_path,
        SinkError,
        source=source(brokers, topic),
        sink=sink.replace(topic, "nowhere") + ", delivery: at_least_once}",
    )
    assert f"expected partition 5 of topic {topic}" in refused(
        tmp_path, SourceError, source=source(brokers, topic, ", partitions: [0, 5]")
    )
    assert "expected offset 9 to go on at, found 0 to 0 on the broker" in refused(
        tmp_path, SourceError, source=source(brokers, topic, ", from_offset: 9")
    )
    timeout = sink.replace(topic, small) + ", partition: by_key, transaction_timeout_s: 10}"
    assert "expected at least 3 times checkpoint.every_s = 5, found 10" in refused(
        tmp_path, StateError, source=in_group, sink=timeout, checkpoint="{dir: job, every_s: 5}"
    )
    closed = f"127.0.0.1:{kafka.free_port()}"
    assert "kafka: KafkaConnectionError" in refused(tmp_path, SourceError, source=source(closed, topic))
    with pytest.raises(ConfigError, match="brokers"):
        serve(tmp_path, 1, source="{type: kafka, brokers: localhost, topic: t}")


def test_state_that_is_not_the_groups_is_refused(brokers, topic, tmp_path):
    group = kafka.name("group")
    parts = {
        "source": source(brokers, topic, f", group: {group}"),
        "checkpoint": CHECKPOINT,
        "sink": "{type: file, path: out.txt, if_exists: append}",
    }
    kafka.run(kafka.put(brokers, topic, records(0, 10)))
    serve(tmp_path, 10, **parts)
    other = parts | {"model": '{type: formula, state: {s: 0}, update: {s: 2*s + x}, output: {y: "1.0 * s"}}'}
    assert "the state is of the model" in refused(tmp_path, StateError, **other)
    other = parts | {"reset": "[{type: every, events: 5}]"}
    assert "are of another pipeline" in refused(tmp_path, StateError, **other)
    (state,) = (tmp_path / "job" / f"{topic}-0").glob("*.state")
    good = state.read_bytes()
    state.write_bytes(good[:-1])
    assert "do not match their digest" in refused(tmp_path, StateError, **parts)
    state.unlink()
    assert f"{topic}-0 with its state at offset 5 in this file, and it is missing" in refused(
        tmp_path, StateError, **parts
    )
    state.write_bytes(good)
    partition = TopicPartition(topic, 0)
    kafka.run(reset_offsets(brokers, group, {partition: (0, "")}))
    assert "but not with state of this version (its offsets were reset" in refused(
        tmp_path, StateError, **parts
    )


async def reset_offsets(brokers, group, offsets):
    from aiokafka import AIOKafkaConsumer

    consumer = AIOKafkaConsumer(bootstrap_servers=brokers, group_id=group, enable_auto_commit=False)
    await consumer.start()
    consumer.assign(list(offsets))
    for _ in range(100):
        try:
            await consumer.commit(offsets)
            break
        except Exception:  # the group's last member may not be gone yet
            await asyncio.sleep(0.1)
    await consumer.stop()


def test_a_read_ends_in_time_while_the_group_is_formed_anew(brokers, topic, tmp_path, monkeypatch):
    context, _ = context_at(tmp_path)
    reading = build(KafkaSourceConfig(brokers=brokers, topic=topic), context, lambda: None)
    assert reading.read(10, 50) is None

    async def waits_for_the_group(**options):
        await asyncio.Event().wait()

    monkeypatch.setattr(reading.consumer, "getmany", waits_for_the_group)
    start_s = time.monotonic()
    assert reading.read(10, 50) is None
    assert time.monotonic() - start_s < 5
    reading.close()
