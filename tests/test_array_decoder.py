"""Fields wanted as arrays: the same numbers and the same refusals as from values decoded as they come."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from test_jsonl import block_of

from streamrnn.codecs.jsonl import JsonlCodec
from streamrnn.events import Block
from streamrnn.features.encoders import Vector, numbers

FIELDS = ["n", "v", "deep.n", "key"]
ARRAYS: dict[str, tuple[int, ...]] = {"n": (), "v": (2,), "deep.n": ()}
USUAL = ["0", "-0", "1", "-1.5", "1e3", "0.1", "-0.0", "5e-324", "1.7976931348623157e308", "2.5E-7"]
LARGE = ["9007199254740993", "18446744073709551617", "-9223372036854775809", "123456789012345678901234567890"]
ODD = ["null", "true", '"1"', "[]", "{}", "[1]", '"x"']


def number(chance: random.Random, odd: float) -> str:
    if chance.random() < odd:
        return chance.choice(ODD)
    if chance.random() < 0.5:
        return repr(chance.gauss(0, 10.0 ** chance.randint(-20, 20)))
    return chance.choice(USUAL + LARGE)


def line(chance: random.Random, odd: float) -> str:
    length = 2 if chance.random() >= odd else chance.randint(0, 3)
    vector = "[" + ",".join(number(chance, odd) for _ in range(length)) + "]"
    made = {
        "key": f'"{chance.randint(0, 9)}"',
        "n": number(chance, odd),
        "v": vector if chance.random() >= odd else number(chance, 1),
        "deep": f'{{"n":{number(chance, odd)}}}' if chance.random() >= odd else number(chance, 0.5),
    }
    kept = [(name, text) for name, text in made.items() if chance.random() >= odd / 2]
    chance.shuffle(kept)
    return "{" + ",".join(f'"{name}":{text}' for name, text in kept) + "}"


def made_of(columns: Any) -> tuple[dict[str, Any], dict[int, str]]:
    """What the event stage makes of the columns: arrays, and the first reason to refuse each record."""
    refused = dict(columns.refused)
    arrays = {}
    for path, shape in ARRAYS.items():
        column, own = columns.fields[path], {}
        arrays[path] = Vector(2).encode(column, own) if shape else numbers(column, path, own)
        for at, reason in own.items():
            refused.setdefault(at, reason)
    return arrays, refused


def same(block: Block) -> None:
    general = JsonlCodec().decoder(FIELDS, [])(block)
    typed = JsonlCodec().array_decoder(FIELDS, [], ARRAYS)(block)
    assert list(typed.fields["key"]) == list(general.fields["key"])
    (expected, reasons), (found, told) = made_of(general), made_of(typed)
    assert told == reasons
    served = [at for at in range(len(block)) if at not in reasons]
    for path, array in expected.items():
        assert array[served].tobytes() == found[path][served].tobytes()


@pytest.mark.parametrize("odd", [0.0, 0.02, 0.3])
def test_the_same_numbers_and_refusals(odd: float) -> None:
    chance = random.Random(odd)
    for _ in range(150):
        lines = [line(chance, odd) for _ in range(chance.choice([1, 3, 9, 60]))]
        same(block_of("\n".join(lines).encode()))


def test_clean_blocks_give_arrays() -> None:
    text = b'{"n":1,"v":[1,2.5],"deep":{"n":-3}}\n' * 9
    columns = JsonlCodec().array_decoder(FIELDS, [], ARRAYS)(block_of(text))
    found = {path: column for path, column in columns.fields.items() if isinstance(column, np.ndarray)}
    assert {path: (array.dtype.name, array.shape) for path, array in found.items()} == {
        "n": ("float64", (9,)),
        "v": ("float64", (9, 2)),
        "deep.n": ("float64", (9,)),
    }
    assert found["v"].tolist() == [[1.0, 2.5]] * 9


def test_a_zero_keeps_its_sign_in_any_company() -> None:
    for text in (b'{"n":-0.0,"v":[-0,-0.0]}', b'{"n":-0,"v":[0,1]}\n{"n":"x"}', b'{"n":-0}\n' * 9):
        same(block_of(text))


def test_a_field_that_others_lie_in_stays_what_it_is() -> None:
    decode = JsonlCodec().array_decoder(["a", "a.b"], [], {"a": (), "a.b": ()})
    columns = decode(block_of(b'{"a":{"b":1}}\n{"a":{"b":2}}'))
    assert list(columns.fields["a"]) == [{"b": 1}, {"b": 2}]
    assert list(columns.fields["a.b"]) == [1, 2]
