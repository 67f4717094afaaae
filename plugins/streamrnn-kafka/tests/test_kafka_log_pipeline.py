"""Pipelines between logs: fields of records, where reading begins, what is refused, what a sink writes."""

import json
import logging
import subprocess
import sys
from dataclasses import replace

import msgspec
import pytest
from kafka_logs import START_MS, batches, content, make_log, writer
from streamrnn_kafka.log_sink import build as build_sink
from streamrnn_kafka.options import KafkaLogSinkConfig

from streamrnn.build import build_pipeline
from streamrnn.commit.job import build_job
from streamrnn.config.load import load_pipeline
from streamrnn.context import Context
from streamrnn.errors import ConfigError, SinkError, SourceError, StateError
from streamrnn.pipeline import run
from streamrnn.pipeline_tests import Case, run_case
from streamrnn.registry import Registry

REGISTRY = Registry()
PARTS = {
    "source": "{type: kafka_log, path: in, topic: t}",
    "decode": "{type: jsonl}",
    "event": "{key: kafka.key, time: {field: kafka.timestamp, unit: ms}, inputs: {x: [{field: x}]}}",
    "model": '{type: formula, state: {s: 0}, update: {s: s + x}, output: {y: "1.0 * s"}}',
    "encode": "{type: jsonl, include: [kafka.offset]}",
    "sink": "{type: file, path: out.txt}",
    "dead_letter": "{path: bad.txt}",
}


class Told(logging.Handler):
    def __init__(self):
        super().__init__(logging.WARNING)
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())


def context_at(folder):
    log, told = logging.Logger("test"), Told()
    log.addHandler(told)
    return Context(base_dir=folder, log=log), told.lines


def serve(folder, job=False, **changes):
    """What a pipeline of PARTS and changes warned of; its files lie in the folder."""
    text = "".join(f"{name}: {part}\n" for name, part in (PARTS | changes).items())
    context, told = context_at(folder)
    spec = load_pipeline(text, "p.yaml", REGISTRY, context, {})
    run((build_job if job else build_pipeline)(spec, REGISTRY, context), lambda: False, lambda report: None)
    return told


def lines(folder, name="out.txt"):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def put(folder, *records):
    """One batch of (key, value, headers) in partition 0."""
    log = writer(folder / "in" / "t-0")
    keys, values, headers = zip(*records, strict=True)
    log.append(keys, values, [START_MS + i for i in range(len(keys))], headers)
    log.close()


def test_what_kafka_keeps_of_a_record_are_fields_of_the_event(tmp_path):
    put(
        tmp_path,
        (b"a", b'{"x": 1}', [("h", b"first"), ("h", "zwölf".encode()), ("i.j", b"2")]),
        (b"b", b'{"x": 2, "kafka": {"key": "not this"}}', [("h", None)]),
        (b"a", b'{"x": 3}', []),
    )
    names = ("key", "offset", "partition", "topic", "timestamp", "headers.h", "headers.i.j")
    include = ", ".join(f"kafka.{name}" for name in names)
    serve(tmp_path, encode=f"{{type: jsonl, include: [{include}]}}")
    common = {"kafka.partition": 0, "kafka.topic": "t"}
    assert lines(tmp_path) == [
        {
            "kafka.key": key,
            "kafka.offset": at,
            "kafka.timestamp": START_MS + at,
            "kafka.headers.h": h,
            "kafka.headers.i.j": ij,
            "y": y,
            **common,
        }
        for at, (key, h, ij, y) in enumerate(
            [("a", "zwölf", "2", 1.0), ("b", None, None, 2.0), ("a", None, None, 4.0)]
        )
    ]


@pytest.mark.parametrize("keyed", [False, True])
def test_values_may_hold_line_feeds_anywhere(tmp_path, keyed):
    shapes = ('{"x": %d}', '{"x": %d}\n', '\n{"x": %d}', '{"x":\n%d}', '{"x": %d}', '{"x": %d}')
    values = [(shapes[i // 50 % 6] % (i % 5)).encode() for i in range(600)]
    put(tmp_path, *((b"a" if i % 7 else b"b\nb", value, []) for i, value in enumerate(values)))
    key = "kafka.key" if keyed else "kafka.partition"
    serve(
        tmp_path,
        event=f"{{key: {key}, inputs: {{x: [{{field: x}}]}}}}",
        encode="{type: jsonl, include: [kafka.offset]}",
    )
    sums, expected = {}, []
    for i in range(600):
        key = (i % 7 == 0) if keyed else None
        sums[key] = sums.get(key, 0) + i % 5
        expected.append({"kafka.offset": i, "y": float(sums[key])})
    assert lines(tmp_path) == expected


def test_what_no_event_can_be_made_of_is_refused_with_its_offset(tmp_path):
    put(
        tmp_path,
        (b"\xff", b'{"x": 1}', []),
        (None, b'{"x": 2}', []),
        (b"a", None, []),
        (b"a", b'{"x": ' + b"1" * 50 + b"}", []),
        (b"a\0b", b'{"x": 4}', []),
        (b"a", b"nonsense", []),
        (b"a", b'{\n"x": 5\n}', [("h", b"\xff")]),
        (b"a", b'{\n"x": 6\n}', []),
    )
    serve(
        tmp_path,
        source="{type: kafka_log, path: in, topic: t, max_value_bytes: 30}",
        encode="{type: jsonl, include: [kafka.key, kafka.headers.h]}",
    )
    assert [line["kafka.key"] for line in lines(tmp_path)] == ["a\0b", "a"]
    found = {line["position"]: (line["partition"], line["reason"]) for line in lines(tmp_path, "bad.txt")}
    assert found == {
        0: ("t-0", "kafka.key: not valid UTF-8 (byte 0)"),
        1: ("t-0", "kafka.key: expected a key, a text or an integer, found nothing"),
        2: ("t-0", "a record without a value"),
        3: ("t-0", "value of 57 bytes, more than max_value_bytes = 30"),
        5: ("t-0", "not valid JSON: invalid character (byte 4)"),
        6: ("t-0", "kafka.headers.h: not valid UTF-8 (byte 0)"),
    }


@pytest.mark.parametrize(
    ("option", "first"),
    [
        ("from: earliest", 0),
        ("from: latest", 300),
        ("from_offset: 123", 123),
        ("from_time: 2023-11-14T22:13:21.005Z", 101),
        ("from_time: 2050-01-01T00:00:00+01:00", 300),
    ],
)
def test_where_reading_begins(tmp_path, option, first):
    make_log(tmp_path / "in", "t", 2, 300, segment_bytes=4000)
    serve(tmp_path, source=f"{{type: kafka_log, path: in, topic: t, {option}}}")
    assert sorted(line["kafka.offset"] for line in lines(tmp_path)) == sorted([*range(first, 300)] * 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("from: latest, from_offset: 3", "expected one of from, from_offset and from_time, found several"),
        ("partitions: [1, 0]", "expected ascending numbers, found [1, 0]"),
        ("from_time: yesterday", "from_time"),
        ("isolation: none", "isolation"),
        ("topics: t", "did you mean"),
    ],
)
def test_mistakes_in_options_are_told_before_anything_is_read(tmp_path, options, message):
    with pytest.raises(ConfigError) as caught:
        serve(tmp_path, source=f"{{type: kafka_log, path: in, topic: t, {options}}}")
    assert message in str(caught.value)


def test_a_field_that_no_record_has_is_a_mistake(tmp_path):
    make_log(tmp_path / "in", "t", 1, 3)
    with pytest.raises(ConfigError) as caught:
        serve(tmp_path, encode="{type: jsonl, include: [kafka.ofset, kafka.header.a]}")
    text = str(caught.value)
    assert "a record of Kafka has no field kafka.ofset, did you mean kafka.offset?" in text
    assert "kafka.header.a" in text
    assert "encode.include.0" in text


def test_lint_names_every_field_that_no_record_has_where_it_stands():
    text = "".join(f"{name}: {part}\n" for name, part in PARTS.items())
    text = text.replace("kafka.key", "kafka.keys").replace("kafka.timestamp", "kafka.time")
    text = text.replace("{field: x}", "{field: kafka.x}")
    with pytest.raises(ConfigError) as caught:
        load_pipeline(text, "p.yaml", REGISTRY, context_at(None)[0], {})
    found = {finding.path for finding in caught.value.findings}
    assert found == {"event.key", "event.time.field", "event.inputs.x.0"}


def test_declaring_the_components_loads_no_client():
    code = "import sys, streamrnn_kafka; print(*{'aiokafka', 'numpy', 'asyncio'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", "expected a folder u-0 or the like, found t-0, t-1"),
        (", partitions: [0, 2]", "expected a folder u-0, u-2, found t-0, t-1"),
    ],
)
def test_partitions_that_are_not_there_are_told(tmp_path, options, message):
    make_log(tmp_path / "in", "t", 2, 3)
    with pytest.raises(SourceError) as caught:
        serve(tmp_path, source=f"{{type: kafka_log, path: in, topic: u{options}}}")
    assert message in str(caught.value)


def test_an_offset_that_is_not_there_is_told(tmp_path):
    make_log(tmp_path / "in", "t", 1, 3)
    with pytest.raises(SourceError, match=r"t-0: from_offset: expected 0 to 3, what the log holds, found 4"):
        serve(tmp_path, source="{type: kafka_log, path: in, topic: t, from_offset: 4}")


def test_a_torn_tail_and_an_open_transaction_are_told(tmp_path):
    make_log(tmp_path / "in", "t", 1, 300)
    (path,) = (tmp_path / "in" / "t-0").glob("*.log")
    path.write_bytes(path.read_bytes()[:-1])
    (told,) = serve(tmp_path)
    assert "was not written whole; left out" in told
    assert 0 < len(lines(tmp_path)) < 300


def test_partitions_have_states_of_their_own(tmp_path):
    for number in range(2):
        log = writer(tmp_path / "in" / f"t-{number}")
        log.append([b"a"] * 2, [b'{"x": %d}' % (number + 1)] * 2, [START_MS] * 2)
        log.close()
    serve(tmp_path, encode="{type: jsonl, include: [kafka.partition]}")
    answers = {(line["kafka.partition"], line["y"]) for line in lines(tmp_path)}
    assert answers == {(0, 1.0), (0, 2.0), (1, 2.0), (1, 4.0)}


OUT = "{type: kafka_log, path: out, topic: scores"


def test_outputs_keep_partition_key_and_time(tmp_path):
    make_log(tmp_path / "in", "t", 3, 40)
    serve(tmp_path, sink=OUT + ", compression: zstd}")
    found, given = content(tmp_path / "out", "scores"), content(tmp_path / "in", "t")
    assert found.keys() == {"scores-0", "scores-1", "scores-2"}
    for name, records in found.items():
        sent = given[name.replace("scores", "t")]
        assert [record[:3] for record in records] == [record[:3] for record in sent]
        assert [json.loads(record[3])["kafka.offset"] for record in records] == list(range(40))


@pytest.mark.parametrize("codec", ["jsonl", "msgpack", "csv, header: [y, k]"])
def test_values_are_records_of_the_codec_without_what_parts_them(tmp_path, codec):
    (tmp_path / "in.jsonl").write_text('{"k": "a", "x": 1}\n{"k": "a", "x": 2}\n')
    serve(
        tmp_path,
        source="{type: file, path: in.jsonl}",
        event="{key: k, inputs: {x: [{field: x}]}}",
        encode=f"{{type: {codec}, include: [k]}}".replace("include: [k]", "include: [k]"),
        sink=OUT + "}",
    )
    records = content(tmp_path / "out", "scores")["scores-0"]
    assert [record[:3] for record in records] == [(0, -1, b"a"), (1, -1, b"a")]
    values = [record[3] for record in records]
    if codec == "jsonl":
        assert values == [b'{"k":"a","y":1.0}', b'{"k":"a","y":3.0}']
    elif codec == "msgpack":
        assert [msgspec.msgpack.decode(value) for value in values] == [
            {"k": "a", "y": 1.0},
            {"k": "a", "y": 3.0},
        ]
    else:
        assert values == [b"1.0,a", b"3.0,a"]


def test_a_codec_whose_records_cannot_stand_alone_is_refused(tmp_path):
    make_log(tmp_path / "in", "t", 1, 3)
    with pytest.raises(ConfigError, match="expected a codec in encode whose records can stand alone"):
        serve(tmp_path, encode="{type: csv}", sink=OUT + "}")


def test_a_later_run_writes_behind_what_is_there_and_cuts_a_torn_batch(tmp_path):
    make_log(tmp_path / "in", "t", 1, 30)
    assert serve(tmp_path, sink=OUT + "}") == []
    (path,) = (tmp_path / "out" / "scores-0").glob("*.log")
    with path.open("ab") as file:
        file.write(path.read_bytes()[:100])
    assert serve(tmp_path, sink=OUT + "}") == [
        "scores-0: cut 100 bytes of a batch that was not written whole"
    ]
    assert [record[0] for record in content(tmp_path / "out", "scores")["scores-0"]] == list(range(60))


def test_a_topic_is_written_by_one_run_at_a_time(tmp_path):
    context, _ = context_at(tmp_path)
    first = build_sink(KafkaLogSinkConfig(path="out", topic="scores"), context)
    with pytest.raises(SinkError, match="topic scores is being written by another run"):
        build_sink(KafkaLogSinkConfig(path="out", topic="scores"), context)
    build_sink(KafkaLogSinkConfig(path="out", topic="others"), context).close()
    first.close()
    build_sink(KafkaLogSinkConfig(path="out", topic="scores"), context).close()


def test_the_oldest_files_go_when_a_partition_is_too_large(tmp_path):
    make_log(tmp_path / "in", "t", 1, 3000)
    sink = OUT + ", segment_bytes: 10000, retention_bytes: 50000}"
    serve(tmp_path, sink=sink, limits="{max_batch_events: 50}")
    sizes = [path.stat().st_size for path in (tmp_path / "out" / "scores-0").glob("*.log")]
    assert 40_000 < sum(sizes) <= 60_000
    assert [record[0] for record in content(tmp_path / "out", "scores")["scores-0"]][-1] == 2999


def damage_the_newest_commit(folder):
    newest = sorted((folder / "job").glob("commit-*.json"))[-1]
    newest.write_bytes(newest.read_bytes()[:-20])


@pytest.mark.parametrize("changed", [False, True])
def test_what_was_written_after_a_commit_that_broke_is_compared_and_kept(tmp_path, changed):
    make_log(tmp_path / "in", "t", 2, 200)
    parts = {"sink": OUT + ", segment_bytes: 1024}", "checkpoint": "{dir: job, every_s: 1000}"}
    serve(tmp_path, job=True, **parts)
    found = content(tmp_path / "out", "scores")
    inodes = {path: path.stat().st_ino for path in (tmp_path / "out").rglob("*.log")}
    damage_the_newest_commit(tmp_path)
    if changed:
        other = writer(tmp_path / "out" / "scores-1", segment_bytes=1024)
        other.cut(other._last_segment(), 0)
        other.append([b"k1"], [b"{}"], [START_MS])
        other.close()
        with pytest.raises(SinkError, match=r"scores-1: offset \d+ is not what the events give"):
            serve(tmp_path, job=True, **parts)
        return
    serve(tmp_path, job=True, **parts)
    assert content(tmp_path / "out", "scores") == found
    assert {path: path.stat().st_ino for path in (tmp_path / "out").rglob("*.log")} == inodes


def test_a_run_with_commits_ends_where_the_log_ended_when_it_began(tmp_path):
    make_log(tmp_path / "in", "t", 1, 20)
    parts = {"checkpoint": "{dir: job, every_s: 1000}"}
    serve(tmp_path, job=True, **parts)
    log = writer(tmp_path / "in" / "t-0")
    log.append(*next(batches(9, 5)))
    log.close()
    serve(tmp_path, job=True, **parts)
    assert len(lines(tmp_path)) == 20
    make_log(tmp_path / "in", "t", 2, 1)
    (told,) = serve(tmp_path, job=True, **parts)
    assert told.startswith("t-1: not among the partitions this run began with")


def test_another_topic_is_another_pipeline(tmp_path):
    make_log(tmp_path / "in", "t", 1, 20)
    make_log(tmp_path / "in", "u", 1, 20)
    parts = {"checkpoint": "{dir: job, every_s: 1000}"}
    serve(tmp_path, job=True, **parts)
    with pytest.raises(StateError, match="of another pipeline"):
        serve(tmp_path, job=True, source="{type: kafka_log, path: in, topic: u}", **parts)


def test_tests_in_a_file_give_fields_of_kafka_as_an_object():
    text = "".join(f"{name}: {part}\n" for name, part in PARTS.items())
    text += """
tests:
  - name: a key is the record's
    input:
      - {kafka: {key: a, timestamp: 1, offset: 7}, x: 1}
      - {kafka: {key: a, timestamp: 2, offset: 8}, x: 2}
    output: [{y: 1}, {y: 3, kafka.offset: 8}]
"""
    context = replace(context_at(None)[0])
    spec = load_pipeline(text, "p.yaml", REGISTRY, context, {})
    assert run_case(Case(spec, REGISTRY, context, 0)) == []
