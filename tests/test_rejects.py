from __future__ import annotations

import base64
import json
import logging
from pathlib import Path
from typing import BinaryIO

import pytest

from streamrnn.context import Context, FileSystem, ManualClock
from streamrnn.errors import SinkError
from streamrnn.events import Origin, Rejected
from streamrnn.rejects import RejectFile, RejectLog

ORIGIN = Origin("file", "day.jsonl")


def refused(number: int, raw: bytes = b"{}", reason: str = "no good") -> Rejected:
    return Rejected(ORIGIN, 10 * number, number, reason, raw)


def test_a_refused_event_is_a_line_with_its_bytes(tmp_path: Path) -> None:
    rejects = RejectFile("out/bad.jsonl", Context(base_dir=tmp_path))
    rejects.write([refused(1, 'größe "x"\\'.encode(), "x: expected a number"), refused(2, b"\xff\x00{")])
    rejects.write([refused(7, b"")])
    rejects.close()
    rejects.close()
    lines = (tmp_path / "out" / "bad.jsonl").read_bytes().splitlines()
    common = {"source": "file", "partition": "day.jsonl"}
    assert [json.loads(line) for line in lines] == [
        common
        | {
            "number": 1,
            "position": 10,
            "code": "wrong_type",
            "reason": "x: expected a number",
            "raw": 'größe "x"\\',
        },
        common
        | {"number": 2, "position": 20, "code": "other", "reason": "no good"}
        | {"raw_base64": base64.b64encode(b"\xff\x00{").decode()},
        common | {"number": 7, "position": 70, "code": "other", "reason": "no good", "raw": ""},
    ]


class HalfWrites(FileSystem):
    """A full pipe takes a part of what it is offered."""

    class File:
        closed = False

        def __init__(self) -> None:
            self.data = b""

        def write(self, data: bytes) -> int:
            self.data += bytes(data[:5])
            return min(5, len(data))

        def fileno(self) -> int:
            raise OSError(22, "Invalid argument")

        def close(self) -> None:
            self.closed = True

    def __init__(self) -> None:
        self.file = self.File()

    def open_write(self, path: Path, append: bool) -> BinaryIO:
        return self.file  # type: ignore[return-value]


def test_a_line_is_written_whole_and_a_pipe_need_not_sync() -> None:
    fs = HalfWrites()
    rejects = RejectFile("pipe", Context(fs=fs))
    rejects.write([refused(1), refused(2)])
    rejects.close()
    assert [json.loads(line)["number"] for line in fs.file.data.splitlines()] == [1, 2]
    assert fs.file.closed


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match=r"dead_letter: \.: cannot open: Is a directory"):
        RejectFile(".", Context(base_dir=tmp_path))


def test_the_log_shows_the_first_and_then_one_a_second(caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()
    rejects = RejectLog(Context(clock=clock))
    with caplog.at_level(logging.WARNING, "streamrnn"):
        rejects.write([refused(number) for number in range(1, 16)])
        first, last = "day.jsonl:1: refused: no good", "day.jsonl:10: refused: no good"
        assert (len(caplog.messages), caplog.messages[0], caplog.messages[-1]) == (10, first, last)
        caplog.clear()
        clock.advance(0.5)
        rejects.write([refused(16)])
        assert caplog.messages == []
        clock.advance(0.5)
        rejects.write([refused(17), refused(18)])
        assert caplog.messages == ["day.jsonl:17: refused: no good (6 more since the last one shown)"]
        caplog.clear()
        clock.advance(1000)
        rejects.write([refused(number) for number in range(19, 40)])
        assert len(caplog.messages) == 10
        caplog.clear()
        rejects.close()
        assert caplog.messages == ["11 more events were refused; `dead_letter:` keeps them all"]
