"""Resets by hand amid losses of power: each line of control.log takes effect once, exactly where it says.

STREAMRNN_SEEDS=2000 runs as many seeds.
"""

import os
import random
from contextlib import contextmanager, suppress

import pytest
from crash_harness import BASE, FORMULA, Job, _deaf, events, no_sabotage, run_seed, swapped
from simfs import SimFS

from streamrnn.commit import control
from streamrnn.commit.writer import Commits
from streamrnn.daemon import commands
from streamrnn.daemon.hosted import RefusedError

SEEDS = int(os.environ.get("STREAMRNN_SEEDS", "100"))
MOST = 12
COMMANDS = [{"keys": ["k1", "k2", "none"]}, {"glob": "k1*"}, {"glob": "?3"}, {"all": True}]


class Steered(Job):
    """A job of which somebody resets keys now and then."""

    def __init__(self):
        rng = random.Random(2)
        super().__init__(FORMULA, {"a.jsonl": events(rng, 40), "c.jsonl": events(rng, 30)})
        self.due = None

    def turn(self, fs, rng, pipeline):
        if self.due is not None:  # a straight run, an event at a time, with the resets where the log has them
            while self.due and self.due[0].events == pipeline.parts.shards.events:
                reset = self.due.pop(0).command["reset"]
                control.apply_reset(pipeline.parts.shards, reset, pipeline.heed)
        elif rng.random() < 0.15 and len(pipeline.commits.control.entries) < MOST:
            with suppress(RefusedError):  # what outputs hold beyond a broken commit is being made again
                commands.reset(pipeline, rng.choice(COMMANDS))
        return False

    def outcome(self, fs, state):
        """Also what a straight run with the same resets comes to."""
        if self.due is None:
            self.due = control.read(fs, BASE / "job")[0]
            straight = SimFS(self.files)
            promised, self.promised = self.promised, 0
            found = self.live(straight, random.Random(0), batch=1)
            self.expected = super().outcome(straight, found)
            assert not self.due, "a line says that it took effect behind the last event"
            self.due, self.promised = None, promised
        return super().outcome(fs, state)


class Expected:
    """Known only once a seed has run."""

    def __init__(self, job):
        self._job = job

    def __iter__(self):
        return iter(self._job.expected)


@pytest.fixture(scope="module")
def job():
    return Steered()


def seen(job, seed, sabotage=no_sabotage):
    return run_seed(job, Expected(job), seed, sabotage).wrong


@pytest.mark.timeout(20_000)
@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_every_line_takes_effect_once_where_it_says(job, part):
    wrong = {seed: seen(job, seed) for seed in range(part, SEEDS, 4)}
    assert {seed: why for seed, why in wrong.items() if why} == {}


@contextmanager
def no_commit_before():
    def agree(self, command):
        parts = self._parts
        self.control.append(command, self._chain.number, parts.shards.events, parts.source.position())

    with swapped(Commits, "agree", agree):
        yield


@contextmanager
def nothing_is_due():
    with swapped(control.ControlLog, "due", lambda self, commit: iter(())):
        yield


SABOTAGES = {
    "the log is not synced": _deaf(lambda kind, name, before: kind == "sync" and name == control.NAME),
    "no commit before the line": no_commit_before,
    "lines are not obeyed when a run goes on": nothing_is_due,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SABOTAGES)
def test_every_sabotage_shows(job, name):
    assert any(seen(job, seed, SABOTAGES[name]) for seed in range(150))
