"""Resets and imports on a folder of commits: what the next run makes of them, and what a crash leaves."""

from __future__ import annotations

import errno
import json
import os
import random
from dataclasses import replace

import pytest
from crash_harness import BASE, FORMULA, REGISTRY, SABOTAGES, Job, events, no_sabotage, swapped
from sim_parts import Ticks
from simfs import Crash, SimFS

from streamrnn.commit import control, edit, exports, keys
from streamrnn.commit import manifest as m
from streamrnn.commit.job import build_job
from streamrnn.errors import StateError
from streamrnn.events import Mark, Origin
from streamrnn.pipeline import run
from streamrnn.sources.file import FileSource

TEXT = FORMULA.replace("every_s: 2", "every_s: 0").replace("keep: 1", "keep: 3")
TEXT = (
    TEXT.replace("gap_s: 5", "gap_s: 500")
    .replace("idle_s: 30", "idle_s: 800")
    .replace("field: w", "field: v")
)
TEXT = TEXT.replace("meta, name: steps}", "meta, name: steps}, why: {type: meta, name: cause}")
FOLDER = BASE / "job"


@pytest.fixture(scope="module")
def job():
    return Job(TEXT)


@pytest.fixture
def stopped(job):
    """A disk on which the job was stopped in the midst of it."""
    job.errors.told.clear()
    job.promised = 0
    fs = SimFS(job.files)
    job.live(fs, random.Random(1), turns=24, batch=3)
    return fs


def copy(fs, **settings):
    return SimFS({path: bytes(inode.cached) for path, inode in fs.cached.items()}, **settings)


def editing(job, fs):
    return edit.editing(FOLDER, replace(job.context, fs=fs, clock=Ticks(random.Random(0))))


def go_on(job, fs, first=None):
    """The rest of the job, after a mark if one is given: outputs, refused events, state by key."""
    job.promised = 0
    context = replace(job.context, fs=fs, clock=Ticks(random.Random(2)))
    pipeline = build_job(job.spec, REGISTRY, context)
    pipeline.commands.extend([first] if first else [])
    run(pipeline, lambda: False, lambda report: None)
    return fs.content(BASE / "out.txt"), fs.content(BASE / "bad.txt"), exported(fs)


def marked(job, fs, mark):
    """The disk after a run that saw nothing but a mark."""
    pipeline = build_job(job.spec, REGISTRY, replace(job.context, fs=fs, clock=Ticks(random.Random(2))))
    pipeline.parts.shards.mark(mark)
    pipeline.close()
    return fs


def exported(fs, number=None):
    return [json.dumps(line) for line in exports.exported(keys.load(fs, FOLDER, number))]


def reset(job, fs, *asked):
    with editing(job, fs) as held:
        chosen = edit.named(held.keys, asked)
        return held.reset(chosen, "reset", {"keys": asked})


def reset_like(job, fs, pattern):
    with editing(job, fs) as held:
        return held.reset(edit.matching(held.keys, pattern), "reset", {"glob": pattern})


def reset_all(job, fs):
    with editing(job, fs) as held:
        return held.reset_all("reset", list(held.keys), {"all": True})


def of_a_mark(*keys):
    return Mark("control", Origin("test", "test"), keys=keys or None)


@pytest.mark.parametrize(
    ("change", "mark"),
    [
        (lambda job, fs: reset(job, fs, "k1", "k3"), of_a_mark("k1", "k3")),
        (lambda job, fs: reset_like(job, fs, "k?"), of_a_mark(*(f"k{i}" for i in range(10)))),
        (reset_all, of_a_mark()),
    ],
    ids=["by name", "by pattern", "all"],
)
def test_a_reset_is_what_a_control_message_at_that_moment_would_be(job, stopped, change, mark):
    changed, told = copy(stopped), copy(stopped)
    number = change(job, changed)
    assert changed.names(FOLDER)[:6] == [*stopped.names(FOLDER)[:5], f"commit-{number:010d}.json"]
    assert exported(changed) == exported(marked(job, copy(stopped), mark))
    found = go_on(job, changed)
    assert found == go_on(job, told, mark)
    assert b'"control"' in found[0]
    assert found[0] != go_on(job, stopped)[0]


def test_source_and_outputs_stay_where_they_are(job, stopped):
    before = keys.load(stopped, FOLDER)[0].manifest
    reset_all(job, stopped)
    after = keys.load(stopped, FOLDER)[0].manifest
    moved = {name for name in after if after[name] != before.get(name)}
    assert moved == {"number", "segments", "edited", "control"}


def test_the_next_output_of_a_key_says_control_and_no_later_one(job, stopped):
    before, held = len(stopped.content(BASE / "out.txt")), set(keys.load(stopped, FOLDER)[0].rows)
    reset_all(job, stopped)
    go_on(job, stopped)
    first: dict[str, list] = {}
    for output in map(json.loads, stopped.content(BASE / "out.txt")[before:].splitlines()):
        first.setdefault(output["k"], []).append((output["n"], "control" in output["why"]))
    reset = {key: outputs for key, outputs in first.items() if outputs[0] == (1, True)}
    assert len(reset) > 2
    assert reset.keys() <= held
    assert not any(control for key, outputs in first.items() for _, control in outputs[key in reset :])


def gone_key(states):
    names = {edit.key_hash(f"k{i}"): f"k{i}" for i in range(14)}
    return next(names[name] for name, _ in states.gone)


def test_keys_that_cannot_be_reset_are_refused_all_at_once(job, stopped):
    gone = gone_key(keys.load(stopped, FOLDER)[0])
    before = copy(stopped)
    with pytest.raises(StateError) as caught:
        reset(job, stopped, "k1", "nobody", gone)
    nobody, lost = str(caught.value).splitlines()
    assert nobody.startswith("no key 'nobody' among 9; ")
    assert lost.startswith(f"key '{gone}' has no state to reset: it was ")
    with pytest.raises(StateError, match=r"no key matches 'k\[0-9\]', of 9"):
        reset_like(job, stopped, "k[0-9]")
    assert contents(stopped) == contents(before)


def contents(fs):
    return {path: bytes(inode.cached) for path, inode in fs.cached.items() if not path.endswith("LOCK")}


def test_a_folder_in_use_and_one_without_commits_are_refused(job, stopped):
    running = build_job(job.spec, REGISTRY, replace(job.context, fs=stopped))
    with pytest.raises(StateError, match="is in use by a run; stop it"):
        reset_all(job, stopped)
    running.close()
    with pytest.raises(StateError, match="found none in it"):
        reset_all(job, SimFS())


def test_after_a_broken_commit_the_outputs_come_first(job, stopped):
    newest = [name for name in stopped.names(FOLDER) if name.startswith("commit-")][-1]
    stopped.cached[str(FOLDER / newest)].cached[5] ^= 1
    before = contents(stopped)
    with pytest.raises(StateError, match="run the pipeline, which goes on from the one before it"):
        reset_all(job, stopped)
    assert contents(stopped) == before


def test_partitions_are_changed_each_on_its_own():
    text = TEXT.replace("every_s: 0", "every_s: 1")
    files = {name: events(random.Random(1), 30) for name in ("a.jsonl", "b.jsonl")}
    with swapped(FileSource, "partitioned", True):
        job = Job(text, files)
        fs = SimFS(job.files)
        job.live(fs, random.Random(1))
        before = exported(fs)
        with editing(job, fs) as held:
            asked = edit.matching(edit.of_partition(held.keys, "b.jsonl"), "*")
            held.reset(asked, "reset", {"glob": "*", "partition": "b.jsonl"})
        (line,) = control.read(fs, FOLDER)[0]
        assert line.command == {"reset": {"glob": "*", "partition": "b.jsonl"}}
        assert line.position == {name: 1 + last_position(fs, name) for name in files}
        moved = [json.loads(line) for line in set(exported(fs)) - set(before)]
        assert {line["partition"] for line in moved} == {"b.jsonl"}
        assert {line["state"] for line in moved} == {"initial"}
        imported(job, fs, before)
        assert exported(fs) == before
        with editing(job, fs) as held, pytest.raises(StateError, match="no partition 'c'; the commit has"):
            edit.of_partition(held.keys, "c")


def last_position(fs, partition):
    """Of the last event that was accepted."""
    (states,) = (each for each in keys.load(fs, FOLDER) if each.partition == partition)
    return max(int(states.columns["position"][row]) for row in states.rows.values())


def test_a_reset_is_in_control_log_where_replays_find_it(job, stopped):
    events = keys.load(stopped, FOLDER)[0].manifest["events"]
    number = reset(job, stopped, "k1", "k3")
    reset_all(job, stopped)
    first, second = control.read(stopped, FOLDER)[0]
    assert (first.command, first.commit, first.events) == (
        {"reset": {"keys": ["k1", "k3"]}},
        number - 1,
        events,
    )
    assert (second.command, second.commit, second.events) == ({"reset": {"all": True}}, number, events)
    assert keys.load(stopped, FOLDER)[0].manifest["control"] == 2
    go_on(job, stopped)
    assert keys.load(stopped, FOLDER)[0].manifest["control"] == 2


def test_what_was_asked_and_not_done_yet_comes_first(job, stopped):
    number = keys.load(stopped, FOLDER)[0].manifest["number"]
    log = control.ControlLog(FOLDER, replace(job.context, fs=stopped))
    log.append({"reset": {"keys": ["k1"]}}, number, 0, {})
    with pytest.raises(StateError, match=r"control.log has what was asked of a run that died"):
        reset(job, stopped, "k3")


# -- crashes


def import_older(job, fs):
    """Take all keys back to what they were at the oldest commit that is kept."""
    numbers = sorted(int(name[7:17]) for name in fs.names(FOLDER) if name.startswith("commit-"))
    lines = [line.encode() for line in exported(fs, numbers[0])]
    with editing(job, fs) as held:
        return held.import_lines(exports.read("old", lines, list(held.keys.values())), "import")


EDITS = {"reset": lambda job, fs: reset(job, fs, "k1", "k3"), "reset all": reset_all, "import": import_older}


def crashes(job, stopped, change, sabotage=no_sabotage):
    """What goes wrong, if anything, when power is lost at any operation of an edit, or right after it."""
    without, after, seen = go_on(job, copy(stopped)), copy(stopped), {}
    number = change(job, after)
    operations = len(after.done)
    within = go_on(job, after)
    assert within != without
    for at in range(1, operations + 2):
        for draw, luck in enumerate([None, 0.0, 1.0, *[0.5] * 6]):
            fs, rng = copy(stopped, rng=random.Random(at), crash_at=at), random.Random(draw)
            wanted, crashed = {number: within}, False
            with sabotage():
                try:
                    change(job, fs)
                except Crash:
                    crashed = True
            found = copy(fs) if luck is None else fs.after_crash(rng, luck)
            if crashed:  # a reset that stands in control.log is done by the next run
                wanted[number - 1] = within if control.read(found, FOLDER)[0] else without
            newest = max(m.commit_numbers(found.names(FOLDER)), default=0)
            disk = frozenset(contents(found).items())
            if disk not in seen:
                seen[disk] = outcome(job, found)
            if seen[disk] != wanted.get(newest):
                return f"operation {at}: {wanted.keys()} expected, found commit {newest}: {seen[disk]}"
    return None


def outcome(job, fs):
    try:
        found = go_on(job, fs)
    except Exception as error:
        return repr(error)
    return job.errors.told[-1] if job.errors.told else found


@pytest.mark.parametrize("change", EDITS.values(), ids=EDITS)
def test_power_lost_at_any_operation_leaves_the_old_commit_or_the_new_one(job, stopped, change):
    assert crashes(job, stopped, change) is None


@pytest.mark.parametrize(
    "name",
    [
        "no fsync of state",
        "no fsync of manifest",
        "no fsync of the folder after the rename",
        "no fsync of the folder before the rename",
        "old state deleted before the publish",
        "manifest written in place",
    ],
)
def test_every_sabotage_of_an_edit_shows(job, stopped, name):
    assert crashes(job, stopped, EDITS["reset"], SABOTAGES[name])


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EROFS])
def test_each_operation_failing_once_is_told_and_leaves_one_of_the_two(job, stopped, code):
    without, after = go_on(job, copy(stopped)), copy(stopped)
    reset(job, after, "k1")
    operations = len(after.done)
    within = go_on(job, after)
    for number in range(1, operations + 1):
        fs = copy(stopped, fail_at=number, code=code)
        with pytest.raises(StateError, match=os.strerror(code)):
            reset(job, fs, "k1")
        assert go_on(job, fs.after_crash(random.Random(number))) in (without, within)


# -- imports


def imported(job, fs, lines):
    with editing(job, fs) as held:
        text = [line.encode() for line in lines]
        return held.import_lines(exports.read("f.jsonl", text, list(held.keys.values())), "import")


def test_what_was_exported_and_imported_changes_nothing(job, stopped):
    before, expected = exported(stopped), go_on(job, copy(stopped))
    imported(job, stopped, before)
    assert exported(stopped) == before
    assert go_on(job, stopped) == expected


def test_a_reset_can_be_taken_back(job, stopped):
    before, expected = exported(stopped), go_on(job, copy(stopped))
    reset_all(job, stopped)
    assert exported(stopped) != before
    imported(job, stopped, before)
    assert go_on(job, stopped) == expected


def test_one_key_goes_back_and_the_others_stay(job, stopped):
    numbers = sorted(int(name[7:17]) for name in stopped.names(FOLDER) if name.startswith("commit-"))
    old, new = exported(stopped, numbers[0]), exported(stopped)
    there = [line for line in old[1:] if json.loads(line)["key"] in {json.loads(n)["key"] for n in new[1:]}]
    changed = next(line for line in there if line not in new)
    imported(job, stopped, [old[0], changed])
    after = exported(stopped)
    key = json.loads(changed)["key"]
    assert len(set(after) - set(new)) == 1
    (line,) = (json.loads(line) for line in after[1:] if json.loads(line)["key"] == key)
    wanted = json.loads(changed)
    assert line["state"] == wanted["state"]
    assert line["facts"].pop("sequence") >= wanted["facts"].pop("sequence")
    assert line["facts"] == wanted["facts"]


def test_another_job_goes_on_with_the_states_of_this_one(job, stopped):
    """With nothing of its own, it answers as this one would from here on."""
    other = Job(TEXT.replace('path: ["*.jsonl"]', "path: late.jsonl"), {"late.jsonl": rest(stopped)})
    fs, other.promised = SimFS(other.files), 0
    other.live(fs, random.Random(0), turns=0)
    assert exported(fs)[1:] == []
    lines = exported(stopped)
    number = imported(other, fs, lines)
    order = sorted(map(json.loads, lines[1:]), key=lambda line: line["facts"]["sequence"])
    found = [(json.loads(line)["key"], json.loads(line)["facts"]["sequence"]) for line in exported(fs)[1:]]
    assert sorted(found, key=lambda pair: pair[1]) == [(o["key"], i) for i, o in enumerate(order, 1)]
    assert keys.load(fs, FOLDER, number)[0].manifest["events"] == len(order)
    before = len(stopped.content(BASE / "out.txt"))
    ours, theirs = go_on(job, stopped)[0][before:], go_on(other, fs)[0]
    # Why a key has no state is not known there: the memory of those that are gone does not come along.
    assert [without_cause(line) for line in theirs.splitlines()] == [
        without_cause(line) for line in ours.splitlines()
    ]


def rest(fs):
    """The input that a stopped job has not read yet, as one file."""
    place = keys.load(fs, FOLDER)[0].manifest["source"]
    names, at = place["files"][place["index"] :], place["framer"]["position"]
    first, *others = (fs.content(BASE / name) for name in names)
    return b"\n".join([first[at:], *others])


def without_cause(line):
    record = json.loads(line)
    return {name: record[name] for name in ("k", "y", "n")} | {
        "rules": set(record["why"]) - {"new", "evicted", "unknown"}
    }


def test_a_key_that_was_gone_is_there_again(job, stopped):
    gone = gone_key(keys.load(stopped, FOLDER)[0])
    head, line = exported(stopped)[:2]
    before = exported(stopped)
    imported(job, stopped, [head, json.dumps(json.loads(line) | {"key": gone})])
    (states,) = keys.load(stopped, FOLDER)
    assert gone in states.rows
    assert len(exported(stopped)) == len(before) + 1
    assert set(before) <= set(exported(stopped))
    assert edit.key_hash(gone) not in dict(states.gone)
    assert states.facts(gone)["sequence"] == states.header["sequence"]


def test_values_that_rules_keep_come_back_as_they_were(job, stopped):
    head, line = exported(stopped)[:2]
    for value in ("a", 1, 1.5, None, True, [1, "x"], {"b": 1, "a": [None]}):
        record = json.loads(line)
        record["facts"]["field:v"] = value
        imported(job, stopped, [head, json.dumps(record)])
        assert keys.load(stopped, FOLDER)[0].facts(record["key"])["field:v"] == value


def with_(path, value):
    """A change to the first key's line."""

    def change(lines):
        record = json.loads(lines[1])
        *inside, last = path.split(".")
        at = record
        for name in inside:
            at = at[name]
        if value is None:
            del at[last]
        else:
            at[last] = value
        return [lines[0], json.dumps(record)]

    return change


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda lines: [], "f.jsonl:1: not valid JSON"),
        (lambda lines: lines[1:], "f.jsonl:1: found {"),
        (lambda lines: [lines[0].replace('"format": 1', '"format": 2')], "in format 1"),
        (lambda lines: [lines[0].replace('"gap_s": 500.0', '"gap_s": 6.0')], "reset: was "),
        (lambda lines: [lines[0].replace("float64", "float32")], 'model.state: was {"s": ["float32", []]}'),
        (lambda lines: [lines[0].replace('fingerprint": "', 'fingerprint": "0')], "model.fingerprint: was "),
        (lambda lines: [*lines, "{"], "f.jsonl:11: not valid JSON"),
        (lambda lines: [*lines, "[]"], "f.jsonl:11: expected an object, found []"),
        (lambda lines: [*lines, lines[3]], "f.jsonl:11: a second line for this key"),
        (with_("key", 1), "f.jsonl:2: key: expected a text, found 1"),
        (with_("partition", "p"), "partition: expected one of the commit, '', found \"p\""),
        (with_("state", None), "f.jsonl:2: fields: missing state"),
        (with_("more", 1), "f.jsonl:2: fields: the commit knows no more"),
        (with_("facts", 1), "f.jsonl:2: facts: expected an object, found 1"),
        (with_("facts.steps", None), "f.jsonl:2: facts: missing steps"),
        (with_("facts.rule:9:n", 1), "f.jsonl:2: facts: the commit knows no rule:9:n"),
        (with_("facts.steps", "1"), 'facts.steps: expected one int64, found "1"'),
        (with_("facts.steps", 1.5), "facts.steps: expected one int64, found 1.5"),
        (with_("facts.steps", 2**64), "facts.steps: expected one int64, found"),
        (with_("facts.steps", 2**63), "facts.steps: beyond the range of int64"),
        (with_("facts.sequence", 0), "facts.sequence: expected 1 or more, found 0"),
        (with_("facts.reset_known", 1), "facts.reset_known: expected one bool, found 1"),
        (with_("facts.pending", ["gup"]), "facts.pending: expected a list of new, evicted,"),
        (with_("state", "fresh"), 'state: expected tensors by name, or "initial" or "zeros", found "fresh"'),
        (with_("state.s", [1.0]), "state.s: expected one float64, found [1.0]"),
        (with_("state.s", "1"), 'state.s: expected one float64, found "1"'),
        (with_("state.s", True), "state.s: expected one float64, found true"),
        (with_("state.s", float("nan")), "state.s: beyond the range of float64: NaN"),
        (with_("state.t", 1.0), "f.jsonl:2: state: the commit knows no t"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_changed(job, stopped, change, told):
    before = contents(stopped)
    with pytest.raises(StateError) as caught:
        imported(job, stopped, change(exported(stopped)))
    assert told in str(caught.value)
    assert contents(stopped) == before


def test_all_mistakes_of_a_file_are_told_up_to_a_number(job, stopped):
    head, *lines = exported(stopped)
    wrong = [head, *(line.replace('"steps"', '"stops"') for line in lines * 2)]
    with pytest.raises(StateError) as caught:
        imported(job, stopped, wrong)
    told = str(caught.value).splitlines()
    assert len(told) == exports.SHOWN + 2
    assert told[-2:] == ["and 8 more", "nothing was imported"]
