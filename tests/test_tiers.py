"""Keys that go cold and come back: as if all were in memory, wherever a stream is cut, saved and restored."""

from __future__ import annotations

import random
import sys
from dataclasses import replace

import numpy as np
import pytest
from blocks import blocks
from click.testing import CliRunner
from test_core_equals_definition import (
    answers_of,
    by_core,
    by_definition,
    held,
    row_of,
    rows_by_key,
    segments_taken_while_served,
)
from toys import ORIGIN, MemoryCold, Toy, batch, make_case

from streamrnn import cold as cold_module
from streamrnn.cli.lint import command as lint
from streamrnn.cold import LmdbStore
from streamrnn.commit.control import chosen
from streamrnn.core import Core
from streamrnn.core import tiers as tiers_module
from streamrnn.errors import StateError
from streamrnn.events import Batch, Mark
from streamrnn.limits import Limits

PIPELINE = """
source: {type: stdin}
decode: {type: jsonl}
event: {key: k, inputs: {x: [{field: x}]}}
model: {type: formula, state: {s: 0}, update: {s: s + x}, output: {y: s}}
encode: {type: jsonl}
sink: {type: stdout}
"""


def tiered(case, cold=None):
    limits = replace(case.limits, hot_keys=4 if case.limits.max_keys > 4 else case.limits.max_keys + 3)
    return Core(Toy(), case.rules, case.elapsed, limits, cold=MemoryCold() if cold is None else cold)


def served(core, case, cuts, between=lambda core: core):
    rows = []
    for item in case.batches(cuts):
        core = between(core)
        if isinstance(item, Mark):
            core.mark(item)
        else:
            rows += answers_of(core.process(item), len(item))
    return core, rows


def case_of(seed):
    """One with more keys than four, most of the time."""
    case, rng = make_case(seed), random.Random(seed)
    return replace(case, limits=replace(case.limits, max_keys=rng.choice([3, 8, 12, 1000])))


@pytest.mark.parametrize("block", blocks(range(8), 2))
def test_answers_are_those_of_one_tier(block):
    moved = 0
    for seed in range(block * 60, block * 60 + 60):
        case = case_of(seed)
        definition, answers = by_definition(case)
        core = tiered(case)
        core, rows = served(core, case, random.Random(seed))
        assert rows == [row_of(answer) for answer in answers], seed
        keys = core.store.keys
        assert len(keys) == len(definition.keys)
        assert keys.gone.items() == list(definition.gone.items()), seed
        assert (keys.evicted, keys.expired) == (definition.evicted, definition.expired), seed
        moved += core.store.tiers.cold.moved
    assert moved > 100, "keys did go cold"


@pytest.mark.parametrize("spare", [0, 65_536])
@pytest.mark.parametrize("block", blocks(range(8), 1))
def test_saved_and_restored_at_any_cut_under_one_tier_or_two(block, spare, monkeypatch):
    monkeypatch.setattr(tiers_module, "_SPARE", spare)
    for seed in range(10_000 + block * 30, 10_030 + block * 30):
        case = case_of(seed)
        want = by_core(case, None)
        rng, saved = random.Random(seed), []

        def move(core, case=case, rng=rng, saved=saved):
            if not saved or rng.random() < 0.1:
                saved[:] = [core.snapshot()]
            elif rng.random() < 0.6:
                saved.append(core.take_delta())
            else:
                return core
            if rng.random() < 0.5:
                return core
            fresh = tiered(case) if rng.random() < 0.7 else Core(Toy(), case.rules, case.elapsed, case.limits)
            fresh.restore(saved)
            return fresh

        core, rows = served(tiered(case), case, random.Random(seed + 1), move)
        assert rows == want[1], seed
        whole = Core(Toy(), case.rules, case.elapsed, case.limits)
        whole.restore([core.snapshot()])
        assert sorted(rows_by_key(whole)) == sorted(rows_by_key(want[0])), seed
        assert held(whole) == held(want[0]), seed


def test_what_the_next_segment_is_owed_does_not_grow_with_the_stream(monkeypatch):
    monkeypatch.setattr(tiers_module, "_SPARE", 50)
    rng, limits = np.random.default_rng(0), Limits(max_keys=200, hot_keys=40)
    core = Core(Toy(), limits=limits, cold=MemoryCold())
    core.snapshot()
    for _ in range(600):
        keys = [f"k{i}" for i in rng.integers(0, 400, 10)]
        core.process(Batch(keys, {"x": np.ones((10, 2))}))
    tiers = core.store.tiers
    assert tiers.cold.moved > 3000
    assert len(tiers._owed) <= 2 * len(tiers.cold) + 50
    assert len(tiers._freed) <= 2 * tiers.count + 50


@pytest.mark.parametrize("block", blocks(range(4), 1))
def test_a_segment_is_of_the_moment_it_was_asked_for(block):
    for seed in range(20_000 + block * 30, 20_030 + block * 30):
        case, rng = case_of(seed), random.Random(seed)
        served(tiered(case), case, rng, segments_taken_while_served(case, rng, everything))


def everything(core):
    """State and columns of all keys, in whatever tier."""
    tiers, found = core.store.tiers, held(core)
    if tiers is None:
        return found
    values = [key.value for key in tiers.cold.held.values()]
    packs = tiers._packing.unpack(values)
    for i, key in enumerate(packs.keys):
        columns = [int(packs.columns[name][i]) for name in ("last_time", "steps", "sequence")]
        found[key.decode()] = ({name: a[i].tobytes() for name, a in packs.state.items()}, *columns)
    return found


@pytest.mark.parametrize("seed", range(30_000, 30_012))
def test_on_the_disk_too(seed, tmp_path):
    case = case_of(seed)
    _, answers = by_definition(case)
    cold = LmdbStore(tmp_path, timed=True)
    assert list(tmp_path.iterdir()) == [], "its files have no names"
    core, rows = served(tiered(case, cold), case, random.Random(seed))
    assert rows == [row_of(answer) for answer in answers]
    whole = Core(Toy(), case.rules, case.elapsed, case.limits)
    whole.restore([core.snapshot()])
    assert held(whole) == held(by_core(case, None)[0])


@pytest.mark.parametrize("seed", blocks(range(20), 5))
def test_lmdb_does_what_dicts_do(seed, tmp_path):
    from streamrnn.cold import Cold

    rng, number = random.Random(seed), 0
    ours, plain = LmdbStore(tmp_path, timed=True), MemoryCold()
    for _ in range(60):
        keys = []
        for _ in range(rng.randint(0, 9)):
            number += rng.randint(1, 3)
            time = rng.choice([number, -number, 5, 2**63 - 1, -(2**63)])
            keys.append(Cold(b"%016d" % number, number, time, rng.randbytes(rng.choice([0, 40, 5000]))))
        ours.put(keys)
        plain.put(keys)
        before = ours.snapshot(), plain.snapshot()
        asked = [b"%016d" % rng.randint(0, number) for _ in range(3)]
        for ask in (
            lambda store, asked=asked: sorted(store.pop(list(set(asked)))),
            lambda store: store.ends(4),
            lambda store: store.ends(4, newest=True),
            lambda store, n=number: sorted(store.before(n - 20)),
            lambda store: sorted(store.pop_at(store.ends(2))),
            lambda store, n=number: store.kept(np.arange(n)).tolist(),
            len,
        ):
            assert ask(ours) == ask(plain)
        some = sorted({rng.randint(0, number) for _ in range(9)})
        for sequences in (None, some):
            found, expected = ([v for part in s.each(sequences, 4) for v in part] for s in before)
            assert found == expected
        for snapshot in before:
            snapshot.close()


def test_a_command_finds_keys_that_are_cold():
    case = case_of(0)
    case.limits, case.rules = replace(case.limits, max_keys=100, idle=None, max_ahead=None), []
    core = tiered(case)
    names = [f"k{i}" for i in range(40)]
    held = [((name, 0, (1, 1), None, None), "s") for name in names]
    for start in range(0, 40, 2):
        core.process(batch(held[start : start + 2]))
    assert len(core.store.keys.index) <= 4
    assert chosen(core, {"keys": ["k1", "k1", "nobody", "k39"]}) == ["k1", "k39"]
    assert sorted(chosen(core, {"glob": "k?"})) == names[:10]
    core.mark(Mark("control", ORIGIN, glob="k1*"))
    again = core.process(batch(held))
    assert [name for name, steps in zip(names, again.steps.tolist(), strict=True) if steps == 1] == [
        "k1",
        *names[10:20],
    ]


def test_rows_stay_as_few_as_hot_keys(tmp_path):
    case = replace(make_case(1), limits=replace(make_case(1).limits, max_keys=10_000))
    core = tiered(case)
    for key in range(300):
        core.mark(Mark("control", None, keys=(f"k{key}",)))
    served(core, case, None)
    assert core.store.columns.capacity == 4


def test_cold_keys_are_meant_by_patterns_and_by_name():
    went_cold = 0
    for seed in range(40):
        case = case_of(seed)
        cores = [tiered(case), Core(Toy(), case.rules, case.elapsed, case.limits)]
        for core in cores:
            served(core, case, None)
        went_cold += len(cores[0].store.tiers.cold) > 0
        for glob in ("*", "?", "*1*", "nobody"):
            first, second = (sorted(core.keys_like(glob)) for core in cores)
            assert first == second, (seed, glob)
        asked = [*keys_of(case), "nobody"]
        assert cores[0].store.alive(asked) == cores[1].store.alive(asked), seed
    assert went_cold > 3


def keys_of(case):
    return sorted({key for item in case.batches(None) if not isinstance(item, Mark) for key in item.keys})


def test_nothing_piles_up_that_no_commit_will_ask_for():
    case = case_of(3)
    core, _ = served(tiered(case), case, random.Random(0))
    assert core.store.tiers.cold.moved > 0
    assert not core.store.tiers._owed
    assert not core.store.tiers._freed


def test_a_disk_that_is_full_is_told_and_what_was_there_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(cold_module, "_MAP_BYTES", 1 << 17)
    store = LmdbStore(tmp_path, timed=True)
    store.put([cold_module.Cold(b"%016d" % i, i, i, b"x" * 100) for i in range(1, 9)])
    many = [cold_module.Cold(b"%016d" % i, i, i, b"x" * 4000) for i in range(9, 99)]
    with pytest.raises(StateError, match=r"state: keys cannot be put on the disk: .*MDB_MAP_FULL"):
        store.put(many)
    assert (len(store), store.ends(9)) == (8, list(range(1, 9)))
    store.put(many[:3])
    assert store.pop([b"%016d" % 9]) == [b"x" * 4000]


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    store = LmdbStore(tmp_path / "file" / "cold", timed=False)
    with pytest.raises(StateError, match="cannot keep keys there"):
        store.put([cold_module.Cold(b"k" * 16, 1, 0, b"")])


def test_without_the_package_it_is_said_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(StateError, match=r"pip install 'streamrnn\[lmdb\]'"):
        cold_module.lmdb_opener(tmp_path, True)
    text = "state: {tiers: [memory, disk], hot_keys: 10, dir: cold}\n"
    (tmp_path / "p.yaml").write_text(PIPELINE + text)
    told = CliRunner().invoke(lint, [str(tmp_path / "p.yaml")])
    assert told.exit_code == 1
    assert (
        "state.tiers: disk needs lmdb, which is not installed: pip install 'streamrnn[lmdb]'" in told.output
    )
