"""The memory of keys that are gone does what an ordered dict would, one key after the other."""

from __future__ import annotations

import random

import numpy as np
import pytest

from streamrnn.core import gone as gone_module
from streamrnn.core import slots
from streamrnn.core.gone import Gone, hashes_of
from streamrnn.limits import EVICTED, EXPIRED, NEW, UNKNOWN, key_hash


class Plain:
    """The rule, as the definition has it."""

    def __init__(self, remember):
        self.remember, self.forgot, self.entries = remember, False, {}

    def recall(self, name):
        return self.entries.pop(name, UNKNOWN if self.forgot else NEW)

    def add(self, name, cause):
        self.entries[name] = cause
        if len(self.entries) > self.remember:
            del self.entries[next(iter(self.entries))]
            self.forgot = True


def turn(plain, begun, left):
    """Keys begin, the last of them each evict one."""
    causes = []
    for i, name in enumerate(begun):
        causes.append(plain.recall(name))
        if i >= len(begun) - len(left):
            plain.add(left[i - len(begun) + len(left)], EVICTED)
    return causes


def hashes(names):
    return np.array(names, np.uint64)


def test_hashes_are_those_of_the_definition():
    keys = ["", "a", "é", "x" * 300]
    assert hashes_of(key.encode() for key in keys).tolist() == [key_hash(key) for key in keys]


@pytest.mark.parametrize("seed", range(60))
def test_a_history_of_keys_that_go_and_come_back(seed, monkeypatch):
    rng = random.Random(seed)
    monkeypatch.setattr(gone_module, "_LEAST", rng.choice([1, 16]))
    monkeypatch.setattr(slots, "_FIRST_BITS", 4)
    remember = rng.choice([0, 1, 3, 20, 200])
    gone, plain = Gone(remember), Plain(remember)
    pool = [rng.getrandbits(64) for _ in range(rng.choice([5, 60, 600]))]
    for _ in range(60):
        away = list(plain.entries)
        begun = rng.sample(pool, rng.randint(0, min(len(pool), 9)))
        if away and rng.random() < 0.6:
            begun = list({*begun, *rng.choices(away, k=3)})
        left = [name for name in pool if name not in plain.entries and name not in begun]
        left = rng.sample(left, min(len(left), rng.randint(0, len(begun))))
        if rng.random() < 0.3 and len(left) > 1:
            begun[-1] = left[0]  # the first that left is back at the end
        causes, change = gone.foresee(hashes(begun), hashes(left))
        assert gone.items() == list(plain.entries.items()), "nothing has changed yet"
        if rng.random() < 0.8:
            gone.apply(change)
            assert causes.tolist() == turn(plain, begun, left)
        if rng.random() < 0.2:
            idle = [name for name in pool if name not in plain.entries][: rng.randint(0, 30)]
            gone.release(hashes(idle), EXPIRED)
            for name in idle:
                plain.add(name, EXPIRED)
        if rng.random() < 0.1:
            names, causes = gone.frozen()()
            gone = Gone(remember)
            gone.load(names, causes, plain.forgot)
        assert (gone.items(), gone.forgot, len(gone)) == (
            list(plain.entries.items()),
            plain.forgot,
            len(plain.entries),
        )


def test_fewer_are_remembered_than_were_written():
    gone = Gone(2)
    gone.load(hashes([1, 2, 3]), np.array([EVICTED, EXPIRED, EVICTED]), False)
    assert gone.items() == [(2, EXPIRED), (3, EVICTED)]
    assert gone.forgot


def test_places_stay_few_however_many_come_and_go():
    gone = Gone(100)
    for start in range(0, 100_000, 50):
        begun = hashes(range(start, start + 50))
        gone.apply(gone.foresee(begun, begun + np.uint64(1 << 40))[1])
    assert len(gone) == 100
    assert len(gone._names) < 3000
