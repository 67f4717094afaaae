"""SIGTERM and SIGINT at any moment: what was read is served, committed, and never replayed.

STREAMRNN_TERMS=300 sends as many.
"""

from __future__ import annotations

import logging
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest
from test_commit_kills import PIPELINE, end, job, newest, results, wait_for_commit

from streamrnn.builtins.ends import FileSourceConfig, StdinConfig
from streamrnn.codecs.lines import LineFramer
from streamrnn.commit import manifest as m
from streamrnn.context import Context
from streamrnn.ports import EndOfStream
from streamrnn.sources import file, stdin

RUN = [sys.executable, "-m", "streamrnn", "run", "p.yaml"]
TERMS = int(os.environ.get("STREAMRNN_TERMS", "20"))
FILE = "{type: file, path: in.jsonl}"
SIGNALS = [signal.SIGTERM, signal.SIGINT]


def start(folder, **streams):
    return subprocess.Popen(RUN, cwd=folder, stderr=subprocess.PIPE, **streams)


def until(process, happened):
    """Wait for something that a process is about to do, or for its end."""
    while process.poll() is None and not happened():
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.002)


def is_listening(process):
    """Whether a process has its own handler for SIGTERM by now, or has ended."""
    with suppress(FileNotFoundError), open(f"/proc/{process.pid}/status") as status:
        caught = next((line.split()[1] for line in status if line.startswith("SigCgt")), None)
        return caught is None or bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)
    return True


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    folder = job(tmp_path_factory.mktemp("whole") / "job")
    assert end(start(folder))[0] == 0
    return results(folder)


@pytest.mark.timeout(20_000)
@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs /proc to see who handles signals")
def test_signals_at_random_moments(tmp_path, expected):
    rng, folder, rounds, inside = random.Random(os.getpid()), None, 0, 0
    for _ in range(TERMS):
        if folder is None:
            rounds += 1
            folder = job(tmp_path / str(rounds))
        has_commits = (folder / "job").exists() and bool(m.commit_numbers(os.listdir(folder / "job")))
        process = start(folder)
        until(process, lambda process=process: is_listening(process))
        kind = rng.randrange(3)
        if kind:
            wait_for_commit(folder, process)
        if kind == 2:  # as soon as a commit is being written
            until(process, (folder / "job" / m.UNFINISHED).exists)
            inside += process.poll() is None
        else:
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=rng.random() * 0.6)
        process.send_signal(rng.choice(SIGNALS))
        code, err = end(process)
        assert code == 0, err
        assert not has_commits or "going on" not in err or "; 0 events replayed" in err
        if results_are_there(folder) and results(folder) == expected:
            folder = None
    if folder is not None:
        code, err = end(start(folder))
        assert code == 0
        assert "going on" not in err or "; 0 events replayed" in err
        assert results(folder) == expected
    print(f"{TERMS} signals over {rounds} jobs, {inside} of them while a commit was written")


def results_are_there(folder):
    return (folder / "out.txt").exists() and (folder / "bad.txt").exists()


@pytest.mark.slow
def test_what_a_kill_leaves_is_replayed_and_told(tmp_path, expected):
    folder = job(tmp_path / "job", PIPELINE.replace("every_s: 0.02", "every_s: 60"))
    process = start(folder)
    until(process, lambda: (folder / "out.txt").exists() and (folder / "out.txt").stat().st_size)
    process.kill()
    end(process)
    code, err = end(start(folder))
    assert code == 0
    assert "bytes of outputs are cut, and their events replayed" in err
    assert results(folder) == expected


@pytest.mark.slow
@pytest.mark.parametrize("source", ["stdin", "unopened pipe", "pipe", "follow", "socket"])
def test_a_run_with_nothing_to_read_stops_at_once(tmp_path, source):
    path = tmp_path / "job" / "fifo"
    text = {
        "stdin": "{type: stdin}",
        "follow": "{type: file, path: nothing.jsonl, follow: true}",
        "socket": '{type: socket, listen: "unix:s"}',
    }.get(source, "{type: file, path: fifo}")
    plain = PIPELINE.split("checkpoint:")[0]
    folder = job(tmp_path / "job", plain.replace(FILE, text), n=1)
    os.mkfifo(path)
    process = start(folder, stdin=subprocess.PIPE)
    writer = os.open(path, os.O_RDWR) if source == "pipe" else None
    until(process, lambda: (folder / "bad.txt").exists())
    began_s = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 0
    assert time.monotonic() - began_s < 5
    process.communicate()
    if writer is not None:
        os.close(writer)


@pytest.fixture
def stuck(tmp_path):
    """A run whose sink does not take more: stdout is a pipe that nobody reads."""
    text = PIPELINE.replace("sink: {type: file, path: out.txt}", "sink: {type: stdout}")
    folder = job(tmp_path / "job", text.replace("events: 64}", "events: 64, grace_s: 0.5}"))
    process = start(folder, stdout=subprocess.PIPE)
    wait_for_commit(folder, process)
    until(process, lambda: is_asleep(process))
    yield folder, process
    process.kill()
    process.communicate()


def is_asleep(process):
    """Whether its main thread sits in a system call, and still does a little later."""
    seen = []
    for _ in range(2):
        with open(f"/proc/{process.pid}/syscall") as file:
            seen.append(file.read().split()[:2])
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.2)
    return seen[0] == seen[1] and seen[0][1:] == ["0x1"]  # the descriptor of standard output


@pytest.mark.slow
def test_a_grace_that_passes_is_told_with_what_was_waited_for(stuck):
    _, process = stuck
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 4
    told = process.stderr.read().decode()
    assert "SIGTERM: not done after grace_s: 0.5 s; still waiting for the sink, to take outputs\n" in told


@pytest.mark.slow
def test_a_sink_that_takes_more_within_the_grace_gets_what_was_served(stuck):
    folder, process = stuck
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    # 95 of 97 lines in the first batch are events; what stdout had is what the commit says was served.
    assert out.count(b"\n") == newest(folder)["events"]


@pytest.mark.slow
def test_a_second_signal_is_a_kill(stuck):
    _, process = stuck
    process.send_signal(signal.SIGTERM)
    until(process, lambda: not is_listening(process))
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == -signal.SIGTERM


HELD_UP = """
import ctypes, sys
from streamrnn.cli.stopping import Stopping
with Stopping() as stop:
    stop.grace_s, stop.has_begun = float(sys.argv[1]), True
    print("here", flush=True)
    ctypes.CDLL(None).system(b"exec sleep 30")
"""


@pytest.mark.slow
@pytest.mark.parametrize(("grace_s", "signals", "code"), [(0.2, 1, 3), (20, 2, -signal.SIGKILL)])
def test_a_main_thread_held_up_in_a_library_does_not_outlive_its_grace(grace_s, signals, code):
    command = [sys.executable, "-c", HELD_UP, str(grace_s)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout.readline() == b"here\n"
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=0.3)  # until it is in the library
    for _ in range(signals):
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.1)
    assert process.wait(timeout=10) == code
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    _, err = process.communicate()
    assert (b"still waiting for the pipeline to be loaded" in err) == (code == 3)


def new_framer(position=0):
    return LineFramer(100, position)


class Arrives:
    """A stream on which everything is there at once."""

    def __init__(self, data):
        self.data = data

    def read(self, size, wait_ms):
        data, self.data = self.data, b""
        return data or None


def rest(source):
    """What a source gives after it was stopped, one record at a time."""
    found = []
    with suppress(EndOfStream):
        while True:
            block = source.read(1, 0)
            found.append(block.record(0))
    return found


def test_what_was_taken_from_a_pipe_is_served_when_it_is_stopped(caplog):
    source = stdin.build(StdinConfig(), Context(stdin=Arrives(b"1\n2\n3\nhalf")), new_framer)
    assert source.read(1, 0).record(0) == b"1"
    source.stop()
    source.stdin = Arrives(b"5\n")
    assert rest(source) == [b"2", b"3"]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    told = "stdin: stopped in the midst of a record; the 4 bytes that were read of it are lost"
    assert record.getMessage() == told


def test_so_is_what_was_taken_from_a_named_pipe(tmp_path, caplog):
    os.mkfifo(tmp_path / "fifo")
    source = file.build(FileSourceConfig(path="fifo"), Context(base_dir=tmp_path), new_framer)
    assert source.read(1, 0) is None
    writer = os.open(tmp_path / "fifo", os.O_WRONLY)
    os.write(writer, b"1\n2\nha")
    assert source.read(1, 1000).record(0) == b"1"
    os.write(writer, b"lf\n")
    source.stop()
    assert rest(source) == [b"2"]
    assert "fifo: stopped in the midst of a record; the 2 bytes" in caplog.records[0].getMessage()
    source.close()
    os.close(writer)


def test_a_regular_file_is_left_where_it_is(tmp_path):
    (tmp_path / "a").write_bytes(b"1\n2\n")
    source = file.build(FileSourceConfig(path="a"), Context(base_dir=tmp_path), new_framer)
    assert source.read(1, 0).record(0) == b"1"
    source.stop()
    assert rest(source) == []
    source.close()


IMPORTING = """
import os, signal
from streamrnn.cli.stopping import Stopping
with Stopping():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    except BaseException as error:
        raise ImportError("half imported") from error  # as extension modules say of anything that comes up
"""


def test_a_signal_while_something_is_imported_is_no_error_of_that():
    done = subprocess.run([sys.executable, "-c", IMPORTING], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
