"""A disk that runs full stops the reading, not the commits; once there is room it goes on by itself."""

from __future__ import annotations

import logging
import random
from dataclasses import replace
from pathlib import Path

import pytest
from crash_harness import BASE, REGISTRY, Job
from sim_parts import Later
from simfs import SimFS

from streamrnn.commit.job import build_job
from streamrnn.context import FileSystem, ManualClock
from streamrnn.reserve import Reserve

LEAST = 33_554_432


class Told(logging.Handler):
    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())


def test_nothing_is_read_until_there_is_room_and_the_outputs_are_the_same():
    job, told = Job(), Told()
    out, bad, _ = job.whole()
    fs, log = SimFS(job.files, random.Random(0)), logging.Logger("reserve")
    log.addHandler(told)
    aside = lambda work: Later(work, fs.rng)  # noqa: E731
    context = replace(job.context, fs=fs, clock=ManualClock(), log=log, aside=aside)
    pipeline = build_job(job.spec, REGISTRY, context)
    pipeline.parts.max_batch_events = 8
    pipeline.open()
    read = pipeline.run_once().events
    assert read == 8
    fs.free, made = LEAST - 1, pipeline.commits.count
    context.clock.advance(1)
    reports = [pipeline.run_once() for _ in range(60)]
    assert {report.events for report in reports} == {0}
    assert pipeline.commits.count > made, "what was read is committed"
    assert [line.partition(":")[0] for line in told.lines] == ["limits.disk_reserve_bytes"]
    assert f"at {BASE / 'bad.txt'}" in told.lines[0]
    fs.free = LEAST + 1
    assert pipeline.run_once().events == 0, "a little more, lest it stop again at once"
    fs.free = 2 * LEAST
    while pipeline.run_once() is not None:
        pass
    pipeline.close()
    assert "there is room again" in told.lines[1]
    assert (fs.content(BASE / "out.txt"), fs.content(BASE / "bad.txt")) == (out, bad)


def test_a_stop_serves_what_was_taken_however_full_the_disk_is():
    job = Job()
    fs = SimFS(job.files, random.Random(0))
    fs.free = 0
    pipeline = build_job(job.spec, REGISTRY, replace(job.context, fs=fs, clock=ManualClock()))
    assert pipeline.run_once().events == 0
    assert pipeline.run_once(wait_ms=0).events > 0
    pipeline.close()


def test_what_takes_no_room_is_not_looked_at(tmp_path):
    class Full(FileSystem):
        def free_bytes(self, path):
            return 0

    context = replace(Job().context, fs=Full(), clock=ManualClock(), log=logging.Logger("none"))
    assert not Reserve([Path("/dev/null")], 1, context).is_short()
    assert Reserve([tmp_path / "a" / "b"], 1, context).is_short()
    assert FileSystem().free_bytes(tmp_path / "a" / "b") > 0


@pytest.mark.parametrize("source", ["stdin", "socket", "http", "websocket"])
def test_the_log_of_what_arrives_is_among_what_grows(source):
    options = {"listen": "tcp://127.0.0.1:0"} if source != "stdin" else {}
    config = REGISTRY.find("source", source).config
    assert config.model_validate({**options, "durability": "log", "log": "in"}).written_paths == ("in",)
    assert config.model_validate(options).written_paths == ()
