"""Reading partitions of logs that Kafka's own classes wrote (golden/, by java/WriteGolden.java)."""

import json
import os
import random
import shutil
from contextlib import closing

import pytest
from kafka_logs import GOLDEN, START_MS, all_of, batches, reader, writer
from streamrnn_kafka.segments import BrokenLogError, Segment, Window, walk

from streamrnn.context import FileSystem
from streamrnn.errors import SourceError

TOLD = [json.loads(line) for line in (GOLDEN / "golden.jsonl").read_text().splitlines()]
PARTITION = GOLDEN / "golden-0"


def expected(kinds):
    """Records as the other implementation told them."""
    return [
        (
            record["offset"],
            record["timestamp"],
            record["key"] and record["key"].encode(),
            record["value"] and record["value"].encode(),
            [(name, value and value.encode()) for name, value in record["headers"]],
        )
        for record in TOLD
        if record["kind"] in kinds
    ]


SEED, FLIPS = os.getpid(), int(os.environ.get("STREAMRNN_SEEDS", "120"))
"""STREAMRNN_SEEDS=4000 flips a bit in every byte."""
SEEN = {
    True: ("plain", "append time", "committed"),
    False: ("plain", "append time", "committed", "aborted"),
}


@pytest.mark.parametrize("committed", SEEN)
@pytest.mark.parametrize("limit", [1, 7, 1000])
def test_a_log_of_another_implementation_is_read_to_the_last_record(committed, limit):
    reading = reader(PARTITION, committed=committed)
    assert all_of(reading, limit) == expected(SEEN[committed])
    assert reading.has_ended
    assert reading.next_offset == TOLD[-1]["offset"] + 1
    assert reading.torn() is None


@pytest.mark.parametrize("at", range(0, TOLD[-1]["offset"] + 2))
def test_reading_can_begin_at_any_offset(at):
    assert all_of(reader(PARTITION, at)) == [record for record in expected(SEEN[True]) if record[0] >= at]


def copy(tmp_path, name=None):
    shutil.copytree(PARTITION, tmp_path / "golden-0")
    return tmp_path / "golden-0"


@pytest.mark.parametrize("file", sorted(path.name for path in PARTITION.iterdir()))
def test_a_flipped_bit_is_named_or_means_nothing(tmp_path, file):
    folder = copy(tmp_path)
    path = folder / file
    good, records, told, silent = path.read_bytes(), expected(SEEN[True]), [], []
    flipped = sorted(random.Random(SEED).sample(range(len(good)), min(len(good), FLIPS)))
    for at in flipped:
        path.write_bytes(good[:at] + bytes([good[at] ^ (1 << at % 8)]) + good[at + 1 :])
        try:
            found = all_of(reader(folder), 1000)
        except BrokenLogError as error:
            told.append((at, str(error)))
        else:
            if found != records:
                silent.append(at)
    assert silent == []
    for at, message in told:
        named, _, byte = message.partition(": byte ")
        assert named.startswith(f"{folder}/"), message
        assert named != str(path) or int(byte.partition(":")[0]) <= at, message
    others = {message.partition(": byte ")[0] for _, message in told} - {str(path)}
    assert len(told) > len(flipped) * 0.8
    assert len(others) <= 1  # a batch that claims too many offsets is noticed where the next one begins


def batches_end(path):
    """Where the batches of a segment end."""
    with closing(Window(FileSystem(), path)) as window:
        return [at + head.size for at, head in walk(window, path)]


BATCHES = batches_end(PARTITION / f"{163:020d}.log")


def test_a_torn_tail_is_left_out(tmp_path):
    folder = copy(tmp_path)
    path = folder / f"{163:020d}.log"
    good, whole = path.read_bytes(), expected(SEEN[True])
    for size in range(len(good)):
        path.write_bytes(good[:size])
        reading = reader(folder)
        found = all_of(reading)
        assert found == whole[: len(found)]
        kept = [0, *(at for at in BATCHES if at <= size)][-1]
        assert len(found) == len(whole) - (1 if len(BATCHES) > 1 and kept >= BATCHES[1] else 3)
        told = f"from byte {kept} on, was not written whole" if good[kept:size].strip(b"\0") else ""
        assert told in (reading.torn() or "")


def test_what_was_torn_is_no_end_where_another_segment_follows(tmp_path):
    folder = copy(tmp_path)
    path = folder / f"{0:020d}.log"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(BrokenLogError, match="was not written whole, and the log goes on in another file"):
        all_of(reader(folder))


def test_a_missing_segment_is_a_gap_unless_the_topic_is_compacted(tmp_path):
    folder = copy(tmp_path)
    (folder / f"{103:020d}.log").unlink()
    with pytest.raises(BrokenLogError, match="offsets 103 to 162 are missing before offset 163"):
        all_of(reader(folder))
    found = all_of(reader(folder, compacted=True))
    assert [record[0] for record in found] == [*range(103), 163, 164, 166]


def test_an_open_transaction_holds_up_what_follows_until_it_ends(tmp_path):
    whole = copy(tmp_path)
    last = (whole / f"{163:020d}.log").read_bytes()
    marker_at = last.index((165).to_bytes(8, "big"))
    rest = last.index((166).to_bytes(8, "big"), marker_at)
    path = whole / f"{163:020d}.log"
    path.write_bytes(last[:marker_at])
    reading = reader(whole, 163, end=False)
    assert all_of(reading) == []
    assert reading.is_blocked
    with path.open("ab") as file:
        file.write(last[marker_at:rest])
    assert [record[0] for record in all_of(reading)] == [163, 164]
    with path.open("ab") as file:
        file.write(last[rest:])
    assert [record[0] for record in all_of(reading)] == [166]
    assert reading.next_offset == 167


def test_a_log_that_grows_is_followed_from_file_to_file(tmp_path):
    log, made = writer(tmp_path / "t-0", segment_bytes=3000), []
    reading = reader(tmp_path / "t-0", end=False)
    found = all_of(reading)
    for batch in batches(3, 500):
        made += batch[1]
        log.append(*batch)
        found += all_of(reading)
    assert [record[3] for record in found] == made
    assert [record[0] for record in found] == list(range(500))
    assert len(list((tmp_path / "t-0").glob("*.log"))) > 5


@pytest.mark.parametrize("damage", ["none", "missing", "garbage", "zeros"])
def test_offsets_and_times_are_found_by_the_index_or_without_it(tmp_path, damage):
    log = writer(tmp_path / "t-0", segment_bytes=20_000)
    for batch in batches(4, 2000):
        log.append(*batch)
    log.close()
    for path in [*(tmp_path / "t-0").glob("*.index"), *(tmp_path / "t-0").glob("*.timeindex")]:
        if damage == "missing":
            path.unlink()
        elif damage == "garbage":
            path.write_bytes(bytes(range(1, 200)))
        elif damage == "zeros":
            path.write_bytes(path.read_bytes() + bytes(240))
    for at in [0, 1, 777, 1999, 2000]:
        found = all_of(reader(tmp_path / "t-0", at))
        assert [record[0] for record in found] == list(range(at, 2000))
        assert reader(tmp_path / "t-0").offset_at(START_MS + 10 * at) == at
        assert reader(tmp_path / "t-0").offset_at(START_MS + 10 * at - 9) == at
    assert reader(tmp_path / "t-0").log_end() == 2000


def test_an_index_spares_the_way_there(tmp_path):
    log = writer(tmp_path / "t-0")
    for batch in batches(5, 3000):
        log.append(*batch)
    log.close()
    reading = reader(tmp_path / "t-0", 2900)
    (path,) = (tmp_path / "t-0").glob("*.log")
    damaged = bytearray(path.read_bytes())
    damaged[80] ^= 1  # in the first batch, which nobody looks at
    path.write_bytes(damaged)
    assert len(all_of(reading)) == 100
    assert len(all_of(reader(tmp_path / "t-0", 2900))) == 100


def place_after(folder, count):
    reading = reader(folder)
    reading.take(count)
    return json.loads(json.dumps(reading.place()))


@pytest.mark.parametrize("count", [0, 1, 50, 110, 10_000])
def test_a_place_is_gone_on_from(count):
    reading = reader(PARTITION, 0)
    reading.resume(place_after(PARTITION, count))
    assert all_of(reading) == expected(SEEN[True])[count:]


def test_a_log_that_is_not_what_it_was_is_refused(tmp_path):
    folder, place = copy(tmp_path), place_after(PARTITION, 105)
    (folder / f"{0:020d}.log").unlink()
    reader(folder, 103).resume(place)
    (folder / f"{103:020d}.log").unlink()
    with pytest.raises(SourceError, match="records 105 to 162 were deleted before they were read"):
        reader(folder, 163, compacted=True).resume(place)
    (folder / f"{163:020d}.log").unlink()
    with pytest.raises(SourceError, match="expected records up to 105, found none from 0 on: cut"):
        reader(folder).resume(place)
    other = writer(folder)
    for batch in batches(1, 200):
        other.append(*batch)
    other.close()
    with pytest.raises(SourceError, match="is not that of the last commit: it was replaced"):
        reader(folder).resume(place)


def test_a_segment_is_known_by_its_name_alone(tmp_path):
    folder = copy(tmp_path)
    for name in (
        "00000000000000000103.log.deleted",
        "00000000000000000103.snapshot",
        "leader-epoch-checkpoint",
    ):
        (folder / name).write_bytes(b"nothing to read")
    assert all_of(reader(folder)) == expected(SEEN[True])
    assert Segment(folder, 103).path.exists()
