"""`streamrnn run` as the system kills it: its real files, its real signals.

STREAMRNN_KILLS=500 kills each backend so often.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import pytest
from after_kills import but_suspicion

from streamrnn.commit import manifest as m
from streamrnn.commit.exports import exported
from streamrnn.commit.keys import load
from streamrnn.context import FileSystem

RUN = [sys.executable, "-m", "streamrnn", "run", "--quiet"]
KILLS = int(os.environ.get("STREAMRNN_KILLS", "3"))
PIPELINE = """
source: {type: file, path: in.jsonl}
decode: {type: jsonl}
event: {key: k, inputs: {x: [{field: x}]}}
reset: [{type: every, events: 50}]
model: {type: formula, state: {s: 0.5}, update: {s: 0.3*s + x}, output: {y: "1.0 * s"}}
encode: {type: jsonl, include: [k]}
sink: {type: file, path: out.txt}
dead_letter: {path: bad.txt}
limits: {max_batch_events: 64}
checkpoint: {dir: job, every_s: 0.02}
"""
MODELS = Path(__file__).parent.parent / "pipelines" / "models"
LETTERS = (
    PIPELINE.replace("x: [{field: x}]", 'x: [{field: c, one_hot: "$abcdefghijklmnopqrstuvwxyz"}]')
    .replace("max_batch_events: 64", "max_batch_events: 512")
    .replace(
        'model: {type: formula, state: {s: 0.5}, update: {s: 0.3*s + x}, output: {y: "1.0 * s"}}',
        f"""
model:
  type: BACKEND
  path: {MODELS}/next_letter.safetensors
  layers:
    - {{type: gru, hidden: 96, weights: gru}}
    - {{type: linear, out: 27, weights: head, activation: softmax}}""",
    )
)
BACKENDS = {"formula": PIPELINE} | {
    name: LETTERS.replace("BACKEND", name) for name in ("numpy", "onnx", "torch")
}
TIERS = "state: {tiers: [memory, disk], hot_keys: 100, dir: cold}\n"
BACKENDS["formula, keys on the disk"] = PIPELINE + TIERS
RESULTS = ("out.txt", "bad.txt")


def lines(n, seed=0):
    rng = random.Random(seed)
    made = [
        json.dumps({"k": rng.randrange(300), "x": rng.randrange(-40, 40) / 8, "c": rng.choice("abcxyz")})
        for _ in range(n)
    ]
    made[::97] = ["nonsense"] * len(made[::97])
    return "\n".join(made) + "\n"


def job(folder, text=PIPELINE, n=40_000):
    folder.mkdir()
    (folder / "p.yaml").write_text(text)
    (folder / "in.jsonl").write_text(lines(n))
    return folder


def results(folder):
    return [(folder / name).read_bytes() for name in RESULTS]


def start(folder, **streams):
    return subprocess.Popen([*RUN, "p.yaml"], cwd=folder, stderr=subprocess.PIPE, **streams)


def end(process):
    """How it ended and what it said, but for what it said of a run that was killed before it."""
    _, err = process.communicate(timeout=300)
    return process.returncode, but_suspicion(err.decode())


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    folder = job(tmp_path_factory.mktemp("whole") / "job")
    assert end(start(folder)) == (0, "")
    return results(folder)


def newest(folder):
    numbers = m.commit_numbers(os.listdir(folder / "job"))
    return m.decode((folder / "job" / m.commit_name(numbers[0])).read_bytes())


def wait_for_commit(folder, process):
    """Until there is a commit that was not there; the run may end before."""
    before = m.commit_numbers(os.listdir(folder / "job"))[:1] if (folder / "job").exists() else []
    while process.poll() is None:
        names = os.listdir(folder / "job") if (folder / "job").exists() else []
        if m.commit_numbers(names)[:1] != before:
            return
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.005)


def outcome(folder):
    """Digests of the outputs, the refused events and the state of all keys."""
    state = json.dumps(list(exported(load(FileSystem(), folder / "job"))), sort_keys=True, default=repr)
    return [sha256(data).hexdigest() for data in (*results(folder), state.encode())]


@pytest.mark.timeout(20_000)
@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_kills_at_random_moments(tmp_path, backend):
    for needed in {"onnx": ("onnxruntime", "streamrnn_onnx"), "torch": ("torch", "streamrnn_torch")}.get(
        backend, ()
    ):
        pytest.importorskip(needed)
    text, n = BACKENDS[backend], 40_000 if backend == "formula" else 15_000
    assert end(start(job(tmp_path / "whole", text.removesuffix(TIERS), n))) == (0, "")
    expected = outcome(tmp_path / "whole")
    rng, folder, kills, rounds = random.Random(os.getpid()), None, 0, 0
    while kills < KILLS:
        if folder is None:
            rounds += 1
            folder = job(tmp_path / str(rounds), text, n)
        process = start(folder)
        early = rng.random() < 0.2  # while it starts, or goes on from a commit
        if not early:
            wait_for_commit(folder, process)
        try:
            process.wait(timeout=rng.random() * (1.0 if early else 0.3))
        except subprocess.TimeoutExpired:
            process.kill()
            kills += 1
        code, err = end(process)
        assert code in (0, -signal.SIGKILL), err
        assert "broken" not in err
        if code == 0:
            assert outcome(folder) == expected
            folder = None
    if folder is not None:
        assert end(start(folder)) == (0, "")
        assert outcome(folder) == expected
    print(f"{backend}: {kills} kills, {rounds} runs to the end")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_commits_and_nothing_is_served_again(tmp_path, expected, number):
    folder = job(tmp_path / "job")
    for _ in range(3):
        process = start(folder)
        wait_for_commit(folder, process)
        process.send_signal(number)
        assert end(process) == (0, "")
        places = newest(folder)["outputs"]
        assert places["sink"]["bytes"] == (folder / "out.txt").stat().st_size
        assert places["rejected"]["bytes"] == (folder / "bad.txt").stat().st_size
    assert 0 < newest(folder)["events"] < 40_000
    assert end(start(folder)) == (0, "")
    assert results(folder) == expected


def test_a_second_run_is_refused_while_the_first_is_alive(tmp_path):
    folder = job(tmp_path / "job", PIPELINE.replace("{type: file, path: in.jsonl}", "{type: stdin}"), n=1)
    with subprocess.Popen([*RUN, "p.yaml"], cwd=folder, stdin=subprocess.PIPE) as first:
        wait_for_commit(folder, first)
        code, err = end(start(folder, stdin=subprocess.DEVNULL))
        assert code == 3
        assert "is in use by another run" in err
        first.stdin.close()
        assert first.wait(timeout=20) == 0


def test_a_full_disk_stops_the_run_with_a_reason(tmp_path):
    text = PIPELINE.replace("path: out.txt", "path: /dev/full").replace("n: 60_000", "n: 100")
    folder = job(tmp_path / "job", text, n=100)
    code, err = end(start(folder))
    assert code == 4
    assert "No space left on device" in err
    assert "Traceback" not in err


def test_a_folder_of_commits_that_is_deleted_stops_the_run_and_is_named(tmp_path):
    text = PIPELINE.replace("{type: file, path: in.jsonl}", "{type: stdin}")
    folder = job(tmp_path / "job", text, n=1)
    process = start(folder, stdin=subprocess.PIPE)
    process.stdin.write(lines(500).encode())
    process.stdin.flush()
    wait_for_commit(folder, process)
    (folder / "job").rename(folder / "elsewhere")  # a removal would race with the making of files
    for seed in range(50):
        with suppress(BrokenPipeError, subprocess.TimeoutExpired):
            process.stdin.write(lines(100, seed).encode())
            process.stdin.flush()
            process.wait(timeout=0.05)
    code, err = end(process)
    assert code == 3
    (told,) = [line for line in err.splitlines() if line.startswith("checkpoint:")]
    assert f"checkpoint: {folder / 'job'}" in told
    assert "No such file or directory" in told
    assert "Traceback" not in err


@pytest.mark.slow
def test_a_file_as_standard_input_is_gone_on_with(tmp_path, expected):
    folder = job(tmp_path / "job", PIPELINE.replace("{type: file, path: in.jsonl}", "{type: stdin}"))
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
        with (folder / "in.jsonl").open() as stdin:
            process = start(folder, stdin=stdin)
            wait_for_commit(folder, process)
            process.send_signal(number)
            process.communicate(timeout=300)
    for _ in range(2):  # the second time there is nothing left to do, not even an end to tell of
        with (folder / "in.jsonl").open() as stdin:
            assert end(start(folder, stdin=stdin)) == (0, "")
        assert (folder / "out.txt").read_bytes() == expected[0]
    assert newest(folder)["source"]["ended"]
    with (folder / "p.yaml").open() as stdin:
        code, err = end(start(folder, stdin=stdin))
    assert code == 4
    assert "stdin: expected at least" in err
    code, err = end(start(folder, stdin=subprocess.PIPE))
    assert code == 4
    assert "stdin: expected a regular file, as at the last commit" in err


@pytest.mark.slow
def test_a_pipe_keeps_state_and_says_what_is_not_promised(tmp_path):
    text = PIPELINE.replace("{type: file, path: in.jsonl}", "{type: stdin}")
    folder = job(tmp_path / "job", text.replace("{type: file, path: out.txt}", "{type: stdout}"), n=1)
    answers = []
    for _ in range(2):
        process = start(folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        out, err = process.communicate(b'{"k": 1, "x": 1}\n', timeout=60)
        assert b"source: a pipe cannot be read again" in err
        assert b"sink: what was written cannot be taken back" in err
        answers.append(json.loads(out)["y"])
    assert answers == [1.15, 1.345]
    lint = subprocess.run([*RUN[:3], "lint", "p.yaml"], cwd=folder, capture_output=True, text=True)
    assert lint.returncode == 0
    assert "p.yaml: source: a pipe cannot be read again" in lint.stderr


def test_a_named_pipe_is_no_file_to_go_on_with(tmp_path):
    folder = job(tmp_path / "job", PIPELINE.replace("path: in.jsonl", "path: pipe"), n=1)
    os.mkfifo(folder / "pipe")
    process = start(folder)
    (folder / "pipe").write_text(lines(500))
    code, err = end(process)
    assert code == 0
    assert "source: it cannot be gone on with after a crash" in err
    assert newest(folder)["events"] == 494
    assert newest(folder)["source"] is None
