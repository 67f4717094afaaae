"""A source that knows fields of its records which are not in them; encoders that say what parts records."""

import numpy as np
import pytest

from streamrnn.build import build_pipeline
from streamrnn.builtins.codecs import CsvConfig, MsgpackConfig
from streamrnn.codecs import csv, jsonl, msgpack
from streamrnn.config.load import load_pipeline
from streamrnn.errors import ConfigError, OptionError
from streamrnn.events import Block, Origin
from streamrnn.pipeline import run
from streamrnn.ports import EndOfStream
from streamrnn.registry import Registry
from streamrnn.testing import ListSink, quiet_context

PIPELINE = """
source: {type: stdin}
decode: {type: jsonl}
event: {key: at.sender, inputs: {x: [{field: x}, {field: at.number}]}}
reset: [{type: on_change, field: at.number}]
model: {type: formula, state: {s: 0}, update: {s: "s + x[0] + x[1]"}, output: {y: "1.0 * s"}}
encode: {type: jsonl, include: [at.sender, at.other], fields: {y: {type: output, output: y}}}
sink: {type: stdout}
"""


class Supplying:
    """One block of three records, the second of which is no JSON."""

    def __init__(self):
        self.asked = None

    def supply(self, paths):
        self.asked = paths
        if "at.nowhere" in paths:
            raise OptionError(((), "there is no at.nowhere"))
        return [path for path in paths if path in ("at.sender", "at.number")]

    def read(self, limit, wait_ms):
        if self.asked is None:
            raise EndOfStream
        self.asked = None
        records = [b'{"x": 1, "at": {"sender": "not this", "other": 9}}', b"{", b'{"x": 3}']
        ends = np.cumsum([len(record) for record in records])
        starts = ends - [len(record) for record in records]
        at, fields = np.arange(3), {"at.sender": ["a", "b", "a"], "at.number": np.array([5, 6, 7])}
        return Block(b"".join(records), starts, ends, at, at + 1, Origin("s", "p"), fields=fields)

    def position(self):
        return {}

    def close(self):
        pass


def serve(text):
    registry, context, source, sink = Registry(), quiet_context(), Supplying(), ListSink()
    spec = load_pipeline(text, "p.yaml", registry, context, {})
    pipeline = build_pipeline(spec, registry, context, source, sink)
    asked = source.asked
    run(pipeline, lambda: False, lambda report: None)
    return asked, sink


def test_fields_of_the_source_stand_beside_those_of_the_codec():
    asked, sink = serve(PIPELINE)
    assert asked == ("at.sender", "x", "at.number", "at.other")
    assert sink.records == [
        {"at.sender": "a", "at.other": 9, "y": 6.0},
        {"at.sender": "a", "at.other": None, "y": 10.0},
    ]
    assert [event.position for event in sink.rejected] == [1]


def test_a_field_that_the_source_lacks_stands_at_its_section():
    with pytest.raises(ConfigError, match=r"p.yaml:2:\d+: source: there is no at.nowhere"):
        serve(PIPELINE.replace("at.other", "at.nowhere"))


@pytest.mark.parametrize(
    ("codec", "framing"),
    [
        (jsonl.JsonlCodec(), (0, 1)),
        (msgpack.MsgpackCodec(MsgpackConfig()), (4, 0)),
        (csv.CsvCodec(CsvConfig(header=["a"])), (0, 1)),
        (csv.CsvCodec(CsvConfig()), None),
    ],
)
def test_what_parts_records_is_no_part_of_them(codec, framing):
    encode = codec.encoder()
    assert encode.framing == framing
    if framing is None:
        return
    buffer, ends = encode({"a": [1, 2]}, 2)
    before, behind = framing
    first = buffer[before : ends[0] - behind]
    second = buffer[ends[0] + before : ends[1] - behind]
    assert before + len(first) + behind + before + len(second) + behind == len(buffer)
    assert b"\n" not in first + second
    assert first != second
