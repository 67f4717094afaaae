"""A framer that goes on from a place finds what the first one would have found from there on."""

from __future__ import annotations

import json
import struct

from hypothesis import given, settings
from hypothesis import strategies as st

from streamrnn.codecs.csv_records import CsvFramer
from streamrnn.codecs.lines import LineFramer
from streamrnn.codecs.msgpack_records import MsgpackFramer
from streamrnn.ports import Resumable

LIMIT = 20


def records(framer, limit=1000):
    found = []
    while frames := framer.take(limit):
        for i in range(len(frames)):
            raw = frames.buffer[frames.starts[i] : frames.ends[i]]
            found.append((int(frames.positions[i]), int(frames.numbers[i]), raw, frames.refused.get(i)))
    return found


def check(new_framer, stream, pieces, takes):
    """Cut the stream into pieces, take some records after each, at every place go on with a new framer."""
    first, before, fed = new_framer(), [], 0
    assert isinstance(first, Resumable)
    places = [(first.place(), 0)]
    for size, limit in zip(pieces, takes, strict=True):
        first.feed(stream[fed : fed + size])
        fed = min(fed + size, len(stream))
        frames = first.take(limit)
        for i in range(len(frames)):
            raw = frames.buffer[frames.starts[i] : frames.ends[i]]
            before.append((int(frames.positions[i]), int(frames.numbers[i]), raw, frames.refused.get(i)))
        places.append((first.place(), len(before)))
    first.feed(stream[fed:])
    first.finish()
    whole = before + records(first)
    for place, known in places:
        second = new_framer()
        second.resume(json.loads(json.dumps(place)))
        second.feed(stream[place["position"] :])
        second.finish()
        assert records(second) == whole[known:], place


texts = st.lists(
    st.sampled_from([b"", b" ", b"a", b"b,c", b'"x\ny"', b"long" * 8, b'"' + b"q\n" * 20 + b'"', b"z\r"]),
    max_size=8,
)
cuts = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 3)), max_size=8)


@settings(max_examples=150, derandomize=True)
@given(texts, cuts, st.booleans(), st.booleans())
def test_lines(lines, cuts, bom, ended):
    stream = b"\xef\xbb\xbf" * bom + b"\n".join(lines) + b"\n" * ended
    check(lambda: LineFramer(LIMIT), stream, *zip(*cuts, strict=True) if cuts else ((), ()))


@settings(max_examples=150, derandomize=True)
@given(texts, cuts, st.booleans(), st.booleans(), st.booleans())
def test_csv(lines, cuts, bom, ended, header):
    stream = b"\xef\xbb\xbf" * bom + b"\n".join(lines) + b"\n" * ended
    check(lambda: CsvFramer(LIMIT, 0, ",", header), stream, *zip(*cuts, strict=True) if cuts else ((), ()))


@settings(max_examples=150, derandomize=True)
@given(st.lists(st.integers(0, 60), max_size=8), cuts, st.integers(0, 3))
def test_msgpack(sizes, cuts, missing):
    stream = b"".join(struct.pack(">I", size) + b"x" * size for size in sizes)
    stream = stream[: len(stream) - missing]
    check(lambda: MsgpackFramer(LIMIT), stream, *zip(*cuts, strict=True) if cuts else ((), ()))
