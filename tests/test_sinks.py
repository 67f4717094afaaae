from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from streamrnn.builtins.ends import FileSinkConfig, StdoutConfig
from streamrnn.context import Context, DescriptorStream
from streamrnn.errors import SinkError
from streamrnn.events import Block, Origin, OutBlock
from streamrnn.sinks import file, stdout


def out(text: bytes) -> OutBlock:
    zero, one = np.zeros(1, np.int64), np.ones(1, np.int64)
    block = Block(b"{}", zero, one * 2, zero, one, Origin("stdin", "stdin"))
    return OutBlock(text, one * len(text), ["k"], zero, block)


def open_file(folder: Path, **config: Any) -> file.FileSink:
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
    ],
)
def test_options_that_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        FileSinkConfig.model_validate(config)


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
