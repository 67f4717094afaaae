"""Hostile lines: damaged copies of good ones, judged many at once, few at once, and by an oracle.

`STREAMRNN_HOSTILE_LINES=1000000` makes a longer run of it.
"""

from __future__ import annotations

import json
import math
import os
import random
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from streamrnn.build import build_pipeline
from streamrnn.codecs.jsonl import JsonlCodec
from streamrnn.config.load import load_pipeline
from streamrnn.events import Block, Columns, Origin
from streamrnn.pipeline import run
from streamrnn.registry import Registry
from streamrnn.testing import quiet_context

SEEDS = range(16)
LINES = int(os.environ.get("STREAMRNN_HOSTILE_LINES", "100000"))
FIELDS, VERBATIM = ["k", "x", "user.id", "user.tag"], ["note"]
FEW = 4
"""So many lines the decoder takes one by one."""
READ = {"k": {}, "x": {}, "user": {"id": {}, "tag": {}}, "note": {}}

GOOD = [
    b'{"k":"a","x":1.5}',
    b'{"k":"b","x":-2,"user":{"id":7,"tag":"t"},"note":[1,2,{"deep":null}]}',
    b'{ "k" : "c" , "x" : 3e2, "more": [true, false, null] }',
    '{"k":"é","x":0,"note":"日本 😀"}'.encode(),
    rb'{"k":"\u00e9\n\"","x":1,"note":"\ud83d\ude00 \u0078\u003c"}',
    b'{"user":{"id":1},"org":{"id":2},"id":3,"k":"d"}',
    b'{"k":null,"x":12345678901234567890123,"note":1e-300}',
    b'{"k":"x","x":"k","note":"x\\":1"}',
    b"{}",
    b'{"v":[0.1,0.25,1e22,-0.0,1E+2,5e-324]}',
]
ODD = [
    b'{"k":"a","x":1,"x":2}',
    rb'{"k":"a","\u006b":"b"}',
    b'{"user":{"id":1,"id":2},"k":"a"}',
    b'{"user":{"id":1},"user":{"id":1}}',
    b'{"org":{"id":1,"id":2},"other":1,"other":2}',
    rb'{"k":"\ud800","x":1}',
    rb'{"u":"\udc00\ud800","\ud800":1}',
    b'{"k":"\xed\xa0\x80"}',
    b'{"k":"a","u":' + b"[" * 63 + b"]" * 63 + b"}",
    b'{"k":"a","u":' + b"[" * 64 + b"]" * 64 + b"}",
    b'{"u":"' + b"[{" * 70 + b'"}',
    b'{"a":' * 80 + b"1" + b"}" * 80,
    b'{"k":"a","u":1e999}',
    b'{"k":"a","x":1e308,"note":-1E+400}',
    b'{"k":"a","u":[NaN,Infinity,-Infinity]}',
    b'{"x":NaN}',
    b'{"x":' + b"9" * 309 + b"}",
    b'{"u":' + b"9" * 250 + b"e99}",
    b'{"u":0.' + b"1" * 500 + b"}",
    b'{"x":1' + b"0" * 5000 + b"}",
    b'{"x":01,"u":+1,"v":.5,"w":1.}',
    b'\xef\xbb\xbf{"k":"a"}',
    b'{"k":"a\x00"}',
    b'{"k":"a"}\x00',
    b'{"k":"a\tb"}',
    b'{"k":"a","x":1',
    b'{"k":"a"}{"k":"b"}',
    b'{"k":"a"} {"k":"b"}',
    b'{"k":"a"},',
    b'["k",1]',
    b"null",
    b"3",
    b'"k"',
    b'{"user":3,"k":"a"}',
    b'{"user":null,"x" :1,"x"  :2}',
    b"{'k':'a'}",
    b'{"k":"a" /* c */}',
    b'{"k":"' + b"y" * 900 + b'"}',
    b"\xff\xfe{\x00}\x00",
]


def mutated(line: bytes, chance: random.Random, others: list[bytes]) -> bytes:
    """One damage: a bit, a cut, a splice, a repeat, a piece put in or taken out."""
    at, to = sorted((chance.randrange(len(line) + 1), chance.randrange(len(line) + 1)))
    match chance.randrange(7):
        case 0 if line:
            at = min(at, len(line) - 1)
            return line[:at] + bytes([line[at] ^ 1 << chance.randrange(8)]) + line[at + 1 :]
        case 1:
            return line[:to]
        case 2:
            return line[:at] + chance.choice(others)[to:]
        case 3:
            return line[:to] + line[at:to] * chance.choice([1, 1, 1, 2, 9]) + line[to:]
        case 4:
            return line[:at] + line[to:]
        case 5:
            return line[:at] + chance.choice(PIECES) + line[at:]
        case _:
            return line[:at] + bytes([chance.randrange(256)]) + line[at:]


PIECES = [b'"', b"\\", b",", b":", b"{", b"}", b"[", b"]", b"\\u0078", b"\\ud83d", b"e999", b"0", b"-", b"."]
PIECES += [
    b'"x":1,',
    b'"k":"a",',
    b'"user":{"id":1},',
    b"NaN",
    b"1e400",
    b" ",
    b"\x00",
    b"\xc3",
    b"null",
    b"\r",
]


def is_object(line: bytes) -> bool:
    """Whether a line is an object to Python, which takes NaN, large numbers, surrogates and equal names."""
    try:
        return isinstance(json.loads(line.decode("utf-8", "surrogatepass")), dict)
    except (ValueError, RecursionError):
        return False


def hostile(seed: int, n: int) -> list[bytes]:
    """Lines of which about a third are good; the last half are objects, be they good or not."""
    chance, lines = random.Random(seed), []
    while len(lines) < n:
        line = chance.choice(GOOD if chance.random() < 0.7 else ODD)
        for _ in range(chance.choice([0, 1, 1, 1, 2, 4])):
            line = mutated(line, chance, GOOD + ODD)
        line = line.replace(b"\n", b" ").rstrip(b"\r")
        if line.strip(b" \t\r") and (len(lines) < n // 2 or is_object(line)):
            lines.append(line)
    return lines


class Pairs(list[tuple[str, Any]]):
    """An object with its equal names."""


def oracle(line: bytes) -> bool:
    """Whether a line is accepted, by Python's own decoder and the rules written down a second time."""
    try:
        text = line.decode("utf-8", "strict")
        value = json.loads(
            text, object_pairs_hook=Pairs, parse_constant=_refuse, parse_int=_number, parse_float=_number
        )
        return isinstance(value, Pairs) and _depth(value) <= 64 and _sound(value) and _read_once(value, READ)
    except (ValueError, RecursionError):
        return False


def _refuse(text: str) -> None:
    raise ValueError(text)


def _number(text: str) -> float:
    if len(text) > 400 or math.isinf(float(text)):
        raise ValueError(text)
    return float(text)


def _depth(value: Any) -> int:
    if not isinstance(value, list):
        return 0
    inner = [item[1] for item in value] if isinstance(value, Pairs) else value
    return 1 + max(map(_depth, inner), default=0)


def _sound(value: Any) -> bool:
    """Without lone surrogates, which nothing can encode."""
    if isinstance(value, str):
        value.encode()
    elif isinstance(value, Pairs):
        return all(_sound(name) and _sound(inner) for name, inner in value)
    elif isinstance(value, list):
        return all(map(_sound, value))
    return True


def _read_once(value: Any, names: dict[str, Any]) -> bool:
    """No field that is read stands twice, and what has fields that are read is an object or null."""
    read = [name for name, _ in value if name in names]
    if len(set(read)) < len(read):
        return False
    for name, inner in value:
        below = names.get(name)
        if below and inner is not None and not (isinstance(inner, Pairs) and _read_once(inner, below)):
            return False
    return True


def block_of(lines: list[bytes]) -> Block:
    ends = np.cumsum([len(line) + 1 for line in lines]) - 1
    starts = ends - [len(line) for line in lines]
    return Block(
        b"\n".join(lines), starts, ends, starts, np.arange(1, len(lines) + 1), Origin("test", "test")
    )


def values(columns: Columns, index: int) -> list[Any]:
    found = [column[index] for column in columns.fields.values()]
    return [bytes(value) if isinstance(value, msgspec.Raw) else (type(value), value) for value in found]


def is_finite(value: Any) -> bool:
    if isinstance(value, list | dict):
        return all(map(is_finite, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, int | float) or math.isfinite(value)


@pytest.mark.parametrize("seed", SEEDS)
def test_fast_and_slow_decoder_and_the_oracle_agree(seed: int) -> None:
    decode = JsonlCodec().decoder(FIELDS, VERBATIM)
    chance, accepted = random.Random(seed), 0
    lines = hostile(seed, LINES // len(SEEDS))
    while lines:
        size = chance.choice([7, 64, 512, 2048])
        part, lines = lines[:size], lines[size:]
        together = decode(block_of(part))
        few = [decode(block_of(part[at : at + FEW])) for at in range(0, len(part), FEW)]
        for index, line in enumerate(part):
            alone, at = few[index // FEW], index % FEW
            assert together.refused.get(index) == alone.refused.get(at), line
            assert values(together, index) == values(alone, at), line
            assert (index not in together.refused) == oracle(line), (line, together.refused.get(index))
            assert together.refused.get(index, "why") != ""
            accepted += index not in together.refused
        assert all(is_finite(value) for path in FIELDS for value in together.fields[path])
    assert accepted > LINES // len(SEEDS) // 10


@pytest.mark.parametrize("line", ODD)
def test_one_odd_line_between_good_ones_is_judged_as_alone(line: bytes) -> None:
    decode = JsonlCodec().decoder(FIELDS, VERBATIM)
    columns = decode(block_of([GOOD[0]] * 9 + [line] + [GOOD[0]] * 9))
    alone = decode(block_of([line]))
    assert [*columns.refused.items()] == [(9, reason) for reason in alone.refused.values()]
    assert values(columns, 9) == values(alone, 0)
    assert bool(alone.refused) != oracle(line)


def test_records_of_no_bytes_are_refused() -> None:
    assert len(JsonlCodec().decoder(FIELDS, [])(block_of([b""] * 9)).refused) == 9
    nothing = np.zeros(9, np.int64)
    block = Block(b"", nothing, nothing, nothing, nothing, Origin("test", "test"))
    assert len(JsonlCodec().decoder(FIELDS, [])(block).refused) == 9


@pytest.mark.parametrize("line", GOOD)
def test_good_lines_are_accepted_in_company(line: bytes) -> None:
    decode = JsonlCodec().decoder(FIELDS, VERBATIM)
    columns = decode(block_of([line] * 9))
    assert columns.refused == {}
    assert values(columns, 0) == values(columns, 8) == values(decode(block_of([line])), 0)


PIPELINE = """
name: dirt
source: {type: file, path: in.jsonl}
decode: {type: jsonl}
event: {key: k, inputs: {x: [{field: x}]}}
model: {type: formula, state: {s: 0}, update: {s: "0.5*s + x"}, output: {y: "1*s"}}
encode: {type: jsonl, include: [k, note]}
sink: {type: file, path: out.jsonl}
dead_letter: {path: refused.jsonl}
limits: {max_line_bytes: 4096}
"""


def served(folder: Path, lines: list[bytes]) -> list[bytes]:
    folder.mkdir()
    (folder / "in.jsonl").write_bytes(b"\n".join(lines))
    registry, context = Registry(), quiet_context(base_dir=folder)
    spec = load_pipeline(PIPELINE, "dirt.yaml", registry, context, {})
    run(build_pipeline(spec, registry, context), lambda: False, lambda report: None)
    return (folder / "out.jsonl").read_bytes().splitlines()


def test_dirt_between_clean_events_changes_no_answer(tmp_path: Path) -> None:
    chance = random.Random(5)
    clean = [f'{{"k":"clean-{i % 7}","x":{chance.random()},"note":[{i}]}}'.encode() for i in range(5000)]
    dirt = [line for line in hostile(77, 5000) if b"clean" not in line]
    mixed = [line for pair in zip(clean, dirt, strict=False) for line in pair] + clean[len(dirt) :]
    alone, together = served(tmp_path / "clean", clean), served(tmp_path / "mixed", mixed)
    assert len(alone) == len(clean)
    assert [line for line in together if line.startswith(b'{"k":"clean-')] == alone
    refused = [json.loads(line) for line in (tmp_path / "mixed/refused.jsonl").read_bytes().splitlines()]
    assert len(refused) + len(together) == len(mixed)
    starts = np.cumsum([0, *(len(line) + 1 for line in mixed)])
    assert all(entry["reason"] and entry["position"] in starts for entry in refused)
