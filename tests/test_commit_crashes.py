"""Whatever is lost when: outputs, refused events and state equal those of a run that nothing disturbed.

STREAMRNN_SEEDS=2000 runs as many seeds; a seed that fails is named, and `run_seed` replays it.
"""

from __future__ import annotations

import errno
import json
import os
import random
from pathlib import Path

import pytest
from crash_ends import small_rotated
from crash_follow import small_followed
from crash_harness import BASE, CONTROL, FORMULA, SABOTAGES, Job, events, run_seed, with_messages
from simfs import Crash, SimFS
from toys import MemoryCold

from streamrnn.errors import StreamrnnError

SEEDS = int(os.environ.get("STREAMRNN_SEEDS", "300"))
PARTS = 4
"""Of the seeds, so that they can run side by side."""


@pytest.fixture(scope="module")
def job():
    return Job()


@pytest.fixture(scope="module")
def expected(job):
    return job.whole()


@pytest.mark.timeout(20_000)
@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_lives_that_end_in_a_loss_of_power_change_nothing(job, expected, part):
    wrong = {seed: run_seed(job, expected, seed).wrong for seed in range(part, SEEDS, PARTS)}
    assert {seed: why for seed, why in wrong.items() if why} == {}


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_with_keys_on_the_disk_as_if_all_were_in_memory(expected, part):
    job = Job(FORMULA + "state: {tiers: [memory, disk], hot_keys: 5, dir: cold}\n")
    job.context.cold = lambda folder, timed: MemoryCold
    wrong = {seed: run_seed(job, expected, seed).wrong for seed in range(part, SEEDS // 3, PARTS)}
    assert {seed: why for seed, why in wrong.items() if why} == {}


@pytest.mark.slow
@pytest.mark.parametrize("order", ["", "order: {type: event_time, max_behind_s: 4}\n"])
def test_control_messages_reset_at_their_place_in_every_life(order):
    rng = random.Random(11)
    files = {name: with_messages(rng, events(rng, 40)) for name in ("a.jsonl", "b.jsonl")}
    job = Job(CONTROL + order, files)
    expected = job.whole()
    wrong = {seed: run_seed(job, expected, seed).wrong for seed in range(SEEDS // 10)}
    assert {seed: why for seed, why in wrong.items() if why} == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", SABOTAGES)
def test_every_sabotage_shows(job, expected, name):
    assert any(run_seed(job, expected, seed, SABOTAGES[name]).wrong for seed in range(150))


def of_two_files():
    """A refused event and a few commits."""
    rng = random.Random(3)
    return Job(files={"a.jsonl": events(rng, 9) + b"\nnonsense\n", "b.jsonl": events(rng, 4)})


@pytest.fixture(scope="module", params=[of_two_files, small_rotated, small_followed])
def small(request):
    """A small job and what it comes to."""
    job = request.param()
    return job, job.whole()


def whole_run(job):
    job.promised = 0
    job.begin(None)
    fs = SimFS(job.files)
    job.live(fs, random.Random(7), batch=3)
    return fs.done


@pytest.mark.slow
def test_power_lost_at_each_operation_of_a_run(small):
    """The disk as the programs see it (a kill), as it is at worst, and one of the many in between."""
    job, expected = small
    done = whole_run(job)
    assert {"open", "write", "sync", "sync_folder", "rename", "unlink"} <= {kind for kind, _ in done}
    for number in range(1, len(done) + 1):
        for luck in (None, 0.0, 0.5):
            job.promised = 0
            job.begin(None)
            fs = SimFS(job.files, random.Random(number), crash_at=number)
            with pytest.raises(Crash):
                job.live(fs, random.Random(7), batch=3)
            if luck is None:
                found = fs.as_seen()
            else:
                found = fs.after_crash(random.Random(number), luck)
            assert job.outcome(found, job.live(found, random.Random(number))) == expected, fs.done[-1]


@pytest.mark.slow
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EROFS])
def test_each_operation_failing_once_stops_the_run_and_the_next_one_converges(small, code):
    job, expected = small
    for number in range(1, len(whole_run(job)) + 1):
        job.promised = 0
        job.begin(None)
        fs = SimFS(job.files, random.Random(number), fail_at=number, code=code)
        with pytest.raises(StreamrnnError, match=os.strerror(code)) as caught:
            job.live(fs, random.Random(7), batch=3)
        kind, name = fs.done[number - 1]
        named = {name, name.partition(".0")[0]} | ({"out.txt", "bad.txt"} if kind == "sync_folder" else set())
        assert any(each in str(caught.value) for each in named), "the file is named"
        assert "\n" not in str(caught.value)
        commits = [name for kind, name in fs.done[number:] if kind == "rename"]
        assert commits == [], f"a commit was made after {fs.done[number - 1]} failed"
        found = fs.after_crash(random.Random(number))
        assert job.outcome(found, job.live(found, random.Random(number))) == expected, fs.done[number - 1]


@pytest.mark.parametrize("is_new", [True, False])
@pytest.mark.parametrize(("folder", "named"), [(BASE / "job", "/sim/job/"), (BASE, "/sim/out.txt")])
def test_a_folder_that_cannot_be_written_to_is_refused_at_the_start(job, folder, named, is_new):
    fs, job.promised = SimFS(job.files), 0
    if not is_new:
        job.live(fs, random.Random(1), turns=3)
    fs.read_only = str(folder)
    before = {path: bytes(inode.cached) for path, inode in fs.cached.items() if inode.cached}
    with pytest.raises(StreamrnnError, match=f"{named}.*Read-only file system") as caught:
        job.live(fs, random.Random(1))
    assert "\n" not in str(caught.value)
    assert {path: bytes(inode.cached) for path, inode in fs.cached.items() if inode.cached} == before


def test_a_run_that_is_complete_gives_nothing_when_it_is_started_again(job, expected):
    fs, job.promised = SimFS(job.files), 0
    job.live(fs, random.Random(1))
    before = fs.content(BASE / "out.txt")
    assert job.outcome(fs, job.live(fs, random.Random(2))) == expected
    assert fs.content(BASE / "out.txt") == before


MODELS = Path(__file__).parent.parent / "pipelines" / "models"
LETTERS = f"""
source: {{type: file, path: in.jsonl}}
decode: {{type: jsonl}}
event: {{key: k, inputs: {{x: [{{field: c, one_hot: "$abcdefghijklmnopqrstuvwxyz"}}]}}}}
reset: [{{type: on_change, field: w}}]
model:
  type: BACKEND
  path: {MODELS}/next_letter.safetensors
  layers:
    - {{type: gru, hidden: 96, weights: gru}}
    - {{type: linear, out: 27, weights: head, activation: softmax}}
encode: {{type: jsonl, include: [k]}}
sink: {{type: file, path: out.txt}}
dead_letter: {{path: bad.txt}}
checkpoint: {{dir: job, every_s: 2}}
"""


def letters(rng, n):
    made = [{"k": rng.choice("abc"), "w": rng.randrange(3), "c": rng.choice("abcdxyz?")} for _ in range(n)]
    return "\n".join(map(json.dumps, made)).encode()


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["numpy", "onnx", "torch"])
def test_a_network_on_any_backend(backend):
    if backend != "numpy":
        pytest.importorskip({"onnx": "onnxruntime", "torch": "torch"}[backend])
        pytest.importorskip(f"streamrnn_{backend}")
    job = Job(LETTERS.replace("BACKEND", backend), {"in.jsonl": letters(random.Random(1), 80)})
    expected = job.whole()
    assert expected[0].count(b"\n") > 60
    assert [run_seed(job, expected, seed).wrong for seed in range(4)] == [None] * 4
