"""From log to log on a disk that loses power; STREAMRNN_SEEDS makes as many jobs."""

import os
from pathlib import Path

import pytest
from crash_harness import BASE, Job, run_seed, swapped
from crash_harness import _deaf as deaf
from kafka_logs import all_of, make_log
from streamrnn_kafka.log_reader import PartitionReader
from streamrnn_kafka.log_writer import PartitionWriter

SEEDS = int(os.environ.get("STREAMRNN_SEEDS", "12"))
PIPELINE = """
source: {type: kafka_log, path: in, topic: events}
decode: {type: jsonl}
event:
  key: kafka.key
  time: {field: kafka.timestamp, unit: ms}
  inputs: {x: [{field: x}]}
reset: [{type: every, events: 7}]
model: {type: formula, state: {s: 0.5}, update: {s: 0.3*s + x}, output: {y: "1.0 * s"}}
encode: {type: jsonl, include: [kafka.offset, kafka.headers.i], fields: {y: {type: output, output: y}}}
sink: {type: kafka_log, path: out, topic: scores, segment_bytes: 1024}
dead_letter: {path: bad.txt}
limits: {max_keys: 9}
checkpoint: {dir: job, every_s: 2, keep: 1}
"""


class LogJob(Job):
    """A job whose output is compared as records, whatever batches they are cut into."""

    def outcome(self, fs, state):
        folders = sorted({Path(path).parent for path in fs.cached if "/out/scores-" in path})
        found = {}
        for folder in folders:
            reading = PartitionReader(fs, folder)
            reading.seek(0)
            found[folder.name] = all_of(reading, 1000)
        return found, fs.content(BASE / "bad.txt"), state


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    folder = tmp_path_factory.mktemp("logs")
    make_log(folder, "events", 3, 70, segment_bytes=1500)
    files = {f"in/{path.relative_to(folder)}": path.read_bytes() for path in folder.rglob("*.*")}
    return LogJob(PIPELINE, files)


@pytest.fixture(scope="module")
def expected(job):
    outputs, rejected, state = job.whole()
    assert [len(records) for records in outputs.values()] == [70, 70, 70]
    return outputs, rejected, state


def test_no_record_is_lost_doubled_or_changed(job, expected):
    crashes = 0
    for seed in range(SEEDS):
        seen = run_seed(job, expected, seed)
        assert seen.wrong is None, f"seed {seed}: {seen.wrong}"
        crashes += seen.crashes
    assert crashes >= SEEDS


SABOTAGES = {
    "records are not synced": deaf(lambda kind, name, before: name.endswith(".log")),
    "names of new segments are not synced": deaf(lambda kind, name, before: name.startswith("scores-")),
    "full segments are not synced": lambda: swapped(PartitionWriter, "sync", _only_the_last),
    "nothing is cut": lambda: swapped(PartitionWriter, "cut", lambda self, segment, size: None),
    "the sink's place is not synced": lambda: swapped(PartitionWriter, "sync", lambda self: None),
}


def _only_the_last(self):
    self._unsynced.clear()
    sync(self)


sync = PartitionWriter.sync


@pytest.mark.slow
@pytest.mark.parametrize("name", SABOTAGES)
def test_a_sabotage_shows(job, expected, name):
    assert any(run_seed(job, expected, seed, SABOTAGES[name]).wrong for seed in range(40))
