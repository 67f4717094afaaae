"""`streamrnn replay` on jobs that ran: what it serves, where it stops, what it finds to differ."""

from __future__ import annotations

import gzip
import json
import random
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
from at_once import AtOnce
from click.testing import CliRunner
from crash_harness import FORMULA, events, swapped

import streamrnn.sources.stdin
from streamrnn.cli import cli
from streamrnn.commit import manifest as m
from streamrnn.commit.job import build_job
from streamrnn.config.open import open_pipeline
from streamrnn.context import DescriptorStream
from streamrnn.hookspecs import hookimpl
from streamrnn.pipeline import run
from streamrnn.registry import Registry
from streamrnn.replay.replay import build_replay

TEXT = FORMULA.replace("every_s: 2", "every_s: 0").replace("keep: 1", "keep: 100")
TEXT = TEXT.replace("max_keys: 9", "max_keys: 9, max_batch_events: 8")
FILES = {"a.jsonl": events(random.Random(1), 60), "b.jsonl": b"", "c.jsonl": events(random.Random(2), 40)}


def make(folder, text=TEXT, files=None):
    """A job that has run to its end."""
    folder.mkdir()
    (folder / "p.yaml").write_text(text)
    for name, data in (files or FILES).items():
        (folder / name).write_bytes(data)
    serve(folder)
    return folder


def serve(folder):
    spec, registry, context = open_pipeline(str(folder / "p.yaml"), Registry())
    run(build_job(spec, registry, replace(context, aside=AtOnce)), lambda: False, lambda report: None)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return make(tmp_path_factory.mktemp("whole") / "job")


@pytest.fixture
def job(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "job")


def replay(folder, *arguments):
    given = ["replay", str(folder / "p.yaml"), *map(str, arguments)]
    return CliRunner().invoke(cli, given)


def report(folder, *arguments):
    return json.loads(replay(folder, *arguments, "--format", "json").stdout)


def counts(found):
    return tuple(found[name] for name in ("equal", "changed", "recorded_only", "replayed_only"))


def contents(folder):
    return {
        path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()
    }


def records(data):
    """Where each record of a file begins."""
    at = [0, *(i + 1 for i, byte in enumerate(data) if byte == ord("\n"))]
    return [begin for begin in at if data[begin:].splitlines() and data[begin:].splitlines()[0].strip()]


def test_what_was_served_is_equal_and_nothing_is_touched(job):
    before = contents(job)
    done = replay(job)
    assert done.exit_code == 0
    first, second, *_ = done.stdout.splitlines()
    assert first == f"equal: 100 outputs, as recorded in {job}/out.txt"
    assert second.startswith("replayed: 1")
    assert second.endswith(" 100 outputs, 10 refused")
    assert contents(job) == before


@pytest.mark.parametrize(
    ("change", "files"),
    [
        (("encode: {type: jsonl", "encode: {type: csv"), None),
        (("encode: {type: jsonl", "encode: {type: msgpack"), None),
        (("reset:", "reset:\n  - {type: source_end}"), None),
        (("*.jsonl", "*.gz"), {"a.gz": gzip.compress(FILES["a.jsonl"])}),
    ],
)
def test_any_codec_from_any_commit(tmp_path, change, files):
    job = make(tmp_path / "job", TEXT.replace(*change), files)
    total = report(job)["equal"]
    assert total >= 60
    for number in m.commit_numbers([path.name for path in (job / "job").iterdir()]):
        commit = job / "job" / m.commit_name(number)
        before = m.decode(commit.read_bytes())["events"]
        assert counts(report(job, "--from-commit", commit)) == (total - before, 0, 0, 0)
        assert counts(report(job, "--from-commit", commit, "--tolerance", 0)) == (total - before, 0, 0, 0)


@pytest.mark.parametrize("name", ["a.jsonl", "c.jsonl"])
def test_until_a_byte(job, name):
    begins = records(FILES[name])
    earlier = len(records(FILES["a.jsonl"])) if name == "c.jsonl" else 0
    for count, begin in list(enumerate(begins, 1))[::7]:
        for byte in (begin, begin + 1):
            found = report(job, "--until", f"{name}:{byte}")
            assert found["events"] == earlier + count
            assert found["last"].endswith(f"of {name} (byte {begin})")
            assert (found["until_reached"], counts(found)[1:]) == (True, (0, 0, 0))
            assert found["equal"] == found["outputs"] == found["events"] - found["refused"]


def served_times(job):
    """Times of the events that are served, in order."""
    lines = (FILES["a.jsonl"] + b"\n" + FILES["c.jsonl"]).splitlines()
    found = []
    for line in lines:
        try:
            found.append(json.loads(line)["t"] if "x" in json.loads(line) else None)
        except ValueError:
            found.append(None)
    return [time for time in found if time is not None]


@pytest.mark.parametrize(
    ("until", "time"),
    [("time:20", 20), ("time:20.0", 20), ("1970-01-01T00:00:20Z", 20), ("1970-01-01T01:00:20.9+01:00", 20),
     ("time:-1", -1), ("time:100000", 100_000)],
)  # fmt: skip
def test_until_a_time_is_up_to_the_first_later_event(job, until, time):
    times = served_times(job)
    later = [i for i, t in enumerate(times) if t > time]
    found = report(job, "--until", until)
    assert found["equal"] == found["outputs"] == (later[0] if later else len(times))
    assert found["until_reached"] == bool(later)


def test_what_has_no_time_is_not_late(tmp_path):
    job = make(tmp_path / "job", files={"a.jsonl": b'nonsense\n{"k": "a", "t": 0, "x": 1}\n'})
    found = report(job, "--until", "time:-1")
    assert (found["events"], found["refused"], found["outputs"]) == (1, 1, 0)


@pytest.mark.parametrize(
    ("until", "told"),
    [
        ("5", "--until: expected NAME:5, since there are 3 files: a.jsonl, b.jsonl, c.jsonl"),
        ("d.jsonl:5", "--until: no files are called 'd.jsonl'; there are: a.jsonl, b.jsonl, c.jsonl"),
        ("noon", "--until: expected the byte of a record (4711, or NAME:4711 of one file) or a time"),
        ("time:noon", "found 'time:noon'"),
        ("2026-02-31T00:00:00Z", "expected a time such as 2026-01-31T12:00:00Z"),
        ("time:1.5", "expected a whole number, found 1.5"),
    ],
)
def test_an_end_that_is_not_clear_is_refused(job, until, told):
    done = replay(job, "--until", until)
    assert told in str(done.exception)


def test_a_pipeline_without_time_has_no_time_to_stop_at(tmp_path):
    text = TEXT.replace("  time: {field: t, unit: s}\n", "").replace("  - {type: gap, gap_s: 5}\n", "")
    job = make(tmp_path / "job", text.replace(", idle_s: 30", ""))
    assert "and the pipeline has no event.time" in str(replay(job, "--until", "time:3").exception)


def lines_of(job):
    return (job / "out.txt").read_bytes().splitlines(keepends=True)


def altered(line):
    return json.dumps(json.loads(line) | {"y": 77.5}, separators=(",", ":")).encode() + b"\n"


@pytest.mark.parametrize(
    ("change", "found", "first"),
    [
        (lambda lines: [*lines[:4], altered(lines[4]), *lines[5:]], (99, 1, 0, 0), ("changed", 5, "y")),
        (lambda lines: [*lines[:4], *lines[5:]], (99, 0, 0, 1), ("replayed only", None, "")),
        (lambda lines: [*lines[:4], altered(lines[4]), *lines[4:]], (100, 0, 1, 0), ("recorded only", 5, "")),
        (lambda lines: [*lines[:3], *lines[5:]], (98, 0, 0, 2), ("replayed only", None, "")),
        (lambda lines: [*map(altered, lines[:3]), *lines[3:]], (97, 3, 0, 0), ("changed", 1, "y")),
        (lambda lines: [*lines[:-9]], (91, 0, 0, 9), ("replayed only", None, "")),
        (lambda lines: [*lines, lines[0]], (100, 0, 1, 0), ("recorded only", 101, "")),
        (lambda lines: [*lines[:-1], lines[-1][:-5]], (99, 1, 0, 0), ("changed", 100, "")),
        (lambda lines: [], (0, 0, 0, 100), ("replayed only", None, "")),
        (
            lambda lines: [*lines[:8], *map(altered, lines[8:60]), *lines[60:]],
            (48, 52, 0, 0),
            ("changed", 9, "y"),
        ),
    ],
    ids=["changed", "lost", "more", "two lost", "three changed", "cut", "one behind", "torn", "none", "many"],
)
def test_the_first_output_that_differs_and_how_many_do(job, change, found, first):
    (job / "out.txt").write_bytes(b"".join(change(lines_of(job))))
    told = report(job)
    assert counts(told) == found
    assert tuple(told["first"][name] for name in ("kind", "line", "field")) == first
    assert replay(job).exit_code == 1


def test_a_difference_is_told_with_the_event_and_both_records(job):
    lines = lines_of(job)
    (job / "out.txt").write_bytes(b"".join([*lines[:4], altered(lines[4]), *lines[5:]]))
    byte, out = sum(map(len, lines[:4])), job / "out.txt"
    found = json.loads(lines[4])
    place = records(FILES["a.jsonl"])[5]  # one before it is refused, and a blank line counts
    since = f"record 7 of a.jsonl (byte {place}), event 1 since its reset, begun by new"
    assert replay(job).stdout.splitlines()[:7] == [
        f"different: 99 of 100 outputs are as recorded in {out}; 1 changed, 0 recorded only, 0 replayed only",
        f"  first: line 5 of {out} (byte {byte})",
        f"         key '{found['k']}', {since}",
        f"         y: expected 77.5, found {found['y']}",
        f"         recorded {altered(lines[4]).decode().strip()}",
        f"         replayed {lines[4].decode().strip()}",
        f"         the state of its key behind it: --until a.jsonl:{place} --inspect {found['k']}",
    ]
    shown = replay(job, "--until", f"a.jsonl:{place}", "--inspect", found["k"]).stdout
    assert f"\nstate.s\t{found['y']}\n" in shown


def test_values_may_be_compared_instead_of_bytes(job):
    lines, out = [json.loads(line) for line in lines_of(job)], job / "out.txt"

    def write(change):
        out.write_text("".join(json.dumps(line | change(line)) + "\n" for line in lines))

    write(lambda line: {"y": line["y"] + 1e-9})
    assert report(job)["changed"] == 100
    assert counts(report(job, "--tolerance", "1e-6")) == (100, 0, 0, 0)
    assert report(job, "--tolerance", "1e-12")["changed"] == 100
    write(lambda line: {})
    assert counts(report(job, "--tolerance", "0")) == (100, 0, 0, 0)
    for change, field in (({"m": 1}, "m"), ({"n": 99}, "n"), ({"k": "?"}, "k")):
        write(lambda line, change=change: change)
        assert report(job, "--tolerance", "1")["first"]["field"] == field


def test_equal_values_in_other_bytes_are_told_as_such(job):
    (job / "out.txt").write_bytes(b"".join(line.replace(b":", b": ") for line in lines_of(job)))
    assert report(job)["first"]["message"] == "the same values in other bytes"


def test_recorded_data_may_lie_elsewhere_under_another_name(job, tmp_path):
    names = [tmp_path / f"then_{name}" for name in FILES]
    for path, name in zip(names, FILES, strict=True):
        shutil.move(job / name, path)
    shutil.copy(job / "out.txt", tmp_path / "outputs")
    shutil.move(job / "out.txt", job / "elsewhere.txt")
    inputs = [argument for path in names for argument in ("--input", path)]
    commit = sorted((job / "job").glob("commit-*"))[3]
    tenth = records(FILES["c.jsonl"])[9]
    for more in ([], ["--from-commit", commit], ["--until", f"then_c.jsonl:{tenth}"]):
        found = report(job, *inputs, "--outputs", tmp_path / "outputs", *more)
        assert counts(found)[1:] == (0, 0, 0)
        assert 0 < found["equal"] <= 100
    done = replay(job, *inputs[:2], "--outputs", tmp_path / "outputs", "--from-commit", commit)
    assert "the commit was reading a.jsonl, b.jsonl, c.jsonl; found " in str(done.exception)
    done = replay(job, *inputs[2:4] * 3, "--outputs", tmp_path / "outputs", "--from-commit", commit)
    assert "named twice" in str(done.exception)
    names[0].write_bytes(b"#" * 5000)
    done = replay(job, *inputs, "--outputs", tmp_path / "outputs", "--from-commit", commit)
    assert "are not those of the last commit: it was replaced" in str(done.exception)


def test_outputs_that_the_commit_was_not_writing_are_refused(job):
    (job / "out.txt").write_bytes(b"#" * 5000)
    done = replay(job, "--from-commit", job / "job")
    assert "these are not the outputs that the commit was writing: its bytes before" in str(done.exception)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("gap_s: 5", "gap_s: 6"), "reset: was "),
        (("0.3*s", "0.4*s"), "model.fingerprint: was "),
        (("unit: s", "unit: ms"), "event.time: was "),
    ],
)
def test_a_commit_of_another_pipeline_is_refused_and_a_replay_from_the_beginning_is_not(job, change, told):
    (job / "p.yaml").write_text(TEXT.replace(*change))
    error = str(replay(job, "--from-commit", job / "job").exception)
    assert told in error
    assert error.splitlines()[-1] == "leave the commit out to begin with nothing"
    assert report(job)["outputs"] > 90


def test_what_is_no_commit_is_told(job):
    assert "expected the folder of a pipeline's commits" in str(replay(job, "--from-commit", job).exception)
    newest = max((job / "job").glob("commit-*"))
    newest.write_bytes(newest.read_bytes()[:-9])
    assert f"{newest}: cannot be read" in str(replay(job, "--from-commit", job / "job").exception)


def test_a_key_at_the_end_is_what_the_commit_there_says_of_it(job):
    newest = max(m.commit_numbers([path.name for path in (job / "job").iterdir()]))
    states = CliRunner().invoke(cli, ["state", "ls", str(job / "job")]).stdout.splitlines()[1:]
    for key in [json.loads(line.split("\t")[0]) for line in states]:
        shown = CliRunner().invoke(cli, ["state", "inspect", str(job / "job"), key]).stdout.splitlines()
        assert shown[0].startswith(f"commit\t{newest}")
        assert replay(job, "--inspect", key).stdout.splitlines()[-len(shown) + 1 :] == shown[1:]
    assert "key 'nobody' has no state at the end; 9 others have" in replay(job, "--inspect", "nobody").stdout


STDIN = TEXT.replace('{type: file, path: ["*.jsonl"]}', "{type: stdin}").replace(
    "reset:", "reset:\n  - {type: source_end}"
)


def test_standard_input_recorded_in_several_files(tmp_path):
    job = tmp_path / "job"
    job.mkdir()
    (job / "p.yaml").write_text(STDIN)
    for name, data in FILES.items():
        (job / name).write_bytes(data)
    done = subprocess.run(
        [sys.executable, "-m", "streamrnn", "run", "-q", "p.yaml"],
        cwd=job,
        input=FILES["a.jsonl"].rstrip(b"\n") + b"\n" + FILES["c.jsonl"],
        check=True,
        capture_output=True,
    )
    assert b"cannot be read again" in done.stderr
    inputs = ["--input", job / "a.jsonl", "--input", job / "c.jsonl"]
    assert counts(report(job, *inputs)) == (100, 0, 0, 0)


def test_a_file_as_standard_input_and_a_commit_in_it(tmp_path):
    """What is too far ahead is so behind a commit too, though the data comes from a file by now."""
    job = tmp_path / "job"
    job.mkdir()
    (job / "p.yaml").write_text(STDIN.replace("limits: {", "limits: {max_ahead_s: 1000, "))
    lines = [json.dumps({"k": f"k{i % 5}", "t": 10**6 if i % 8 == 0 and i else i, "x": i}) for i in range(64)]
    (job / "a.jsonl").write_text("\n".join(lines))
    spec, registry, context = open_pipeline(str(job / "p.yaml"), Registry())
    with (job / "a.jsonl").open("rb") as stdin:
        context = replace(context, aside=AtOnce, stdin=DescriptorStream(stdin.fileno()))
        with swapped(streamrnn.sources.stdin, "_PATH", job / "a.jsonl"):
            run(build_job(spec, registry, context), lambda: False, lambda report: None)
    for commit in sorted((job / "job").glob("commit-*")):
        found = report(job, "--input", job / "a.jsonl", "--from-commit", commit)
        assert counts(found) == (57 - m.decode(commit.read_bytes())["events"], 0, 0, 0)


def test_followed_files_are_read_as_far_as_they_go(job):
    text = TEXT.replace('path: ["*.jsonl"]', 'path: ["*.jsonl"], follow: true')
    (job / "p.yaml").write_text(text.partition("checkpoint:")[0])
    assert counts(report(job)) == (100, 0, 0, 0)


def test_without_recorded_outputs_one_has_to_say_what_is_wanted(job):
    (job / "p.yaml").write_text(TEXT.replace("{type: file, path: out.txt}", "{type: stdout}"))
    done = replay(job)
    assert "found a sink of type stdout; name one with --outputs, or see the outputs with --print" in str(
        done.exception
    )
    assert done.exception.exit_code == 4
    done = replay(job, "--print")
    assert done.exit_code == 0
    assert done.stdout_bytes == (job / "out.txt").read_bytes()
    assert "100 outputs" in done.stderr
    assert counts(report(job, "--outputs", job / "out.txt")) == (100, 0, 0, 0)


def test_a_source_without_an_end_needs_recorded_data(job):
    socket = '{type: socket, listen: "tcp://127.0.0.1:0"}'
    (job / "p.yaml").write_text(TEXT.replace('{type: file, path: ["*.jsonl"]}', socket))
    assert "expected data that ends; name some with --input" in str(replay(job).exception)
    inputs = [argument for name in FILES for argument in ("--input", job / name)]
    assert counts(report(job, *inputs)) == (100, 0, 0, 0)


def test_observers_hear_nothing(job):
    class Listening:
        @hookimpl
        def streamrnn_batch_done(self):
            raise AssertionError("told")

    registry = Registry()
    registry.add(Listening(), "listening")
    spec, registry, context = open_pipeline(str(job / "p.yaml"), registry)
    replayed = build_replay(spec, registry, context, spec)
    assert sum(len(served.out) for served in replayed) == 100
    replayed.close()


def test_every_step_of_a_key_can_be_seen(job):
    """What a command that explains one key's answer stands on."""
    spec, registry, context = open_pipeline(str(job / "p.yaml"))
    replayed = build_replay(spec, registry, context, spec)
    replayed.limit = 1
    (core,) = (core for _, core in replayed.parts.shards.items())
    for served in replayed:
        assert len(served.out.block) == 1
        for key, y in zip(served.out.keys, served.answered.outputs.y["y"].tolist(), strict=True):
            row = core.store.keys.index.find([key])
            fresh = core.store.columns["fresh"][row][0]
            assert fresh or core.store.slab.read(row)["s"].tolist() == [y]
    replayed.close()
