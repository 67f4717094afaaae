"""What a commit is worth when something other than a crash happened to the files around it.

STREAMRNN_FLIPS=100000 damages as many files.
"""

from __future__ import annotations

import gzip
import json
import logging
import os
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from crash_harness import BASE, FORMULA, REGISTRY, Job, events, swapped
from sim_parts import Log
from simfs import SimFS

from streamrnn.codecs import jsonl
from streamrnn.commit import manifest as m
from streamrnn.commit import writer
from streamrnn.commit.job import build_job
from streamrnn.config.open import open_pipeline
from streamrnn.errors import SinkError, SourceError, StateError, StreamrnnError
from streamrnn.hookspecs import hookimpl
from streamrnn.pipeline import run
from streamrnn.registry import Registry
from streamrnn.sources import file

FLIPS = int(os.environ.get("STREAMRNN_FLIPS", "150"))
FIXTURES = Path(__file__).parent / "fixtures"
KEEP_2 = FORMULA.replace("keep: 1", "keep: 3").replace("every_s: 2", "every_s: 0")


@pytest.fixture(scope="module")
def job():
    return Job(KEEP_2)


@pytest.fixture(scope="module")
def expected(job):
    return job.whole()


@pytest.fixture
def stopped(job):
    """A disk on which the job was stopped in the midst of it."""
    job.errors.told.clear()
    job.promised = 0
    fs = SimFS(job.files)
    job.live(fs, random.Random(1), turns=9, batch=8)
    return fs


def copy(fs, **changed):
    files = {path: bytes(inode.cached) for path, inode in fs.cached.items()}
    for path, data in changed.items():
        if data is None:
            del files[path]
        else:
            files[path] = data
    return SimFS(files)


def commits(fs):
    return [name for name in fs.names(BASE / "job") if name.startswith("commit-")]


def go_on(job, fs, batch=None):
    job.promised = 0
    return job.outcome(fs, job.live(fs, random.Random(2), batch=batch))


def test_a_job_that_was_stopped_goes_on(job, expected, stopped):
    manifest = m.decode(stopped.content(BASE / "job" / commits(stopped)[-1]))
    assert manifest["outputs"]["sink"]["bytes"] == len(stopped.content(BASE / "out.txt"))
    assert 0 < manifest["events"] < 100
    assert go_on(job, stopped) == expected
    assert len(commits(stopped)) == 3
    assert job.errors.told == []


def test_state_is_kept_as_a_base_and_deltas_until_they_outweigh_it(job):
    job.promised = 0
    fs = SimFS(job.files)
    with swapped(writer.Writer, "_prune", lambda self: None):
        job.live(fs, random.Random(1), batch=3)
    kinds = [name.split(".")[1] for name in fs.names(BASE / "job") if name.startswith("state-")]
    assert kinds[0] == "base"
    assert {"base", "delta"} == set(kinds[1:])


def test_a_broken_commit_is_told_and_the_one_before_it_taken(job, expected, stopped):
    newest = str(BASE / "job" / commits(stopped)[-1])
    data = stopped.content(newest)
    fs = copy(stopped, **{newest: data.replace(b'"events":', b'"eventz":')})
    assert go_on(job, fs) == expected
    (told,) = job.errors.told
    assert commits(stopped)[-1] in told
    assert "does not match its digest" in told
    assert "going on from commit" in told


ENDS = ["path: out.txt}", "path: out.txt, rotate: {max_bytes: 400, keep: 90}}", "out}"]


@pytest.mark.parametrize("end", ENDS, ids=["file", "rotated", "log"])
def test_once_all_was_made_again_there_are_commits_again(end):
    """Though nothing comes after it that would be written behind it."""
    text = KEEP_2.replace(
        "{type: file, path: out.txt}", f"{{type: file, {end}".replace("file, out}", "log, path: out}")
    )
    job = Job(text)
    job.whole()
    fs, job.promised = SimFS(job.files), 0
    job.live(fs, random.Random(1), batch=8)
    newest = commits(fs)[-1]
    fs = copy(fs, **{str(BASE / "job" / newest): b"{}"})
    job.errors.told.clear()
    go_on(job, fs)
    assert len(job.errors.told) == 1
    assert commits(fs)[-1] > newest
    go_on(job, copy(fs))
    assert len(job.errors.told) == 1


def test_outputs_that_readers_may_have_seen_are_never_replaced(job, stopped):
    newest = str(BASE / "job" / commits(stopped)[-1])
    out = stopped.content(BASE / "out.txt")
    changed = out[:-10] + b"#" + out[-9:]
    fs = copy(stopped, **{newest: b"{}", str(BASE / "out.txt"): changed})
    with pytest.raises(SinkError, match=r"out\.txt: the bytes from byte \d+ on are not what the events give"):
        go_on(job, fs)
    assert fs.content(BASE / "out.txt") == changed


def test_all_commits_broken_is_refused_with_every_reason(job, stopped):
    broken = {str(BASE / "job" / name): b"\xff" for name in commits(stopped)}
    with pytest.raises(StateError, match=r"no commit in .* is whole") as caught:
        go_on(job, copy(stopped, **broken))
    assert str(caught.value).count("cannot be read") == 3


def test_a_commit_of_a_later_format_is_refused_not_skipped(job, stopped):
    newest = BASE / "job" / commits(stopped)[-1]
    later = m.decode(stopped.content(newest)) | {"format": 2, "streamrnn": "9.0"}
    with pytest.raises(StateError, match=r"format 2, written by streamrnn 9\.0; this version reads format 1"):
        go_on(job, copy(stopped, **{str(newest): m.encode(later)}))


@pytest.mark.parametrize(
    ("path", "change", "error", "told"),
    [
        ("out.txt", lambda data: data[:-1], SinkError, "it was cut"),
        ("out.txt", lambda data: b"#" * len(data), SinkError, "it was replaced"),
        ("bad.txt", lambda data: None, SinkError, "found 0: it was cut"),
        ("a.jsonl", lambda data: b"#" * len(data), SourceError, "a.jsonl: its bytes before byte"),
        ("a.jsonl", lambda data: data[:3], SourceError, "a.jsonl: expected at least"),
        ("c.jsonl", lambda data: None, SourceError, "c.jsonl: the last commit is not through with it"),
    ],
)
def test_files_that_are_not_what_they_were_are_refused(job, stopped, path, change, error, told):
    where = str(BASE / path)
    with pytest.raises(error, match=told):
        go_on(job, copy(stopped, **{where: change(stopped.content(where))}))


def test_more_output_than_was_committed_is_cut(job, expected, stopped):
    where = str(BASE / "out.txt")
    fs = copy(stopped, **{where: stopped.content(where) + b"not committed"})
    assert go_on(job, fs) == expected


def test_a_file_that_came_later_is_not_part_of_the_run(job, expected, stopped):
    assert go_on(job, copy(stopped, **{str(BASE / "b2.jsonl"): events(random.Random(5), 9)})) == expected


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("key: k", "key: [k, x]"), 'event.key: was "k", is ["k", "x"]'),
        (("unit: s", "unit: ms"), 'event.time: was {"field": "t", "unit": "s"}'),
        (("gap_s: 5", "gap_s: 6"), "reset: was "),
        (('path: ["*.jsonl"]', "path: a.jsonl"), "source: was "),
        (("0.3*s", "0.4*s"), "model.fingerprint: was "),
    ],
)
def test_state_of_another_pipeline_is_refused_with_what_differs(stopped, change, told):
    other = Job(KEEP_2.replace(*change))
    before = {path: bytes(inode.cached) for path, inode in stopped.cached.items()}
    with pytest.raises(StateError, match="are of another pipeline") as caught:
        go_on(other, stopped)
    assert told in str(caught.value)
    assert "begin anew in another checkpoint dir" in str(caught.value)
    assert {path: bytes(inode.cached) for path, inode in stopped.cached.items()} == before


def test_what_decides_nothing_may_change(job, stopped):
    other = Job(KEEP_2.replace("every_s: 0", "every_s: 60").replace("include: [k]", "include: [k, w]"))
    go_on(other, stopped)


def test_one_run_at_a_time(job, stopped):
    context = replace(job.context, fs=stopped)
    first = build_job(job.spec, REGISTRY, context)
    with pytest.raises(StateError, match="is in use by another run"):
        build_job(job.spec, REGISTRY, context)
    first.close()
    build_job(job.spec, REGISTRY, context).close()


def test_a_run_that_could_not_start_lets_go_of_the_folder_and_commits_nothing(job, stopped):
    where = str(BASE / "out.txt")
    fs = copy(stopped, **{where: b""})
    before = commits(fs)
    for _ in range(2):
        with pytest.raises(SinkError):
            go_on(job, fs)
    assert commits(fs) == before


def flipped(rng, data):
    """One bit, a piece cut off, or a page of zeros."""
    kind, at = rng.randrange(4), rng.randrange(len(data))
    if kind == 0:
        return data[:at]
    if kind == 1:
        return data[:at] + bytes(min(512, len(data) - at)) + data[at + 512 :]
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def flip_seed(job, expected, stopped, seed):
    """None if damage to a file of the folder was refused or harmless."""
    rng = random.Random(seed)
    names = [name for name in stopped.names(BASE / "job") if stopped.content(BASE / "job" / name)]
    path = str(BASE / "job" / rng.choice(names))
    try:
        found = go_on(job, copy(stopped, **{path: flipped(rng, stopped.content(path))}), batch=64)
    except StreamrnnError:
        return None
    except Exception as error:
        return f"{path}: {error!r}"
    return None if found == expected else path


@pytest.mark.timeout(20_000)
@pytest.mark.slow
def test_damage_to_any_file_of_the_folder_is_detected_or_harmless(job, expected, stopped):
    assert [seed for seed in range(FLIPS) if flip_seed(job, expected, stopped, seed)] == []


def test_without_a_digest_damage_would_go_unnoticed(job, expected):
    with swapped(m, "is_of", lambda data, written: True), swapped(m, "digest", lambda data, by: "none"):
        job.promised = 0
        fs = SimFS(job.files)
        job.live(fs, random.Random(1), turns=9, batch=8)
        assert any(flip_seed(job, expected, fs, seed) for seed in range(200))


CSV = FORMULA.replace("jsonl}", "csv}", 1)


def csv_lines(n, header=True):
    rng = random.Random(4)
    rows = [f'k{rng.randrange(5)},{i},{rng.randrange(9)},"a\nb"' for i in range(n)]
    return "\n".join(["k,t,x,w"] * header + rows).encode()


@pytest.mark.parametrize(
    ("text", "files"),
    [
        (CSV.replace("*.jsonl", "*.csv"), {"a.csv": csv_lines(40), "b.csv": csv_lines(9)}),
        (FORMULA.replace("*.jsonl", "*.gz"), {"a.gz": gzip.compress(events(random.Random(2), 60))}),
        (
            FORMULA.replace("encode: {type: jsonl", "encode: {type: csv"),
            {"a.jsonl": events(random.Random(2), 60)},
        ),
    ],
    ids=["csv with a header", "gzip", "to csv with a header"],
)
def test_other_files_go_on_too(text, files):
    job = Job(text.replace("every_s: 2", "every_s: 0"), files)
    expected = job.whole()
    assert expected[0].count(b"\n") >= 40
    for turns in range(0, 14, 2):
        job.promised = 0
        fs = SimFS(job.files)
        job.live(fs, random.Random(turns), turns=turns, batch=5)
        assert go_on(job, fs) == expected


def test_what_is_added_to_files_behind_their_end_is_told_and_not_read():
    job, warned = Job(KEEP_2), Log()
    warned.setLevel(logging.WARNING)
    job.log.addHandler(warned)
    expected, fs = job.whole(), SimFS(job.files)
    job.promised = 0
    job.live(fs, random.Random(1))
    assert not warned.told
    first = BASE / "a.jsonl"
    later = copy(fs, **{str(first): job.files[first] + b"{}\n", str(BASE / "new.jsonl"): b"{}\n"})
    for _ in range(2):  # the run that finds it, and one after that
        warned.told.clear()
        assert go_on(job, later) == expected
        new, grown = (told for told in warned.told if ".jsonl" in told)
        assert new.startswith("new.jsonl: not among the files")
        assert grown.startswith("a.jsonl: 3 bytes came behind the end")


def test_the_manifest_is_one_line_of_canonical_json(stopped):
    data = stopped.content(BASE / "job" / commits(stopped)[-1])
    assert data == m.encode(json.loads(data)["manifest"])
    assert data.count(b"\n") == 1


@pytest.mark.parametrize("number", range(1, m.FORMAT + 1))
def test_commits_of_every_format_there_was_are_gone_on_from(tmp_path, number):
    """These files are never made anew; docs/design.md says what a new format needs."""
    made = FIXTURES / f"commit_{number}"
    folder = Path(shutil.copytree(made, tmp_path / "job"))
    before = (folder / "out.txt").read_bytes()
    run(build_job(*open_pipeline(str(folder / "p.yaml"), REGISTRY)), lambda: False, lambda report: None)
    for name in ("out.txt", "bad.txt"):
        assert (folder / name).read_bytes() == (folder / f"whole_{name}").read_bytes()
    assert b"" != before != (folder / "out.txt").read_bytes()


def test_a_source_that_would_begin_anew_is_refused(job):
    class Anew:
        def close(self):
            pass

    with swapped(file, "build", lambda *arguments: Anew()), pytest.raises(StateError, match="count twice"):
        go_on(job, SimFS(job.files))


def test_a_codec_that_cannot_go_on_is_refused_before_the_first_event(job):
    class Plain:
        position = 0

    fs = SimFS(job.files)
    told = pytest.raises(SourceError, match="cannot go on in the midst of a file")
    with swapped(jsonl.JsonlCodec, "framer", lambda *arguments: Plain()), told:
        go_on(job, fs)
    assert commits(fs) == []


class Watching:
    def __init__(self):
        self.told = []

    @hookimpl
    def streamrnn_checkpoint_done(self, pipeline, number, events, bytes, duration_s):
        self.told.append((pipeline.name, number, events, bytes, duration_s))

    @hookimpl
    def streamrnn_pipeline_stopped(self):
        self.told.append("stopped")


class Raising:
    @hookimpl
    def streamrnn_checkpoint_done(self):
        raise RuntimeError("no more, please")


def test_observers_are_told_of_each_commit_and_one_that_raises_is_disabled(tmp_path, caplog):
    registry, watching = Registry([]), Watching()
    registry.add(Raising(), "raising")
    registry.add(watching, "watching")
    folder = Path(shutil.copytree(FIXTURES / "commit_1", tmp_path / "job"))
    shutil.rmtree(folder / "job")
    with caplog.at_level("WARNING"):
        pipeline = build_job(*open_pipeline(str(folder / "p.yaml"), registry))
        run(pipeline, lambda: False, lambda report: None)
    assert caplog.messages == ["observer 'raising' raised RuntimeError: no more, please; it is disabled"]
    *commits, last = watching.told
    assert last == "stopped"
    names, numbers, events, sizes, seconds = zip(*commits, strict=True)
    assert set(names) == {"p"}
    assert numbers == tuple(range(2, 2 + len(commits)))
    assert list(events) == sorted(events)
    assert events[-1] == (folder / "out.txt").read_bytes().count(b"\n")
    assert min(sizes) > 1000
    assert min(seconds) > 0
    assert pipeline.commits.count == len(commits) + 1
