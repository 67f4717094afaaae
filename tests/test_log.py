"""A log as files that a person could have written, and what a pipeline makes of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from streamrnn.build import build_pipeline
from streamrnn.builtins.logs import LogSinkConfig, LogSourceConfig
from streamrnn.codecs.csv import CsvCodec
from streamrnn.codecs.lines import LineFramer
from streamrnn.commit.job import build_job
from streamrnn.config.load import load_pipeline
from streamrnn.context import Context, ManualClock
from streamrnn.errors import ConfigError, OptionError, SinkError, SourceError, StateError
from streamrnn.events import Block, Mark, Origin, OutBlock
from streamrnn.log import layout
from streamrnn.pipeline import run
from streamrnn.ports import EndOfStream
from streamrnn.registry import Registry
from streamrnn.sinks import log as log_sink
from streamrnn.sources import log as log_source
from streamrnn.testing import quiet_context


def new_framer(position=0):
    return LineFramer(20, position)


def segment(folder, partition, first, text):
    path = Path(layout.segment_path(folder / "in" / partition, first))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(text)
    return path


@pytest.fixture
def folder(tmp_path):
    segment(tmp_path, "0", 0, "a\nb\n\nd\n")
    segment(tmp_path, "0", 4, "e\n" + "x" * 30 + "\ntorn")
    segment(tmp_path, "10", 5, "m\n")
    segment(tmp_path, "2", 0, "p\nq\n")
    (tmp_path / "in" / ".hidden").mkdir()
    (tmp_path / "in" / "LOCK").touch()
    return tmp_path


OPENED = []


@pytest.fixture(autouse=True)
def closed_at_the_end():
    yield
    while OPENED:
        OPENED.pop().close()


def source(folder, place=None, **options):
    context = quiet_context(base_dir=folder, clock=ManualClock())
    made = log_source.build(LogSourceConfig(path="in", **options), context, new_framer)
    OPENED.append(made)
    if place is not None:
        made.resume(json.loads(json.dumps(place)))
    return made


def seen(made, limit=100):
    """Partition and offset of each record that is there, and the record or why it was refused."""
    found = []
    try:
        while (block := made.read(limit, 1)) is not None:
            where = block.origin.partition
            if isinstance(block, Mark):
                found.append((where, block.position, "end"))
                continue
            assert block.fields["log.offset"].tolist() == block.positions.tolist()
            assert block.numbers.tolist() == [position + 1 for position in block.positions]
            found += [
                (where, int(at), block.refused.get(i, block.record(i).decode()))
                for i, at in enumerate(block.positions)
            ]
    except EndOfStream:
        pass
    return found


TOO_LONG = "line of more than 20 bytes"
ALL = [
    *[("0", 0, "a"), ("0", 1, "b"), ("0", 3, "d"), ("0", 4, "e"), ("0", 5, TOO_LONG), ("0", 6, "end")],
    *[("2", 0, "p"), ("2", 1, "q"), ("2", 2, "end"), ("10", 5, "m"), ("10", 6, "end")],
]


@pytest.mark.parametrize("limit", [1, 2, 100])
def test_partitions_are_read_in_order_each_to_its_end(folder, limit):
    assert seen(source(folder), limit) == ALL


def test_it_goes_on_from_any_place(folder):
    made, found = source(folder), []
    while True:
        place = made.place()
        assert found + seen(source(folder, place)) == ALL
        try:
            block = made.read(1, 1)
        except EndOfStream:
            return
        found += [ALL[len(found)]]
        assert isinstance(block, Mark) == (found[-1][2] == "end")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"partitions": ["2"], "start": "latest"}, [("2", 2, "end")]),
        ({"partitions": ["2"], "start": {"offset": 1}}, [("2", 1, "q"), ("2", 2, "end")]),
        ({"partitions": ["2", "0"], "start": {"offset": 2}}, [("2", 2, "end"), *ALL[2:6]]),
        ({"partitions": ["2"], "start": {"time": "2001-09-09T01:46:40Z"}}, [*ALL[6:9]]),
        ({"partitions": ["2"], "start": {"time": "2100-01-01T00:00:00+01:00"}}, [("2", 2, "end")]),
    ],
)
def test_where_to_begin(folder, options, expected):
    assert seen(source(folder, **options)) == expected


def test_a_time_is_that_of_the_file(folder):
    os.utime(layout.segment_path(folder / "in" / "0", 0), (1000, 1000))
    assert seen(source(folder, partitions=["0"], start={"time": "1970-01-01T00:16:39Z"})) == ALL[:6]
    assert seen(source(folder, partitions=["0"], start={"time": "1970-01-01T00:16:41Z"})) == ALL[3:6]


def test_what_grows_is_followed(folder):
    made = source(folder, follow=True)
    assert sorted(seen(made)) == sorted(record for record in ALL if record[2] != "end")
    segment(folder, "0", 4, "")
    assert seen(made) == []
    segment(folder, "0", 4, " on\n")
    segment(folder, "0", 7, "f\n")
    segment(folder, "7", 9, "new\n")
    assert seen(made) == [("0", 6, "torn on"), ("7", 9, "new"), ("0", 7, "f")]
    assert made.position() == {"0": 8, "2": 2, "10": 6, "7": 10}


def test_latest_means_what_comes_and_new_partitions_whole(folder):
    made = source(folder, follow=True, start="latest")
    assert seen(made) == []
    segment(folder, "2", 0, "r\n")
    segment(folder, "3", 0, "x\n")
    assert sorted(seen(made)) == [("2", 2, "r"), ("3", 0, "x")]


def test_nothing_is_read_beyond_the_committed_end(folder):
    (folder / "in" / "committed").write_text('{"0": 3, "2": 1}')
    made = source(folder, follow=True)
    assert sorted(seen(made)) == [("0", 0, "a"), ("0", 1, "b"), ("2", 0, "p")]
    (folder / "in" / "committed").write_text('{"0": 6, "2": 1, "10": 6}')
    assert sorted(seen(made)) == [("0", 3, "d"), ("0", 4, "e"), ("0", 5, TOO_LONG), ("10", 5, "m")]
    assert seen(source(folder, partitions=["2"])) == [("2", 0, "p"), ("2", 1, "end")]
    (folder / "in" / "committed").write_text("12\n")
    with pytest.raises(SourceError, match=r'committed: expected \{"0": 12, ...\}'):
        seen(made)


def wait_for_it(folder):
    return source(folder, follow=True, partitions=["2"])


def test_what_was_cut_is_waited_for_and_compared(folder):
    path = segment(folder, "2", 0, "")
    made = wait_for_it(folder)
    assert len(seen(made)) == 2
    path.write_text("p\n")
    assert seen(made) == []
    assert made.place() == {"partitions": {"2": {"offset": 2}}, "ended": []}
    path.write_text("p\nq\nr\n")
    assert seen(made) == [("2", 2, "r")]
    path.write_text("p\n")
    assert seen(made) == []
    path.write_text("p\nQ\nr\ns\n")
    with pytest.raises(SourceError, match="its bytes before byte 6 are not those that were read"):
        seen(made)


def test_a_segment_that_was_made_anew_is_found_by_offset(folder):
    path = segment(folder, "2", 0, "")
    made = wait_for_it(folder)
    assert len(seen(made)) == 2
    path.unlink()
    assert seen(made) == []
    segment(folder, "2", 0, "p\n")
    segment(folder, "2", 1, "q\nr\n")
    assert seen(made) == [("2", 2, "r")]


def test_a_place_in_a_log_that_was_cut_is_waited_for_or_refused(folder):
    made = wait_for_it(folder)
    assert len(seen(made)) == 2
    place, path = made.place(), segment(folder, "2", 0, "")
    path.write_text("p\n")
    with pytest.raises(SourceError, match="partition 2: expected at least 2 records, found 1: it was cut"):
        seen(source(folder, place, partitions=["2"]))
    again = source(folder, place, follow=True, partitions=["2"])
    assert seen(again) == []
    path.write_text("p\nq\nr\n")
    assert seen(again) == [("2", 2, "r")]
    path.write_text("p\nQ\nr\n")
    with pytest.raises(SourceError, match="its bytes before byte 4 are not those of the last commit"):
        source(folder, place, follow=True, partitions=["2"])


def test_a_record_that_retention_removed_is_refused_with_the_way_out(folder):
    with pytest.raises(SourceError, match=r"at offset 2, found the first one at 5.*earliest"):
        seen(source(folder, partitions=["10"], start={"offset": 2}))


@pytest.mark.parametrize(
    ("first", "text", "expected"),
    [
        (4, "x\n", "expected 2 lines, as the next segment begins at offset 2, found 1"),
        (4, "x", "found 1, the last of them without an end"),
        (4, "x\ny\nz\n", "found 3"),
    ],
)
def test_a_segment_that_does_not_meet_the_next_is_refused(tmp_path, first, text, expected):
    segment(tmp_path, "0", 0, text)
    segment(tmp_path, "0", 2, "x\n")
    with pytest.raises(SourceError, match=expected):
        seen(source(tmp_path))


def test_missing_partitions(folder):
    with pytest.raises(SourceError, match="in: found no partition 5; it has 0, 2, 10"):
        source(folder, partitions=["5", "2"])
    made = source(folder, partitions=["5"], follow=True)
    assert seen(made) == []
    segment(folder, "5", 0, "x\n")
    assert seen(made) == [("5", 0, "x")]
    with pytest.raises(SourceError, match="expected a folder with a folder for each partition, found none"):
        log_source.build(LogSourceConfig(path="nothing"), quiet_context(base_dir=folder), new_framer)


def test_a_codec_without_lines_is_refused(folder):
    from streamrnn.builtins.codecs import CsvConfig

    codec = CsvCodec(CsvConfig())
    with pytest.raises(OptionError, match=r"expected decode: \{type: jsonl\}"):
        log_source.build(
            LogSourceConfig(path="in"), quiet_context(base_dir=folder), lambda at=0: codec.framer(9, at)
        )


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        ("erliest", "'earliest' or 'latest'"),
        ({"offset": -1}, "greater than or equal to 0"),
        ({}, "expected offset or time, found neither"),
        ({"offset": 1, "time": "2026-01-31T12:00:00Z"}, "found both"),
        ({"time": "2026-01-31T12:00:00"}, "expected a time such as 2026-01-31T12:00:00Z"),
        ({"time": "yesterday"}, "found 'yesterday'"),
    ],
)
def test_options_that_are_wrong(start, expected):
    with pytest.raises(ValidationError, match=expected):
        LogSourceConfig(path="in", start=start)


# The sink


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def open_sink(tmp_path, clock):
    opened = []

    def open_one(**options):
        context = quiet_context(base_dir=tmp_path, clock=clock)
        sink = log_sink.build(LogSinkConfig(path="out", **options), context)
        sink.attach(log_source.LogSource, None)
        opened.append(sink)
        return sink

    yield open_one
    for sink in opened:
        sink.close()


def out(text, partition="0"):
    import numpy as np

    lines = text.encode().splitlines(keepends=True)
    ends = np.cumsum([len(line) for line in lines], dtype=np.int64)
    nothing = np.empty(0, np.int64)
    block = Block(b"", nothing, nothing, nothing, nothing, Origin("log", partition))
    return OutBlock(text.encode(), ends, [""] * len(lines), nothing, block)


def files(tmp_path, partition="0"):
    folder = tmp_path / "out" / partition
    return {int(path.stem): path.read_text() for path in sorted(folder.glob("*.jsonl"))}


def test_segments_are_named_by_their_first_offset(tmp_path, open_sink):
    sink = open_sink(segment_bytes=8)
    sink.write(out("one\ntwo\nthree\nlonger than that\n"))
    sink.write(out("x\n", "other"))
    sink.write(out("y\n"))
    sink.close()
    assert files(tmp_path) == {0: "one\ntwo\n", 2: "three\n", 3: "longer than that\n", 4: "y\n"}
    assert files(tmp_path, "other") == {0: "x\n"}
    sink = open_sink(segment_bytes=8)
    sink.write(out("z\n"))
    assert files(tmp_path)[4] == "y\nz\n"


def test_a_segment_is_full_after_some_time(tmp_path, open_sink, clock):
    sink = open_sink(segment_s=10)
    for text, seconds in (("a\n", 6), ("b\n", 6), ("c\n", 0)):
        sink.write(out(text))
        clock.advance(seconds)
    assert files(tmp_path) == {0: "a\nb\n", 2: "c\n"}


def test_a_source_without_partitions_has_one(tmp_path, open_sink):
    sink = open_sink()
    sink.attach(object(), None)
    sink.write(out("a\n", "data/x.jsonl"))
    assert files(tmp_path) == {0: "a\n"}


def test_half_a_line_of_a_writer_that_died_is_no_record(tmp_path, open_sink):
    (tmp_path / "out" / "0").mkdir(parents=True)
    layout.segment_path(tmp_path / "out" / "0", 3).write_text("a\nhal")
    open_sink().write(out("b\n"))
    assert files(tmp_path) == {3: "a\nb\n"}


def test_going_on_removes_what_no_commit_knows(tmp_path, open_sink):
    sink = open_sink(segment_bytes=4)
    sink.write(out("a\nb\nc\n"))
    place = sink.place()
    sink.write(out("d\ne\nf\n"))
    sink.write(out("x\n", "new"))
    sink.close()
    sink = open_sink(segment_bytes=6)
    sink.resume(place)
    assert files(tmp_path) == {0: "a\nb\n", 2: "c\n"}
    assert files(tmp_path, "new") == {}
    sink.write(out("d\ne\nf\n"))
    assert files(tmp_path) == {0: "a\nb\n", 2: "c\nd\ne\n", 5: "f\n"}


def test_going_on_with_a_log_that_was_touched_is_refused(tmp_path, open_sink):
    sink = open_sink()
    sink.write(out("a\nb\n"))
    place = sink.place()
    sink.close()
    layout.segment_path(tmp_path / "out" / "0", 0).write_text("a\nB\n")
    with pytest.raises(SinkError, match="its bytes before byte 4 are not those of the last commit"):
        open_sink().resume(place)


@pytest.mark.parametrize("kept_from", [0, 2, 4])
def test_after_a_broken_commit_outputs_are_compared_and_kept(tmp_path, open_sink, kept_from):
    sink = open_sink(segment_bytes=4)
    sink.write(out("a\n"))
    place = sink.place() | {"again": True}
    sink.write(out("b\nc\nd\ne\n"))
    sink.close()
    for first in range(0, kept_from, 2):
        layout.segment_path(tmp_path / "out" / "0", first).unlink()
    sink = open_sink(segment_bytes=4)
    sink.resume(dict(place))
    for text in ("b\nc\n", "d\n", "e\nf\n"):
        assert sink.comparing
        sink.write(out(text))
    assert not sink.comparing
    assert sink.place()["partitions"]["0"]["offset"] == 6
    whole = {0: "a\nb\n", 2: "c\nd\n", 4: "e\nf\n"}
    assert files(tmp_path) == {first: text for first, text in whole.items() if first >= kept_from}
    sink.close()
    sink = open_sink()
    sink.resume(dict(place))
    with pytest.raises(SinkError, match="are not what the events give that were served again"):
        sink.write(out("b\nc\nd\nE\n"))


def test_only_what_is_committed_is_published(tmp_path, open_sink):
    sink = open_sink(emit="committed")
    sink.write(out("a\nb\n"))
    place = sink.place()
    sink.write(out("c\n"))
    sink.write(out("x\n", "p"))
    sink.committed(place, place)
    assert json.loads((tmp_path / "out" / "committed").read_text()) == {"0": 2}
    sink.close()
    open_sink(emit="immediate")
    assert not (tmp_path / "out" / "committed").exists()


@pytest.mark.parametrize(
    ("kept", "age_s", "expected"),
    [
        ({"keep_bytes": 8}, 0, [4, 6]),
        ({"keep_bytes": 0}, 0, [4, 6]),
        ({"keep_bytes": 100}, 0, [0, 2, 4, 6]),
        ({"keep_s": 50}, 40, [0, 2, 4, 6]),
        ({"keep_s": 50}, 60, [4, 6]),
        ({"keep_bytes": 12}, 0, [2, 4, 6]),
    ],
)
def test_old_segments_go_but_none_above_the_committed_end(tmp_path, open_sink, clock, kept, age_s, expected):
    sink = open_sink(segment_bytes=4, **kept)
    sink.write(out("a\nb\nc\nd\ne\n"))
    place = sink.place()
    sink.write(out("f\ng\nh\n"))
    for path in (tmp_path / "out" / "0").iterdir():
        os.utime(path, (1000, 1000))
    clock.now_s = 1000 + age_s
    sink.committed(place, None)
    assert list(files(tmp_path)) == expected


def test_a_log_has_one_writer(open_sink):
    open_sink()
    with pytest.raises(SinkError, match="out: in use by another run; a log has one writer at a time"):
        open_sink()


def test_outputs_must_be_lines(open_sink):
    sink, block = open_sink(), out("a\nb\n")
    block.ends = block.ends[1:]
    with pytest.raises(SinkError, match="expected one line an output"):
        sink.write(block)
    with pytest.raises(SinkError, match=r"no partition can have the name '\.\./x'"):
        sink.write(out("a\n", "../x"))


# The whole line

PIPELINE = """
source: {type: log, path: in, partitions: ["2"]}
decode: {type: jsonl}
event: {key: log.partition, time: {field: log.offset, unit: s}, inputs: {x: [{fields: [x, log.offset]}]}}
reset: [{type: gap, gap_s: 5}]
model: {type: formula, output: {y: x}}
encode: {type: jsonl, include: [log.partition, x], fields: {y: {type: output, output: y}}}
sink: {type: log, path: out}
tests:
  - name: what the log gives stands in the record itself
    input: [{x: 1, log: {offset: 8, partition: a}}]
    output: [{log.partition: a, y: [1, 8]}]
"""


def load(text, folder):
    registry, context = Registry(), quiet_context(base_dir=folder)
    return load_pipeline(text, "p.yaml", registry, context, {}), registry, context


def test_offset_and_partition_are_fields_of_an_event(tmp_path):
    from streamrnn.pipeline_tests import Case, run_case

    segment(tmp_path, "2", 7, '{"x": 3, "log": "own"}\n{"x": 4}\n')
    spec, registry, context = load(PIPELINE, tmp_path)
    run(build_pipeline(spec, registry, context), lambda: False, lambda report: None)
    assert files(tmp_path, "2")[0].splitlines() == [
        '{"log.partition":"2","x":3,"y":[3.0,7.0]}',
        '{"log.partition":"2","x":4,"y":[4.0,8.0]}',
    ]
    assert run_case(Case(spec, registry, context, 0)) == []


@pytest.mark.parametrize("option", ["emit: committed", "keep_bytes: 1", "keep_s: 1"])
def test_what_goes_by_commits_needs_them(tmp_path, option):
    text = PIPELINE.replace("path: out", f"path: out, {option}")
    with pytest.raises(ConfigError) as caught:
        load(text, tmp_path)
    (finding,) = caught.value.findings
    assert finding.path == f"sink.{option.partition(':')[0]}"
    assert "needs checkpoint: it goes by what is committed" in finding.message
    load(text + "checkpoint: {dir: job}\n", tmp_path)


JOB = """
source: {type: log, path: in, partitions: ["2"]}
decode: {type: jsonl}
event: {inputs: {x: [{field: x}]}}
model: {type: formula, state: {s: 0}, update: {s: s + x}, output: {y: "1.0 * s"}}
encode: {type: jsonl}
sink: {type: log, path: out, OPTIONS}
checkpoint: {dir: job}
"""


def test_a_commit_is_gone_on_from_though_sizes_and_times_changed(tmp_path):
    segment(tmp_path, "2", 0, '{"x": 1}\n')
    for text in (
        JOB.replace("OPTIONS", "segment_bytes: 100"),
        JOB.replace("OPTIONS", "emit: committed, keep_s: 1000"),
    ):
        spec, registry, context = load(text, tmp_path)
        run(build_job(spec, registry, context), lambda: False, lambda report: None)
    assert files(tmp_path, "2") == {0: '{"y":1.0}\n'}
    assert layout.committed_ends(context.fs, tmp_path / "out") == {"2": 1}
    spec, registry, context = load(JOB.replace("out, OPTIONS", "other"), tmp_path)
    with pytest.raises(StateError, match="sink: was"):
        build_job(spec, registry, context)


def test_a_socket_in_memory_says_what_it_loses(tmp_path, caplog):
    text = JOB.replace("{type: log, path: out, OPTIONS}", "{type: stdout}").replace(
        "checkpoint: {dir: job}", ""
    )
    text = text.replace(
        '{type: log, path: in, partitions: ["2"]}',
        '{type: socket, listen: "unix:s", until: last_connection_closed}',
    )
    (tmp_path / "p.yaml").write_text(text)
    found = subprocess.run(
        [sys.executable, "-m", "streamrnn", "lint", "p.yaml"], cwd=tmp_path, capture_output=True, text=True
    )
    assert "p.yaml: source: durability: memory; what was received" in found.stderr
    spec, registry, _ = load(text, tmp_path)
    build_job(spec, registry, Context(base_dir=tmp_path)).close()
    assert "source: durability: memory; what was received and not yet served is lost" in caplog.text
