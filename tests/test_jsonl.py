from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest

from streamrnn.codecs.jsonl import JsonlCodec
from streamrnn.errors import OptionError
from streamrnn.events import Block, Columns, Origin

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamrnn.events import Column

NOWHERE = Origin("stdin", "stdin")


def block_of(text: bytes, max_record_bytes: int = 1 << 20) -> Block:
    framer = JsonlCodec().framer(max_record_bytes)
    framer.feed(text)
    framer.finish()
    return framer.take(10_000).block(NOWHERE)


def decoded(text: bytes, fields: list[str], verbatim: list[str] | None = None) -> Columns:
    return JsonlCodec().decoder(fields, verbatim or [])(block_of(text))


def plain(columns: Columns) -> dict[str, list[Any]]:
    return {
        path: [bytes(value) if isinstance(value, msgspec.Raw) else value for value in column]
        for path, column in columns.fields.items()
    }


@pytest.mark.parametrize(
    ("text", "fields", "expected"),
    [
        (b'{"a":1}\n{"a":"x"}\n', ["a"], {"a": [1, "x"]}),
        (b'{"a":1.5}\r\n{"b":2}\r\n', ["b", "a"], {"b": [None, 2], "a": [1.5, None]}),
        (b'{"a":null}\n\n  {"a":[1]} \n', ["a"], {"a": [None, [1]]}),
        (b'{"a":{"b":{"c":1}}}\n{"a":{"b":null}}\n{"a":{}}\n{}', ["a.b.c"], {"a.b.c": [1, None, None, None]}),
        (b'{"a":{"b":1,"c":2}}', ["a.c", "a.b"], {"a.c": [2], "a.b": [1]}),
        (b'{"a":{"b":{"c":1}}}\n{"a":3}', ["a"], {"a": [{"b": {"c": 1}}, 3]}),
        (b'{"a":{"b":{"c":1}}}\n{}', ["a", "a.b.c"], {"a": [{"b": {"c": 1}}, None], "a.b.c": [1, None]}),
        (
            b'{"a":{"b":{"c":1}}}',
            ["a.b.c", "a.b", "a"],
            {"a.b.c": [1], "a.b": [{"c": 1}], "a": [{"b": {"c": 1}}]},
        ),
        ('{"größe":{"in cm":5}}'.encode(), ["größe.in cm"], {"größe.in cm": [5]}),
        (b'{"a.b":1}', ["a.b"], {"a.b": [None]}),
        (b'{"b":1,"b":2}', ["a"], {"a": [None]}),
        (b'{"a":{"b":1,"b":2}}', ["a"], {"a": [{"b": 2}]}),
        (b'{"a":123456789012345678901234567890}', ["a"], {"a": [123456789012345678901234567890]}),
        (b'{"a":1e-999,"unnamed":1e308}', ["a", "a"], {"a": [0.0]}),
        (b'{"a":1}\n{"a":2}', [], {}),
        (b"", ["a"], {"a": []}),
    ],
)
def test_fields(text: bytes, fields: list[str], expected: dict[str, list[Any]]) -> None:
    columns = decoded(text, fields)
    assert plain(columns) == expected
    assert list(columns.fields) == list(expected)
    assert columns.refused == {}


@pytest.mark.parametrize(
    ("text", "fields", "verbatim", "expected"),
    [
        (b'{"a": [1.50,  2] }', [], ["a"], {"a": [b"[1.50,  2]"]}),
        (b'{"a":1e99}\n{}\n{"a":null}', [], ["a"], {"a": [b"1e99", None, b"null"]}),
        (b'{"a":1.0}', ["a"], ["a"], {"a": [1.0]}),
        (
            b'{"a":{"b":1.0,"c":2.0}}\n{"a":null}',
            ["a.b"],
            ["a.c"],
            {"a.b": [1.0, None], "a.c": [b"2.0", None]},
        ),
        (b'{"a":{"b":1.0}}', ["a.b"], ["a"], {"a.b": [1.0], "a": [{"b": 1.0}]}),
    ],
)
def test_verbatim_fields(
    text: bytes, fields: list[str], verbatim: list[str], expected: dict[str, list[Any]]
) -> None:
    columns = decoded(text, fields, verbatim)
    assert plain(columns) == expected
    assert columns.refused == {}


def nested(levels: int) -> bytes:
    return b'{"x":' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"[1]", "expected a JSON object, found array"),
        (b"3", "expected a JSON object, found number"),
        (b"-3.5", "expected a JSON object, found number"),
        (b'"x"', "expected a JSON object, found string"),
        (b"true", "expected a JSON object, found true or false"),
        (b"null", "expected a JSON object, found null"),
        (b'{"a":1}{"a":2}', "not valid JSON: trailing characters (byte 8)"),
        (b'{"a":1} {"a":2}', "not valid JSON: trailing characters (byte 9)"),
        (b'{"a":1', "not valid JSON: the line ends in the midst of it"),
        (b'{"a":', "not valid JSON: the line ends in the midst of it"),
        (b"2}", "expected a JSON object, found number"),
        (b"hello", "not valid JSON: invalid character (byte 0)"),
        (b'{"a":NaN}', "not valid JSON: invalid character (byte 5)"),
        (b'{"a":01}', "not valid JSON: invalid number (byte 6)"),
        (b'{"a":1,}', "not valid JSON: trailing comma in object (byte 7)"),
        (b'{"a":1e999}', "number out of range at a"),
        (b'{"p":{"q":-1e999}}', "number out of range at p.q"),
        (b'{"p":[1]}', "expected a JSON object at p, found array"),
        (b'{"p":"x"}', "expected a JSON object at p, found string"),
        (b'{"m":{"n":1.5}}', "expected a JSON object at m.n, found number"),
        (b'{"m":[]}', "expected a JSON object at m, found array"),
        (b'{"a":"\xff"}', "not valid UTF-8 (byte 6)"),
        (b'{"x":"\xff"}', "not valid UTF-8 (byte 6)"),
        (b'{"v":"\xed\xa0\x80"}', "not valid UTF-8 (byte 6)"),
        (b'{"x":"tab\there"}', "not valid JSON: invalid character (byte 9)"),
        (b'{"x":1e999}', "number out of range: 1e999"),
        (b'{"v":[0,-1E+999]}', "number out of range: -1E+999"),
        (b'{"a":1,"a":2}', "field 'a' stands twice"),
        (b'{"a":1, "a" : 2}', "field 'a' stands twice"),
        (b'{"a":1,"\\u0061":2}', "field 'a' stands twice"),
        (b'{"p":{"q":1,"q":1}}', "field 'p.q' stands twice"),
        (b'{"p":{},"p":null}', "field 'p' stands twice"),
        (b'{"m":{"n":{},"n":{"o":1}}}', "field 'm.n' stands twice"),
        (b'{"v":1,"v":2}', "field 'v' stands twice"),
        (b'{"a":1}\x00', "not valid JSON: trailing characters (byte 8)"),
    ],
)
def test_refused_lines(line: bytes, reason: str) -> None:
    columns = decoded(b'{"a":1}\n' + line + b'\n{"a":3}\n', ["a", "p.q", "m", "m.n.o"], ["v"])
    assert columns.refused == {1: reason}
    assert columns.fields["a"] == [1, None, 3]


LONG = {
    "65 levels": (nested(65), "nested too deeply: expected at most 64 levels"),
    "20000 levels": (nested(20_000), "nested too deeply: expected at most 64 levels"),
    "never closed": (b'{"v":' + b"[" * 100_000, "nested too deeply: expected at most 64 levels"),
    "401 digits": (b'{"x":' + b"1" * 401 + b"}", "number of more than 400 characters"),
    "309 digits": (b'{"a":' + b"9" * 309 + b"}", "number out of range: 99999999999999999..."),
    "5000 digits": (b'{"a":' + b"1" * 5000 + b"}", "integer value out of range at a"),
}


@pytest.mark.parametrize(("line", "reason"), LONG.values(), ids=LONG)
def test_refused_long_lines(line: bytes, reason: str) -> None:
    assert decoded(b'{"a":1}\n' + line, ["a"], ["v"]).refused == {1: reason}


@pytest.mark.parametrize("field", ["a", "v", "x"])
@pytest.mark.parametrize("escape", [r"\ud800", r"\udc00", r"\ud800A", r"\ud800abcdefgh", r"\udc00\ud800"])
def test_lone_surrogates_are_refused_wherever_they_stand(field: str, escape: str) -> None:
    columns = decoded(f'{{"{field}":"{escape}"}}\n{{"a":1}}'.encode(), ["a"], ["v"])
    assert list(columns.refused) == [0]
    assert columns.refused[0].startswith("not valid JSON: ")


FLAT = {
    "64 levels": nested(64),
    "in a string": b'{"x":"' + b"[" * 100 + b'\\"{"}',
    "side by side": b'{"x":[' + b"[]," * 100 + b"{}]}",
}


@pytest.mark.parametrize("line", FLAT.values(), ids=FLAT)
def test_brackets_that_are_not_deep_are_fine(line: bytes) -> None:
    assert decoded(line + b"\n" + line, ["a"]).refused == {}


def test_a_line_that_framing_refused_stays_refused() -> None:
    block = block_of(b'{"a":1}\n{"a":"' + "é".encode() * 40 + b'"}\n{"a":2}', max_record_bytes=20)
    columns = JsonlCodec().decoder(["a"], [])(block)
    assert columns.refused == {1: "line of more than 20 bytes"}
    assert columns.fields["a"] == [1, None, 2]


GOOD = [b'{"a":1,"p":{"q":2}}', '{"a":"é","v":[1, 2]}'.encode(), b'{"x":[[]]}', b'{"m":{"n":{"o":1}}}', b"{}"]
ODD = [b' {"a":1}', b'{"a":1}\t', b"\t", b"", nested(64)]
BAD = [
    b'{"a":1}{"a":2}',
    b'{"a":',
    b"2}",
    b'{"a":1',
    b"}",
    b'{"a":{}',
    b"3",
    b'"',
    b'"}',
    b'{"a":"',
    b"{",
    b"\xff",
]
BAD += [
    b'{"p":1}',
    b'{"m":{"n":1}}',
    b'{"a":1e999}',
    b'{"x":"\xc3"}',
    b'"a":3}',
    b",",
    nested(65),
    b'{"a":1} {}',
    b'{"a":1,"a":1}',
    b'{"p":{"q":1,"q":2}}',
    b'{"x":1e999}',
    b'{"a":1,"\\u0061":1}',
]


@pytest.mark.parametrize("seed", range(10))
def test_a_block_is_judged_as_its_lines_are_one_by_one(seed: int) -> None:
    chance = random.Random(seed)
    decode = JsonlCodec().decoder(["a", "p.q", "m", "m.n.o"], ["v"])
    for _ in range(100):
        odd, bad = chance.choice([0, 1, 5]), chance.choice([0, 1, 5])
        lines = chance.choices(GOOD, k=8) + chance.choices(ODD, k=odd) + chance.choices(BAD, k=bad)
        chance.shuffle(lines)
        block = block_of(chance.choice([b"\n", b"\r\n"]).join(lines))
        together = decode(block)
        alone = [decode(block_of(block.record(index))) for index in range(len(block))]
        assert together.n == len(block) == len(alone)
        assert together.refused == {i: one.refused[0] for i, one in enumerate(alone) if one.refused}
        assert plain(together) == {
            path: [value for one in alone for value in plain(one)[path]] for path in together.fields
        }


@pytest.mark.parametrize(
    ("text", "good"),
    [
        (b'{"a":1} {"a":2}\n{"a":\n3}', []),
        (b'{"a":1}{"a":2}\n{"a":3\n}', []),
        (b'{"a":1\n,"b":2}\n{"a":3} {}\n{"a":4}', [4]),
        (b'{"a":{}\n{"a":1} {}\n{"a":2}', [2]),
    ],
)
def test_lines_that_only_together_are_as_many_objects_are_refused(text: bytes, good: list[int]) -> None:
    columns = decoded(text, ["a"])
    assert [value for value in columns.fields["a"] if value is not None] == good
    assert len(columns.refused) == columns.n - len(good)


def test_records_that_only_together_are_json_are_refused() -> None:
    parts = [b'{"a":"}', b'{"}', b"{} {}"]
    ends = np.cumsum([len(part) for part in parts])
    block = Block(b"".join(parts), ends - [len(part) for part in parts], ends, ends, ends, NOWHERE)
    assert list(JsonlCodec().decoder(["a"], [])(block).refused) == [0, 1, 2]


@pytest.mark.parametrize("separator", [b"", b"xx", b"\n", b"}{"])
def test_records_need_not_be_lines(separator: bytes) -> None:
    parts = [b'{"a":1}', b'{"a":\n2}', b'{"a":3}']
    starts = np.cumsum([0, *(len(part) + len(separator) for part in parts[:-1])])
    ends = starts + [len(part) for part in parts]
    block = Block(separator.join(parts), starts, ends, starts, np.arange(1, 4), NOWHERE)
    columns = JsonlCodec().decoder(["a"], [])(block)
    assert (columns.fields["a"], columns.refused) == ([1, 2, 3], {})


def test_a_field_that_cannot_be_looked_up() -> None:
    with pytest.raises(OptionError, match="without quotes"):
        JsonlCodec().decoder(['a"b'], [])


def float32(*values: float) -> NDArray[np.float32]:
    return np.array(values, np.float32)


@pytest.mark.parametrize(
    ("columns", "text"),
    [
        ({"key": ["a", "b"], "y": float32(0.1, -0.0)}, b'{"key":"a","y":0.1}\n{"key":"b","y":-0.0}\n'),
        ({"y": float32(1 / 3, 16777216)}, b'{"y":0.33333334}\n{"y":16777216.0}\n'),
        ({"y": np.array([1 / 3, 0.1])}, b'{"y":0.3333333333333333}\n{"y":0.1}\n'),
        ({"y": np.array([0.1, 2], np.float16)}, b'{"y":0.099975586}\n{"y":2.0}\n'),
        ({"y": float32(0.1, 0.2, 0.3, 0.4).reshape(2, 2)}, b'{"y":[0.1,0.2]}\n{"y":[0.3,0.4]}\n'),
        ({"y": float32(0.1, 0.2, 0.3, 0.4).reshape(2, 2).T[:, 1]}, b'{"y":0.3}\n{"y":0.4}\n'),
        ({"y": float32(np.nan, np.inf)}, b'{"y":null}\n{"y":null}\n'),
        ({"z": np.array([1, 2]), "a": np.array([True, False])}, b'{"z":1,"a":true}\n{"z":2,"a":false}\n'),
        (
            {"a.b": [1, None], "é": [[1], {"x": "\n"}]},
            '{"a.b":1,"é":[1]}\n{"a.b":null,"é":{"x":"\\n"}}\n'.encode(),
        ),
        ({"a": [msgspec.Raw(b"[1.50,  2]"), None]}, b'{"a":[1.50,  2]}\n{"a":null}\n'),
        ({"a": [msgspec.Raw(b"[1,\n2]"), "\n"]}, b'{"a":[1, 2]}\n{"a":"\\n"}\n'),
        ({'a"b': [1, 2], "c": [3, 4]}, b'{"a\\"b":1,"c":3}\n{"a\\"b":2,"c":4}\n'),
        ({}, b"{}\n{}\n"),
    ],
)
def test_encoding(columns: dict[str, Column], text: bytes) -> None:
    encode = JsonlCodec().encoder()
    for _ in range(2):
        buffer, ends = encode(columns, 2)
        assert buffer == text
        assert ends.tolist() == [text.index(b"\n") + 1, len(text)]
        assert ends.dtype == np.int64


def test_encoding_nothing() -> None:
    buffer, ends = JsonlCodec().encoder()({"a": []}, 0)
    assert (buffer, ends.tolist()) == (b"", [])


def test_a_column_of_another_length() -> None:
    with pytest.raises(ValueError, match=r"expected columns of 2 values, found \[2, 1\]"):
        JsonlCodec().encoder()({"a": [1, 2], "b": [1]}, 2)


def test_what_was_encoded_decodes_to_the_same() -> None:
    y = np.random.default_rng(5).normal(size=(1000, 4)).astype(np.float32)
    buffer, _ = JsonlCodec().encoder()({"k": list(range(1000)), "y": y}, 1000)
    columns = decoded(buffer, ["y"], ["k"])
    assert (np.array(columns.fields["y"]).astype(np.float32) == y).all()
    again, _ = JsonlCodec().encoder()({"k": columns.fields["k"], "y": columns.fields["y"]}, 1000)
    assert again == buffer
    assert json.loads(buffer[: buffer.index(b"\n")])["k"] == 0
