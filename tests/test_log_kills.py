"""A log to a log, killed at random moments while four partitions grow: no record differs.

STREAMRNN_KILLS=200 kills as often.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from after_kills import but_suspicion

from streamrnn.context import FileSystem
from streamrnn.log import layout

KILLS = int(os.environ.get("STREAMRNN_KILLS", "4"))
RUN = [sys.executable, "-m", "streamrnn", "run", "-q", "p.yaml"]
PARTITIONS = ("0", "1", "2", "3")
EVENTS = 6_000
PIPELINE = """
source: {type: log, path: in, follow: FOLLOW}
decode: {type: jsonl}
event: {key: k, inputs: {x: [{field: x}]}}
reset: [{type: every, events: 50}]
model: {type: formula, state: {s: 0.5}, update: {s: 0.3*s + x}, output: {y: "1.0 * s"}}
encode: {type: jsonl, include: [k], fields: {y: {type: output, output: y}, at: {type: meta, name: position}}}
sink: {type: log, path: out, emit: committed, segment_bytes: 40000, segment_s: 0.5}
dead_letter: {path: bad.txt}
limits: {max_keys: 150, max_batch_events: 64}
checkpoint: {dir: job, every_s: 0.02}
"""


def lines(seed):
    rng = random.Random(seed)
    made = [json.dumps({"k": rng.randrange(300), "x": rng.randrange(-40, 40) / 8}) for _ in range(EVENTS)]
    made[::97] = ["nonsense"] * len(made[::97])
    return [(line + "\n").encode() for line in made]


class Feed:
    """Lets the partitions grow a little at each call."""

    def __init__(self, folder, rng):
        self.folder, self.rng = folder, rng
        self.lines = {name: lines(i) for i, name in enumerate(PARTITIONS)}
        self.done = dict.fromkeys(PARTITIONS, 0)
        self.segment = dict.fromkeys(PARTITIONS, 0)

    def more(self, most):
        for name in PARTITIONS:
            at = self.done[name]
            self.done[name] = stop = min(EVENTS, at + self.rng.randrange(most))
            if at - self.segment[name] > 1000:
                self.segment[name] = at
            path = layout.segment_path(self.folder / "in" / name, self.segment[name])
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as file:
                file.write(b"".join(self.lines[name][at:stop]))

    @property
    def is_whole(self):
        return set(self.done.values()) == {EVENTS}


def job(folder, follow="true"):
    folder.mkdir()
    (folder / "p.yaml").write_text(PIPELINE.replace("FOLLOW", follow))
    return folder


def results(folder):
    """By partition the offsets and records, and the refused records."""
    out = {}
    for name in PARTITIONS:
        out[name] = []
        for first in layout.segments(FileSystem(), folder / "out" / name):
            text = layout.segment_path(folder / "out" / name, first).read_bytes()
            assert first == len(out[name])
            out[name] += [json.loads(line) for line in text.split(b"\n")[:-1]]
    refused = [json.loads(line) for line in (folder / "bad.txt").read_bytes().splitlines()]
    return out, {name: [r for r in refused if r["partition"] == name] for name in PARTITIONS}


def start(folder):
    return subprocess.Popen(RUN, cwd=folder, stderr=subprocess.PIPE)


def end(process):
    _, err = process.communicate(timeout=60)
    return process.returncode, but_suspicion(err.decode())


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    folder = job(tmp_path_factory.mktemp("whole") / "job", "false")
    feed = Feed(folder, random.Random(1))
    while not feed.is_whole:
        feed.more(EVENTS)
    assert end(start(folder)) == (0, "")
    found = results(folder)
    assert [len(records) for records in found[0].values()] == [EVENTS - len(range(0, EVENTS, 97))] * 4
    return found


def served(folder):
    """How many outputs readers may have."""
    ends = layout.committed_ends(FileSystem(), folder / "out") or {}
    return [ends.get(name, 0) for name in PARTITIONS]


def tick(process, feed):
    feed.more(120)
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=0.01)


@pytest.mark.timeout(20_000)
@pytest.mark.slow
def test_kills_at_random_moments(tmp_path, expected):
    rng, kills, rounds = random.Random(os.getpid()), 0, 0
    whole = [len(records) for records in expected[0].values()]
    while kills < KILLS:
        rounds += 1
        folder, seen = job(tmp_path / str(rounds)), [0] * 4
        feed = Feed(folder, rng)
        while served(folder) != whole:
            process = start(folder)
            while served(folder) == seen and process.poll() is None:
                tick(process, feed)
            for _ in range(rng.randrange(60)):
                tick(process, feed)
            process.kill()
            kills += 1
            assert end(process)[1] == ""
            now = served(folder)
            assert all(a <= b for a, b in zip(seen, now, strict=True)), (
                "what readers could have was taken back"
            )
            seen = now
        assert results(folder) == expected
        assert Path(folder / "out" / "committed").exists()
