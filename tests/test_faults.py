"""The table of faults names tests that are there, and the few that stand nowhere else."""

from __future__ import annotations

import ast
import io
import json
import logging
import os
import random
import re
import shutil
import signal
import socket
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread, main_thread

import crash_harness
import numpy as np
import pytest
from crash_harness import BASE, Job, swapped
from simfs import SimFS
from test_reserve import Told
from toys import Toy

from streamrnn.commit.job import build_job
from streamrnn.commit.manifest import commit_name, commit_numbers, decode, encode
from streamrnn.config.load import load_pipeline
from streamrnn.config.open import open_pipeline
from streamrnn.context import Context, FileSystem
from streamrnn.core import Core
from streamrnn.errors import StateError
from streamrnn.events import Batch
from streamrnn.pipeline import run
from streamrnn.ports import EndOfStream
from streamrnn.registry import Registry
from streamrnn.testing import quiet_context

ROOT = Path(__file__).parents[1]
TABLE = (ROOT / "docs" / "faults.md").read_text()
FIXTURES = ROOT / "tests" / "fixtures"
REGISTRY = Registry()


def test_there_is_a_row_for_each_of_the_74_faults():
    numbers = [int(number) for number in re.findall(r"^\| (\d+) \|", TABLE, re.MULTILINE)]
    assert sorted(numbers) == list(range(1, 75))


def test_every_test_that_is_named_is_there():
    shown = [row.split("|")[-2] for row in TABLE.splitlines() if re.match(r"\| \d", row)]
    named = sorted(set(re.findall(r"`(\w+): (\w+)`", "".join(shown))))
    assert len(named) > 60
    for module, name in named:
        (path,) = [*ROOT.glob(f"tests/test_{module}.py"), *ROOT.glob(f"plugins/*/tests/test_{module}.py")]
        nodes = ast.walk(ast.parse(path.read_text()))
        assert f"test_{name}" in {getattr(node, "name", "") for node in nodes}, (module, name)


def test_a_write_that_takes_less_is_gone_on_with():
    class Short(io.BytesIO):
        def write(self, data):
            return super().write(data[: max(1, len(data) // 3)])

    file = Short()
    FileSystem().write(file, b"one after the other")
    assert file.getvalue() == b"one after the other"


def test_an_event_for_which_there_is_no_memory_is_refused():
    class Hungry(Toy):
        def step(self, state, x):
            if (x["x"][:, 0] == 7).any():
                raise MemoryError
            return super().step(state, x)

    x = np.array([[float(i), 0.0] for i in range(9)])
    outputs = Core(Hungry(scans=False)).process(Batch([f"k{i}" for i in range(9)], {"x": x}))
    assert outputs.refused == {7: "the model refused it: MemoryError: "}
    assert outputs.accepted.tolist() == [0, 1, 2, 3, 4, 5, 6, 8]


@pytest.fixture
def job(tmp_path):
    """A job that was stopped with its events half served, and how long it is in all."""
    return Path(shutil.copytree(FIXTURES / "commit_1", tmp_path / "job"))


def serve(folder):
    run(build_job(*open_pipeline(str(folder / "p.yaml"), REGISTRY)), lambda: False, lambda report: None)


def test_a_copy_of_a_job_goes_on_by_itself(job, tmp_path):
    copy = Path(shutil.copytree(job, tmp_path / "elsewhere" / "copy"))
    for folder in (job, copy):
        serve(folder)
        assert (folder / "out.txt").read_bytes() == (folder / "whole_out.txt").read_bytes()


def test_an_upgraded_library_is_told(job):
    """A commit of before says only which numpy it knew."""
    number = max(commit_numbers(os.listdir(job / "job")))
    path = job / "job" / commit_name(number)
    made = decode(path.read_bytes())
    told = []
    for libraries in (
        {"numpy": np.__version__},
        {"numpy": "1.9.2", "libraries": {"torch": "0.1", "numpy": "1.9.3"}},
    ):
        path.write_bytes(encode(made | libraries))
        log = logging.getLogger("streamrnn.tests.upgraded")
        log.addHandler(handler := Told())
        spec, registry, context = open_pipeline(str(job / "p.yaml"), REGISTRY)
        build_job(spec, registry, replace(context, log=log)).close(StateError("only looked at"))
        log.removeHandler(handler)
        told.append([line for line in handler.lines if "was made with" in line])
    assert told[0] == []
    (line,) = told[1]
    assert line.startswith(f"the commit was made with numpy 1.9.3, this is {np.__version__}")


def test_a_slow_commit_is_not_overtaken():
    """The work of one takes a hundred turns; the time for the next comes at each of them."""
    under_way, most, done = set(), [0], [0]

    class Slow:
        def __init__(self, work):
            self.work, self.left = work, 100
            under_way.add(self)
            most[0] = max(most[0], len(under_way))

        def done(self):
            self.left -= 1
            return self.left <= 0

        def result(self):
            under_way.discard(self)
            done[0] += 1
            self.work()

    job = Job()
    expected, job.promised = job.whole(), 0
    fs = SimFS(job.files)

    with swapped(crash_harness, "Later", lambda work, rng: Slow(work)):
        assert job.outcome(fs, job.live(fs, random.Random(1), batch=1)) == expected
    assert most[0] == 1
    assert done[0] > 2
    assert fs.content(BASE / "out.txt") == expected[0]


@contextmanager
def interrupted():
    """Signals that mean nothing, one after the other, whatever call is under way; how many came."""
    came, over = [], Event()
    before = signal.signal(signal.SIGUSR2, lambda number, frame: came.append(number))

    def send():
        while not over.wait(0.0005):
            signal.pthread_kill(main_thread().ident, signal.SIGUSR2)

    sender = Thread(target=send)
    sender.start()
    try:
        yield came
    finally:
        over.set()
        sender.join()
        signal.signal(signal.SIGUSR2, before)


def test_calls_that_signals_interrupt_are_made_again(tmp_path):
    """Those that read and write files and commits."""
    text = crash_harness.FORMULA.replace("every_s: 2, keep: 1", "every_s: 0, keep: 1").lstrip()
    outputs = {}
    for name in ("left alone", "interrupted"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "p.yaml").write_text(text)
        (folder / "a.jsonl").write_bytes(crash_harness.events(random.Random(5), 2000))
        (folder / "b.jsonl").write_bytes(crash_harness.events(random.Random(6), 2000))
        with interrupted() if name == "interrupted" else nullcontext([0] * 9) as came:
            serve(folder)
        assert len(came) > 8
        outputs[name] = [(folder / each).read_bytes() for each in ("out.txt", "bad.txt")]
    assert outputs["interrupted"] == outputs["left alone"]
    assert len(outputs["interrupted"][0]) > 10_000


def test_others_do_not_wait_for_a_key_with_half_of_all_events(tmp_path):
    """Every turn answers all that it has read, in order, and reads no more than it may."""
    lines = [f'{{"k": "{"hot" if i % 2 else i}", "x": {i}}}' for i in range(1000)]
    (tmp_path / "in.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "p.yaml").write_text(SKEWED)
    pipeline = build_job(*open_pipeline(str(tmp_path / "p.yaml"), REGISTRY))
    turns = list(iter(pipeline.run_once, None))
    pipeline.close()
    assert {report.events for report in turns if report.events} == {64, 1000 % 64}
    assert all(report.outputs == report.events for report in turns)
    answered = [json.loads(line)["x"] for line in (tmp_path / "out.txt").read_text().splitlines()]
    assert answered == list(range(1000))


SKEWED = """
source: {type: file, path: in.jsonl}
decode: {type: jsonl}
event: {key: k, inputs: {x: [{field: x}]}}
model: {type: formula, state: {s: 0}, update: {s: "0.5*s + x"}, output: {y: s}}
encode: {type: jsonl, include: [x]}
sink: {type: file, path: out.txt}
limits: {max_batch_events: 64}
"""
WEIGHED = """
source: {type: file, path: in.jsonl}
decode: {type: jsonl}
event: {inputs: {x: [{field: c, one_hot: "$abcdefghijklmnopqrstuvwxyz"}]}}
model:
  type: numpy
  path: m.safetensors
  layers:
    - {type: gru, hidden: 96, weights: gru}
    - {type: linear, out: 27, weights: head, activation: softmax}
encode: {type: jsonl}
sink: {type: file, path: out.txt}
limits: {max_batch_events: 1}
"""


def test_a_model_that_is_overwritten_goes_on_as_it_was_loaded(tmp_path):
    model = tmp_path / "m.safetensors"
    (tmp_path / "in.jsonl").write_text("".join(f'{{"c": "{c}"}}\n' for c in "hello"))
    (tmp_path / "p.yaml").write_text(WEIGHED)
    outputs = []
    for damages in (False, True):
        shutil.copy(ROOT / "pipelines" / "models" / "next_letter.safetensors", model)
        pipeline = build_job(*open_pipeline(str(tmp_path / "p.yaml"), REGISTRY))
        pipeline.run_once()
        if damages:
            with model.open("r+b") as file:
                file.seek(100_000)
                file.write(bytes(100_000))
        run(pipeline, lambda: False, lambda report: None)
        outputs.append((tmp_path / "out.txt").read_bytes())
    assert outputs[0] == outputs[1]
    assert outputs[0].count(b"\n") == 5


LISTENING = """
source: {type: socket, listen: "tcp://127.0.0.1:0"}
decode: {type: jsonl}
event: {inputs: {x: [{field: x}]}}
model: {type: formula, state: {s: 0}, update: {s: s + x}, output: {s: s}}
encode: {type: jsonl}
sink: {type: socket, to: sender}
"""


def test_a_storm_of_connections_leaves_nothing_open():
    spec = load_pipeline(LISTENING, "p.yaml", REGISTRY, Context(), {})
    pipeline = build_job(spec, REGISTRY, quiet_context())
    address = pipeline.parts.source.addresses[0].removeprefix("tcp://").rsplit(":", 1)
    before = len(os.listdir("/proc/self/fd"))
    for i in range(300):
        with socket.create_connection((address[0], int(address[1]))) as client:
            if i % 3:
                client.sendall(b'{"x": 1}' + b"\n" * (i % 2))
        pipeline.run_once(wait_ms=0)
    for _ in range(50):
        pipeline.run_once(wait_ms=0)
    assert len(os.listdir("/proc/self/fd")) <= before
    pipeline.close()
    with pytest.raises(EndOfStream):
        pipeline.parts.source.read(1, 0)
