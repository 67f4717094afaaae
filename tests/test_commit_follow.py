"""A log that is followed with commits: every line counts once, also if it is rotated while nothing runs.

STREAMRNN_SEEDS=2000 runs as many seeds.
"""

from __future__ import annotations

import pytest
from crash_follow import FOLLOW_SABOTAGES, FollowedJob
from crash_harness import run_seed
from test_commit_crashes import PARTS, SEEDS

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


@pytest.mark.parametrize("name", FOLLOW_SABOTAGES)
def test_every_sabotage_shows(jobs, name):
    sabotage = FOLLOW_SABOTAGES[name]
    assert any(run_seed(*jobs[seed % SCRIPTS], seed, sabotage).wrong for seed in range(60))
