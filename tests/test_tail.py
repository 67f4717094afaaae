from __future__ import annotations

import itertools
import logging
import os
import random
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from pydantic import ValidationError

from streamrnn.builtins.ends import FileSourceConfig
from streamrnn.codecs.lines import LineFramer
from streamrnn.context import Context, FileSystem, ManualClock
from streamrnn.errors import SourceError
from streamrnn.events import Block, Origin
from streamrnn.ports import EndOfStream, Framer
from streamrnn.sources import file
from streamrnn.sources.follow import FollowSource
from streamrnn.sources.identity import FIRST_BYTES, LAST_BYTES


def new_framer(position: int = 0) -> Framer:
    return LineFramer(1 << 16, position)


OPENED: list[FollowSource] = []


@pytest.fixture(autouse=True)
def close_sources() -> Iterator[None]:
    yield
    while OPENED:
        OPENED.pop().close()


def follow(
    folder: Path,
    path: str | list[str] = "log",
    fs: Any = None,
    clock: Any = None,
    **config: Any,
) -> FollowSource:
    context = Context(base_dir=folder, clock=clock or ManualClock(), fs=fs or FileSystem())
    given = {"path": path, "follow": True, "rotate_wait_s": 0, **config}
    source = file.build(FileSourceConfig.model_validate(given), context, new_framer)
    assert isinstance(source, FollowSource)
    OPENED.append(source)
    return source


def drain(source: FollowSource, limit: int = 100) -> list[bytes]:
    """Every record there is by now."""
    found = []
    while (block := source.read(limit, 0)) is not None:
        assert isinstance(block, Block)
        found += [block.record(i) for i in range(len(block))]
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    if not Path("/dev/shm").is_dir():
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as made:
        yield Path(made)


@pytest.fixture
def log(folder: Path) -> Path:
    return folder / "log"


def append(path: Path, text: str) -> None:
    with path.open("a") as writer:
        writer.write(text)


def test_what_is_appended_comes_once(folder: Path, log: Path) -> None:
    append(log, "1\n2\n3")
    source = follow(folder)
    assert drain(source) == [b"1", b"2"]
    assert drain(source) == []
    append(log, "4\n5\n")
    block = source.read(1, 0)
    assert isinstance(block, Block)
    assert (block.record(0), block.origin) == (b"34", Origin("file", "log"))
    assert (block.positions.tolist(), block.numbers.tolist()) == ([4], [3])
    assert source.position() == {f"log@{log.stat().st_ino}": 7}
    assert drain(source) == [b"5"]
    source.close()
    source.close()
    with pytest.raises(EndOfStream):
        source.read(1, 0)


def test_waiting_takes_the_time_of_the_clock(folder: Path) -> None:
    clock = ManualClock()
    source = follow(folder, clock=clock)
    assert source.read(1, 300) is None
    assert clock.monotonic() == pytest.approx(0.3)


class Hasty(ManualClock):
    """A clock on which time passes whenever somebody looks."""

    def monotonic(self) -> float:
        self.advance(1)
        return super().monotonic()


def test_without_time_to_wait_there_is_all_that_is_there(folder: Path, log: Path) -> None:
    append(log, "1\n" * 1000 + "x" * 2_990_000)
    append(folder / "log2", "2\n")
    source = follow(folder, "log*", clock=Hasty())
    assert drain(source) == [b"1"] * 1000 + [b"x" * 256], "the long line is refused as soon as that is clear"
    assert drain(source) == [], "more of the same line, and no more time"
    assert drain(source) == [b"2"]


class Late(ManualClock):
    """A clock that lets something happen as soon as somebody waits."""

    def __init__(self, then: Callable[[], None]) -> None:
        super().__init__()
        self.then = then

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        self.then()


def test_a_line_that_comes_while_waiting_ends_the_wait(folder: Path, log: Path) -> None:
    clock = Late(lambda: append(log, "1\n"))
    source = follow(folder, clock=clock)
    assert isinstance(source.read(1, 10_000), Block)
    assert clock.monotonic() < 0.1


def test_a_missing_file_is_told_and_waited_for(
    folder: Path, log: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = follow(folder, ["log", "x*"])
    assert [record.getMessage() for record in caplog.records] == [
        "log: there is no such file yet; waiting for it",
        "x*: there is no such file yet; waiting for it",
    ]
    assert drain(source) == []
    append(log, "1\n")
    assert drain(source) == [b"1"]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("", "1\n", [b"1"]),
        ("1\n2\n", "3\n", [b"3"]),
        ("1\n2", "3\n4\n", [b"23", b"4"]),
        ("1" * 50_000, "2\n3\n", [b"1" * 50_000 + b"2", b"3"]),
        ("0\n" + "1" * 50_000, "2\n3\n", [b"1" * 50_000 + b"2", b"3"]),
    ],
)
def test_from_the_end(folder: Path, log: Path, before: str, after: str, expected: list[bytes]) -> None:
    append(log, before)
    source = follow(folder, **{"from": "end"})
    assert drain(source) == []
    append(log, after)
    assert drain(source) == expected
    log.rename(folder / "old")
    append(log, "new\n")
    assert drain(source) == [b"new"], "a file that comes later is read from its start"


def test_a_pattern_takes_new_files_in_the_order_of_their_names(folder: Path) -> None:
    for name in "cab":
        append(folder / name, f"{name}1\n")
    source = follow(folder, "[a-z]")
    assert drain(source) == [b"a1", b"b1", b"c1"]
    for name in "edb":
        append(folder / name, f"{name}2\n")
    assert drain(source) == [b"b2", b"d2", b"e2"]


def test_compressed_copies_of_a_pattern_are_left_out(folder: Path, log: Path) -> None:
    append(log, "1\n")
    append(folder / "log.1.gz", "2\n")
    assert drain(follow(folder, "log*")) == [b"1"]
    assert drain(follow(folder, "log*", compression="none")) == [b"1", b"2"]


def test_a_renamed_file_is_read_to_its_end_first(folder: Path, log: Path) -> None:
    append(log, "1\nha")
    source = follow(folder)
    assert drain(source) == [b"1"]
    append(log, "lf\n2\n3")
    log.rename(folder / "log.1")
    assert drain(source) == [b"half", b"2"], "nothing took its place yet: it may go on"
    append(folder / "log.1", "4\nlast")
    append(log, "new\n")
    assert drain(source) == [b"34", b"last", b"new"]


@pytest.mark.parametrize("deleted", [False, True])
def test_a_replaced_file_is_waited_for(folder: Path, log: Path, deleted: bool) -> None:
    clock = ManualClock()
    append(log, "1\n")
    source = follow(folder, clock=clock, rotate_wait_s=2)
    assert drain(source) == [b"1"]
    clock.advance(10)
    with log.open("a") as writer:
        log.unlink() if deleted else log.rename(folder / "log.1")
        append(log, "new\n")
        assert drain(source) == []
        for text in ("2\n", "3\n"):
            clock.advance(1.5)
            writer.write(text)
            writer.flush()
            assert drain(source) == [text[:1].encode()]
    clock.advance(1.5)
    assert drain(source) == []
    clock.advance(0.5)
    assert drain(source) == [b"new"]


def test_a_deleted_file_is_waited_for(folder: Path, log: Path) -> None:
    clock = ManualClock()
    append(log, "1\n")
    source = follow(folder, clock=clock, rotate_wait_s=2)
    assert drain(source) == [b"1"]
    clock.advance(10)
    with log.open("a") as writer:
        log.unlink()
        assert drain(source) == []
        writer.write("2\nlast")
    assert drain(source) == [b"2"]
    clock.advance(2)
    assert drain(source) == [b"last"]
    append(log, "new\n")
    assert drain(source) == [b"new"]


def test_a_file_that_is_renamed_while_names_are_looked_up_is_not_read_twice(folder: Path, log: Path) -> None:
    class RenamesLater(FileSystem):
        armed = False

        def glob(self, pattern: str) -> list[Path]:
            found = super().glob(pattern)
            if self.armed:
                self.armed = False
                log.rename(folder / "log.1")
                append(log, "new\n")
            return found

    fs = RenamesLater()
    append(log, "1\n")
    source = follow(folder, "log*", fs=fs)
    assert drain(source) == [b"1"]
    fs.armed = True
    assert drain(source) == [b"new"]


def test_files_are_given_back(folder: Path, log: Path) -> None:
    source = follow(folder)
    before = len(os.listdir("/dev/fd"))
    for number in range(20):
        append(log, f"{number}\n")
        assert drain(source) == [b"%d" % number]
        log.unlink() if number % 2 else log.rename(folder / "old")
    assert len(os.listdir("/dev/fd")) <= before + 1
    source.close()
    assert len(os.listdir("/dev/fd")) == before


@pytest.mark.parametrize(
    ("before", "after", "expected", "told"),
    [
        ("1\n2\n", "3\n", [b"3"], 0),  # smaller
        ("1\n2\n", "3\n4\n", [b"3", b"4"], 0),  # of equal size
        ("1\n2\n", "3\n4\n5\n", [b"3", b"4", b"5"], 0),  # larger
        ("1\nha", "", [], 2),
        ("1\nha", "2\n3\n4\n", [b"2", b"3", b"4"], 2),
        ("1\nhalf", "1\nha", [], 4),  # only the unfinished record was taken back
        ("1\nhalf", "1\nHALF\n", [b"HALF"], 4),
        ("1\n2\n", "1\n2\n3\n", [b"3"], 0),  # the same again and more: as if appended
        ("1\n2\n", "1\n", [b"1"], 0),  # cut back: what is left is read again
    ],
)
def test_a_rewritten_file(
    log: Path,
    folder: Path,
    caplog: pytest.LogCaptureFixture,
    before: str,
    after: str,
    expected: Any,
    told: int,
) -> None:
    log.write_text(before)
    source = follow(folder)
    drain(source)
    log.write_text(after)  # the same inode
    assert drain(source) == expected
    text = f"{told} bytes of an unfinished record at byte 2 are discarded"
    assert [text in record.getMessage() for record in caplog.records] == [True] * bool(told)


@pytest.mark.parametrize(
    ("changed_byte", "noticed"),
    [
        (0, True),
        (FIRST_BYTES - 1, True),
        (FIRST_BYTES, False),
        (100_000 - LAST_BYTES - 1, False),
        (100_000 - LAST_BYTES, True),
        (99_998, True),
    ],
)
def test_a_rewrite_shows_in_the_first_and_last_bytes_consumed(
    folder: Path, log: Path, changed_byte: int, noticed: bool
) -> None:
    content = bytearray(b"x" * 99 + b"\n") * 1000
    log.write_bytes(content)
    source = follow(folder)
    assert len(drain(source)) == 1000
    content[changed_byte] = ord("y")
    log.write_bytes(content + b"more\n")
    assert len(drain(source)) == (1001 if noticed else 1)


class CoarseFiles(FileSystem):
    """Files of a system that stamps no change with another time than the one before."""

    def status_of(self, file: BinaryIO) -> os.stat_result:
        return os.stat_result([*super().status_of(file)[:7], 0, 0, 0])


def test_a_rewrite_of_equal_size_within_one_tick_of_the_file_systems_clock(folder: Path, log: Path) -> None:
    clock = ManualClock()
    log.write_text("1\n")
    source = follow(folder, fs=CoarseFiles(), clock=clock)
    assert drain(source) == [b"1"]
    for text, waited_s in (("2\n", 0), ("3\n", 1.9)):
        clock.advance(waited_s)
        log.write_text(text)
        assert drain(source) == [text[:1].encode()]


def test_a_link_that_is_turned_to_another_file(folder: Path, log: Path) -> None:
    for name in "ab":
        append(folder / name, f"{name}\n")
    log.symlink_to(folder / "a")
    source = follow(folder)
    assert drain(source) == [b"a"]
    log.unlink()
    log.symlink_to(folder / "b")
    assert drain(source) == [b"b"]


def test_a_file_with_two_names_is_read_once(folder: Path, log: Path) -> None:
    append(log, "1\n")
    os.link(log, folder / "log2")
    source = follow(folder, ["log", "log2", "lo*"])
    assert drain(source) == [b"1"]
    append(log, "2\n")
    assert drain(source) == [b"2"]


def test_a_line_too_long_is_refused_once(folder: Path, log: Path) -> None:
    append(log, "x" * 70_000)
    source = follow(folder)
    block = source.read(10, 0)
    assert isinstance(block, Block)
    assert list(block.refused) == [0]
    append(log, "x" * 70_000)
    assert drain(source) == []
    append(log, "\n1\n")
    assert drain(source) == [b"1"]


def test_what_cannot_be_followed(folder: Path, log: Path) -> None:
    log.mkdir()
    with pytest.raises(SourceError, match="log: expected a regular file to follow"):
        follow(folder)
    os.mkfifo(folder / "fifo")
    with pytest.raises(SourceError, match="fifo: expected a regular file to follow"):
        follow(folder, "fifo")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"path": "a.gz", "follow": True}, "expected plain text to follow, found gzip: a.gz"),
        ({"path": ["b", "a*.gz"], "follow": True}, r"found gzip: a\*.gz"),
        ({"path": "a", "follow": True, "compression": "gzip"}, "found gzip: a;"),
        ({"path": "a", "from": "end"}, "expected follow: true beside from: end, found follow: false"),
        ({"path": "a", "follow": True, "from": "middle"}, "'start' or 'end'"),
        ({"path": "a", "follow": True, "rotate_wait_s": -1}, "greater than or equal to 0"),
    ],
)
def test_options_that_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message) as caught:
        FileSourceConfig.model_validate(config)
    assert caught.value.error_count() == 1


# Random histories. A writer does what writers and rotation tools do to a file, in any order; what must come
# is derived from the contents that a file had whenever the source was asked for more.


@dataclass(eq=False)
class Written:
    """One inode: its content, the names it has, and which of its bytes were records at the last poll."""

    content: bytes = b""
    path: Path | None = None
    served: bytes = b""
    seen: bool = False
    closed: bool = False

    def due(self) -> list[bytes]:
        """The whole lines that are new since the last poll; an empty one is no record."""
        new = self.content.removeprefix(self.served)
        self.served = self.content[: self.content.rfind(b"\n") + 1]
        return [line for line in new.split(b"\n")[:-1] if line]

    def rest(self) -> list[bytes]:
        """The line at the end that has no end."""
        return [line for line in [self.content[len(self.served) :]] if line]


class Writer:
    """Writes lines that begin with a number of their own to `log`; renamed files are `log.1` and so on."""

    def __init__(self, folder: Path, rng: random.Random, longest: int) -> None:
        self.folder, self.rng, self.longest = folder, rng, longest
        self.log = folder / "log"
        self.files: list[Written] = []
        self.current: Written | None = None
        self.ids = itertools.count()

    def line(self) -> bytes:
        return b"#%d:" % next(self.ids) + b"x" * self.rng.randrange(self.rng.choice([3, 40, self.longest]))

    def text(self, size: int | None = None) -> bytes:
        """Some lines, maybe without the end of the last one, or as many bytes as asked for."""
        lines = b"".join(self.line() + b"\n" for _ in range(self.rng.randrange(1, 6)))
        if size is None:
            return lines if self.rng.random() < 0.6 else lines[: self.rng.randrange(1, len(lines))]
        while len(lines) < size:
            lines += self.line() + b"\n"
        return lines[: size - 1] + b"\n" if size else b""

    def append(self) -> None:
        if self.current is None:
            self.current = Written(path=self.log)
            self.files.append(self.current)
        self._add(self.current, self.text())

    def append_late(self) -> None:
        renamed = [each for each in self.files if each.path and each.path != self.log and not each.closed]
        if renamed:
            self._add(renamed[-1], self.text())

    def rename(self) -> None:
        if self.current is None:
            return
        aside = [each for each in self.files if each.path and each is not self.current]
        for each, number in zip(aside, range(len(aside) + 1, 1, -1), strict=True):
            assert each.path is not None
            each.path = each.path.rename(self.folder / f"log.{number}")
        self.current.path = self.log.rename(self.folder / "log.1")
        self.current = None

    def rotate(self) -> None:
        self.rename()
        self.append()

    def delete(self) -> None:
        if self.current is not None:
            self.log.unlink()
            self.current.path = None
            self.current = None

    def replace(self) -> None:
        """Another file of equal size takes the place."""
        if self.current is not None:
            old, self.current = self.current, Written(self.text(len(self.current.content)), self.log)
            self.files.append(self.current)
            old.path = None
            (self.folder / "made").write_bytes(self.current.content)
            (self.folder / "made").rename(self.log)

    def rewrite(self) -> None:
        if self.current is not None:
            size = len(self.current.content)
            self.current.content = self.text(self.rng.choice([0, size // 2, size, size + 1, size * 2]))
            self.log.write_bytes(self.current.content)

    def cut(self) -> None:
        if self.current is not None:
            self.current.content = self.current.content[: self.rng.randrange(len(self.current.content) + 1)]
            os.truncate(self.log, len(self.current.content))

    def _add(self, written: Written, text: bytes) -> None:
        assert written.path is not None
        written.content += text
        with written.path.open("ab") as file:
            file.write(text)


def due(writer: Writer, in_pattern: bool) -> list[bytes]:
    """What a poll must give; a file that never had a followed name at any poll cannot be known."""
    found: list[bytes] = []
    for each in writer.files:
        each.seen = each.seen or each is writer.current or (in_pattern and each.path is not None)
        if not each.seen or each.closed:
            continue
        found += each.due()
        replaced = writer.current is not None and each is not writer.current and not in_pattern
        if each.path is None or replaced:
            found += each.rest()
            each.closed = True
    return found


OPERATIONS = {
    Writer.append: 8,
    Writer.append_late: 2,
    Writer.rename: 2,
    Writer.rotate: 2,
    Writer.delete: 1,
    Writer.replace: 1,
    Writer.rewrite: 2,
    Writer.cut: 1,
}


def history(folder: Path, seed: int, longest: int, counts: dict[str, int]) -> None:
    """One scenario: some operations, a poll, and again; a poll must give what is due, once and in order."""
    rng = random.Random(seed)
    writer = Writer(folder, rng, longest)
    in_pattern = rng.random() < 0.4
    source = follow(folder, "log*" if in_pattern else "log")
    served: list[bytes] = []
    for poll in range(8):
        for _ in range(rng.randrange(1, 6)):
            rng.choices(list(OPERATIONS), list(OPERATIONS.values()))[0](writer)
        expected, found = due(writer, in_pattern), drain(source, rng.choice([1, 3, 100]))
        if in_pattern:  # two that are new in one poll come by name
            expected, found = sorted(expected), sorted(found)
        assert found == expected, f"seed {seed}, poll {poll}"
        served += found
    source.close()
    missed = b"\n".join(each.content for each in writer.files if not each.seen)
    counts["scenarios"] += 1
    counts["lines"] += next(writer.ids)
    counts["served"] += len(set(ids(served)))
    counts["in files that no poll saw"] += len(ids(missed.split(b"\n")))
    counts["left by a cut and read again"] += len(ids(served)) - len(set(ids(served)))


def ids(lines: list[bytes]) -> list[int]:
    """The numbers of lines; one whose end was never written has the next one behind it."""
    return [int(found[1]) for line in lines if (found := re.search(rb"#(\d+):", line))]


@pytest.fixture
def quiet() -> Iterator[None]:
    logger = logging.getLogger("streamrnn")
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(logging.NOTSET)


def histories(folder: Path, seeds: range, longest: int) -> Counter[str]:
    counts: Counter[str] = Counter()
    for seed in seeds:
        (folder / str(seed)).mkdir()
        history(folder / str(seed), seed, longest, counts)
    print(dict(counts))
    return counts


@pytest.mark.slow
@pytest.mark.usefixtures("quiet")
def test_random_histories_in_memory(folder: Path) -> None:
    assert histories(folder, range(400), 200)["served"] > 5000


@pytest.mark.slow
@pytest.mark.usefixtures("quiet")
def test_random_histories_on_a_disk_that_reuses_inodes(tmp_path: Path) -> None:
    assert histories(tmp_path, range(400, 550), 200)["served"] > 3000


@pytest.mark.slow
@pytest.mark.usefixtures("quiet")
def test_random_histories_of_files_longer_than_what_is_compared(folder: Path) -> None:
    assert histories(folder, range(550, 650), 20_000)["served"] > 1000


def write_late(folder: Path, seed: int) -> None:
    """A writer that goes on for a while in a file that was replaced: nothing is lost, all is in order."""
    rng, clock = random.Random(seed), ManualClock()
    writer = Writer(folder, rng, 100)
    source = follow(folder, clock=clock, rotate_wait_s=1)
    found: list[bytes] = []
    for _ in range(6):
        writer.rotate()
        rotated_s = clock.monotonic()
        for _ in range(rng.randrange(1, 6)):
            found += drain(source, rng.choice([1, 100]))
            clock.advance(rng.random() / 2)
            writer.append()
            if clock.monotonic() < rotated_s + 1:
                writer.append_late()
    for _ in range(8):
        found += drain(source)
        clock.advance(1)
    expected = [line for each in writer.files for line in [*each.due(), *each.rest()]]
    assert found == expected[: len(expected) - len(writer.files[-1].rest())], f"seed {seed}"
    source.close()


def test_writers_that_go_on_in_a_renamed_file(folder: Path) -> None:
    for seed in range(100):
        (folder / str(seed)).mkdir()
        write_late(folder / str(seed), seed)


class BusyFiles(FileSystem):
    """Files that somebody works on between any two calls of the source."""

    def __init__(self, meanwhile: Callable[[], None]) -> None:
        self.meanwhile = meanwhile

    def open_read(self, path: Path) -> BinaryIO:
        self.meanwhile()
        return super().open_read(path)

    def glob(self, pattern: str) -> list[Path]:
        self.meanwhile()
        return super().glob(pattern)

    def status(self, path: Path) -> os.stat_result | None:
        self.meanwhile()
        return super().status(path)

    def status_of(self, file: BinaryIO) -> os.stat_result:
        self.meanwhile()
        return super().status_of(file)

    def read_at(self, file: BinaryIO, position: int, size: int) -> bytes:
        self.meanwhile()
        return super().read_at(file, position, size)


def interleave(
    folder: Path, seed: int, operations: Sequence[Callable[[Writer], None]], path: str, wait_s: float
) -> tuple[Writer, list[bytes], set[bytes]]:
    """The writer, what was served, and every line that ever was in a file."""
    rng, clock = random.Random(seed), ManualClock()
    writer = Writer(folder, rng, 100)
    lines: set[bytes] = set()
    left = 40

    def work() -> None:
        nonlocal left
        clock.advance(0.005)
        if left and rng.random() < 0.4:
            left -= 1
            rng.choice(operations)(writer)
            lines.update(line for each in writer.files for line in each.content.split(b"\n"))

    source = follow(folder, path, fs=BusyFiles(work), clock=clock, rotate_wait_s=wait_s)
    found: list[bytes] = []
    while left:
        found += drain(source, rng.choice([1, 100]))
        clock.advance(0.3)  # after a round that took long it rests
    for _ in range(10):  # files that took over a name wait for each other
        clock.advance(wait_s + 1)
        found += drain(source)
    source.close()
    return writer, found, lines


@pytest.mark.slow
@pytest.mark.usefixtures("quiet")
def test_a_writer_at_work_between_any_two_calls(folder: Path) -> None:
    operations = [Writer.append] * 4 + [Writer.rotate, Writer.rename, Writer.delete, Writer.replace]
    for seed in range(150):
        (folder / str(seed)).mkdir()
        writer, found, lines = interleave(folder / str(seed), seed, [*operations, Writer.rewrite], "log", 0)
        assert lines.issuperset(found), f"seed {seed}: a line that never was"
        order = ids(found)
        assert order == sorted(set(order)), f"seed {seed}: out of order or twice"
        assert not writer.current or set(found).issuperset(writer.current.due()), f"seed {seed}: lost"


@pytest.mark.slow
def test_rotation_between_any_two_calls_loses_nothing(folder: Path) -> None:
    for seed in range(100):
        (folder / str(seed)).mkdir()
        operations = [Writer.append] * 3 + [Writer.rotate]
        writer, found, _ = interleave(folder / str(seed), seed, operations, "log*", 1)
        assert sorted(found) == sorted(line for each in writer.files for line in each.due()), f"seed {seed}"
