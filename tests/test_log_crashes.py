"""From a log to a log while its partitions grow: whatever is lost when, each record stands there once.

STREAMRNN_SEEDS=2000 runs as many seeds; a seed that fails is named, and `log_harness.seed` replays it.
"""

from __future__ import annotations

import errno
import os
import random

import pytest
from log_harness import SABOTAGES, LogJob, seed
from simfs import Crash, SimFS

from streamrnn.errors import StreamrnnError

SEEDS = int(os.environ.get("STREAMRNN_SEEDS", "60"))
PARTS = 2


@pytest.fixture(scope="module")
def job():
    return LogJob()


@pytest.fixture(scope="module")
def expected(job):
    found = job.whole()
    assert [len(records) > 15 for records in found[0].values()] == [True] * 4
    return found


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_lives_that_end_in_a_loss_of_power_change_no_record(job, expected, part):
    wrong = {number: seed(job, expected, number).wrong for number in range(part, SEEDS, PARTS)}
    assert {number: why for number, why in wrong.items() if why} == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", SABOTAGES)
def test_every_sabotage_shows(job, expected, name):
    assert any(seed(job, expected, number, SABOTAGES[name]).wrong for number in range(60))


def whole_run(job):
    job.promised, job.promised_ends = 0, {}
    fs = SimFS(job.files)
    job.live(fs, random.Random(7), batch=5)
    return fs.done


@pytest.fixture(scope="module")
def small():
    job = LogJob(n=6)
    return job, job.whole()


@pytest.mark.slow
def test_power_lost_at_operations_of_a_run(small):
    job, expected = small
    done = whole_run(job)
    for number in range(1, len(done) + 1, 3):
        job.promised, job.promised_ends = 0, {}
        fs = SimFS(job.files, random.Random(number), crash_at=number)
        with pytest.raises(Crash):
            job.live(fs, random.Random(7), batch=5)
        found = fs.after_crash(random.Random(number), number % 2 / 2)
        assert job.outcome(found, job.live(found, random.Random(number))) == expected, fs.done[-1]


@pytest.mark.slow
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_operations_that_fail_stop_the_run_and_the_next_one_converges(small, code):
    job, expected = small
    for number in range(1, len(whole_run(job)) + 1, 3):
        job.promised, job.promised_ends = 0, {}
        fs = SimFS(job.files, random.Random(number), fail_at=number, code=code)
        with pytest.raises(StreamrnnError, match=os.strerror(code)):
            job.live(fs, random.Random(7), batch=5)
        found = fs.after_crash(random.Random(number))
        assert job.outcome(found, job.live(found, random.Random(number))) == expected, fs.done[number - 1]
