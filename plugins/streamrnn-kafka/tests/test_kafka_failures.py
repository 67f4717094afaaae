"""Brokers that fail: those of librdkafka's mock cluster go down, and answer by errors."""

from __future__ import annotations

import ctypes
import json
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import kafka_broker as kafka
import pytest
from test_kafka_live import records, source
from test_kafka_log_pipeline import PARTS, REGISTRY, context_at

from streamrnn.commit.job import build_job
from streamrnn.config.load import load_pipeline
from streamrnn.pipeline import run

confluent_kafka = pytest.importorskip(
    "confluent_kafka", reason="brings librdkafka, whose mock cluster this is"
)
PRODUCE, FETCH = 0, 1
NOT_LEADER, TIMED_OUT, FEW_REPLICAS = 6, 7, 19
EVENTS = 4000


class Cluster:
    """A mock cluster, by way of C."""

    def __init__(self, library):
        self.c = library
        text = ctypes.create_string_buffer(512)
        for name, result in (("rd_kafka_new", 0), ("rd_kafka_mock_cluster_new", 0), ("rd_kafka_conf_new", 0)):
            getattr(library, name).restype = ctypes.c_void_p if result == 0 else ctypes.c_int
        library.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
        conf = ctypes.c_void_p(library.rd_kafka_conf_new())
        self.client = ctypes.c_void_p(library.rd_kafka_new(0, conf, text, len(text)))
        self.cluster = ctypes.c_void_p(library.rd_kafka_mock_cluster_new(self.client, 3))
        self.brokers = library.rd_kafka_mock_cluster_bootstraps(self.cluster).decode()

    def make(self, topic, partitions):
        assert self.c.rd_kafka_mock_topic_create(self.cluster, topic.encode(), partitions, 3) == 0

    def down(self, broker):
        assert self.c.rd_kafka_mock_broker_set_down(self.cluster, broker) == 0

    def up(self, broker):
        assert self.c.rd_kafka_mock_broker_set_up(self.cluster, broker) == 0

    def answer(self, api, *errors):
        """Answer the next requests of a kind by these errors."""
        array = (ctypes.c_int * len(errors))(*errors)
        push = self.c.rd_kafka_mock_push_request_errors_array
        push(self.cluster, ctypes.c_int16(api), ctypes.c_size_t(len(errors)), array)

    def close(self):
        self.c.rd_kafka_mock_cluster_destroy(self.cluster)
        self.c.rd_kafka_destroy(self.client)


@pytest.fixture
def cluster():
    folder = Path(confluent_kafka.__file__).parent.parent / "confluent_kafka.libs"
    found = sorted(folder.glob("librdkafka*.so*"))
    if not found:
        pytest.skip("this build of confluent-kafka brings no librdkafka of its own")
    made = Cluster(ctypes.CDLL(str(found[0])))
    yield made
    made.close()


def nothing(cluster, done):
    pass


def errors(cluster, done):
    """Answers that say: not now, not here."""
    while not done.wait(1):
        cluster.answer(PRODUCE, NOT_LEADER, TIMED_OUT, FEW_REPLICAS)
        # A fetch may wait half a second for its error: of two each second nothing else would ever come.
        cluster.answer(FETCH, NOT_LEADER)


def outages(cluster, done):
    """One broker after the other is gone for a while."""
    broker = 0
    while not done.is_set():
        broker = broker % 3 + 1
        cluster.down(broker)
        done.wait(0.5)
        cluster.up(broker)
        done.wait(0.5)


@contextmanager
def under(trouble, cluster):
    done = threading.Event()
    thread = threading.Thread(target=trouble, args=(cluster, done))
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@pytest.mark.slow
@pytest.mark.parametrize("trouble", [nothing, errors, outages])
def test_every_output_comes_in_order_whatever_brokers_do(cluster, tmp_path, trouble):
    cluster.make("in", 4)
    cluster.make("out", 4)
    kafka.run(kafka.put(cluster.brokers, "in", records(0, EVENTS, 4)))
    brokers = cluster.brokers
    parts = PARTS | {
        "source": source(brokers, "in"),
        "sink": f'{{type: kafka, brokers: "{brokers}", topic: out, delivery: at_least_once}}',
        "checkpoint": "{dir: job, every_s: 0.2}",
        "limits": "{max_batch_events: 16}",
    }
    context, _ = context_at(tmp_path)
    text = "".join(f"{name}: {part}\n" for name, part in parts.items())
    spec = load_pipeline(text, "p.yaml", REGISTRY, context, {})
    pipeline, made, end = build_job(spec, REGISTRY, context), [0], time.monotonic() + 120

    def count(report):
        made[0] += report.outputs
        time.sleep(0.01)  # so that there is time for trouble

    with under(trouble, cluster):
        run(pipeline, lambda: made[0] >= EVENTS or time.monotonic() > end, count)
    assert made[0] == EVENTS
    found = kafka.run(kafka.found(brokers, "out", "read_uncommitted"))
    for number, some in found.items():
        offsets = [json.loads(value)["kafka.offset"] for _, _, value, _ in some]
        assert offsets == list(range(EVENTS // 4)), number
