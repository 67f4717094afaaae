from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from streamrnn.builtins.ends import COMPONENTS, FileSourceConfig, StdinConfig
from streamrnn.codecs.lines import LineFramer
from streamrnn.context import Context, DescriptorStream
from streamrnn.errors import SourceError
from streamrnn.events import Block, Mark, Origin
from streamrnn.ports import EndOfStream, Framer, Source
from streamrnn.sources import file, stdin

STDIN = Origin("stdin", "stdin")


def new_framer(position: int = 0) -> Framer:
    return LineFramer(1000, position)


def lines(block: Block | Mark | None) -> list[bytes]:
    assert isinstance(block, Block)
    return [block.record(index) for index in range(len(block))]


def read_all(source: Source, limit: int = 512) -> list[Any]:
    found: list[Any] = []
    while True:
        try:
            item = source.read(limit, wait_ms=0)
        except EndOfStream:
            return found
        found.append(item if isinstance(item, Mark) else lines(item))


def files(source: Source) -> list[str]:
    return [item.origin.partition for item in read_all(source) if isinstance(item, Mark)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    texts = {
        "a.jsonl": "1\n2\n",
        "in/b.jsonl": "3\n\n4",
        "in/deep/c.jsonl": "5\n",
        "in/d.txt": "",
        "e[1].txt": "6\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def open_files(folder: Path, *paths: str) -> file.FileSource:
    source = file.build(FileSourceConfig(path=list(paths)), Context(base_dir=folder), new_framer)
    assert isinstance(source, file.FileSource)
    return source


def end(name: str, position: int) -> Mark:
    return Mark("source_end", Origin("file", name), position)


def test_files_in_order_each_with_its_end(folder: Path) -> None:
    source = open_files(folder, "in/b.jsonl", "in/d.txt", "a.jsonl")
    assert read_all(source) == [
        [b"3"],
        [b"4"],
        end("in/b.jsonl", 4),
        end("in/d.txt", 0),
        [b"1", b"2"],
        end("a.jsonl", 4),
    ]
    with pytest.raises(EndOfStream):
        source.read(1, 0)
    source.close()
    source.close()


def test_a_single_path_and_few_records_at_a_time(folder: Path) -> None:
    source = file.build(FileSourceConfig(path="a.jsonl"), Context(base_dir=folder), new_framer)
    block = source.read(1, 0)
    assert isinstance(block, Block)
    assert (lines(block), block.origin, block.positions.tolist()) == ([b"1"], Origin("file", "a.jsonl"), [0])
    assert read_all(source, limit=1) == [[b"2"], end("a.jsonl", 4)]


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["in/*"], ["in/b.jsonl", "in/d.txt"]),
        (["**/*.jsonl"], ["a.jsonl", "in/b.jsonl", "in/deep/c.jsonl"]),
        (["in/*.txt", "?.jsonl"], ["in/d.txt", "a.jsonl"]),
        (["in/[bc].jsonl"], ["in/b.jsonl"]),
        (["e[[]1].txt"], ["e[1].txt"]),
        (["./a.jsonl"], ["./a.jsonl"]),
    ],
)
def test_patterns(folder: Path, paths: list[str], expected: list[str]) -> None:
    assert files(open_files(folder, *paths)) == expected


def test_files_elsewhere_keep_their_full_name(folder: Path) -> None:
    context = Context(base_dir=folder / "in" / "deep")
    config = FileSourceConfig(path=[str(folder / "a.jsonl"), str(folder / "in" / "*.txt")])
    expected = [str(folder / "a.jsonl"), str(folder / "in" / "d.txt")]
    assert files(file.build(config, context, new_framer)) == expected


def test_the_folder_of_the_pipeline_is_not_a_pattern(tmp_path: Path) -> None:
    (tmp_path / "[x]").mkdir()
    (tmp_path / "[x]" / "a.jsonl").write_text("1\n")
    assert files(open_files(tmp_path / "[x]", "*.jsonl")) == ["a.jsonl"]


def test_the_list_is_settled_at_the_start(folder: Path) -> None:
    source = open_files(folder, "*.jsonl")
    (folder / "z.jsonl").write_text("9\n")
    assert files(source) == ["a.jsonl"]


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["nosuch.jsonl"], "nosuch.jsonl: cannot read .*No such file"),
        (["in"], "in: cannot read .*Is a directory"),
        (["a.jsonl/x"], "a.jsonl/x: cannot read .*Not a directory"),
        (["a.jsonl", "x*.jsonl"], r"x\*.jsonl: expected at least one file, found none"),
        (["a.jsonl", "*.jsonl"], "a.jsonl: named twice"),
        (["in/../a.jsonl", "a.jsonl"], "a.jsonl: named twice"),
    ],
)
def test_files_that_cannot_be_read(folder: Path, paths: list[str], message: str) -> None:
    with pytest.raises(SourceError, match=message):
        open_files(folder, *paths)


def test_a_file_that_vanishes(folder: Path) -> None:
    source = open_files(folder, "a.jsonl")
    (folder / "a.jsonl").unlink()
    with pytest.raises(SourceError, match=r"a\.jsonl: cannot read: No such file"):
        source.read(1, 0)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"path": "-"}, "use type: stdin"),
        ({"path": ["a", "-"]}, "use type: stdin"),
        ({"path": []}, "at least 1 item"),
        ({"path": ""}, "at least 1 character"),
        ({"path": 3}, "valid string"),
        ({"path": "a", "pth": "b"}, "Extra inputs"),
        ({}, "Field required"),
    ],
)
def test_options_that_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message) as caught:
        FileSourceConfig.model_validate(config)
    assert caught.value.error_count() == 1


def test_positions_of_files(folder: Path) -> None:
    source = open_files(folder, "a.jsonl", "in/b.jsonl")
    assert source.position() == {"a.jsonl": 0}
    source.read(1, 0)
    assert source.position() == {"a.jsonl": 2}
    source.read(5, 0)
    source.read(5, 0)
    assert source.position() == {"a.jsonl": 4, "in/b.jsonl": 0}
    read_all(source)
    assert source.position() == {"a.jsonl": 4, "in/b.jsonl": 4}


def test_a_large_file_comes_whole_and_once(tmp_path: Path) -> None:
    expected = [b"%d" % number * 3 for number in range(200_000)]
    (tmp_path / "large").write_bytes(b"\n".join(expected))
    *blocks, mark = read_all(open_files(tmp_path, "large"), limit=1000)
    assert [line for block in blocks for line in block] == expected
    assert mark == end("large", (tmp_path / "large").stat().st_size)


def test_a_file_that_is_a_pipe() -> None:
    reader, writer = os.pipe()
    os.write(writer, b"1\n2")
    os.close(writer)
    name = f"/dev/fd/{reader}"
    source = open_files(Path("/"), name)
    os.close(reader)
    assert read_all(source) == [[b"1"], [b"2"], end(name, 3)]


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for descriptor in ends:
        try:
            os.close(descriptor)
        except OSError:
            continue


def open_stdin(reader: int) -> stdin.StdinSource:
    return stdin.build(StdinConfig(), Context(stdin=DescriptorStream(reader)), new_framer)


def test_a_single_line_comes_at_once(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    source = open_stdin(reader)
    assert source.read(512, 0) is None
    os.write(writer, b"one\ntw")
    assert lines(source.read(512, 5000)) == [b"one"]
    assert source.position() == {"stdin": 4}
    assert source.read(512, 1) is None
    os.write(writer, b"o\nthree\nfour\nfi")
    assert lines(source.read(2, 5000)) == [b"two", b"three"]
    assert lines(source.read(2, 0)) == [b"four"]
    os.close(writer)
    assert lines(source.read(2, 5000)) == [b"fi"]
    assert source.read(2, 0) == Mark("source_end", STDIN, 21)
    for _ in range(2):
        with pytest.raises(EndOfStream):
            source.read(2, 0)
    source.close()
    source.close()


def test_the_reason_a_descriptor_cannot_be_read(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(SourceError, match="stdin: cannot read: Is a directory"):
            open_stdin(descriptor).read(1, 0)
    finally:
        os.close(descriptor)


def test_every_end_is_declared_and_can_be_built(pipe: tuple[int, int], tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("")
    options: dict[tuple[str, str], dict[str, str]] = {
        ("source", "stdin"): {},
        ("source", "file"): {"path": "a.jsonl"},
        ("sink", "stdout"): {},
        ("sink", "file"): {"path": "a.jsonl"},
    }
    assert [(component.kind, component.name) for component in COMPONENTS] == list(options)
    for component in COMPONENTS:
        config = component.config.model_validate(options[component.kind, component.name])
        more = [new_framer] if component.kind == "source" else []
        built = component.resolve("build")(config, Context(base_dir=tmp_path), *more)
        if component.kind != "codec":
            built.close()
