"""Outputs that are rotated between commits: whatever is lost when, the files are those of one life.

STREAMRNN_SEEDS=2000 runs as many seeds.
"""

from __future__ import annotations

import random

import pytest
from crash_ends import KEEP, ROTATED, ROTATION_SABOTAGES, RotatedJob
from crash_harness import BASE, run_seed
from simfs import SimFS
from test_commit import commits, copy
from test_commit_crashes import PARTS, SEEDS

from streamrnn.errors import SinkError


@pytest.fixture(scope="module")
def job():
    return RotatedJob()


@pytest.fixture(scope="module")
def expected(job):
    return job.whole()


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_lives_that_end_in_a_loss_of_power_change_nothing(job, expected, part):
    wrong = {seed: run_seed(job, expected, seed).wrong for seed in range(part, SEEDS // 2, PARTS)}
    assert {seed: why for seed, why in wrong.items() if why} == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", ROTATION_SABOTAGES)
def test_every_sabotage_shows(job, expected, name):
    assert any(run_seed(job, expected, seed, ROTATION_SABOTAGES[name]).wrong for seed in range(150))


def test_full_files_keep_their_numbers_and_the_last_ones_stay(expected):
    assert list(expected[0]) == ["out.txt.0000000006", "out.txt.0000000007", "out.txt"]


@pytest.fixture
def fallen_back():
    """A job and its disk, on which all commits but the first are broken."""
    job = RotatedJob(ROTATED.replace("keep: 1}", "keep: 30}").replace("every_s: 2", "every_s: 0"))
    fs = SimFS(job.files)
    job.live(fs, random.Random(1), turns=6, batch=30)
    broken = {str(BASE / "job" / name): b"{}" for name in commits(fs)[1:]}
    job.promised = 0
    return job, copy(fs, **broken)


def full_files(fs):
    return [BASE / name for name in fs.names(BASE) if name.startswith("out.txt.")]


def test_after_broken_commits_the_files_are_made_again_and_compared(fallen_back, expected):
    job, fs = fallen_back
    before = {path: fs.content(path) for path in full_files(fs)}
    assert len(before) > KEEP
    assert job.outcome(fs, job.live(fs, random.Random(2))) == expected
    assert {path: fs.content(path) or data for path, data in before.items()} == before


def test_files_that_somebody_may_have_read_are_never_replaced(fallen_back):
    job, fs = fallen_back
    last = str(full_files(fs)[-1])
    fs = copy(fs, **{last: fs.content(last)[:-10] + b"#" + fs.content(last)[-9:]})
    with pytest.raises(
        SinkError, match=r"out\.txt\.\d{10}: the bytes from byte \d+ on are not what the events"
    ):
        job.live(fs, random.Random(2))


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: b"#" * len(data)])
def test_a_file_that_is_not_what_it_was_is_refused(job, change):
    fs, job.promised = SimFS(job.files), 0
    job.live(fs, random.Random(1), turns=9, batch=8)
    fs = copy(fs, **{str(BASE / "out.txt"): change(fs.content(BASE / "out.txt"))})
    before = {path: bytes(inode.cached) for path, inode in fs.cached.items()}
    with pytest.raises(SinkError, match=r"out\.txt: .*(was cut|was replaced)"):
        job.live(fs, random.Random(2))
    assert {path: bytes(inode.cached) for path, inode in fs.cached.items()} == before
