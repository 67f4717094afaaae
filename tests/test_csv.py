from __future__ import annotations

import csv
import io
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
from pydantic import ValidationError

from streamrnn.builtins.codecs import CsvConfig
from streamrnn.codecs.csv import CsvCodec
from streamrnn.errors import OptionError
from streamrnn.events import Block, Columns, Origin
from streamrnn.pipeline_tests import collect, run_case

if TYPE_CHECKING:
    from streamrnn.events import Column

NOWHERE = Origin("file", "a.csv")
PIPELINE = Path(__file__).parent.parent / "pipelines/csv_means.yaml"


def codec(**options: Any) -> CsvCodec:
    return CsvCodec(CsvConfig(**options))


def blocks(text: bytes, of: CsvCodec, piece: int = 1 << 20, limit: int = 1 << 16) -> list[Block]:
    framer, found = of.framer(limit), []
    for at in range(0, len(text), piece):
        framer.feed(text[at : at + piece])
        while frames := framer.take(3 if piece < 99 else 10_000):
            found.append(frames.block(NOWHERE))
    framer.finish()
    while frames := framer.take(10_000):
        found.append(frames.block(NOWHERE))
    return found


def decoded(text: bytes, fields: list[str], **options: Any) -> Columns:
    (block,) = blocks(text, codec(**options))
    return codec(**options).decoder(fields, [])(block)


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        (b"k,x\na,1\nb,2.5\n", {}, {"k": ["a", "b"], "x": [1, 2.5]}),
        (b"k,x\r\na,1\r\n\r\nb,2\r\n", {}, {"k": ["a", "b"], "x": [1, 2]}),
        (b"\xef\xbb\xbfk,x\na,1", {}, {"k": ["a"], "x": [1]}),
        (b"x,other,k\n1,?,a\n,,b\n", {}, {"k": ["a", "b"], "x": [1, None]}),
        (b"k\na\nb\n", {}, {"k": ["a", "b"], "x": [None, None]}),
        (
            b'k,x\n"a,1",1\n"b\n2",2\n"c""3""",3\n"",4\n',
            {},
            {"k": ["a,1", "b\n2", 'c"3"', None], "x": [1, 2, 3, 4]},
        ),
        (b'"k","x"\n"a","1"\n', {}, {"k": ["a"], "x": [1]}),
        (b"a;1\nb;2\n", {"delimiter": ";", "header": ["k", "x"]}, {"k": ["a", "b"], "x": [1, 2]}),
        (b"k\tx\na b\t1,5\n", {"delimiter": "\t"}, {"k": ["a b"], "x": ["1,5"]}),
        (b"k,x\n007,1\n7,1\n", {}, {"k": ["007", 7], "x": [1, 1]}),
        (b"k,x\n7,1\n8,-\n", {"types": {"k": "text"}}, {"k": ["7", "8"], "x": [1, "-"]}),
        (b"k,x\nNA,1\n-,NA\n", {"null": ["NA", "-"]}, {"k": [None, None], "x": [1, None]}),
        (b"k,x\n,1\n", {"null": []}, {"k": [""], "x": [1]}),
        ("k,x\ngröße,1\n".encode(), {}, {"k": ["größe"], "x": [1]}),
        (b"k,x\n,\n", {}, {"k": [None], "x": [None]}),
    ],
)
def test_decoding(text: bytes, options: dict[str, Any], expected: dict[str, list[Any]]) -> None:
    columns = decoded(text, ["k", "x"], **options)
    assert columns.fields == expected
    assert columns.refused == {}


@pytest.mark.parametrize(
    ("text", "value"),
    [("0", 0), ("-0", 0), ("-12", -12), ("1.50", 1.5), ("1e3", 1000.0), ("1E-3", 0.001)]
    + [("12345678901234567890123", 12345678901234567890123), ("0.1", 0.1)]
    + [
        (text, text)
        for text in ("+1", "1.", ".5", "01", " 1", "1 ", "1e", "NaN", "inf", "0x1", "true", "1_0")
    ]
    + [(text, text) for text in ("[1]", "-", "--1", "1.2.3", "\u0661")],
)
def test_what_is_a_number(text: str, value: Any) -> None:
    alone = decoded(f"x\n{text}\n".encode(), ["x"]).fields["x"]
    beside = decoded(f"x\n{text}\nno\n".encode(), ["x"]).fields["x"]
    assert [(type(found), found) for found in (alone[0], beside[0])] == [(type(value), value)] * 2


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (b"c", "expected 2 fields, found 1"),
        (b"c,3,4", "expected 2 fields, found 3"),
        (b'"c",3,"4"', "expected 2 fields, found 3"),
        (b'c"d,3', "expected quotes around a whole field, doubled inside it (field 1)"),
        (b'c,"3"4', "expected quotes around a whole field, doubled inside it (field 2)"),
        (b"\xff,3", "not valid UTF-8 (byte 0)"),
        (b"c,1e999", "number out of range: 1e999 at x"),
        (b"c," + b"1" * 401, "number of more than 400 characters at x"),
        (b"c,three", "expected a number at x, found 'three'"),
        (b"c," + b"y" * 700, "record of more than 600 bytes"),
    ],
)
def test_refused_records(record: bytes, reason: str) -> None:
    of = codec(types={"x": "number"})
    (block,) = blocks(b"k,x\na,1\n" + record + b"\nb,2\n", of, limit=600)
    columns = of.decoder(["k", "x"], [])(block)
    assert columns.refused == {1: reason}
    assert columns.fields == {"k": ["a", None, "b"], "x": [1, None, 2]}


def test_a_quote_that_is_not_closed_takes_the_rest() -> None:
    good, rest = blocks(b'k,x\na,1\n"b,2\nc,3\n', codec())
    assert (good.record(0), rest.record(0)) == (b"a,1", b'"b,2\nc,3\n')
    columns = codec().decoder(["k", "x"], [])(rest)
    assert columns.refused == {0: "expected quotes around a whole field, doubled inside it (field 1)"}


def test_a_column_named_twice_is_refused_where_it_is_read() -> None:
    assert decoded(b"k,k\na,b\n", ["k"]).refused == {0: "field 'k' stands twice in the header"}
    assert decoded(b"k,x,x\na,b,c\n", ["k"]).refused == {}


def test_records_without_a_header_are_refused() -> None:
    framer = codec().framer(100, position=7)
    framer.feed(b"a,1\n")
    columns = codec().decoder(["k"], [])(framer.take(9).block(NOWHERE))
    assert list(columns.refused) == [0]


def test_each_record_has_the_header_of_its_stream() -> None:
    of = codec()
    parts = [blocks(text, of)[0] for text in (b"k,x\na,1\nb,2\n", b"x,k\r\n3,c\r\n")]
    shift = len(parts[0].buffer)
    joined = Block(
        b"".join(part.buffer for part in parts),
        np.concatenate([parts[0].starts, parts[1].starts + shift]),
        np.concatenate([parts[0].ends, parts[1].ends + shift]),
        np.arange(3),
        np.arange(3),
        NOWHERE,
    )
    assert of.decoder(["k", "x"], [])(joined).fields == {"k": ["a", "b", "c"], "x": [1, 2, 3]}


TEXTS = ["a", "", "b c", "x,y", 'say "hi"', "two\nlines", "\r\n", "é", '"', ",", "1", '","']


@pytest.mark.parametrize("seed", range(30))
def test_what_pythons_own_writer_writes_is_read_in_pieces_of_any_size(seed: int) -> None:
    chance = random.Random(seed)
    rows = [[chance.choice(TEXTS), chance.choice(TEXTS)] for _ in range(40)]
    written = io.StringIO()
    quoting = chance.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
    csv.writer(written, quoting=quoting, lineterminator=chance.choice(["\n", "\r\n"])).writerows(
        [["k", "x"], *rows]
    )
    of, text = codec(types={"k": "text", "x": "text"}, null=[]), written.getvalue().encode()
    found, positions = [], []
    for block in blocks(text, of, piece=chance.choice([1, 3, 50, 10_000])):
        columns = of.decoder(["k", "x"], [])(block)
        assert columns.refused == {}
        found += list(map(list, zip(columns.fields["k"], columns.fields["x"], strict=True)))
        positions += [(int(p), block.record(i)) for i, p in enumerate(block.positions)]
    assert found == rows
    assert all(text[at : at + len(raw)] == raw for at, raw in positions)


@pytest.mark.parametrize("seed", range(30))
def test_damage_raises_nothing_and_pieces_do_not_matter(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(30):
        text = bytearray(b'k,x\n"a,b",1\nc,2\n"d""e",3\r\n"f\ng",4\nh,5\n' * 3)
        for _ in range(chance.randrange(6)):
            text[chance.randrange(4, len(text))] = chance.choice(b'",\n\r\xffa1')
        of, seen = codec(), []
        for piece in (1, 7, 10_000):
            refused, rows = [], []
            for block in blocks(bytes(text), of, piece, limit=60):
                columns = of.decoder(["k", "x"], [])(block)
                base = block.positions
                refused += [(int(base[i]), reason) for i, reason in sorted(columns.refused.items())]
                rows += list(zip(base.tolist(), columns.fields["k"], columns.fields["x"], strict=True))
            seen.append((refused, rows))
        assert seen[0] == seen[1] == seen[2], bytes(text)


@pytest.mark.parametrize(
    ("options", "columns", "text"),
    [
        ({}, {"k": ["a", "b"], "y": np.array([0.1, 2], np.float32)}, "k,y\na,0.1\nb,2.0\n"),
        ({}, {"a,b": ['x"y', None], "n": [1, True]}, '"a,b",n\n"x""y",1\n,true\n'),
        ({}, {"l": [[1, "a"], {}], "s": ["\n", ""]}, 'l,s\n"[1,""a""]","\n"\n{},\n'),
        ({"delimiter": ";"}, {"k": ["a;b", "c,d"]}, 'k\n"a;b"\nc,d\n'),
        ({"header": ["y", "k"]}, {"k": ["a", "b"], "y": [1, 2]}, "1,a\n2,b\n"),
        ({"null": ["NA"]}, {"y": np.array([np.nan, 1.5])}, "y\nNA\n1.5\n"),
        ({}, {"y": np.array([[1, 2], [3, 4]])}, 'y\n"[1,2]"\n"[3,4]"\n'),
        ({}, {"r": [msgspec.Raw(b"1.50"), msgspec.Raw(b'"a"')]}, "r\n1.5\na\n"),
    ],
)
def test_encoding(options: dict[str, Any], columns: dict[str, Column], text: str) -> None:
    encode = codec(**options).encoder()
    assert encode({name: column[:0] for name, column in columns.items()}, 0)[0] == b""
    buffer, ends = encode(columns, 2)
    assert buffer.decode() == text
    assert ends[-1] == len(buffer)
    again, _ = encode(columns, 2)
    assert len(again) == len(buffer) - (0 if "header" in options else text.index("\n") + 1)


def test_encoding_other_columns_than_the_header_names() -> None:
    with pytest.raises(OptionError, match="expected the columns to be written, y, found k"):
        codec(header=["k"]).encoder()({"y": [1]}, 1)


@pytest.mark.parametrize(
    "options",
    [{"delimiter": ",,"}, {"delimiter": '"'}, {"header": []}, {"header": ["a", "a"]}, {"header": False}],
)
def test_options_that_cannot_be(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        codec(**options)


@pytest.mark.parametrize("case", collect(PIPELINE), ids=str)
def test_the_pipeline(case: Any) -> None:
    assert run_case(case) == []
