from __future__ import annotations

import os
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
from pydantic import ValidationError

from streamrnn.builtins.ends import FileSinkConfig, StdoutConfig
from streamrnn.context import Context, DescriptorStream, FileSystem, ManualClock
from streamrnn.errors import SinkError
from streamrnn.events import Block, Origin, OutBlock
from streamrnn.sinks import file, stdout
from streamrnn.sinks.rotation import RotatingFileSink


def out(text: bytes) -> OutBlock:
    zero, one = np.zeros(1, np.int64), np.ones(1, np.int64)
    block = Block(b"{}", zero, one * 2, zero, one, Origin("stdin", "stdin"))
    return OutBlock(text, one * len(text), ["k"], zero, block)


def records(*texts: bytes) -> OutBlock:
    n = len(texts)
    numbers = np.arange(n)
    block = Block(b"{}" * n, numbers * 2, numbers * 2 + 2, numbers * 2, numbers + 1, Origin("stdin", "stdin"))
    ends = np.cumsum([len(text) for text in texts], dtype=np.int64)
    return OutBlock(b"".join(texts), ends, ["k"] * n, numbers, block)


def open_file(folder: Path, **config: Any) -> file.FileSink | RotatingFileSink:
    return file.build(FileSinkConfig(**config), Context(base_dir=folder))


def open_stdout(writer: int) -> stdout.StdoutSink:
    return stdout.build(StdoutConfig(), Context(stdout=DescriptorStream(writer)))


def test_outputs_reach_the_file_with_each_write(tmp_path: Path) -> None:
    sink = open_file(tmp_path, path="out.jsonl")
    sink.write(out(b"1\n2\n"))
    assert (tmp_path / "out.jsonl").read_bytes() == b"1\n2\n"
    sink.write(out(b""))
    sink.write(out(b"3\n"))
    sink.flush()
    sink.close()
    sink.close()
    assert (tmp_path / "out.jsonl").read_bytes() == b"1\n2\n3\n"


@pytest.mark.parametrize(
    ("before", "config", "after"),
    [
        (None, {}, b"new\n"),
        (b"old\n", {}, b"new\n"),
        (b"old\n", {"if_exists": "overwrite"}, b"new\n"),
        (b"old\n", {"if_exists": "append"}, b"old\nnew\n"),
        (None, {"if_exists": "append"}, b"new\n"),
        (b"", {"if_exists": "refuse"}, b"new\n"),
        (None, {"if_exists": "refuse"}, b"new\n"),
    ],
)
def test_a_file_that_exists(
    tmp_path: Path, before: bytes | None, config: dict[str, str], after: bytes
) -> None:
    path = tmp_path / "out.jsonl"
    if before is not None:
        path.write_bytes(before)
    sink = open_file(tmp_path, path="out.jsonl", **config)
    sink.write(out(b"new\n"))
    sink.close()
    assert path.read_bytes() == after


def test_a_file_that_is_refused_stays_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "out.jsonl").write_bytes(b"old\n")
    with pytest.raises(SinkError, match=r"out.jsonl: expected no file or an empty one, found 4 bytes"):
        open_file(tmp_path, path="out.jsonl", if_exists="refuse")
    assert (tmp_path / "out.jsonl").read_bytes() == b"old\n"


def test_folders_are_made(tmp_path: Path) -> None:
    open_file(tmp_path, path="a/b/out.jsonl").close()
    assert (tmp_path / "a" / "b" / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("path", "message"),
    [("folder", "folder: cannot open: Is a directory"), ("plain/x", "x: cannot open: .+")],
)
def test_a_file_that_cannot_be_opened(tmp_path: Path, path: str, message: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "plain").write_bytes(b"")
    with pytest.raises(SinkError, match=message):
        open_file(tmp_path, path=path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_disk_that_is_full() -> None:
    sink = open_file(Path("/"), path="/dev/full")
    with pytest.raises(SinkError, match="/dev/full: cannot write: No space left"):
        sink.write(out(b"1\n"))
    sink.close()


def test_a_device_has_nothing_to_sync() -> None:
    sink = open_file(Path("/"), path="/dev/null", if_exists="refuse")
    sink.write(out(b"1\n"))
    sink.flush()
    sink.close()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"path": "-"}, "type: stdout"),
        ({"path": "a", "if_exists": "truncate"}, "'overwrite', 'append' or 'refuse'"),
        ({"path": "a", "append": True}, "Extra inputs"),
        ({"path": "a", "rotate": {"keep": 2}}, "expected max_bytes, max_age_s or both, found neither"),
        ({"path": "a", "rotate": {"max_bytes": 9}}, "Field required"),
        ({"path": "a", "rotate": {"max_bytes": 9, "keep": 0}}, "greater than or equal to 1"),
        ({"path": "a", "rotate": {"max_age_s": 0, "keep": 1}}, "greater than 0"),
    ],
)
def test_options_that_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        FileSinkConfig.model_validate(config)


def kept(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


ROTATED = {
    "one file is enough": (10, [[b"1\n", b"2\n"]], {"out": b"1\n2\n"}),
    "to the byte": (4, [[b"1\n", b"2\n"], [b"3\n"]], {"out": b"3\n", "out.1": b"1\n2\n"}),
    "never within a record": (5, [[b"10\n"], [b"20\n"]], {"out": b"20\n", "out.1": b"10\n"}),
    "a batch over many": (
        3,
        [[b"1\n", b"2\n", b"3\n", b"4\n"]],
        {"out": b"4\n", "out.1": b"3\n", "out.2": b"2\n"},
    ),
    "a record too long": (
        3,
        [[b"1\n", b"22222\n", b"3\n"]],
        {"out": b"3\n", "out.1": b"22222\n", "out.2": b"1\n"},
    ),
    "nothing at all": (3, [[]], {"out": b""}),
}


@pytest.mark.parametrize(("max_bytes", "batches", "files"), ROTATED.values(), ids=ROTATED)
def test_rotation_by_size(
    tmp_path: Path, max_bytes: int, batches: list[list[bytes]], files: dict[str, bytes]
) -> None:
    sink = open_file(tmp_path, path="out", rotate={"max_bytes": max_bytes, "keep": 2})
    for batch in batches:
        sink.write(records(*batch))
    sink.flush()
    sink.close()
    sink.close()
    assert kept(tmp_path) == files


def test_rotation_by_age(tmp_path: Path) -> None:
    clock = ManualClock()
    config = FileSinkConfig.model_validate({"path": "out", "rotate": {"max_age_s": 60, "keep": 5}})
    sink = file.build(config, Context(base_dir=tmp_path, clock=clock))
    clock.advance(100)  # the age is that of the first record
    for text in (b"1\n", b"2\n", b"3\n"):
        sink.write(records(text))
        clock.advance(30)
    sink.close()
    assert kept(tmp_path) == {"out": b"3\n", "out.1": b"1\n2\n"}


@pytest.mark.parametrize(
    ("if_exists", "files"),
    [
        ("append", {"out": b"2\n", "out.1": b"old\n1\n", "out.2": b"older\n"}),
        ("overwrite", {"out": b"1\n2\n", "out.1": b"older\n"}),
    ],
)
def test_rotation_of_what_is_there(tmp_path: Path, if_exists: str, files: dict[str, bytes]) -> None:
    (tmp_path / "out").write_bytes(b"old\n")
    (tmp_path / "out.1").write_bytes(b"older\n")
    sink = open_file(tmp_path, path="out", if_exists=if_exists, rotate={"max_bytes": 6, "keep": 3})
    sink.write(records(b"1\n", b"2\n"))
    sink.close()
    assert kept(tmp_path) == files


def test_behind_a_gap_nothing_moves(tmp_path: Path) -> None:
    for name in ("out.1", "out.3"):
        (tmp_path / name).write_text(name)
    sink = open_file(tmp_path, path="out", rotate={"max_bytes": 1, "keep": 3})
    sink.write(records(b"1\n", b"2\n"))
    sink.close()
    assert kept(tmp_path) == {"out": b"2\n", "out.1": b"1\n", "out.2": b"out.1", "out.3": b"out.3"}


def test_a_file_that_somebody_moved_away(tmp_path: Path) -> None:
    sink = open_file(tmp_path, path="out", rotate={"max_bytes": 2, "keep": 3})
    sink.write(records(b"1\n"))
    (tmp_path / "out").rename(tmp_path / "mine")
    sink.write(records(b"2\n"))
    sink.close()
    assert kept(tmp_path) == {"mine": b"1\n", "out": b"2\n"}


class Calls(FileSystem):
    """Notes what is done for good."""

    def __init__(self) -> None:
        self.made: list[str] = []

    def sync(self, file: BinaryIO) -> None:
        self.made.append("sync")
        super().sync(file)

    def replace(self, path: Path, target: Path) -> None:
        self.made.append(f"{path.name} -> {target.name}")
        super().replace(path, target)


def test_a_full_file_is_on_the_disk_before_it_is_renamed(tmp_path: Path) -> None:
    fs = Calls()
    config = FileSinkConfig.model_validate({"path": "out", "rotate": {"max_bytes": 2, "keep": 2}})
    sink = file.build(config, Context(base_dir=tmp_path, fs=fs))
    sink.write(records(b"1\n", b"2\n", b"3\n", b"4\n"))
    sink.close()
    first, second = ["sync", "out -> out.1"], ["sync", "out.1 -> out.2", "out -> out.1"]
    assert fs.made == [*first, *second, *second, "sync"]


def test_what_cannot_be_rotated(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match="/dev/null: expected a regular file to rotate"):
        open_file(Path("/"), path="/dev/null", rotate={"max_bytes": 2, "keep": 2})
    sink = open_file(tmp_path, path="out", rotate={"max_bytes": 2, "keep": 2})
    sink.write(records(b"1\n"))
    (tmp_path / "out.1").mkdir()
    (tmp_path / "out.1" / "x").write_text("")
    (tmp_path / "out.2").write_text("")
    with pytest.raises(SinkError, match="out: cannot rename: "):
        sink.write(records(b"2\n"))
    sink.close()


def test_stdout_has_each_batch_at_once() -> None:
    reader, writer = os.pipe()
    sink = open_stdout(writer)
    for text in (b"1\n2\n", b"3\n"):
        sink.write(out(text))
        assert os.read(reader, 100) == text
    sink.flush()
    sink.close()
    sink.close()
    os.write(writer, b"still open")
    os.close(writer)
    os.close(reader)


def test_stdout_without_a_reader() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with pytest.raises(SinkError, match="stdout was closed by its reader"):
        open_stdout(writer).write(out(b"1\n"))
    os.close(writer)


def test_stdout_that_cannot_be_written() -> None:
    reader, writer = os.pipe()
    with pytest.raises(SinkError, match="stdout: cannot write: Bad file descriptor"):
        open_stdout(reader).write(out(b"1\n"))
    os.close(writer)
    os.close(reader)
