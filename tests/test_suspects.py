"""Processes that die inside and outside of a model, one after the other: who is suspected, who is parked.

A death is an exception after which nothing of the process is asked any more; the disk is as it saw it. In
some lives power is lost, too. STREAMRNN_SEEDS=2000 plays as many jobs.
"""

from __future__ import annotations

import json
import os
import random
from contextlib import ExitStack, suppress
from dataclasses import replace

import numpy as np
import pytest
from blocks import blocks
from crash_harness import BASE, Job, swapped
from sim_parts import Later, Ticks
from simfs import SimFS

from streamrnn import build
from streamrnn.backends.formula import FormulaBackend
from streamrnn.commit import control
from streamrnn.commit.job import build_job
from streamrnn.commit.underway import Underway
from streamrnn.events import Block, Origin
from streamrnn.letters.reading import read

SEEDS = int(os.environ.get("STREAMRNN_SEEDS", "40"))
KILLER = 7.25
PIPELINE = """
source: {type: file, path: ["*.jsonl"]}
decode: {type: jsonl}
event: {key: k, inputs: {x: [{field: x}]}}
reset: [{type: every, events: 7}]
model: {type: formula, state: {s: 0.5}, update: {s: 0.3*s + x}, output: {y: "1.0 * s"}}
encode: {type: jsonl, include: [k, x]}
sink: {type: file, path: out.txt}
dead_letter: {path: bad.txt}
checkpoint: {dir: job, every_s: 2, keep: 2}
"""
CSV = PIPELINE.replace("*.jsonl", "*.csv").replace("decode: {type: jsonl}", "decode: {type: csv}")


ORDERED = PIPELINE.replace("{key: k,", "{key: k, time: {field: t, unit: s},").replace(
    "reset:", "order: {type: event_time, max_behind_s: 9}\nreset:"
)


class DiedError(BaseException):
    """The process is no more."""


class World:
    """A disk, and lives of one job on it. `outside` is how likely a step is hit by a kill from elsewhere."""

    def __init__(self, files, text=PIPELINE, outside=0.0, rng=None):
        self.job = Job(text, files)
        self.rng, self.outside, self.serves = rng or random.Random(0), outside, False
        self.fs = SimFS(self.job.files, self.rng)
        self.deadly: float | None = KILLER

    def live(self, batch=8, turns=10_000):
        """Whether it ended well."""
        context = replace(self.job.context, fs=self.fs, clock=Ticks(self.rng))
        context = replace(context, aside=lambda work: Later(work, self.rng))

        def deadly(method):
            def called(backend, state, x, *more):
                if self.serves and (self.deadly in x["x"] or self.rng.random() < self.outside):
                    raise DiedError
                return method(backend, state, x, *more)

            return called

        with ExitStack() as world:
            world.enter_context(swapped(build, "probe", self.job.probed))
            for name in ("step", "_scan"):
                world.enter_context(swapped(FormulaBackend, name, deadly(getattr(FormulaBackend, name))))
            pipeline = build_job(self.job.spec, self.job.registry, context)
            pipeline.parts.max_batch_events = batch
            self.serves = True
            world.callback(setattr, self, "serves", False)
            world.enter_context(suppress(DiedError))
            for _ in range(turns):
                if pipeline.run_once() is None:
                    pipeline.close()
                    return True
            pipeline.close()
        self.fs = self.fs.as_seen(self.rng)
        return False

    def lives(self, most=100, **how):
        """How many it takes to end well."""
        return next(n for n in range(1, most) if self.live(**how))

    def outputs(self):
        return self.fs.content(BASE / "out.txt")

    def refused(self):
        return [
            (letter.code, letter.partition, letter.number) for _, letter in read(self.fs, BASE / "bad.txt")
        ]

    def decisions(self):
        return control.read(self.fs, BASE / "job")[0]


def lines(n, killers, seed=0):
    rng = random.Random(seed)
    made = [{"k": rng.choice("abc"), "x": rng.randrange(-40, 40) / 8} for _ in range(n)]
    for at in killers:
        made[at]["x"] = KILLER
    return made


def jsonl(made):
    return "".join(json.dumps(event) + "\n" for event in made).encode()


def as_csv(made):
    return ("k,x\n" + "".join(f"{event['k']},{event['x']}\n" for event in made)).encode()


def healthy(made):
    return [event for event in made if event["x"] != KILLER]


@pytest.mark.parametrize("batch", [1, 8, 64])
@pytest.mark.parametrize("killers", [[0], [20], [59], [20, 21], [3, 40]])
def test_killers_are_parked_and_nobody_else(killers, batch):
    made = lines(60, killers)
    world, well = World({"a.jsonl": jsonl(made)}), World({"a.jsonl": jsonl(healthy(made))})
    assert well.live()
    n = world.lives(batch=batch)
    # one in its batch and three alone for each; neighbours are under suspicion together already
    assert 3 * len(killers) + 1 < n <= 4 * len(killers) + 1
    assert world.outputs() == well.outputs()
    assert world.refused() == [("crash_suspect", "a.jsonl", at + 1) for at in killers]
    assert [entry.sequence for entry in world.decisions()] == list(range(1, len(killers) + 1))


@pytest.mark.parametrize("batch", [1, 8, 64])
@pytest.mark.parametrize("seed", blocks(range(4), 1))
def test_an_event_that_waited_kills_when_it_is_let_go(batch, seed):
    """The record that comes then is innocent, and so are those that wait beside it."""
    rng = random.Random(seed)
    made = lines(60, [], seed)
    for i, event in enumerate(made):
        event["t"] = i + rng.randrange(8)
    killers = sorted(rng.sample(range(60), 2))
    for at in killers:
        made[at] |= {"k": "z", "x": KILLER}
    world = World({"a.jsonl": jsonl(made[:30]), "b.jsonl": jsonl(made[30:])}, ORDERED)
    well = World({"a.jsonl": jsonl(made[:30]), "b.jsonl": jsonl(made[30:])}, ORDERED)
    well.deadly = None
    assert well.live()
    assert world.lives(batch=batch) > 4
    whole = well.outputs().splitlines(True)
    assert world.outputs() == b"".join(line for line in whole if b'"z"' not in line)
    found = {("crash_suspect", "ab"[at >= 30] + ".jsonl", at % 30 + 1) for at in killers}
    assert set(world.refused()) == found
    assert len(world.decisions()) == 2


def test_a_header_goes_with_every_part_of_a_block():
    made = lines(60, [20])
    world = World({"a.csv": as_csv(made)}, CSV)
    well = World({"a.csv": as_csv(healthy(made))}, CSV)
    assert well.live()
    assert world.lives() == 5
    assert world.outputs() == well.outputs()


def test_decisions_hold_when_all_else_is_begun_anew():
    made = lines(60, [20])
    world = World({"a.jsonl": jsonl(made)})
    world.lives()
    before = world.outputs(), world.refused()
    for name in world.fs.names(BASE / "job"):
        if name != control.NAME:
            world.fs.remove(BASE / "job" / name)
    assert world.live()
    assert (world.outputs(), world.refused()) == before


def test_another_event_at_the_position_of_a_parked_one_is_served():
    made = lines(60, [20])
    world = World({"a.jsonl": jsonl(made)})
    world.lives()
    made[20]["x"] = -KILLER  # one byte more, but at the same place
    files = {
        BASE / "a.jsonl": jsonl(made),
        BASE / "job" / control.NAME: world.fs.content(BASE / "job/control.log"),
    }
    world.fs = SimFS(files)
    assert world.live()
    assert world.refused() == []


def test_an_event_that_passed_begins_at_nothing():
    """Two deaths alone, then it is served; two more later do not make four."""
    made = lines(60, [20])
    world = World({"a.jsonl": jsonl(made)})
    assert [world.live() for _ in range(3)] == [False] * 3
    world.deadly = None  # as if the model had been mended for a while
    assert not world.live(turns=4)  # beyond the event, not to the end
    kept = json.loads(world.fs.content(BASE / "job" / "suspects.json"))
    assert kept["suspects"] == []
    assert world.decisions() == []


def test_a_death_counts_once_however_often_the_next_run_dies_at_its_start():
    def dies(self, after):
        raise DiedError

    world = World({"a.jsonl": jsonl(lines(60, [20]))})
    assert [world.live() for _ in range(2)] == [False] * 2
    for _ in range(4):
        with swapped(Underway, "begin", dies), pytest.raises(DiedError):
            world.live()
        world.fs = world.fs.as_seen(world.rng)
    assert world.decisions() == []
    assert world.lives() == 3  # two more deaths alone, and then it is parked


def test_a_run_that_ended_between_two_batches_blames_nobody():
    world = World({"a.jsonl": jsonl(lines(60, []))})
    context = replace(world.job.context, fs=world.fs, clock=Ticks(world.rng))
    pipeline = build_job(world.job.spec, world.job.registry, context)
    pipeline.run_once()
    world.fs = world.fs.as_seen()
    assert world.live()
    assert world.fs.content(BASE / "job" / "suspects.json") is None


def test_a_run_that_was_told_to_end_blames_nobody():
    world = World({"a.jsonl": jsonl(lines(60, []))})
    context = replace(world.job.context, fs=world.fs, clock=Ticks(world.rng))
    pipeline = build_job(world.job.spec, world.job.registry, context)
    block = pipeline.parts.source.read(8, 0)
    pipeline.parts.watch.serving(block)
    pipeline.parts.watch.signalled()
    world.fs = world.fs.as_seen()
    assert world.live()
    assert world.fs.content(BASE / "job" / "suspects.json") is None


@pytest.mark.parametrize("block", blocks(range(4), 1))
def test_kills_from_outside_among_those_from_inside(block):
    """Whatever dies when: killers are parked, nobody else is, and no byte of the rest differs."""
    for seed in range(block, SEEDS, 4):
        rng = random.Random(seed)
        killers = sorted(rng.sample(range(80), rng.choice([0, 0, 1, 2])))
        made = lines(80, killers, seed)
        cut = rng.randrange(81)
        files = {"a.jsonl": jsonl(made[:cut]), "b.jsonl": jsonl(made[cut:])}
        world = World(files, outside=0.02, rng=rng)
        for life in range(200):
            if world.live(batch=rng.choice([1, 8, 64]), turns=rng.choice([3, 1000])) and life > 2:
                break
            if rng.random() < 0.1:
                world.fs = world.fs.after_crash(rng)
        well = World({"a.jsonl": jsonl(healthy(made[:cut])), "b.jsonl": jsonl(healthy(made[cut:]))})
        assert well.live()
        assert world.outputs() == well.outputs(), seed
        assert {code for code, _, _ in world.refused()} <= {"crash_suspect"}, seed
        assert len(world.refused()) == len(world.decisions()) == len(killers), seed


def test_a_part_of_a_block_is_a_block():
    text = b"h1\naa\nb\nh2\nccc\n"
    starts, ends = np.array([3, 6, 11]), np.array([5, 7, 14])
    block = Block(
        text, starts, ends, starts * 10, np.arange(1, 4), Origin("s", "p"), {2: "no"},
        np.array([5, 5, 6]), {"f": [1, 2, 3]},
    )  # fmt: skip
    for start in range(3):
        for stop in range(start + 1, 4):
            part = block.part(start, stop)
            wanted = [block.record(i) for i in range(start, stop)]
            assert [part.record(i) for i in range(len(part))] == wanted
            assert part.positions.tolist() == block.positions[start:stop].tolist()
            assert part.refused == {i - start: "no" for i in range(start, stop) if i == 2}
            assert part.fields["f"] == [1, 2, 3][start:stop]
            assert part.buffer[: part.starts[0]].strip() == (b"h1" if start < 2 else b"h2")
