"""Streams whose events arrive in another order than they happened in, and pipelines that put them right."""

from __future__ import annotations

import json
import random

from crash_harness import BASE, FORMULA, Job, events
from simfs import SimFS

BOUND_S = 12
GUARDED = FORMULA.replace("limits: {", "limits: {max_state_norm: 4, ")
"""Some events are refused when their turn comes."""
IN_TIME = GUARDED.replace("reset:", f"order: {{type: event_time, max_behind_s: {BOUND_S}}}\nreset:")


def happened(rng, n):
    """Events in the order of their times, no two at the same one."""
    lines = [
        json.loads(line)
        for line in events(rng, n).splitlines()
        if line.startswith(b'{"k": "k') and b'"w"' in line
    ]
    t = 0
    for line in lines:
        t += rng.choice([1, 1, 2, 6, 40])
        line["t"] = t
    return lines


def arrived(rng, made, bound=BOUND_S):
    """The same in an order in which they may arrive: none behind the latest of those before it by more."""
    return sorted(made, key=lambda event: event["t"] + rng.uniform(0, bound))


def as_lines(made, rng=None):
    """A file of them; with `rng`, some lines that are refused between them."""
    lines = [json.dumps(event) for event in made]
    if rng is not None:
        lines = [line for each in lines for line in ([each, "nonsense"] if rng.random() < 0.1 else [each])]
    return "".join(f"{line}\n" for line in lines).encode()


def in_files(rng, lines):
    """Lines dealt out to three files in a row."""
    parts = sorted(rng.randrange(len(lines) + 1) for _ in range(2))
    lines = lines.splitlines(keepends=True)
    cut = [lines[a:b] for a, b in zip([0, *parts], [*parts, len(lines)], strict=True)]
    return {f"{name}.jsonl": b"".join(part) for name, part in zip("abc", cut, strict=True)}


def sorted_outputs(job, made):
    """What the events give in the order in which they happened, served as they arrive."""
    job.files = {BASE / "a.jsonl": as_lines(made)}
    return job.whole()[0]


class Shared(Job):
    """A job that other files may be put into: reading a pipeline's file takes longer than a small run."""

    def holding(self, files):
        self.files = {BASE / name: data for name, data in files.items()}
        return self


def served(job, turns, seed=0, batch=5):
    """A disk on which a job was stopped after some turns."""
    fs, job.promised = SimFS(job.files), 0
    job.live(fs, random.Random(seed), turns=turns, batch=batch)
    return fs
