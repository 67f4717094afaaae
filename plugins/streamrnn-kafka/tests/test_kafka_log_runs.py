"""`streamrnn run` from log to log: four live partitions, real kills, and Kafka's own classes as readers.

STREAMRNN_KILLS=200 makes as many kills.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from after_kills import but_suspicion
from kafka_logs import batches, content, make_log, writer

from streamrnn.commit import manifest as m

RUN = [sys.executable, "-m", "streamrnn", "run", "--quiet", "p.yaml"]
KILLS = int(os.environ.get("STREAMRNN_KILLS", "3"))
JARS = os.environ.get("STREAMRNN_KAFKA_JARS")
PIPELINE = """
source: {{type: kafka_log, path: in, topic: events, follow: {follow}}}
decode: {{type: jsonl}}
event: {{key: kafka.key, time: {{field: kafka.timestamp, unit: ms}}, inputs: {{x: [{{field: x}}]}}}}
reset: [{{type: every, events: 50}}]
model: {{type: formula, state: {{s: 0.5}}, update: {{s: 0.3*s + x}}, output: {{y: "1.0 * s"}}}}
encode: {{type: jsonl, include: [kafka.offset, kafka.partition, kafka.headers.i]}}
sink: {{type: kafka_log, path: out, topic: scores, compression: {compression}, segment_bytes: 60000}}
limits: {{max_batch_events: 64}}
checkpoint: {{dir: job, every_s: 0.02}}
"""


def job(folder, follow="false", compression="lz4"):
    folder.mkdir()
    (folder / "p.yaml").write_text(PIPELINE.format(follow=follow, compression=compression))
    return folder


def run(folder):
    done = subprocess.run(RUN, cwd=folder, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return content(folder / "out", "scores")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = job(tmp_path_factory.mktemp("whole") / "job")
    make_log(folder / "in", "events", 4, 3000, segment_bytes=30_000)
    found = run(folder)
    assert {name: len(records) for name, records in found.items()} == {f"scores-{n}": 3000 for n in range(4)}
    return found


class Producer(threading.Thread):
    """Appends to four partitions while they are read; every partition has 3000 events in the end."""

    def __init__(self, folder):
        super().__init__()
        self.logs = [writer(folder / f"events-{number}", segment_bytes=30_000) for number in range(4)]
        self.pause = threading.Event()

    def run(self):
        left = {number: batches(number, 3000) for number in range(4)}
        rng = random.Random(5)
        while left:
            number = rng.choice(sorted(left))
            batch = next(left[number], None)
            if batch is None:
                del left[number]
                continue
            self.logs[number].append(*batch)
            self.pause.wait(0.002)


def served(folder):
    """Events that the newest commit has served."""
    numbers = m.commit_numbers(os.listdir(folder / "job")) if (folder / "job").exists() else []
    return m.decode((folder / "job" / m.commit_name(numbers[0])).read_bytes())["events"] if numbers else 0


@pytest.mark.timeout(20_000)
@pytest.mark.slow
def test_kills_between_four_live_partitions(tmp_path, whole):
    rng, kills, rounds = random.Random(os.getpid()), 0, 0
    while kills < KILLS:
        rounds += 1
        folder = job(tmp_path / str(rounds), follow="true")
        producer = Producer(folder / "in")
        producer.start()
        before = 0
        while served(folder) < 12_000:
            process = subprocess.Popen(RUN, cwd=folder, stderr=subprocess.PIPE, text=True)
            while served(folder) == before and process.poll() is None:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=0.005)
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=rng.random() * 0.2)
            process.send_signal(signal.SIGKILL if kills < KILLS else signal.SIGTERM)
            kills += 1
            _, err = process.communicate(timeout=60)
            assert but_suspicion(err) == ""
            assert process.returncode in (0, -signal.SIGKILL)
            before = served(folder)
        producer.join()
        process = subprocess.Popen(RUN, cwd=folder, stderr=subprocess.PIPE, text=True)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=1)
        process.terminate()
        assert but_suspicion(process.communicate(timeout=60)[1]) == ""
        assert content(folder / "out", "scores") == whole
        shutil.rmtree(folder)


def java(program, *arguments):
    """What a program in java/ prints, with the jars of kafka-clients on its path."""
    path = Path(__file__).parent / "java" / f"{program}.java"
    utf8 = ["-Dfile.encoding=UTF-8", "-Dstdout.encoding=UTF-8"]
    command = ["java", *utf8, "-cp", f"{JARS}/*", str(path), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
@pytest.mark.skipif(
    JARS is None or shutil.which("java") is None,
    reason="needs java, and STREAMRNN_KAFKA_JARS as the folder of the jars of kafka-clients and its codecs",
)
@pytest.mark.parametrize("compression", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_kafkas_own_classes_read_what_is_written(tmp_path, whole, compression):
    folder = job(tmp_path / "job", compression=compression)
    make_log(folder / "in", "events", 1, 3000)
    run(folder)
    lines = [line.split("\t") for line in java("ReadLog", folder / "out" / "scores-0").splitlines()]
    records = [line[1:] for line in lines if line[0] == "record"]
    assert records == [
        [str(offset), str(time), key.decode(), value.decode(), ""]
        for offset, time, key, value, _ in whole["scores-0"]
    ]
    for kind in ("index", "time"):
        entries = [line for line in lines if line[0] == kind]
        assert entries
        assert all(right == "true" for _, _, right in entries)
