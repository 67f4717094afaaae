"""A log that is followed with commits: every line counts once, also if it is rotated while nothing runs.

STREAMRNN_SEEDS=2000 runs as many seeds, STREAMRNN_KILLS=500 kills a real process so often.
"""

from __future__ import annotations

import gzip
import os
import random
import shutil
import subprocess

import pytest
from crash_follow import FOLLOW_SABOTAGES, FollowedJob
from crash_harness import run_seed
from test_commit_crashes import PARTS, SEEDS
from test_commit_kills import KILLS, PIPELINE, end, job, lines, newest, start, wait_for_commit
from test_stopping import is_listening, until

SCRIPTS = 5
"""Ways in which the log is written and rotated."""


@pytest.fixture(scope="module")
def jobs():
    made = [FollowedJob(seed=seed, n_events=40) for seed in range(SCRIPTS)]
    return [(job, job.whole()) for job in made]


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_lives_that_end_in_a_loss_of_power_change_nothing(jobs, part):
    seeds = range(part, SEEDS // 3, PARTS)
    wrong = {seed: run_seed(*jobs[seed % SCRIPTS], seed).wrong for seed in seeds}
    assert {seed: why for seed, why in wrong.items() if why} == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", FOLLOW_SABOTAGES)
def test_every_sabotage_shows(jobs, name):
    sabotage = FOLLOW_SABOTAGES[name]
    assert any(run_seed(*jobs[seed % SCRIPTS], seed, sabotage).wrong for seed in range(60))


LOG = PIPELINE.replace("path: in.jsonl", "path: log, follow: true, rotate_wait_s: 0.05")


class Rotator:
    """Appends to a real log and does to it what rotation tools do."""

    def __init__(self, folder, rng):
        self.folder, self.rng, self.log = folder, rng, folder / "log"
        self.log.touch()

    def append(self, data):
        with self.log.open("ab") as out:
            out.write(data)

    def shift(self):
        for path in sorted(self.folder.glob("log.*"), key=lambda path: -int(path.name.split(".")[1])):
            _, number, *ending = path.name.split(".")
            path.rename(self.folder / ".".join(["log", str(int(number) + 1), *ending]))

    def rename(self):
        self.shift()
        self.log.rename(self.folder / "log.1")
        self.log.touch()

    def copy_and_cut(self):
        self.shift()
        shutil.copy2(self.log, self.folder / "log.1")
        os.truncate(self.log, 0)

    def pack(self):
        newest = self.folder / "log.1"
        if newest.exists():
            (self.folder / "log.1.gz").write_bytes(gzip.compress(newest.read_bytes()))
            shutil.copystat(newest, self.folder / "log.1.gz")
            newest.unlink()


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs /proc to see who handles signals")
def test_a_real_log_that_is_rotated_while_the_run_is_killed(tmp_path):
    data = lines(4000 * KILLS)
    whole = job(tmp_path / "whole", n=1)
    (whole / "in.jsonl").write_text(data)
    assert end(start(whole)) == (0, "")
    rng, folder = random.Random(os.getpid()), job(tmp_path / "job", LOG, n=1)
    rotator, left = Rotator(folder, rng), data.encode().splitlines(keepends=True)
    process = start(folder)
    wait_for_commit(folder, process)
    kills, chunk = 0, 500
    while left or kills < KILLS:
        rotator.append(b"".join(left[:chunk]))
        del left[:chunk]
        is_up = process.poll() is None
        if is_up and (folder / "job" / "LOCK").exists() and rng.random() < 0.3:
            process.kill()
            kills += 1
            assert "broken" not in end(process)[1]
        elif not is_up:
            rng.choice([rotator.rename, rotator.copy_and_cut, rotator.pack])()
            if rng.random() < 0.5:
                process = start(folder)
        elif rng.random() < 0.3:
            rotator.rename()
        try:
            process.wait(timeout=rng.random() * 0.2)
        except subprocess.TimeoutExpired:
            pass
        else:
            assert process.returncode < 0, end(process)
    if process.poll() is not None:
        process = start(folder)
    wanted = newest(whole)["events"]
    while process.poll() is None and newest(folder)["events"] < wanted:
        try:
            process.wait(timeout=0.05)
        except subprocess.TimeoutExpired:
            continue
    until(process, lambda: is_listening(process))  # a life that found all done may have begun just now
    process.terminate()
    assert end(process)[0] == 0
    assert (folder / "out.txt").read_bytes() == (whole / "out.txt").read_bytes()
