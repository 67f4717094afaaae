"""Models exchanged by every policy under a stream that does not stop, with kills: every answer is known.

Where a file took effect is known from control.log and from what a run says it goes on from; from there on the
definition below answers, one event at a time. STREAMRNN_SWAPS=200 exchanges as often.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import threading
from collections import defaultdict
from pathlib import Path

import pytest
from daemon_parts import checkpoint, pipeline, until
from test_daemon_kills import started

from streamrnn.client import Producer
from streamrnn.core.candidate import Share

SWAPS = int(os.environ.get("STREAMRNN_SWAPS", "6"))
PER_S, KEYS = 5000, 40
MODELS = {
    "H + x": lambda h, x: h + x,
    "0.5*H + x": lambda h, x: 0.5 * h + x,
    "0*H + x": lambda h, x: 0 * h + x,
}
SOURCES = {
    "file": "{{type: file, path: p.in, follow: true}}",
    "socket": '{{type: socket, listen: "unix:{0}/in", durability: log, log: ingest}}',
}


class Plan:
    """What a pipeline file says of models: which one, how it takes over, and what stands beside it."""

    def __repr__(self):
        return f"<{self.model} {self.change}, {self.beside} {self.share.share} {self.begins}>"

    def __init__(self, model, change="keep", beside=None, share=0.0, begins="reset"):
        self.model, self.change = model, change
        self.beside, self.share, self.begins = beside, Share(share, "s"), begins

    def write(self, folder, source):
        """The file, put in place at once."""
        more = checkpoint("p", f", model_change: {self.change}")
        if self.beside:
            model = f"{{type: formula, state: {{H: 0}}, update: {{H: {self.beside}}}, output: {{y: H}}}}"
            rest = f"share: {self.share.share}, salt: s, state: {self.begins}"
            more += f"\ncandidate: {{model: {model}, {rest}}}"
        (folder / "new").mkdir(exist_ok=True)
        file = Path(pipeline(folder / "new", update=self.model, source=source, more=more))
        file.write_text(file.read_text().replace("include: [k]", "include: [k, n]"))
        os.replace(folder / "new" / "p.yaml", folder / "p.yaml")


def next_plan(rng, before):
    """Any change that is one: another model, a candidate, another share, a promotion, an end."""
    others = [model for model in MODELS if model != before.model]
    if before.beside and rng.random() < 0.6:
        return rng.choice(
            [
                Plan(before.beside),  # promoted
                Plan(before.model),  # aborted
                Plan(before.model, beside=before.beside, share=rng.choice([0, 0.2, 0.7, 1])),
            ]
        )
    if rng.random() < 0.5:
        begins = rng.choice(["keep", "reset", "warmup"])
        return Plan(before.model, beside=rng.choice(others), share=rng.choice([0, 0.3, 1]), begins=begins)
    return Plan(rng.choice(others), rng.choice(["keep", "warmup"]))


class Definition:
    """One event at a time: states of the model and of the candidate.

    `since` has, for either of them, those that each model would have had it served since all keys last began.
    """

    def __init__(self, plan):
        self.plan, self.main, self.beside = plan, defaultdict(float), defaultdict(float)
        self.since = [{model: defaultdict(float) for model in MODELS} for _ in range(2)]

    def change(self, plan):
        was, self.plan = self.plan, plan
        promoted = was.beside == plan.model != was.model
        if promoted:
            self.main = self.beside.copy()
            self.since[0] = copied(self.since[1])
        elif plan.model != was.model and plan.change == "warmup":
            self.main = self.since[0][plan.model].copy()
        if plan.beside and (promoted or plan.beside != was.beside):
            self.since[1] = copied(self.since[0])
            if plan.begins == "reset":
                self.since[1] = {model: defaultdict(float) for model in MODELS}
            begun = self.main if plan.begins == "keep" else self.since[1][plan.beside]
            self.beside = begun.copy()

    def answer(self, key, x):
        for model, states in [each for alone in self.since for each in alone.items()]:
            states[key] = MODELS[model](states[key], x)
        mine = self.main[key] = MODELS[self.plan.model](self.main[key], x)
        if not self.plan.beside:
            return mine
        theirs = self.beside[key] = MODELS[self.plan.beside](self.beside[key], x)
        return theirs if self.plan.share.holds([key])[0] else mine


def copied(states):
    return {model: each.copy() for model, each in states.items()}


def record(n):
    return {"k": f"k{n % KEYS}", "x": n % 7, "n": n}


def feed(folder, kind, over):
    """Events at a steady rate until `over`; how many they were."""
    count = 0
    if kind == "socket":
        with Producer(f"unix:{folder}/in", "p", patience_s=60) as producer:
            while not over.wait(0.02):
                for _ in range(PER_S // 50):
                    producer.send(record(count))
                    count += 1
            producer.flush()
    else:
        with open(folder / "p.in", "a") as file:
            while not over.wait(0.02):
                for _ in range(PER_S // 50):
                    file.write(json.dumps(record(count)) + "\n")
                    count += 1
                file.flush()
    over.count = count


class Watched:
    """The daemon over a folder, and from which event on which plan was in force."""

    def __init__(self, folder, plan):
        self.folder, self.phases, self.seen = folder, [(0, plan)], 0
        self.process = started(folder)

    @property
    def log(self):
        return (self.folder / "log").read_text()

    def kill(self, plan):
        """And start again: the file, as it is by now, holds from the commit on that it goes on from."""
        self.process.kill()
        self.process.wait()
        self.look(plan)
        before = self.log.count("serving;")
        self.process = started(self.folder)
        until(lambda: self.log.count("serving;") > before, within_s=120)
        begun = re.findall(r"serving; (?:going on from commit \d+, behind ([\d,]+) events|nothing)", self.log)
        self.phases.append((int(begun[-1].replace(",", "") or 0), plan))
        self.look(plan)

    def look(self, plan):
        """What control.log says since the last look."""
        path = self.folder / "state" / "p" / "control.log"
        lines = path.read_text().splitlines() if path.exists() else []
        for line in lines[self.seen :]:
            self.phases.append((json.loads(line).get("events", 0), plan))
        self.seen = len(lines)


def served(folder):
    path = folder / "p.out"
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.timeout(20_000)
@pytest.mark.slow
@pytest.mark.parametrize("kind", SOURCES)
def test_every_answer_is_that_of_the_model_in_force(tmp_path, kind):
    rng, over, kills = random.Random(os.getpid()), threading.Event(), 0
    source, plan = SOURCES[kind].format(tmp_path), Plan("H + x")
    (tmp_path / "p.in").touch()
    plan.write(tmp_path, source)
    daemon = Watched(tmp_path, plan)
    feeding = threading.Thread(target=feed, args=(tmp_path, kind, over))
    feeding.start()
    try:
        for _ in range(SWAPS):
            least = served(tmp_path) + 1
            until(lambda least=least: served(tmp_path) >= least)
            plan = next_plan(rng, plan)
            plan.write(tmp_path, source)
            reloads = daemon.log.count(": reloaded;")
            daemon.process.send_signal(signal.SIGHUP)
            if rng.random() < 0.5:  # at some moment before, amid or after the exchange
                over.wait(rng.random() * 0.5)
                daemon.kill(plan)
                kills += 1
            else:
                until(lambda reloads=reloads: daemon.log.count(": reloaded;") > reloads, within_s=120)
                daemon.look(plan)
        over.set()
        feeding.join()
        until(lambda: served(tmp_path) >= over.count, within_s=120)
        daemon.process.terminate()
        assert daemon.process.wait(60) == 0
    except BaseException:
        print(*daemon.log.splitlines()[-5:], sep="\n")
        raise
    finally:
        over.set()
        daemon.process.kill()
        feeding.join()
    lines = [json.loads(line) for line in (tmp_path / "p.out").read_text().splitlines()]
    assert [line["n"] for line in lines] == list(range(over.count)), "lost, doubled or out of order"
    definition, phases = Definition(daemon.phases[0][1]), daemon.phases[1:]
    for n, line in enumerate(lines):
        while phases and phases[0][0] <= n:
            definition.change(phases.pop(0)[1])
        event = record(n)
        expected = definition.answer(event["k"], event["x"])
        assert line["y"] == expected, f"event {n}, after {[p for p in daemon.phases if p[0] <= n][-6:]}"
    print(f"{SWAPS} exchanges, {kills} kills, {over.count:,} events by {kind}")
