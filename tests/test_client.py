"""`streamrnn.client` against a pipeline that is killed: nothing lost, nothing doubled, resent bytes equal.

STREAMRNN_KILLS=200 kills as often.
"""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from streamrnn.client import Consumer, Producer, RefusedError
from streamrnn.context import FileSystem
from streamrnn.log import layout

KILLS = int(os.environ.get("STREAMRNN_KILLS", "4"))
PATIENCE_S = 600
"""On a machine that is busy with other things a start can take minutes."""
RUN = [sys.executable, "-m", "streamrnn", "run", "-q"]
MODEL = """
decode: {type: jsonl}
event: {key: k, time: {field: log.time, unit: us}, inputs: {x: [{field: x}]}}
reset: [{type: gap, gap_s: 0.2}]
model: {type: formula, state: {s: 0.5}, update: {s: 0.3*s + x}, output: {y: "1.0 * s"}}
encode:
  type: jsonl
  include: [k, log.producer, log.seq]
  fields: {y: {type: output, output: y}, n: {type: meta, name: steps}}
dead_letter: {path: bad.txt}
"""
LIVE = """
source: {type: socket, listen: "unix:in.sock", durability: log, log: ingest}
sink: {type: socket, to: consumers, listen: "unix:out.sock", log: out}
checkpoint: {dir: job, every_s: 0.05}
"""
ORACLE = """
source: {type: log, path: ingest, records: enveloped}
sink: {type: file, path: oracle.txt}
"""


class Producing(threading.Thread):
    """Sends records, each acknowledged before the next few, until told to stop."""

    def __init__(self, folder, name, stop):
        super().__init__(name=name)
        self.address, self.stop, self.sent = f"unix:{folder}/in.sock", stop, []
        self.rng = random.Random(name)

    def run(self):
        with Producer(self.address, self.name, patience_s=PATIENCE_S) as producer:
            while not self.stop.is_set():
                for _ in range(self.rng.choice([1, 1, 5, 30])):
                    record = {"k": self.rng.choice("abcdef"), "x": self.rng.randrange(99)}
                    assert producer.send(record) == len(self.sent)
                    self.sent.append(record)
                if self.rng.random() < 0.01:
                    producer.send(b"nonsense")
                    self.sent.append("nonsense")
                producer.flush()


class Consuming(threading.Thread):
    """Keeps every output, until its consumer is closed."""

    def __init__(self, folder):
        super().__init__()
        self.consumer = Consumer(f"unix:{folder}/out.sock", start=0, patience_s=PATIENCE_S)
        self.seen = []
        self.got = threading.Condition()

    def run(self):
        for offset, line in self.consumer:
            with self.got:
                assert offset == len(self.seen), "an output is missing or came twice"
                self.seen.append(line)
                self.got.notify_all()

    def wait_for_more(self, count, folder):
        with self.got:
            came = self.got.wait_for(lambda: len(self.seen) > count, timeout=PATIENCE_S)
        assert came, (folder / "err.txt").read_text()


def logged(folder):
    """What the ingest log has of each producer."""
    found = {}
    for first in layout.segments(FileSystem(), folder / "ingest" / "0"):
        for line in layout.segment_path(folder / "ingest" / "0", first).read_bytes().splitlines():
            envelope = json.loads(line)
            if "value" in envelope or "text" in envelope:
                record = envelope.get("value", envelope.get("text"))
                found.setdefault(envelope["producer"], []).append((envelope["seq"], record))
    return found


def start(folder):
    with (folder / "err.txt").open("ab") as err:
        return subprocess.Popen([*RUN, "live.yaml"], cwd=folder, stderr=err)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "live.yaml").write_text(LIVE + MODEL)
    (tmp_path / "oracle.yaml").write_text(ORACLE + MODEL)
    return tmp_path


@pytest.mark.slow
@pytest.mark.timeout(10_000)
def test_kills_at_random_moments(folder):
    rng, stop = random.Random(os.getpid()), threading.Event()
    producers = [Producing(folder, f"p{i}", stop) for i in range(8)]
    consumer = Consuming(folder)
    process = start(folder)
    for thread in (*producers, consumer):
        thread.start()
    for _ in range(KILLS):
        consumer.wait_for_more(len(consumer.seen), folder)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=rng.random() * 0.3)
        process.kill()
        process.wait()
        process = start(folder)
    stop.set()
    for thread in producers:
        thread.join(PATIENCE_S)
    wanted = sum(1 for p in producers for record in p.sent if record != "nonsense")
    consumer.wait_for_more(wanted - 1, folder)
    consumer.consumer.close()
    consumer.join(PATIENCE_S)
    process.terminate()
    assert process.wait(20) == 0
    assert logged(folder) == {p.name: list(enumerate(p.sent)) for p in producers}
    subprocess.run([*RUN, "oracle.yaml"], cwd=folder, check=True, stderr=subprocess.DEVNULL)
    assert (folder / "oracle.txt").read_bytes().splitlines() == consumer.seen


def test_a_program_that_begins_again_goes_on_with_the_next_record(folder):
    process = start(folder)
    address = f"unix:{folder}/in.sock"
    for records in (range(3), range(5)):
        with Producer(address, "p") as producer:
            for x in list(records)[producer.next :]:
                producer.send({"k": 1, "x": x})
    older = Producer(address, "p")
    newer = Producer(address, "p")
    assert (older.next, newer.next) == (5, 5)
    with pytest.raises(RefusedError, match=r"^fenced: "):
        send_and_flush(older)
    newer.close()
    outputs = Consumer(f"unix:{folder}/out.sock", start=2)
    got = [output for _, output in zip(range(3), outputs, strict=False)]
    assert [offset for offset, _ in got] == [2, 3, 4]
    assert [json.loads(line)["log.seq"] for _, line in got] == [2, 3, 4]
    outputs.close()
    process.terminate()
    assert process.wait(20) == 0


def test_closing_a_consumer_ends_it_in_whatever_thread_it_waits(tmp_path):
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        listening.listen()
        consumer, got = Consumer(f"unix:{tmp_path}/s"), []
        thread = threading.Thread(target=lambda: got.extend(consumer))
        thread.start()
        connection, _ = listening.accept()
        with connection, connection.makefile("rwb", 0) as lines:
            lines.readline()
            lines.write(b'{"welcome": {"from": 0}}\n{"outputs": 1, "from": 0}\n{"y": 1}\n')
            consumer.close()
            thread.join(10)
    assert not thread.is_alive()
    assert got in ([], [(0, b'{"y": 1}')])
    assert list(consumer) == []


def send_and_flush(producer):
    producer.send({"k": 1, "x": 9})
    producer.flush()


@pytest.mark.parametrize("record", [b"", b" ", b"a\nb"])
def test_a_record_is_a_line(tmp_path, record):
    producer = object.__new__(Producer)
    with pytest.raises(ValueError, match="expected a line that is not empty"):
        producer.send(record)


def test_a_producer_hears_that_the_log_has_other_records(tmp_path):
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        listening.listen()

        def serve():
            connection, _ = listening.accept()
            with connection, connection.makefile("rwb", 0) as lines:
                lines.readline()
                lines.write(b'{"welcome": {"producer": "p", "epoch": 1, "next": 1}}\n')
                lines.readline()
                lines.write(b'{"ack": 2, "seq_conflict": [0]}\n')

        thread = threading.Thread(target=serve)
        thread.start()
        producer = Producer(f"unix:{tmp_path}/s", "p")
        with pytest.raises(RefusedError, match=r"^seq_conflict: .* \[0\]"):
            send_and_flush(producer)
        assert producer.acknowledged == 2
        thread.join()
        producer._link.close()


def test_patience_ends(tmp_path):
    with pytest.raises(FileNotFoundError):
        Producer(f"unix:{tmp_path}/nobody", "p", patience_s=0)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        next(iter(Consumer(f"tcp://127.0.0.1:{port}", patience_s=0)))


def test_it_needs_nothing_else_of_streamrnn():
    import streamrnn.client

    text = Path(streamrnn.client.__file__).read_text()
    assert "import streamrnn" not in text
    assert "from streamrnn" not in text
