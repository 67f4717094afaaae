"""Runs a pipeline with commits through lives that end in a loss of power, and compares it with one life.

A sabotage is a fault put into the making of commits; every one of them must show.
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from sim_parts import Later, Log, Ticks
from simfs import Crash, SimFS

from streamrnn import build
from streamrnn.commit import writer
from streamrnn.commit.job import build_job
from streamrnn.config.load import load_pipeline
from streamrnn.context import Context
from streamrnn.core import Core
from streamrnn.core.frozen import Frozen
from streamrnn.core.probe import probe
from streamrnn.pipeline import run
from streamrnn.registry import Registry

BASE = Path("/sim")
MOST_CRASHES = 5
REGISTRY = Registry()

FORMULA = """
source: {type: file, path: ["*.jsonl"]}
decode: {type: jsonl}
event:
  key: k
  time: {field: t, unit: s}
  inputs: {x: [{field: x}]}
reset:
  - {type: gap, gap_s: 5}
  - {type: every, events: 7}
  - {type: on_change, field: w}
model: {type: formula, state: {s: 0.5}, update: {s: 0.3*s + x}, output: {y: "1.0 * s"}}
encode: {type: jsonl, include: [k], fields: {y: {type: output, output: y}, n: {type: meta, name: steps}}}
sink: {type: file, path: out.txt}
dead_letter: {path: bad.txt}
limits: {max_keys: 9, remember_evicted: 4, idle_s: 30, max_line_bytes: 200}
checkpoint: {dir: job, every_s: 2, keep: 1}
"""


CONTROL = FORMULA.replace("reset:", "reset:\n  - {type: control, field: op, equals: reset}")
MESSAGES = ['{"op":"reset","keys":["k1","k2"]}', '{"op":"reset","glob":"k1*"}', '{"op":"reset","all":true}']


def with_messages(rng, lines):
    """A control message here and there, one that makes no sense among them."""
    whole = lines.split(b"\n")
    for _ in range(len(whole) // 6):
        whole.insert(rng.randrange(len(whole)), rng.choice([*MESSAGES, '{"op":"reset"}']).encode())
    return b"\n".join(whole)


def events(rng, n):
    """Lines of a file: mostly good, with what is refused between them."""
    lines, t = [], 0
    for _ in range(n):
        t += rng.choice([0, 1, 1, 2, 7])
        event = {
            "k": f"k{rng.randrange(14)}",
            "t": t,
            "x": rng.randrange(-40, 40) / 8,
            "w": rng.choice("aab"),
        }
        lines.append(json.dumps(event))
        if rng.random() < 0.15:
            lines.append(rng.choice(["", "nonsense", '{"k": "k1", "t": 0}', "z" * 300]))
    return "\n".join(lines).encode() + b"\n" * rng.randrange(2)


@contextmanager
def swapped(owner, name, value):
    """Another member in the place of one; an inherited one is inherited again afterwards."""
    own, before = name in vars(owner), getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if own:
            setattr(owner, name, before)
        else:
            delattr(owner, name)


@contextmanager
def in_pieces(rng):
    """Commits are made in many pieces and parts, or in few."""
    rows = rng.choice([1, 3, 4096])
    sizes = {"_PART_BYTES": rng.choice([1, 500, 1 << 20]), "_PIECE_ROWS": rows, "_LEAST_ROWS": rows}
    with ExitStack() as small:
        for name, value in sizes.items():
            small.enter_context(swapped(writer, name, value))
        yield


class Job:
    """A pipeline file and its input. `text` may be any pipeline that writes out.txt, bad.txt and job."""

    def __init__(self, text=FORMULA, files=None, base=BASE):
        rng = random.Random(1)
        files = files or {"a.jsonl": events(rng, 60), "b.jsonl": b"", "c.jsonl": events(rng, 40)}
        self.files = {BASE / name: data for name, data in files.items()}
        self.registry = REGISTRY
        self.verdict = None
        self.promised = 0
        """The newest commit that was made: no later life may find only older ones."""
        self.log = logging.Logger("sim")
        self.errors = Log()
        self.log.addHandler(self.errors)
        self.context = Context(base_dir=base, log=self.log)
        self.spec = load_pipeline(text, "job.yaml", REGISTRY, replace(self.context, fs=SimFS(self.files)), {})

    def live(self, fs, rng, turns=None, batch=None):
        """One life on a disk; `turns` until it is stopped. What it leaves of the state, sorted by key."""
        context = replace(self.context, fs=fs, clock=Ticks(rng), aside=lambda work: Later(work, rng))
        with swapped(build, "probe", self.probed):  # the same model in every life
            pipeline = build_job(self.spec, REGISTRY, context)
        pipeline.parts.max_batch_events = batch or rng.choice([1, 3, 8, 64])
        kept = pipeline.commits._chain.kept
        if max(kept) < self.promised:
            raise AssertionError(f"commit {self.promised} was made and is lost; found {max(kept)}")
        left = [turns]

        def stopping():
            left[0] = None if left[0] is None else left[0] - 1
            return self.turn(fs, rng, pipeline) or (left[0] is not None and left[0] < 0)

        with in_pieces(rng):
            try:
                run(pipeline, stopping, lambda report: None)
            finally:
                self.promised = max(kept)
        return {partition: exported(core) for partition, core in pipeline.parts.shards.items()}

    def begin(self, seed):
        """A new run of lives."""

    def turn(self, fs, rng, pipeline):
        """What happens elsewhere between two turns; whether the pipeline is to be stopped."""
        return False

    def turns(self, rng):
        """How long a life is, if power is not lost before."""
        return rng.choice([None, None, rng.randrange(20)])

    def between(self, fs, rng, is_last):
        """What happens elsewhere while nothing runs."""

    def probed(self, backend):
        if self.verdict is None:
            self.verdict = probe(backend)
        return self.verdict

    def outcome(self, fs, state):
        return fs.content(BASE / "out.txt"), fs.content(BASE / "bad.txt"), state

    def whole(self):
        """The outcome of a run that nothing disturbs."""
        fs, self.promised = SimFS(self.files), 0
        self.begin(None)
        return self.outcome(fs, self.live(fs, random.Random(0), batch=16))


def exported(core):
    """All state, sorted by key; no row numbers, which depend on how often a run began anew."""
    if core.store.tiers is not None:
        one = Core(core.backend, core.rules.rules, core.elapsed, core.limits)
        one.restore([core.snapshot()])
        core = one
    store = core.store
    named = enumerate(map(store.keys.names.key, range(len(store.keys.names))))
    rows = sorted((key, row) for row, key in named if key is not None)
    index = np.array([row for _, row in rows], np.int64)
    columns = {name: array[index].tolist() for name, array in store.columns.arrays.items()}
    tensors = {name: array.tobytes() for name, array in store.slab.read(index).items()}
    clocks = (store.sequence, store.largest, store.epochs, store.keys.gone.items(), store.keys.gone.forgot)
    return [key for key, _ in rows], columns, tensors, clocks


@dataclass
class Seen:
    """What one seed showed: how often power was lost, and what went wrong, if anything."""

    crashes: int
    wrong: str | None


def run_seed(job: Job, expected, seed: int, sabotage: Callable[[], object] | None = None) -> Seen:
    """Several lives of a job, then one to the end, compared with `expected`."""
    rng, crashes, fs = random.Random(seed), 0, None
    fs = SimFS(job.files, rng)
    job.errors.told.clear()
    job.promised = 0
    job.begin(seed)
    span = rng.choice([20, 60, 250])
    with (sabotage or no_sabotage)():
        try:
            while crashes < MOST_CRASHES:
                fs.crash_at = rng.randrange(1, span)
                fs.crash_kind = rng.choice([None, *["sync_folder"] * 3, "rename", "unlink"])
                try:
                    job.live(fs, rng, turns=job.turns(rng))
                except Crash:
                    fs = fs.after_crash(rng)
                    crashes += 1
                else:
                    crashes += 1
                    fs = fs.as_seen(rng)
                job.between(fs, rng, crashes == MOST_CRASHES)
            fs.crash_at = None
            found = job.outcome(fs, job.live(fs, rng))
        except Exception as error:
            return Seen(crashes, f"{type(error).__name__}: {error}")
    if job.errors.told:
        return Seen(crashes, f"a commit was found broken: {job.errors.told[0]}")
    for name, got, wanted in zip(("outputs", "rejected", "state"), found, expected, strict=True):
        if got != wanted:
            return Seen(crashes, f"{name} differ")
    return Seen(crashes, None)


@contextmanager
def no_sabotage():
    yield


def _deaf(wanted):
    """Syncs that `wanted(kind, name, before)` names are not done; `before` is the operation before them."""

    @contextmanager
    def sabotaged():
        sync, sync_folder = SimFS.sync, SimFS.sync_folder

        def no_sync(self, file):
            if not wanted("sync", Path(file.path).name, self.done[-1:]):
                sync(self, file)

        def no_sync_folder(self, folder):
            if not wanted("sync_folder", Path(folder).name, self.done[-1:]):
                sync_folder(self, folder)

        with swapped(SimFS, "sync", no_sync), swapped(SimFS, "sync_folder", no_sync_folder):
            yield

    return sabotaged


@contextmanager
def _prune_first():
    publish = writer.Writer._publish

    def early(self, number, data):
        needed = {segment["name"] for segment in self._chain.segments}
        for name in self._fs.names(self.folder):
            if name.startswith(("commit-", "state-")) and name not in needed:
                self._fs.remove(self.folder / name)
        publish(self, number, data)

    with swapped(writer.Writer, "_publish", early):
        yield


@contextmanager
def _no_cut():
    with swapped(SimFS, "truncate", lambda self, file, size: None):
        yield


@contextmanager
def _source_ahead():
    from streamrnn.sources.file import FileSource

    read = FileSource.read
    turn = writer.Commits.turn
    hosts = {}

    def ahead(self, limit, wait_ms):
        block = read(self, limit, wait_ms)
        if self in hosts:
            turn(hosts[self])
        return block

    with ExitStack() as stack:
        stack.enter_context(swapped(FileSource, "read", ahead))
        stack.enter_context(
            swapped(writer.Commits, "turn", lambda self: hosts.setdefault(self._parts.source, self))
        )
        yield


@contextmanager
def _place_before_flush():
    from streamrnn.sinks.file import FileSink

    write, place, flush, close = FileSink.write, FileSink.place, FileSink.flush, FileSink.close
    held = {}

    def hold(self, block):
        held.setdefault(self, []).append(block)

    def drain(self):
        for block in held.pop(self, []):
            write(self, block)

    def early(self):
        found = place(self)
        drain(self)
        flush(self)
        return found

    def late_flush(self):
        drain(self)
        flush(self)

    with ExitStack() as stack:
        for name, method in (("write", hold), ("place", early), ("flush", late_flush)):
            stack.enter_context(swapped(FileSink, name, method))
        stack.enter_context(swapped(FileSink, "close", close))
        yield


@contextmanager
def _in_place():
    def direct(self, number, data):
        from streamrnn.commit.manifest import commit_name

        self._write(self.folder / commit_name(number), [data])
        self._sync_folder()

    with swapped(writer.Writer, "_publish", direct):
        yield


@contextmanager
def _batch_dependent():
    from streamrnn.backends.formula import FormulaBackend

    step = FormulaBackend.step

    def mixed(self, state, x):
        new, y = step(self, state, x)
        return new, {name: value + 1e-6 * len(value) for name, value in y.items()}

    with swapped(FormulaBackend, "step", mixed):
        yield


@contextmanager
def _copied_late():
    with swapped(Frozen, "before", lambda self, rows: None):
        yield


@contextmanager
def _manifest_early():
    go_on = writer.Commits._go_on

    def early(self, rows):
        go_on(self, rows)
        if self._making is not None and self._making.segments:
            self._making.left.clear()

    with swapped(writer.Commits, "_go_on", early):
        yield


OUTPUTS = ("out.txt", "bad.txt")
SABOTAGES = {
    "no fsync of output": _deaf(lambda kind, name, before: name in OUTPUTS),
    "no fsync of state": _deaf(lambda kind, name, before: kind == "sync" and name.startswith("state-")),
    "no fsync of manifest": _deaf(lambda kind, name, before: name == "commit.tmp"),
    "no fsync of the folder after the rename": _deaf(
        lambda kind, name, before: kind == "sync_folder" and bool(before) and before[0][0] == "rename"
    ),
    "no fsync of the folder before the rename": _deaf(
        lambda kind, name, before: name == "job" and bool(before) and before[0][0] == "sync"
    ),
    "no fsync of the folder of outputs": _deaf(
        lambda kind, name, before: kind == "sync_folder" and name == "sim"
    ),
    "old state deleted before the publish": _prune_first,
    "no cut on recovery": _no_cut,
    "source position ahead of the state": _source_ahead,
    "output position taken before the flush": _place_before_flush,
    "manifest written in place": _in_place,
    "answers that depend on the batch": _batch_dependent,
    "rows changed before they were copied": _copied_late,
    "manifest written before the last part": _manifest_early,
}
