from __future__ import annotations

import gzip
import io
import itertools
import os
import random
import re
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from streamrnn.builtins.ends import FileSourceConfig
from streamrnn.codecs.lines import LineFramer
from streamrnn.context import Context
from streamrnn.errors import SourceError
from streamrnn.events import Block, Mark, Origin
from streamrnn.ports import EndOfStream, Framer
from streamrnn.sources import file
from streamrnn.sources.compressed import GzipReader

LINES = [b'{"n": %d, "x": "%s"}' % (n, b"ab" * (n % 7)) for n in range(2000)]
TEXT = b"\n".join(LINES) + b"\n"


def new_framer(position: int = 0) -> Framer:
    return LineFramer(1000, position)


def open_source(path: Path, **config: Any) -> file.FileSource:
    given = FileSourceConfig(path=path.name, **config)
    source = file.build(given, Context(base_dir=path.parent), new_framer)
    assert isinstance(source, file.FileSource)
    return source


def read_all(source: file.FileSource) -> tuple[list[bytes], str]:
    """The records and what ended them."""
    found: list[bytes] = []
    while True:
        try:
            item = source.read(100, 0)
        except EndOfStream:
            return found, "end"
        except SourceError as error:
            source.close()
            return found, str(error)
        if isinstance(item, Block):
            found += [item.record(i) for i in range(len(item))]


def unpack(data: bytes, size: int = 100, max_ratio: float = 1000) -> tuple[bytes, str]:
    """Everything a reader gives, and what ended it."""
    reader, found = GzipReader(io.BytesIO(data), "x.gz", max_ratio), b""
    try:
        while more := reader.read(size):
            assert len(more) <= size
            found += more
    except SourceError as error:
        return found, str(error)
    return found, "end"


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    path = tmp_path / "events.jsonl.gz"
    path.write_bytes(gzip.compress(TEXT))
    return path


def test_a_compressed_file_reads_like_a_plain_one(packed: Path) -> None:
    plain = packed.with_suffix("")
    plain.write_bytes(TEXT)
    ends = []
    for path in (plain, packed):
        source = open_source(path)
        assert read_all(source) == (LINES, "end")
        ends.append([*source.position().values()])
    assert ends == [[len(TEXT)], [len(TEXT)]], "positions are those of what was decompressed"


def test_the_mark_at_the_end(tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"1\n2\n"))
    source = open_source(tmp_path / "a.gz")
    assert isinstance(source.read(10, 0), Block)
    assert source.read(10, 0) == Mark("source_end", Origin("file", "a.gz"), 4)


@pytest.mark.parametrize(
    ("name", "compression", "unpacked"),
    [
        ("a.gz", "auto", True),
        ("a.log", "auto", False),
        ("a.log", "gzip", True),
        ("a.gz", "none", False),
    ],
)
def test_what_is_decompressed(tmp_path: Path, name: str, compression: str, unpacked: bool) -> None:
    (tmp_path / name).write_bytes(gzip.compress(TEXT))
    found, _ = read_all(open_source(tmp_path / name, compression=compression))
    assert (found == LINES) is unpacked


def test_a_compressed_pipe() -> None:
    reader, writer = os.pipe()
    os.write(writer, gzip.compress(b"1\n2\n"))
    os.close(writer)
    source = open_source(Path(f"/dev/fd/{reader}"), compression="gzip")
    os.close(reader)
    assert read_all(source) == ([b"1", b"2"], "end")


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
@pytest.mark.parametrize(
    "data",
    [
        gzip.compress(b""),
        gzip.compress(b"one"),
        gzip.compress(b"one") + gzip.compress(b"") + gzip.compress(b" two"),
        gzip.compress(b"one") + bytes(200_000) + gzip.compress(b"two") + bytes(512),
        gzip.compress(os.urandom(300_000), 0),
        b"".join(gzip.compress(b"%d" % n) for n in range(3000)),
    ],
    ids=["empty", "one", "several", "padded", "stored", "many"],  # the bytes tell the time, and name no test
)
def test_members(data: bytes, size: int) -> None:
    assert unpack(data, size if len(data) < 100_000 else max(size, 1000)) == (gzip.decompress(data), "end")


def test_a_file_that_is_torn_anywhere_gives_what_came_before() -> None:
    data = gzip.compress(b"one\n") + gzip.compress(b"two\n" * 50)
    second = len(gzip.compress(b"one\n"))
    for length in range(1, len(data)):
        found, told = unpack(data[:length])
        assert (b"one\n" + b"two\n" * 50).startswith(found)
        if length == second:
            assert (found, told) == (b"one\n", "end")
            continue
        begun = 0 if length < second else second
        assert told == (
            f"x.gz: byte {length}: the file ends within the gzip member that begins at byte {begun}"
        )
        assert len(found) >= (4 if length >= second else 0)


@pytest.mark.parametrize("level", [1, 9])
def test_a_file_that_is_damaged_anywhere_gives_what_came_before(level: int) -> None:
    """What is given agrees with what a reader of one bit more than each byte at a time can get."""
    text = bytes(random.Random(level).choices(b"abcd\n", k=400))
    data = gzip.compress(text, level, mtime=0)
    for at, bit in itertools.product(range(len(data)), (0, 3, 7)):
        damaged = bytearray(data)
        damaged[at] ^= 1 << bit
        found, told = unpack(bytes(damaged), 64)
        assert found.startswith(one_by_one(bytes(damaged))), f"byte {at}"
        if told == "end":  # what is not covered by a checksum, such as the time
            assert found == text
        else:
            assert re.match(r"x.gz: byte \d+: (damaged in|the file ends within) the gzip member", told)


def one_by_one(data: bytes) -> bytes:
    inflate, found = zlib.decompressobj(31), b""
    try:
        for at in range(len(data)):
            found += inflate.decompress(data[at : at + 1])
    except zlib.error:
        pass
    return found


def test_records_before_the_damage_are_served_and_the_byte_is_told(packed: Path) -> None:
    data = bytearray(gzip.compress(TEXT)) + gzip.compress(b"more\n")
    last = len(gzip.compress(TEXT))
    data[last] ^= 1
    packed.write_bytes(data)
    assert read_all(open_source(packed)) == (
        LINES,
        f"events.jsonl.gz: byte {last + 1}: damaged in the gzip member that begins at byte {last}: "
        "incorrect header check",
    )
    packed.write_bytes(gzip.compress(TEXT)[: last // 2])
    found, told = read_all(open_source(packed))
    assert 500 < len(found) < 1500
    assert found == LINES[: len(found)], "whole records only"
    assert told.startswith(f"events.jsonl.gz: byte {last // 2}: the file ends within the gzip member")


def test_a_wrong_checksum_is_told_at_the_end() -> None:
    data = bytearray(gzip.compress(TEXT))
    data[-8] ^= 1
    found, told = unpack(bytes(data), 1000)
    assert found == TEXT
    assert told.endswith("begins at byte 0: incorrect data check")


@pytest.mark.parametrize(("data", "message"), [(b"", "found an empty one"), (b'{"a": 1}\n', "header check")])
def test_what_is_no_gzip_file(data: bytes, message: str) -> None:
    assert message in unpack(data)[1]


def test_a_failure_is_told_at_every_read() -> None:
    reader = GzipReader(io.BytesIO(b"no"), "x.gz", 1000)
    for _ in range(2):
        with pytest.raises(SourceError, match=r"x\.gz: byte 1: damaged"):
            reader.read(10)


def test_a_bomb_is_stopped_and_takes_little_memory(tmp_path: Path) -> None:
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(bytes(50_000_000)))
    tracemalloc.start()
    try:
        found, told = read_all(open_source(tmp_path / "bomb.gz"))
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
    finally:
        tracemalloc.stop()
    assert "expected at most 1000 times as many bytes as in the file, found" in told
    assert len(found) == 1, "one line that is too long"


@pytest.mark.parametrize(
    ("size", "max_ratio", "stopped"),
    [(1 << 20, 2, False), ((1 << 20) + 1, 2, True), (2 << 20, 2000, False), (2 << 20, 100, True)],
)
def test_the_ratio_is_that_of_the_file_beyond_its_first_mib(size: int, max_ratio: int, stopped: bool) -> None:
    found, told = unpack(gzip.compress(bytes(size)), 1 << 20, max_ratio)
    assert (told != "end") is stopped
    assert stopped or len(found) == size


@pytest.mark.parametrize(
    ("config", "message"),
    [({"compression": "zip"}, "'auto', 'none' or 'gzip'"), ({"max_ratio": 1}, "greater than 1")],
)
def test_options_that_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        FileSourceConfig(path="a", **config)
