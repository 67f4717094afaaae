"""Keys that make room for others: who goes, what is said of it, and what is counted, as in the definition."""

from __future__ import annotations

import random

import numpy as np
import pytest
from blocks import blocks
from test_core_equals_definition import answers_of, row_of
from toys import Toy

from streamrnn.core import Core, oldest
from streamrnn.core.keys import KeyTable
from streamrnn.definition import Definition
from streamrnn.events import Batch
from streamrnn.limits import Limits


def stream(rng, keys, events):
    """Keys of which some come often."""
    weights = [1 / (i + 1) for i in range(keys)]
    return [f"k{i}" for i in rng.choices(range(keys), weights, k=events)]


def cut(rng, keys, most):
    while keys:
        size = rng.randint(1, most)
        x = np.ones((len(keys[:size]), 2))
        x[[i for i in range(len(x)) if rng.random() < 0.01]] = 666
        yield Batch(keys[:size], {"x": x}, np.zeros(len(x), np.int64))
        keys = keys[size:]


@pytest.mark.parametrize("seed", blocks(range(24), 6))
def test_as_in_the_definition(seed, monkeypatch):
    rng, ways = random.Random(seed), {"together": 0, "one by one": 0}
    monkeypatch.setattr(oldest, "_LEAST", 8)
    plainly = KeyTable._one_by_one

    def counted(*args):
        ways["one by one"] += 1
        return plainly(*args)

    monkeypatch.setattr(KeyTable, "_one_by_one", counted)
    limits = Limits(
        max_keys=[60, 20][seed % 2], remember_evicted=rng.choice([0, 15, 100]), refuse_new=seed % 6 == 0
    )
    core, definition = Core(Toy(), limits=limits), Definition(Toy(), limits=limits)
    for batch in cut(rng, stream(rng, 150, 1500), [6, 40][seed % 2]):
        before = core.store.keys.evicted
        answers = [row_of(answer) for answer in definition.process(batch)]
        assert answers_of(core.process(batch), len(batch)) == answers
        ways["together"] += core.store.keys.evicted > before
    keys = core.store.keys
    assert (keys.evicted, len(keys)) == (definition.evicted, len(definition.keys))
    assert keys.gone.items() == list(definition.gone.items())
    if not limits.refuse_new:
        assert ways["one by one" if seed % 2 else "together"] > 20


def test_no_row_is_used_beyond_the_ceiling():
    core = Core(Toy(), limits=Limits(max_keys=50))
    for batch in cut(random.Random(1), [f"k{i}" for i in range(2000)], 40):
        core.process(batch)
    assert len(core.store.keys.names) == 50
    assert core.store.columns.capacity == 50


def test_with_the_policy_refuse_idle_keys_make_room_at_fixed_events():
    limits = Limits(max_keys=2, refuse_new=True, idle=10, collect_every=4)
    core = Core(Toy(), limits=limits)
    keys, times = "abcbcc", [0, 1, 2, 20, 21, 22]
    outputs = core.process(Batch(keys, {"x": np.ones((6, 2))}, np.array(times)))
    assert sorted(outputs.refused) == [2, 4, 5], "the row of a is not free yet"
    outputs = core.process(Batch("bc", {"x": np.ones((2, 2))}, np.array([23, 24])))
    assert not outputs.refused, "four events were accepted, so that a was freed"
    assert core.store.keys.expired == 2
