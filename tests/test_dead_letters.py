"""Refused events: their codes, the commands that show them, and a replay that serves them once."""

from __future__ import annotations

import errno
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from blocks import blocks
from click.testing import CliRunner
from simfs import Crash, SimFS

from streamrnn.cli import cli
from streamrnn.commit.job import build_job
from streamrnn.config.load import load_pipeline
from streamrnn.config.open import open_pipeline
from streamrnn.context import Context
from streamrnn.core.serve import QUARANTINED
from streamrnn.errors import ConfigError, SinkError, SourceError, StateError
from streamrnn.letters.marks import Mark, hold, mark_path
from streamrnn.letters.replay import build_letters
from streamrnn.order import policy
from streamrnn.pipeline import run
from streamrnn.refusals import CODES, CRASH_SUSPECT, OTHER, code_of
from streamrnn.registry import Registry

REGISTRY = Registry()
BASE = Path("/sim")
BAD = BASE / "refused.jsonl"
SUMS = """
source: {type: file, path: in.jsonl}
decode: {type: jsonl}
event: {key: k, inputs: {x: [{field: x, missing: 0}]}}
model: {type: formula, state: {s: 0}, update: {s: s + x}, output: {s: s}}
encode: {type: jsonl, include: [k], fields: {at: {type: meta, name: position}, s: {type: output, output: s}}}
sink: {type: file, path: out.jsonl}
dead_letter: {path: again.jsonl}
"""
REASONS = {
    "line of more than 200 bytes": "too_long",
    "record of 300 bytes, more than 200": "too_long",
    "value of 300 bytes, more than max_value_bytes = 200": "too_long",
    "the stream ends in the midst of this record": "cut_off",
    "the connection closed in the midst of a line": "cut_off",
    "the line was not complete within 3 s": "cut_off",
    'expected {"time": ..., "value": ...}: JSON is malformed': "envelope",
    "sequence number 7 of sensor-7 belongs to another record already": "seq_conflict",
    "a record without a value": "no_value",
    "not valid UTF-8 (byte 6)": "utf8",
    "kafka.key: not valid UTF-8 (byte 6)": "utf8",
    "nested too deeply: expected at most 64 levels": "nesting",
    "not valid JSON: the line ends in the midst of it": "json",
    "expected a JSON object at a.b, found array": "wrong_type",
    "field 'not valid JSON' stands twice": "duplicate_field",
    "number out of range at p.q": "range",
    "number of more than 400 characters at x": "range",
    "x: beyond the range of float32": "range",
    "x: log1p: expected a number above -1, found -3.0": "range",
    "not valid MessagePack: trailing characters (byte 4)": "msgpack",
    "expected texts as the keys of a map, found others": "msgpack",
    "expected a map at p, found number": "wrong_type",
    "expected finite numbers, found nan": "not_finite",
    "x: expected a finite number, found inf": "not_finite",
    "expected binary at x, 4 bytes a number, found text": "wrong_type",
    "expected 3 fields, found 4": "csv",
    "expected quotes around a whole field, doubled inside it (field 2)": "csv",
    "field 'a' stands twice in the header": "header",
    "op: a control message: expected one of keys, glob, all, found none of them": "control",
    "x: missing; `missing:` can give a value for it": "missing_field",
    'x: expected a number, found "time: further ahead"': "wrong_type",
    "x: expected a list of 3 numbers, found nothing": "missing_field",
    'x: expected a list of 3 numbers, found "nothing"': "wrong_type",
    "x: expected one of the 3 known values, found 7": "unknown_value",
    "t: expected a time, found nothing": "time",
    "t: expected a whole number, found 0.5; time.resolution can be finer": "time",
    "k: expected a key, a text or an integer, found nothing": "key",
    "k: a key of more than limits.max_key_bytes = 256": "key",
    "u: expected an id, a text or an integer, found nothing": "id",
    "u: an id of more than limits.max_key_bytes = 256": "id",
    policy.LATE: "late",
    policy.DUPLICATE: "duplicate",
    policy.FULL: "no_room",
    policy.AHEAD: "ahead",
    "w: a reset rule keeps at most 100 bytes of it": "field_too_long",
    "time: further ahead of the largest seen than limits.max_ahead_s allows": "ahead",
    "key: a new one, and limits.max_keys are held; limits.on_full says refuse": "full",
    "the model's new state or output is not finite": "state_not_finite",
    "the norm of the model's new state is over limits.max_state_norm": "state_norm",
    "the model refused it: ValueError: not valid JSON, found nothing": "model_refused",
    "the model refused it: ModelError: no answer within limits.step_deadline_s = 2 s": "deadline",
    CRASH_SUSPECT: "crash_suspect",
    QUARANTINED: "quarantined",
    "x: too blue": "other",
}


@pytest.mark.parametrize(("reason", "code"), REASONS.items(), ids=REASONS)
def test_the_code_of_a_reason(reason, code):
    assert code_of(reason) == code


def test_every_code_is_told_apart_and_documented():
    told = (Path(__file__).parent.parent / "docs" / "dead_letters.md").read_text()
    assert [code for code in [*CODES, OTHER] if f"| `{code}` |" not in told] == []
    assert {*REASONS.values()} == {*CODES, OTHER}


def test_what_a_pipeline_refuses_has_codes(tmp_path):
    lines = [
        b"nonsense",
        b'{"k": "a", "x": "\xff"}',
        b'{"x": 1}',
        b'{"k": "a", "x": "1"}',
        b'{"k": "a", "x": 1e999}',
        b'{"k": "a", "k": "b"}',
        b'{"k": "a", "x": 1e308}',
        b'{"k": "a", "x": 1e308}',
        b'{"k": "' + b"a" * 300 + b'"}',
        b'{"k": "a", "x": [' + b"[" * 70 + b"]" * 70 + b"]}",
        b'{"k": "a", "y": "' + b"a" * 500 + b'"}',
    ]
    (tmp_path / "in.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    (tmp_path / "p.yaml").write_text(SUMS + "limits: {max_line_bytes: 400}\n")
    spec, registry, context = open_pipeline(str(tmp_path / "p.yaml"))
    run(build_job(spec, registry, context), lambda: False, lambda report: None)
    found = [json.loads(line) for line in (tmp_path / "again.jsonl").read_bytes().splitlines()]
    assert [(letter["number"], letter["code"]) for letter in found] == [
        (1, "json"),
        (2, "utf8"),
        (3, "key"),
        (4, "wrong_type"),
        (5, "range"),
        (6, "duplicate_field"),
        (8, "state_not_finite"),
        (9, "key"),
        (10, "nesting"),
        (11, "too_long"),
    ]


def letter(number, raw, code="missing_field", partition="in.jsonl", **more):
    """A line of a dead-letter file."""
    told = {"source": "file", "partition": partition, "number": number, "position": 100 * number}
    return json.dumps(told | {"code": code, "reason": "x: missing", "raw": raw} | more).encode() + b"\n"


LETTERS = (
    letter(1, '{"k": "a", "x": 1}')
    + letter(4, '{"k": "b", "x": 2}', "json")
    + letter(7, "still bad", "json")
    + letter(3, '{"k": "a", "x": 10}', partition="b.jsonl")
    + letter(9, '{"k": "a", "x', "too_long")
    + letter(12, '{"k": "b"}')
)
BEFORE = b'{"k": "z"}\n'
OUTPUTS = (("a", 100, 1), ("b", 400, 2), ("a", 300, 11), ("b", 1200, 2))
AGAIN = [("in.jsonl", 7, 700, "json", "still bad")]


def lines(outputs):
    return b"".join(b'{"k":"%s","at":%d,"s":%d.0}\n' % (k.encode(), at, s) for k, at, s in outputs)


def disk(letters=LETTERS, **settings):
    return SimFS({BAD: letters, BASE / "out.jsonl": BEFORE}, **settings)


def built(fs, code=None, text=SUMS, batch=2):
    context = Context(base_dir=BASE, fs=fs)
    text = f"{text}limits: {{max_batch_events: {batch}}}\n"
    spec = load_pipeline(text.encode(), "p.yaml", REGISTRY, context, {})
    return build_letters(spec, REGISTRY, context, BAD, code)


def replay(fs, code=None, text=SUMS, stopping=lambda: False):
    """How many letters were served or refused again, left out for an earlier replay, and for being cut."""
    pipeline, source = built(fs, code, text)
    run(pipeline, stopping, lambda report: None)
    return source.served.total(), source.again, source.cut


def outputs(fs):
    return fs.content(BASE / "out.jsonl").removeprefix(BEFORE)


def again(fs):
    found = map(json.loads, fs.content(BASE / "again.jsonl").splitlines())
    return [(a["partition"], a["number"], a["position"], a["code"], a["raw"]) for a in found]


def test_a_replay_serves_all_in_order_where_they_stood():
    fs = disk()
    assert replay(fs) == (5, 0, 1)
    assert fs.content(BASE / "out.jsonl") == BEFORE + lines(OUTPUTS)
    assert again(fs) == AGAIN
    assert fs.content(BAD) == LETTERS


def test_a_second_replay_takes_what_came_since():
    fs = disk()
    replay(fs)
    assert replay(fs) == (0, 6 - 1 + 1, 0)
    assert outputs(fs) == lines(OUTPUTS)
    fs.cached[str(BAD)].change(len(LETTERS), letter(20, '{"k": "c", "x": 5}')[:-9])
    assert replay(fs)[0] == 0
    fs.cached[str(BAD)].change(len(LETTERS), letter(20, '{"k": "c", "x": 5}'))
    assert replay(fs) == (1, 6, 0)
    assert outputs(fs) == lines([*OUTPUTS, ("c", 2000, 5)])


def test_one_code_after_the_other():
    fs = disk()
    assert replay(fs, "json") == (2, 0, 0)
    assert outputs(fs) == lines([OUTPUTS[1]])
    assert replay(fs, "json") == (0, 2, 0)
    assert replay(fs) == (3, 2, 1)
    assert outputs(fs) == lines([OUTPUTS[1], OUTPUTS[0], OUTPUTS[2], ("b", 1200, 0)])
    assert again(fs) == AGAIN


def test_a_replay_that_is_stopped_is_taken_back():
    fs = disk()
    turns = iter([False, False, True])
    replay(fs, stopping=lambda: next(turns))
    assert outputs(fs) == lines(OUTPUTS[:2])
    assert replay(fs) == (5, 0, 1)
    assert (outputs(fs), again(fs)) == (lines(OUTPUTS), AGAIN)


def steps():
    fs = disk()
    replay(fs)
    return len(fs.done)


@pytest.mark.parametrize("seed", blocks(range(4), 1))
def test_power_lost_at_any_moment(seed):
    for at in range(1, steps() + 1):
        rng = random.Random(1000 * seed + at)
        fs = disk(rng=rng, crash_at=at)
        with pytest.raises(Crash):
            replay(fs)
        fs = fs.after_crash(rng)
        told = replay(fs)
        assert (outputs(fs), again(fs)) == (lines(OUTPUTS), AGAIN), at
        assert told in ((5, 0, 1), (0, 6, 0)), at
        assert replay(fs) == (0, 6, 0)


def test_the_disk_fails_at_any_moment():
    for at in range(1, steps() + 1):
        fs = disk(fail_at=at, code=errno.ENOSPC)
        with pytest.raises((StateError, SinkError)):
            replay(fs)
        fs = fs.after_crash(random.Random(at), luck=0.0)
        replay(fs)
        assert (outputs(fs), again(fs)) == (lines(OUTPUTS), AGAIN), at


def mended(old, new):
    assert old in SUMS
    return SUMS.replace(old, new)


REFUSED = {
    "no dead letters": (mended("dead_letter: {path: again.jsonl}\n", ""), "refused again, found none"),
    "its own": (mended("again.jsonl", "refused.jsonl"), "dead_letter.path: expected another file than that"),
    "commits": (SUMS + "checkpoint: {dir: job}\n", "checkpoint.dir: the commits in it say how long"),
    "a header": (mended("{type: jsonl}", "{type: csv}"), "decode: refused events are records without"),
    "log fields": (
        mended("{type: file, path: in.jsonl}", "{type: log, path: log}").replace("[k]", "[log.offset]"),
        "source: refused events are kept without what a source adds to them; log.offset is read",
    ),
}


@pytest.mark.parametrize(("text", "told"), REFUSED.values(), ids=REFUSED)
def test_pipelines_that_are_refused(text, told):
    fs = disk()
    for name in ("job/commit-1.json", "job/commit-0000000001.json"):
        fs.cached[str(BASE / name)] = fs.cached[str(BAD)].holding(b"{}")
    with pytest.raises(ConfigError, match=told):
        built(fs, text=text)
    assert fs.content(BASE / "out.jsonl") == BEFORE


def test_a_begun_replay_binds_its_outputs():
    fs = disk()
    built(fs)[0].close(SinkError("died"))
    with pytest.raises(StateError, match=r"a replay was begun and did not end; it wrote to .*out\.jsonl"):
        built(fs, text=mended("out.jsonl", "other.jsonl"))
    assert replay(fs) == (5, 0, 1)


def test_what_a_begun_replay_wrote_must_be_there():
    fs = disk()
    built(fs)[0].close(SinkError("died"))
    fs.cached[str(BASE / "out.jsonl")].change(0, None)
    with pytest.raises(SinkError, match="found 0: it was cut"):
        built(fs)


def test_outputs_that_cannot_be_taken_back():
    fs = disk()
    built(fs)[0].close(SinkError("died"))
    marked = hold(fs, BAD)
    marked.write(replace_begun(marked.mark))
    marked.lock.close()
    with pytest.raises(
        StateError, match=r"what it wrote cannot be taken back: remove refused\.jsonl\.replayed"
    ):
        built(fs)


def replace_begun(mark):
    return Mark(begun=type(mark.begun)(mark.begun.into, None, mark.begun.rejected))


def test_one_replay_at_a_time():
    fs = disk()
    pipeline, _ = built(fs)
    with pytest.raises(StateError, match="another replay of it is under way"):
        built(fs)
    pipeline.close()
    built(fs)[0].close()


def test_a_mark_is_of_one_file():
    fs = disk()
    replay(fs)
    fs.cached[str(BAD)].change(0, LETTERS.replace(b"still", b"STILL"))
    with pytest.raises(StateError, match="is not the file that was replayed"):
        built(fs)
    fs.remove(mark_path(BAD))
    built(fs)[0].close()


@pytest.mark.parametrize(
    "line",
    [b"nonsense\n", b"{}\n", letter(1, None), letter(1, "x", raw_base64="eA=="), letter(1, 7), b"\xff\n"],
)
def test_files_that_hold_no_dead_letters(line):
    fs = disk(letter(1, '{"k": "a"}') + line)
    with pytest.raises(SourceError, match=r"refused.jsonl: expected refused events .* found at byte \d+"):
        replay(fs)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "refused.jsonl"
    old = LETTERS.replace(b'"code": "json", ', b"").replace(b"x: missing", b"not valid JSON: bad", 2)
    assert old != LETTERS
    path.write_bytes(LETTERS + letter(30, None, "utf8", raw_base64="/wA=", reason="not\x1b valid"))
    return path


def dlq(*arguments):
    result = CliRunner().invoke(cli, ["dlq", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.stdout.splitlines()


def test_dead_letters_are_counted(file):
    assert [line.split() for line in dlq("ls", file)] == [
        ["events", "code", "source", "partition", "first", "last"],
        ["2", "json", "file", "in.jsonl", "400", "700"],
        ["2", "missing_field", "file", "in.jsonl", "100", "1200"],
        ["1", "missing_field", "file", "b.jsonl", "300", "300"],
        ["1", "too_long", "file", "in.jsonl", "900", "900"],
        ["1", "utf8", "file", "in.jsonl", "3000", "3000"],
    ]
    assert len(dlq("ls", file, "--code", "json")) == 2


def test_dead_letters_are_shown_in_full(file):
    assert dlq("show", file, "--code", "utf8") == [
        "source    file",
        "partition in.jsonl",
        "record    30, at 3000",
        "code      utf8",
        "reason    not\\x1b valid",
        "bytes     2 bytes",
        "hex       ff 00",
    ]
    assert dlq("show", file, "--code", "too_long")[-2:] == [
        "bytes     the first 13 bytes",
        'text      {"k": "a", "x',
    ]
    assert len(dlq("show", file, "--limit", 2)) == 7 + 1 + 7


def test_a_line_of_an_older_version_has_a_code_as_well(tmp_path):
    told = json.loads(letter(1, "{}", reason="not valid JSON: x"))
    del told["code"]
    (tmp_path / "old").write_text(json.dumps(told) + "\n")
    assert "code      json" in dlq("show", tmp_path / "old")


def test_the_command_replays(file, tmp_path):
    (tmp_path / "p.yaml").write_text(SUMS)
    arguments = [sys.executable, "-m", "streamrnn", "dlq", "replay", file, "--through", tmp_path / "p.yaml"]
    done = [subprocess.run(arguments, capture_output=True, text=True) for _ in range(2)]
    assert [each.returncode for each in done] == [0, 0], done[0].stderr
    assert done[0].stderr.splitlines() == [
        "6 events replayed, 4 of them served, 2 refused again",
        "1 events left out, of which only the beginning is there: take them from their source",
    ]
    assert done[1].stderr.splitlines() == [
        "0 events replayed, 0 of them served, 0 refused again",
        "7 events left out, which an earlier replay took",
    ]
    assert (tmp_path / "out.jsonl").read_bytes() == lines(OUTPUTS)
