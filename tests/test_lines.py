from __future__ import annotations

import random
import time
import tracemalloc

import pytest

from streamrnn.codecs.lines import LineFramer
from streamrnn.events import Frames, Origin

Record = tuple[bytes, int, int, str]
"""Bytes, position, line number, reason it was refused."""

BOM = b"\xef\xbb\xbf"
SAMPLE = BOM + b'{"a":1}\r\n\n{"b":22}\n  \t\r\n  x \n\r\n' + b"y" * 13 + b"\n" + b"z" * 12 + b"\r\nend"
SAMPLE_RECORDS: list[Record] = [
    (b'{"a":1}', 3, 1, ""),
    (b'{"b":22}', 13, 3, ""),
    (b"  x ", 27, 5, ""),
    (b"y" * 12, 34, 7, "line of more than 12 bytes"),
    (b"z" * 12, 48, 8, ""),
    (b"end", 62, 9, ""),
]


def records(frames: Frames) -> list[Record]:
    parts = [frames.buffer[start:end] for start, end in zip(frames.starts, frames.ends, strict=True)]
    reasons = [frames.refused.get(index, "") for index in range(len(frames))]
    places = zip(frames.positions.tolist(), frames.numbers.tolist(), strict=True)
    return [(part, *place, reason) for part, place, reason in zip(parts, places, reasons, strict=True)]


def drain(framer: LineFramer, limit: int = 512) -> list[Record]:
    found: list[Record] = []
    while frames := framer.take(limit):
        assert len(frames) <= limit
        found += records(frames)
    return found


def framed(pieces: list[bytes], max_record_bytes: int, limit: int = 512, position: int = 0) -> list[Record]:
    framer = LineFramer(max_record_bytes, position)
    found: list[Record] = []
    for piece in pieces:
        framer.feed(piece)
        found += drain(framer, limit)
    framer.finish()
    found += drain(framer, limit)
    assert framer.position == position + sum(map(len, pieces))
    return found


def cut(text: bytes, chance: random.Random) -> list[bytes]:
    cuts = sorted(chance.choices(range(len(text) + 1), k=chance.randint(0, 8)))
    return [text[low:high] for low, high in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def split_by_hand(text: bytes, max_record_bytes: int) -> list[Record]:
    position = 3 if text.startswith(BOM) else 0
    found: list[Record] = []
    for number, line in enumerate(text[position:].split(b"\n"), start=1):
        record = line[:-1] if line.endswith(b"\r") else line
        if len(record) > max_record_bytes:
            kept = record[: min(256, max_record_bytes)]
            found.append((kept, position, number, f"line of more than {max_record_bytes} bytes"))
        elif record.strip(b" \t\r"):
            found.append((record, position, number, ""))
        position += len(line) + 1
    return found


def test_the_sample_in_one_piece() -> None:
    assert framed([SAMPLE], 12) == SAMPLE_RECORDS
    assert split_by_hand(SAMPLE, 12) == SAMPLE_RECORDS


def test_the_sample_byte_by_byte() -> None:
    assert framed([SAMPLE[i : i + 1] for i in range(len(SAMPLE))], 12) == SAMPLE_RECORDS


def test_the_sample_in_every_two_pieces() -> None:
    for place in range(len(SAMPLE) + 1):
        assert framed([SAMPLE[:place], SAMPLE[place:]], 12) == SAMPLE_RECORDS


@pytest.mark.parametrize("seed", range(5))
def test_any_text_in_any_pieces(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(500):
        text = b"".join(chance.choices([b"\n", b"\r\n", b"\r", b" ", b"ab", b"c" * 7, BOM], k=40))
        limit = chance.choice([1, 6, 13, 300])
        assert framed(cut(text, chance), limit, limit=chance.choice([1, 3, 512])) == split_by_hand(
            text, limit
        )


def test_pieces_fed_before_the_first_take_make_one_stream() -> None:
    framer = LineFramer(12)
    for place in range(0, len(SAMPLE), 5):
        framer.feed(SAMPLE[place : place + 5])
    framer.finish()
    assert drain(framer) == SAMPLE_RECORDS


def test_half_a_line_is_a_record_only_at_the_end() -> None:
    framer = LineFramer(100)
    framer.feed(b"one\ntw")
    assert [record for record, *_ in drain(framer)] == [b"one"]
    assert framer.position == 4
    framer.feed(b"o")
    assert len(framer.take(10)) == 0
    framer.finish()
    assert drain(framer) == [(b"two", 4, 2, "")]
    assert len(framer.take(10)) == 0


@pytest.mark.parametrize("text", [b"", b"\n\n", b" \r\n\t", BOM, BOM + b"\n"])
def test_a_stream_without_records(text: bytes) -> None:
    assert framed([text], 10) == []


@pytest.mark.parametrize("text", [BOM[:1], BOM[:2], BOM[:2] + b"x"])
def test_half_a_byte_order_mark_is_data(text: bytes) -> None:
    assert framed([text], 10) == [(text, 0, 1, "")]


def test_a_stream_goes_on_from_a_position() -> None:
    for position in (13, 19):
        rest = SAMPLE[position:]
        assert [record[:1] for record in framed([rest], 12, position=position)] == [
            record[:1] for record in split_by_hand(rest, 12)
        ]
    assert framed([BOM], 12, position=5) == [(BOM, 5, 1, "")]


def test_position_is_that_of_the_next_record() -> None:
    framer = LineFramer(100)
    framer.feed(b"\n\none\n\ntwo\nthree\n")
    assert framer.position == 2
    framer.take(1)
    assert framer.position == 7
    framer.take(1)
    assert framer.position == 11
    framer.take(1)
    assert framer.position == 17


def test_a_long_line_is_discarded_to_its_end_and_told_again_from_its_position() -> None:
    framer = LineFramer(1000)
    framer.feed(b"a\n" + b"x" * 600)
    assert [record for record, *_ in drain(framer)] == [b"a"]
    framer.feed(b"y" * 600)
    assert drain(framer) == [(b"x" * 256, 2, 2, "line of more than 1000 bytes")]
    for _ in range(3):
        framer.feed(b'{"tail":1}')
        assert len(framer.take(10)) == 0
    assert framer.position == 2
    framer.feed(b"\nb\n")
    assert drain(framer) == [(b"b", 1233, 3, "")]


def test_a_line_of_a_megabyte() -> None:
    line = b"x" * 1_000_000
    pieces = [line[i : i + 5000] for i in range(0, len(line), 5000)]
    assert framed([*pieces, b"\r\n", b"y"], len(line)) == [(line, 0, 1, ""), (b"y", 1_000_002, 2, "")]
    assert framed([*pieces, b"\n"], len(line) - 1) == [(b"x" * 256, 0, 1, "line of more than 999999 bytes")]


def test_memory_stays_bounded_in_an_endless_line() -> None:
    framer = LineFramer(100_000)
    piece = b"x" * 65536
    tracemalloc.start()
    for _ in range(500):
        framer.feed(piece)
        framer.take(10)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 4 * (100_000 + len(piece))


def test_many_small_takes_copy_nothing_twice() -> None:
    framer = LineFramer(100)
    framer.feed(b"record\n" * 150_000)
    begin_s = time.perf_counter()
    while framer.take(64):
        pass
    assert time.perf_counter() - begin_s < 2


def test_a_buffer_is_as_long_as_its_records() -> None:
    framer = LineFramer(100)
    framer.feed(b"record\n" * 1000)
    frames = framer.take(3)
    assert frames.buffer == b"record\nrecord\nrecord"
    block = frames.block(Origin("stdin", "stdin"))
    assert [block.record(index) for index in range(3)] == [b"record"] * 3
