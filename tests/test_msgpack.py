from __future__ import annotations

import random
from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np
import pytest

from streamrnn.builtins.codecs import MsgpackConfig
from streamrnn.codecs.msgpack import MsgpackCodec
from streamrnn.events import Block, Columns, Origin
from streamrnn.features.encoders import Vector
from streamrnn.testing import run_pipeline

NOWHERE = Origin("file", "a.msgpack")
pack = msgspec.msgpack.encode


def codec(**vectors: Any) -> MsgpackCodec:
    return MsgpackCodec(MsgpackConfig(vectors=vectors))


def framed(*records: bytes) -> bytes:
    return b"".join(len(record).to_bytes(4, "big") + record for record in records)


def blocks(data: bytes, piece: int = 1 << 20, limit: int = 4096) -> list[Block]:
    framer, found = codec().framer(limit), []
    for at in range(0, len(data), piece):
        framer.feed(data[at : at + piece])
        while frames := framer.take(3):
            found.append(frames.block(NOWHERE))
    framer.finish()
    while frames := framer.take(3):
        found.append(frames.block(NOWHERE))
    assert framer.position == len(data)
    return found


def decoded(*records: bytes, fields: tuple[str, ...] = ("a", "p.q"), **vectors: Any) -> Columns:
    framer = codec().framer(4096)
    framer.feed(framed(*records))
    return codec(**vectors).decoder(fields, [])(framer.take(99).block(NOWHERE))


def fixmap(*parts: Any) -> bytes:
    """A map with entries as they are given, equal keys included."""
    return bytes([0x80 | len(parts) // 2]) + b"".join(map(pack, parts))


def nested(levels: int) -> bytes:
    return b"\x81\xa1x" + b"\x91" * (levels - 2) + b"\x90"


@pytest.mark.parametrize(
    ("record", "a", "q"),
    [
        ({"a": 1, "p": {"q": "x"}}, 1, "x"),
        ({"a": -1.5, "x": [1, {"y": b"z"}]}, -1.5, None),
        ({"p": None, "a": None}, None, None),
        ({"a": 2**64 - 1, "p": {"q": [1, 2]}}, 2**64 - 1, [1, 2]),
        ({"a": b"\xca\x7f\xff\xff\xff", "p": {}}, b"\xca\x7f\xff\xff\xff", None),
        ({f"n{i}": i for i in range(20)} | {"a": "é"}, "é", None),
    ],
)
def test_decoding(record: dict[str, Any], a: Any, q: Any) -> None:
    columns = decoded(pack(record), pack(record))
    assert columns.fields == {"a": [a, a], "p.q": [q, q]}
    assert columns.refused == {}


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (b"", "not valid MessagePack: the record ends in the midst of it"),
        (pack({"a": 1})[:-1], "not valid MessagePack: the record ends in the midst of it"),
        (pack({"a": 1}) + b"\x00", "not valid MessagePack: trailing characters (byte 4)"),
        (b"\xc1", "not valid MessagePack: invalid opcode '\\xc1' (byte 0)"),
        (pack([1]), "expected a map, found array"),
        (fixmap(1, 2), "expected texts as the keys of a map, found others"),
        (fixmap("x", {1: 2}), "expected texts as the keys of a map, found others"),
        (fixmap("a", 1, "a", 2), "a field stands twice"),
        (fixmap("x", 1, "x", 2), "a field stands twice"),
        (b"\x82\xa1a\x01\xd9\x01a\x02", "a field stands twice"),
        (b"\x81\xa1p" + fixmap("q", 1, "q", 2), "a field stands twice in p"),
        (pack({"p": 3}), "expected a map at p, found number"),
        (pack({"a": float("nan")}), "expected finite numbers, found nan"),
        (pack({"x": [0.5, float("-inf")]}), "expected finite numbers, found -inf"),
        (b"\x81\xa1x\xca\x7f\x80\x00\x00", "expected finite numbers, found inf"),
        (pack({"a": datetime(2026, 1, 1, tzinfo=UTC)}), "expected no extension types, found one"),
        (pack({"x": [msgspec.msgpack.Ext(5, b"x")]}), "expected no extension types, found one"),
        (nested(65), "nested too deeply: expected at most 64 levels"),
        (nested(3000), "nested too deeply: expected at most 64 levels"),
        (b"\x81\xa1x" + b"\x91" * 4000, None),
        (b"\x81\xa1x\xa1\xff", "not valid UTF-8: invalid start byte"),
    ],
)
def test_refused_records(record: bytes, reason: str | None) -> None:
    columns = decoded(pack({"a": 1}), record, pack({"a": 3}))
    assert list(columns.refused) == [1]
    assert reason is None or columns.refused[1] == reason
    assert columns.fields["a"] == [1, None, 3]


def test_64_levels_are_fine() -> None:
    assert decoded(nested(64)).refused == {}


@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_vectors_are_one_array(kind: str) -> None:
    rows = np.random.default_rng(1).normal(size=(5, 3)).astype(kind)
    columns = decoded(*[pack({"v": row.tobytes()}) for row in rows], fields=("v",), v=kind)
    assert (columns.fields["v"] == rows).all()
    assert columns.fields["v"].shape == (5, 3)  # type: ignore[union-attr]
    assert (Vector(3).encode(columns.fields["v"], {}) == rows).all()


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([1.0, 2.0], "expected binary at v, 4 bytes a number, found list"),
        ("ab", "expected binary at v, 4 bytes a number, found text"),
        (b"12345", "expected binary at v, 4 bytes a number, found 5 bytes"),
        (np.array([np.nan, 1], "<f4").tobytes(), "expected finite numbers at v"),
    ],
)
def test_refused_vectors(value: Any, reason: str) -> None:
    good = np.array([1, 2], "<f4").tobytes()
    records = [pack({"v": each}) for each in (good, value, good)]
    columns = decoded(*records, fields=("v",), v="float32")
    assert columns.refused == {1: reason}
    assert np.asarray(columns.fields["v"])[[0, 2]].tolist() == [[1, 2], [1, 2]]


def test_vectors_of_several_lengths_or_missing_ones_are_lists() -> None:
    columns = decoded(
        pack({"v": np.array([1, 2], "<f4").tobytes()}), pack({"v": b""}), pack({}), fields=("v",), v="float32"
    )
    assert columns.fields["v"] == [[1.0, 2.0], [], None]
    assert columns.refused == {}


@pytest.mark.parametrize("piece", [1, 3, 100, 10_000])
def test_framing_in_pieces_of_any_size(piece: int) -> None:
    records = [bytes([65 + i]) * size for i, size in enumerate([0, 1, 5, 4096, 5000, 2, 300, 9999, 1])]
    data = framed(*records)
    found = blocks(data, piece)
    seen = [(block.record(i), i in block.refused) for block in found for i in range(len(block))]
    assert seen == [(r[:256], True) if len(r) > 4096 else (r, False) for r in records]
    positions = [int(p) for block in found for p in block.positions]
    assert positions == [sum(len(r) + 4 for r in records[:i]) for i in range(len(records))]
    assert [int(n) for block in found for n in block.numbers] == list(range(1, 10))


@pytest.mark.parametrize(("cut", "refused"), [(1, 1), (6, 1), (9, 1), (10, 0)])
def test_a_stream_that_ends_in_the_midst_of_a_record(cut: int, refused: int) -> None:
    data = framed(pack({"a": 1}), b"abcdef")[: 8 + cut]
    found = blocks(data)
    reasons = [reason for block in found for reason in block.refused.values()]
    assert reasons == ["the stream ends in the midst of this record"] * refused


def test_after_a_wrong_length_the_rest_is_refused_and_nothing_is_raised() -> None:
    data = framed(pack({"a": 1})) + b'{"key":"json"}\n' * 1000
    found = blocks(data)
    assert [reason for block in found for reason in block.refused.values()] == [
        "record of 2065853285 bytes, more than 4096"
    ]


@pytest.mark.parametrize("seed", range(20))
def test_damage_raises_nothing(seed: int) -> None:
    chance = random.Random(seed)
    good = [pack({"a": i, "p": {"q": [1.5, "x", None]}, "v": bytes(8)}) for i in range(20)]
    decode = codec(v="float32").decoder(["a", "p.q", "v"], [])
    for _ in range(50):
        data = bytearray(framed(*good))
        for _ in range(chance.randrange(1, 9)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        for block in blocks(bytes(data)):
            columns = decode(block)
            assert all(columns.refused.values())
            assert all(len(column) == len(block) for column in columns.fields.values())


def test_what_was_encoded_decodes_to_the_same() -> None:
    v = np.random.default_rng(5).normal(size=(50, 4)).astype(np.float32)
    columns = {"k": [f"é{i}" for i in range(50)], "n": np.arange(50), "v": v, "y": v[:, 0]}
    data, ends = codec(v="float32").encoder()({**columns, "r": [msgspec.Raw(b'[1,"a"]')] * 50}, 50)
    assert ends[-1] == len(data)
    framer = codec().framer(4096)
    framer.feed(data)
    found = codec(v="float32").decoder(["k", "n", "v", "y", "r"], [])(framer.take(50).block(NOWHERE)).fields
    assert (found["k"], found["n"], found["r"]) == (columns["k"], list(range(50)), [[1, "a"]] * 50)
    assert (found["v"] == v).all()
    assert (np.array(found["y"], np.float32) == v[:, 0]).all()


def test_encoding_what_is_not_finite_and_nothing() -> None:
    data, _ = codec().encoder()({"y": np.array([[np.nan, 1.0]]), "z": np.array([np.inf])}, 1)
    assert msgspec.msgpack.decode(data[4:]) == {"y": [None, 1.0], "z": None}
    assert codec().encoder()({"y": []}, 0)[0] == b""


PIPELINE = """
name: vectors
source: {type: stdin}
decode: {type: msgpack, vectors: {v: float32}}
event: {key: k, inputs: {x: [{field: v, vector: 2}]}}
model: {type: formula, state: {s: [0, 0]}, update: {s: "s + x"}, output: {y: "1*s"}}
encode: {type: msgpack, include: [k, v], vectors: {y: float32, v: float32}}
sink: {type: stdout}
"""


def test_a_pipeline() -> None:
    vector = np.array([[1.5, 2.0]], np.float32)
    outputs, rejected = run_pipeline(PIPELINE, [{"k": "a", "v": vector[0]}, {"k": 3, "v": vector[0]}] * 2)
    assert [(out["k"], out["y"]) for out in outputs] == [
        ("a", [1.5, 2.0]),
        (3, [1.5, 2.0]),
        ("a", [3.0, 4.0]),
        (3, [3.0, 4.0]),
    ]
    assert rejected == []
