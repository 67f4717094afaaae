"""Reading a Kafka log: the `kafka_log` source, checksums checked, against aiokafka's bare loop over records.

    python benchmarks/kafka_log.py [EVENTS]

Both read the same file, 500 events a batch, in this process, by turns; what counts is
processor time, the best of fifteen.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from aiokafka.record.memory_records import MemoryRecords
from streamrnn_kafka.log_source import build
from streamrnn_kafka.log_writer import PartitionWriter
from streamrnn_kafka.options import KafkaLogSinkConfig, KafkaLogSourceConfig
from streamrnn_kafka.records import COMPRESSIONS

from streamrnn.context import Context
from streamrnn.ports import EndOfStream

BATCH, TURNS, LIMIT = 500, 15, 4096


def write(context: Context, events: int, compression: str) -> Path:
    config = KafkaLogSinkConfig(path="log", topic="t", compression=compression)
    writer = PartitionWriter(context.fs, context.path("log") / "t-0", config)
    for start in range(0, events, BATCH):
        numbers = range(start, start + BATCH)
        writer.append(
            [b"k%d" % (i * 7919 % 1000) for i in numbers],
            [b'{"carrier": "AA", "tail": "N%05d", "delay": %d.5}' % (i * 31 % 9999, i % 97) for i in numbers],
            [1_700_000_000_000 + i for i in numbers],
        )
    writer.close()
    return context.path("log") / "t-0" / f"{0:020d}.log"


def bare(path: Path) -> int:
    """The value of every record, looked at and let go; no checksum."""
    records, count = MemoryRecords(path.read_bytes()), 0
    while records.has_next():
        for record in records.next_batch():
            count += record.value is not None
    return count


def ours(context: Context, *fields: str) -> int:
    """Blocks of values, and with them what else is asked for."""
    source = build(KafkaLogSourceConfig(path="log", topic="t"), context, lambda: None)
    source.supply(fields)
    count = 0
    try:
        while True:
            block = source.read(LIMIT, 0)
            count += len(block) if hasattr(block, "buffer") else 0
    except EndOfStream:
        source.close()
        return count


def timed(call, *arguments):
    start = time.process_time()
    count = call(*arguments)
    return time.process_time() - start, count


def best(path: Path, context: Context) -> list[float]:
    """Seconds for the bare loop, for values, and for values and keys."""
    calls = ((bare, path), (ours, context), (ours, context, "kafka.key"))
    found = [[timed(*call) for call in calls] for _ in range(TURNS)]
    assert len({count for turn in found for _, count in turn}) == 1
    return [min(seconds for seconds, _ in column) for column in zip(*found, strict=True)]


def main():
    events = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000
    print("| compression | bare loop, events/s | values, events/s | its time / bare | with keys / bare |")
    print("| --- | --- | --- | --- | --- |")
    for compression in COMPRESSIONS:
        with tempfile.TemporaryDirectory() as folder:
            context = Context(base_dir=Path(folder))
            loop, values, keys = best(write(context, events, compression), context)
            rates = f"{events / loop:,.0f} | {events / values:,.0f}"
            print(f"| {compression} | {rates} | {values / loop:.2f} | {keys / loop:.2f} |", flush=True)


if __name__ == "__main__":
    main()
