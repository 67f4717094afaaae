"""What tests of logs share: logs to read, and logs read back."""

from __future__ import annotations

import json
import random
from pathlib import Path

from streamrnn_kafka.log_reader import PartitionReader
from streamrnn_kafka.log_writer import PartitionWriter
from streamrnn_kafka.options import KafkaLogSinkConfig
from streamrnn_kafka.records import rows

from streamrnn.context import FileSystem

GOLDEN = Path(__file__).parent / "golden"
START_MS = 1_700_000_000_000


OPEN = []
"""Readers and writers of a test, closed behind it."""


def reader(folder, at=None, end=True, **options):
    """A reader that begins at an offset, by default the first, and ends where the log ends by now."""
    found = PartitionReader(FileSystem(), folder, **options)
    OPEN.append(found)
    found.seek(found.log_start() if at is None else at)
    found.end = found.log_end() if end else None
    return found


def all_of(reading, limit=7):
    """What is left to read, as (offset, time, key, value, headers)."""
    found = []
    while (records := reading.take(limit)) is not None:
        columns = zip(records.offsets.tolist(), rows(records), records.headers, strict=True)
        found += [(at, time, key, value, list(headers)) for at, (key, value, time), headers in columns]
    return found


def content(root, topic):
    """All records of a topic by partition, without a word on how they were cut into batches."""
    folders = sorted(Path(root).glob(f"{topic}-*"))
    return {folder.name: all_of(reader(folder), 1000) for folder in folders}


def writer(folder, **options):
    OPEN.append(PartitionWriter(FileSystem(), folder, KafkaLogSinkConfig(path="-", topic="t", **options)))
    return OPEN[-1]


def close_all():
    while OPEN:
        OPEN.pop().close()


def batches(seed, n, keys=50, most=40):
    """n events for one partition, in batches of any size: (keys, values, timestamps, headers)."""
    rng, done = random.Random(seed), 0
    while done < n:
        size = min(rng.randrange(1, most), n - done)
        numbers = range(done, done + size)
        yield (
            [f"k{rng.randrange(keys)}".encode() for _ in numbers],
            [json.dumps({"x": rng.randrange(-40, 40) / 8}).encode() for _ in numbers],
            [START_MS + 10 * i for i in numbers],
            [[("i", str(i).encode())] for i in numbers],
        )
        done += size


def make_log(root, topic, partitions, n, **options):
    """A log of n events in each partition."""
    for number in range(partitions):
        log = writer(Path(root) / f"{topic}-{number}", **options)
        for batch in batches(number, n):
            log.append(*batch)
        log.sync()
        log.close()
