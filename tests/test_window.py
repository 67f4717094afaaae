"""What a log knows of its last records, against a dict of all of them."""

from __future__ import annotations

import random

import pytest

from streamrnn.log import window
from streamrnn.log.window import UNKNOWN, Window, digest


@pytest.mark.parametrize("seed", range(40))
def test_it_knows_the_last_records_and_little_more(monkeypatch, seed):
    rng, size = random.Random(seed), 32
    monkeypatch.setattr(window, "WINDOW", size)
    monkeypatch.setattr(window, "_MOST", size // 2)
    tried, end = Window(), 0
    true, following = {}, dict.fromkeys("abc", 0)
    for _ in range(60):
        name, count = rng.choice("aab" if rng.random() < 0.9 else "c"), rng.choice([1, 1, 2, 20, 70])
        digests = [rng.randrange(1, 9) for _ in range(count)]
        tried.add(name, following[name], end, digests)
        for i, each in enumerate(digests):
            true[name, following[name] + i] = each, end + i
        following[name] += count
        end += count + (rng.random() < 0.2)
        for name, last in following.items():
            first = rng.randrange(last + 1)
            asked = [rng.randrange(9) for _ in range(first, last)]
            found = tried.others(name, first, asked)
            assert found == sorted(set(found))
            for i, each in enumerate(asked):
                was, offset = true[name, first + i]
                differs = UNKNOWN not in (each, was) and each != was
                if i in found:
                    assert differs
                    assert offset >= end - 3 * size
                elif offset >= end - size:
                    assert not differs
        assert sum(len(run.digests) for run in tried._runs) <= 2 * size
        assert sum(map(len, tried._of.values())) == len(tried._runs)


def test_a_conflict_is_known_as_long_as_records_are(monkeypatch):
    monkeypatch.setattr(window, "WINDOW", 4)
    tried = Window()
    tried.add_conflict("a", 0, 0, 7)
    tried.add("a", 1, 1, [5, 5, 5])
    assert tried.has_conflict("a", 0, 7)
    assert not tried.has_conflict("a", 0, 8)
    assert not tried.has_conflict("b", 0, 7)
    tried.add("a", 4, 4, [5])
    assert not tried.has_conflict("a", 0, 7)


def test_records_of_other_bytes_have_other_digests():
    records = [b"", b"0", b"00", b"\0", b"\0\0", b"a", b"b", b"ab", b"ba"]
    assert len({digest(record) for record in records} | {UNKNOWN}) == len(records) + 1
