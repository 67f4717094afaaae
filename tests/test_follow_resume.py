"""Where a followed log is gone on with, after somebody did something to it while nothing ran."""

from __future__ import annotations

import gzip
import json
import os
import shutil

import pytest

from streamrnn.builtins.ends import FileSourceConfig
from streamrnn.codecs.lines import LineFramer
from streamrnn.context import Context, ManualClock
from streamrnn.errors import SourceError
from streamrnn.sources import file


def new_framer(position=0):
    return LineFramer(1 << 16, position)


class Followed:
    """A log in a folder, followed, left and gone on with. No two changes are made at the same time."""

    def __init__(self, folder, path="log", **config):
        self.folder, self.now_s = folder, 1_000_000_000
        given = {"path": path, "follow": True, "rotate_wait_s": 0, **config}
        self.config = FileSourceConfig.model_validate(given)
        self.place = None

    def serve(self, most=1000):
        """Every record there is, up to a number, in one life that ends with a commit of what was served."""
        resuming = self.place is not None
        context = Context(base_dir=self.folder, clock=ManualClock(), commits_kept=2, resuming=resuming)
        source = file.build(self.config, context, new_framer)
        found = []
        try:
            if resuming:
                source.resume(json.loads(json.dumps(self.place)))
            while len(found) < most and (block := source.read(1, 0)) is not None:
                found.append(block.record(0).decode())
            self.place = source.place()
        finally:
            source.close()
        return found

    def write(self, name, text, append=True):
        with (self.folder / name).open("a" if append else "w") as out:
            out.write(text)
        self.touch(name)

    def touch(self, name):
        self.now_s += 1
        os.utime(self.folder / name, (self.now_s, self.now_s))

    def move(self, name, target):
        (self.folder / name).rename(self.folder / target)

    def copy(self, name, target):
        shutil.copy2(self.folder / name, self.folder / target)

    def pack(self, name):
        """As gzip does it: another file, with the time of the one it was made from."""
        packed = self.folder / f"{name}.gz"
        packed.write_bytes(gzip.compress((self.folder / name).read_bytes()))
        shutil.copystat(self.folder / name, packed)
        (self.folder / name).unlink()


@pytest.fixture
def log(tmp_path):
    """Two lines of three served; an older file lies beside it, which is not part of the stream."""
    followed = Followed(tmp_path)
    followed.write("log.1", "old1\nold2\n")
    followed.write("log", "1\n2\n3\n")
    assert followed.serve(2) == ["1", "2"]
    return followed


def rotate(log, *, last="log.1"):
    """The usual chain of renames."""
    for number in (3, 2, 1):
        for ending in ("", ".gz"):
            if (log.folder / f"log.{number}{ending}").exists():
                log.move(f"log.{number}{ending}", f"log.{number + 1}{ending}")
    log.move("log", last)


def test_nothing_happened(log):
    assert log.serve() == ["3"]
    assert log.serve() == []


def test_more_was_written(log):
    log.write("log", "4\n5")
    assert log.serve() == ["3", "4"]
    log.write("log", "6\n")
    assert log.serve() == ["56"]


@pytest.mark.parametrize("name", ["log.1", "log-20261126", "log.2026-11-26_10", "elsewhere"])
def test_it_was_renamed(log, name):
    log.move("log.1", "log.2")
    log.write("log", "4\nlast")
    log.move("log", name)
    log.write("log", "5\n")
    assert log.serve() == ["3", "4", "last", "5"]
    assert log.serve() == []


def test_it_was_renamed_and_there_is_no_new_one_yet(log):
    rotate(log)
    assert log.serve() == ["3"]
    log.write("log.1", "4\n")
    log.write("log", "5\n")
    assert log.serve() == ["4", "5"]


def test_it_was_rotated_many_times(log):
    for text in ("4\n", "5\n6\n"):
        rotate(log)
        log.write("log", text)
    assert log.serve(2) == ["3", "4"]
    rotate(log)
    log.write("log", "7\n")
    assert log.serve() == ["5", "6", "7"]


def test_it_was_compressed(log):
    rotate(log)
    log.pack("log.1")
    log.write("log", "4\n")
    rotate(log)
    log.write("log", "5\n")
    assert log.serve(1) == ["3"]
    log.pack("log.1")
    rotate(log)
    log.write("log", "6\n")
    assert log.serve() == ["4", "5", "6"]
    assert log.serve() == []


def test_it_was_compressed_in_the_midst_of_what_was_served(log):
    rotate(log)
    log.write("log.1", "4\n5\n")
    log.pack("log.1")
    assert log.serve(1) == ["3"]
    assert log.serve(1) == ["4"]
    log.write("log", "6\n")
    assert log.serve() == ["5", "6"]


@pytest.mark.parametrize("text", ["", "4\n", "4\n" + "x" * 30 + "\n"])
def test_it_was_copied_and_cut(log, text):
    log.move("log.1", "log.2")
    log.copy("log", "log.1")
    log.write("log", text, append=False)
    assert log.serve() == ["3", *text.split()]
    assert log.serve() == []


def test_a_copy_was_made_and_packed_before_it_was_cut(log):
    log.move("log.1", "log.2")
    log.copy("log", "log.1")
    log.write("log", "4\n", append=False)
    log.pack("log.1")
    assert log.serve() == ["3", "4"]


def test_files_that_were_read_are_not_read_again_under_another_name(log):
    assert log.serve() == ["3"]
    rotate(log)
    log.write("log", "4\n")
    assert log.serve() == ["4"]
    rotate(log)
    log.pack("log.2")
    log.pack("log.3")
    log.write("log", "5\n")
    assert log.serve() == ["5"]


def test_a_copy_that_lies_beside_it_is_told_and_not_read(log, caplog):
    log.copy("log", "log.bak")
    assert log.serve() == ["3"]
    assert [record.getMessage() for record in caplog.records] == [
        "log.bak: taken for a copy of log, and not read"
    ]


def test_files_with_the_same_header_are_told_apart(tmp_path):
    log = Followed(tmp_path)
    log.write("log.1", "header\nold\n")
    log.write("log", "header\n1\n")
    assert log.serve(1) == ["header"]
    for text in ("header\n2\n", "header\n"):
        rotate(log)
        log.write("log", text)
    assert log.serve() == ["1", "header", "2", "header"]


def test_a_pattern(tmp_path):
    log = Followed(tmp_path, "*.log")
    log.write("a.log", "a1\n")
    log.write("b.log", "b1\n")
    assert log.serve(1) == ["a1"]
    log.move("a.log", "a.1.log")
    log.write("a.log", "a2\n")
    log.move("b.log", "b.log.1")
    log.write("b.log", "b2\n")
    log.write("c.log", "c1\n")
    log.move("c.log", "c.log.1")
    log.write("c.log", "c2\n")
    found = log.serve()
    assert sorted(found) == ["a2", "b1", "b2", "c1", "c2"]
    assert found.index("b1") < found.index("b2")
    assert found.index("c1") < found.index("c2")
    assert log.serve() == []


def cut(log):
    log.write("log", "", append=False)


def cut_and_grown(log):
    log.write("log", "9\n8\n7\n6\n", append=False)


def deleted(log):
    (log.folder / "log").unlink()


def replaced(log):
    log.write("new", "9\n8\n7\n")
    log.move("new", "log")


LOST = "log: the file that was left at byte 4 is gone or was rewritten, and there is no copy of it"


@pytest.mark.parametrize("happened", [cut, cut_and_grown, deleted, replaced])
def test_what_would_be_skipped_is_refused_or_skipped_aloud(log, caplog, happened):
    happened(log)
    with pytest.raises(
        SourceError, match=f"{LOST}; what came after that byte would be skipped: bring it back"
    ):
        log.serve()
    there = (log.folder / "log").read_text().split() if (log.folder / "log").exists() else []
    log.config = log.config.model_copy(update={"if_lost": "skip"})
    assert log.serve() == there
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert f"{LOST}; what came after that byte is skipped" in told
