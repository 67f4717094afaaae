"""The table of many keys gives the rows that a dict would."""

from __future__ import annotations

import random

import numpy as np
import pytest

from streamrnn.core import key_index, slots
from streamrnn.core.key_index import KeyIndex, WideIndex
from streamrnn.core.key_names import KeyNames, Packed

ODD_KEYS = ["", "a", "b", "\0", "é", "日本", "a" * 900, "ab", "ba", "aa", "aab", "aba"]


def held(names, keys, rows):
    names.extend(max(0, int(rows.max(initial=-1)) + 1 - len(names)))
    names.put(rows, Packed.of(keys))


@pytest.mark.parametrize("seed", range(20))
def test_a_history_of_keys_that_come_and_go(seed, monkeypatch):
    rng = random.Random(seed)
    monkeypatch.setattr(key_index, "_WIDE_FROM", rng.choice([0, 10, 300]))
    monkeypatch.setattr(slots, "_FIRST_BITS", 4)  # full again and again, and wrapped around
    monkeypatch.setattr(slots, "_CHUNK", rng.choice([10, 1 << 15]))
    names = KeyNames()
    index, known, free = KeyIndex(names), {}, list(range(3000))
    pool = ODD_KEYS + [f"user-{i}" for i in range(1500)]
    if seed % 2:
        pool = [f"{i:05}" for i in range(1500)]  # all of the same length, which goes a shorter way
    for _ in range(60):
        asked = rng.choices(pool, k=rng.choice([0, 1, 5, 200]))
        assert index.find(asked).tolist() == [known.get(key, -1) for key in asked]
        new = list(dict.fromkeys(key for key in asked if key not in known))
        rows = [free.pop(rng.randrange(len(free))) for _ in new]
        held(names, new, np.array(rows, np.int64))
        index.add(new, np.array(rows, np.int64))
        known.update(zip(new, rows, strict=True))
        for key in rng.sample(sorted(known), min(len(known), rng.choice([0, 3, 80]))):
            index.remove(np.array([known[key]]))
            names.clear(np.array([known[key]]))
            free.append(known.pop(key))
        if rng.random() < 0.1:
            index.rebuild()
        assert len(index) == len(known)
    assert {key: index.get(key) for key in pool} == {key: known.get(key, -1) for key in pool}


EVEN = {
    "one": (["abc"], 3),
    "several": (["abc", "de\0", "fgh"], 3),
    "none": ([], 0),
    "empty ones": (["", ""], 0),
    "as long together": (["ab", "a", "abc"], 0),
    "cut at the same places by breaks of their own": (["a\nb", "", "cd"], 0),
    "breaks of their own": (["a\n", "\nb"], 0),
    "beyond ASCII": (["日本", "日本"], 6),
    "as many letters in other bytes": (["ab", "日本"], 0),
}


@pytest.mark.parametrize("name", EVEN)
def test_keys_of_one_length_are_known_as_such(name):
    keys, width = EVEN[name]
    packed = Packed.of(keys)
    assert packed.width == width
    assert packed.each() == [key.encode() for key in keys]
    assert packed.lengths.tolist() == [len(key.encode()) for key in keys]
    some = packed.where(np.arange(len(keys)) % 2 == 0)
    assert some.each() == [key.encode() for key in keys[::2]]


def test_keys_of_the_same_hash_are_told_apart(monkeypatch):
    monkeypatch.setattr(WideIndex, "_hash_all", lambda self, keys: np.full(len(keys), 7, np.uint64))
    monkeypatch.setattr(WideIndex, "_hash_of", lambda self, key: 7)
    names, keys, rows = KeyNames(), [f"k{i}" for i in range(40)], np.arange(40)
    held(names, keys, rows)
    index = WideIndex(names)
    index.add(Packed.of(keys), rows)
    assert index.find(Packed.of([*keys, "other"])).tolist() == [*range(40), -1]
    index.remove(np.array([5]))
    assert [index.get(key) for key in ("k5", "k6", "k39")] == [-1, 6, 39]


def test_names_of_freed_rows_do_not_pile_up():
    names, rows = KeyNames(), np.arange(100)
    for turn in range(200):
        held(names, keys := [f"{turn}-{i:060}" for i in range(100)], rows)
        assert names.equal(rows, Packed.of(keys)).all()
        names.clear(rows[:90])
        assert names.free().tolist() == list(range(90))
        assert names.key(95) == keys[95]
        names.clear(rows[90:])
    assert len(names._data) < 1_000_000
