"""What `limits.guard` does to a key, through commits, restarts and resets by hand."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import numpy as np
import pytest
from test_bisection import BACKENDS
from test_core_equals_definition import answers_of, row_of
from toys import Toy, make_case

from streamrnn.commit.edit import editing
from streamrnn.commit.exports import exported, read
from streamrnn.commit.job import build_job
from streamrnn.commit.keys import load
from streamrnn.config.load import load_pipeline
from streamrnn.context import FileSystem
from streamrnn.core import Core
from streamrnn.definition import Definition
from streamrnn.errors import StateError
from streamrnn.events import Batch, Mark, Origin
from streamrnn.limits import Limits
from streamrnn.pipeline import run
from streamrnn.registry import Registry
from streamrnn.resets import rules as r
from streamrnn.testing import quiet_context

PIPELINE = """
source: {type: file, path: in.jsonl, follow: FOLLOW}
decode: {type: jsonl}
event: {key: k, inputs: {x: [{field: x}]}}
model: {type: formula, state: {s: 0}, update: {s: s + x}, output: {y: "1.0 * s"}}
encode: {type: jsonl, include: [k], fields: {y: {type: output, output: y}, cause: {type: meta, name: cause}}}
sink: {type: file, path: out.txt}
dead_letter: {path: bad.txt}
limits: {max_state_norm: 10, guard: GUARD}
checkpoint: {dir: job}
"""


class Job:
    """A job on a file that grows between its runs."""

    def __init__(self, folder, guard):
        self.folder = folder
        self.text = PIPELINE.replace("GUARD", guard).replace("FOLLOW", "true")
        (folder / "in.jsonl").write_text("")

    def serve(self, *events):
        """The outputs so far, and the codes of refused events by number, after some more."""
        with (self.folder / "in.jsonl").open("a") as file:
            file.writelines(json.dumps({"k": key, "x": x}) + "\n" for key, x in events)
        context = quiet_context(base_dir=self.folder)
        pipeline = build_job(load_pipeline(self.text, "p.yaml", Registry(), context, {}), Registry(), context)
        idle = []
        run(pipeline, lambda: len(idle) > 1, lambda report: None if report.events else idle.append(report))
        made = [json.loads(line) for line in (self.folder / "out.txt").read_text().splitlines()]
        letters = [json.loads(line) for line in (self.folder / "bad.txt").read_text().splitlines()]
        return [(each["k"], each["y"], *each["cause"]) for each in made], [each["code"] for each in letters]

    def keys(self):
        (found,) = load(FileSystem(), self.folder / "job")
        return found


def test_a_quarantine_outlives_runs_until_the_key_is_reset_by_hand(tmp_path):
    job = Job(tmp_path, "quarantine")
    out, codes = job.serve(("a", 8), ("b", 1), ("a", 4), ("a", 1))
    assert (out, codes) == ([("a", 8, "new"), ("b", 1, "new")], ["state_norm", "quarantined"])
    assert [job.keys().facts(key)["quarantined"] for key in "ab"] == [True, False]
    out, codes = job.serve(("a", 1), ("b", 1))
    assert (out[2:], codes[2:]) == ([("b", 2)], ["quarantined"])
    with editing(tmp_path / "job", quiet_context()) as found:
        found.reset({"": ["a"]}, "by hand", {"keys": ["a"]})
    assert job.keys().facts("a")["quarantined"] is False
    out, codes = job.serve(("a", 1), ("a", 2))
    assert (out[3:], codes[3:]) == ([("a", 1, "control"), ("a", 3)], [])


def test_a_reset_of_all_keys_frees_those_that_were_put_away_before_it(tmp_path):
    job = Job(tmp_path, "quarantine")
    job.serve(("a", 8), ("a", 4), ("b", 1))
    with editing(tmp_path / "job", quiet_context()) as found:
        found.reset_all("by hand", [""], {"all": True})
    assert job.keys().facts("a")["quarantined"] is False
    out, codes = job.serve(("a", 8), ("a", 4), ("a", 1))
    assert (out[2:], codes[1:]) == ([("a", 8, "control")], ["state_norm", "quarantined"])
    assert job.keys().facts("a")["quarantined"] is True


def test_a_quarantine_is_exported_and_imported(tmp_path):
    job = Job(tmp_path, "quarantine")
    job.serve(("a", 8), ("a", 4), ("b", 1))
    lines = [json.dumps(line).encode() for line in exported(load(FileSystem(), tmp_path / "job"))]
    with editing(tmp_path / "job", quiet_context()) as found:
        found.reset_all("by hand", [""], {"all": True})
    with editing(tmp_path / "job", quiet_context()) as found:
        found.import_lines(read("keys.jsonl", lines, list(found.keys.values())), "by hand")
    assert [job.keys().facts(key)["quarantined"] for key in "ab"] == [True, False]
    assert job.serve(("a", 1), ("b", 1))[1][1:] == ["quarantined"]
    wrong = [line.replace(b'"quarantined": true', b'"quarantined": 1') for line in lines]
    with pytest.raises(StateError, match="expected true or false, found 1"):
        read("keys.jsonl", wrong, load(FileSystem(), tmp_path / "job"))


def test_a_reset_by_the_guard_is_told_by_the_next_output_also_of_the_next_run(tmp_path):
    job = Job(tmp_path, "reset")
    assert job.serve(("a", 8), ("a", 4)) == ([("a", 8, "new")], ["state_norm"])
    assert job.keys().facts("a")["pending"] == ["guard"]
    out, codes = job.serve(("a", 4), ("a", 5))
    assert (out[1:], codes[1:]) == ([("a", 4, "guard"), ("a", 9)], [])


@pytest.mark.parametrize("before", ["keep_previous", "reset", "quarantine"])
@pytest.mark.parametrize("after", ["keep_previous", "reset", "quarantine"])
def test_the_policy_may_change_from_run_to_run(tmp_path, before, after):
    Job(tmp_path, before).serve(("a", 8), ("b", 1))
    job = Job(tmp_path, after)
    (tmp_path / "in.jsonl").write_text('{"k": "a", "x": 8}\n{"k": "b", "x": 1}\n')
    out, codes = job.serve(("b", 12), ("b", 1))
    wanted = {"keep_previous": [("b", 2)], "reset": [("b", 1, "guard")], "quarantine": []}[after]
    assert out[2:] == wanted
    assert codes == ["state_norm", *["quarantined"] * (after == "quarantine")]


def one(key, x):
    return Batch([key], {"x": np.array([[x, 0.0]])}, np.array([0]))


def test_other_rules_are_told_apart_from_a_guard_that_came_or_went():
    names = [("gap",), ("gap", "guard")]
    cores = [
        Core(Toy(), [r.Gap(name, "initial", 5) for name in rules], limits=Limits(guard=guard))
        for rules in names
        for guard in ("keep_previous", "reset")
    ]
    for core in cores:
        core.process(one("a", 1))
    blobs = [core.snapshot() for core in cores]
    for i, rules in enumerate(["gap", "gap", "guard", "guard"]):
        for j, blob in enumerate(blobs):
            fresh = Core(Toy(), cores[i].rules.rules, limits=cores[i].limits)
            if (rules == "gap") == (j < 2):
                fresh.restore([blob])
            else:
                with pytest.raises(StateError, match="reset rules"):
                    fresh.restore([blob])


def test_a_mark_that_is_no_control_leaves_the_quarantine():
    core = Core(Toy(), [r.SourceEnd("end", "initial")], limits=Limits(guard="quarantine", max_state_norm=50))
    core.process(one("a", 1))
    assert core.process(one("a", 1e9)).refused
    core.mark(Mark("source_end", Origin("s", "p")))
    assert core.process(one("a", 1)).refused
    core.mark(Mark("control", Origin("s", "p"), keys=("a",)))
    assert not core.process(one("a", 1)).refused


@pytest.mark.parametrize("guard", ["reset", "quarantine"])
@pytest.mark.parametrize("name", BACKENDS)
def test_every_backend_under_every_policy_equals_the_definition(name, guard):
    for seed in range(600, 612):
        case, backend = make_case(seed), BACKENDS[name](seed)
        case.limits = replace(case.limits, guard=guard, max_state_norm=[None, 0.9][seed % 2])
        definition = Definition(backend, case.rules, case.elapsed, case.limits)
        core = Core(backend, case.rules, case.elapsed, case.limits)
        for item in case.batches(random.Random(seed)):
            if isinstance(item, Mark):
                definition.mark(item)
                core.mark(item)
                continue
            with np.errstate(over="ignore"):
                item.inputs = {"x": item.inputs["x"].astype(backend.inputs[0].dtype)}
            wanted = [row_of(answer) for answer in definition.process(item)]
            assert answers_of(core.process(item), len(item)) == wanted, seed
