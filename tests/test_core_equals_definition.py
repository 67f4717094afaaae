"""The core equals the one-event-at-a-time definition, bit for bit, however the stream is cut."""

from __future__ import annotations

import random

import numpy as np
import pytest
from blocks import blocks
from toys import Toy, formula_model, make_case, numpy_model

from streamrnn.core import Core, key_index
from streamrnn.definition import Definition
from streamrnn.events import Mark


class Each(random.Random):
    """Cuts behind every event."""

    def random(self):
        return 0.0


def by_definition(case, backend=None):
    definition = Definition(backend or Toy(), case.rules, case.elapsed, case.limits)
    answers = []
    for item in case.batches(None):
        if isinstance(item, Mark):
            definition.mark(item)
        else:
            answers += definition.process(item)
    return definition, answers


def by_core(case, cuts, backend=None, between=lambda core: core):
    core = Core(backend or Toy(), case.rules, case.elapsed, case.limits)
    rows = []
    for item in case.batches(cuts):
        core = between(core)
        if isinstance(item, Mark):
            core.mark(item)
        else:
            rows += answers_of(core.process(item), len(item))
    return core, rows


def answers_of(outputs, n):
    rows: list = [None] * n
    for at, i in enumerate(outputs.accepted.tolist()):
        y = tuple(array[at].tobytes() for array in outputs.y.values())
        rows[i] = (y, int(outputs.steps[at]), int(outputs.cause[at]))
    assert sorted(outputs.refused) == [i for i, row in enumerate(rows) if row is None]
    return rows


def rows_by_key(core):
    names = core.store.keys.names
    held = {names.key(row): row for row in range(len(names)) if names.key(row) is not None}
    assert core.store.keys.index.find(list(held)).tolist() == list(held.values())
    return held


def row_of(answer):
    if answer.refused:
        return None
    return tuple(a[0].tobytes() for a in answer.y.values()), answer.steps, answer.cause


def held(core):
    """Key -> state and columns, as canonical as the definition's."""
    out = {}
    for key, row in rows_by_key(core).items():
        at = np.array([row])
        state = {name: array[0].tobytes() for name, array in core.store.slab.read(at).items()}
        out[key] = (state, *(int(core.store.columns[c][row]) for c in ("last_time", "steps", "sequence")))
    return out


def expected(definition):
    out = {}
    for key, record in definition.keys.items():
        state = {
            t.name: np.moveaxis(record.state[t.name], t.batch_axis, 0)[0].tobytes()
            for t in definition.backend.state.tensors
        }
        out[key] = (state, record.last_time, record.steps, record.sequence)
    return out


def drop_marked(core, table):
    """Rows that a mark reset: the core does it when they are next seen, the definition at once."""
    newest = max(core.store.epochs.values(), default=0)
    return {k: v for k, v in table.items() if core.store.columns["epoch"][rows_by_key(core)[k]] == newest}


def last_shown(case, answers):
    """Key -> the cause that its outputs showed last."""
    keys = [key for item in case.batches(None) if not isinstance(item, Mark) for key in item.keys]
    return {key: row[2] for key, row in zip(keys, answers, strict=True) if row is not None and row[2]}


def last_reset(core):
    """Key -> why it was reset last, unless its next output is to show another cause."""
    columns, epoch = core.store.columns, max(core.store.epochs.values(), default=0)
    rows = {key: row for key, row in rows_by_key(core).items() if columns["epoch"][row] == epoch}
    return {key: int(columns["reset_cause"][row]) for key, row in rows.items() if not columns["pending"][row]}


@pytest.mark.parametrize("block", blocks(range(20), 4))
def test_any_mix_of_rules_keys_times_rejects_and_cuts(block):
    for seed in range(block * 60, block * 60 + 60):
        case = make_case(seed)
        definition, answers = by_definition(case)
        want = [row_of(answer) for answer in answers]
        for cuts in (None, random.Random(seed), *([Each()] if seed % 3 == 0 else [])):
            core, rows = by_core(case, cuts, Toy(scans=seed % 3 > 0))
            assert rows == want, seed
            assert core.store.sequence == definition.sequence
            assert sorted(rows_by_key(core)) == sorted(definition.keys), seed
            assert drop_marked(core, held(core)) == drop_marked(core, expected(definition)), seed
            assert last_reset(core).items() <= last_shown(case, want).items(), seed
            assert core.store.keys.gone.items() == list(definition.gone.items()), seed
            counts = core.store.keys.evicted, core.store.keys.expired
            assert counts == (definition.evicted, definition.expired), seed


@pytest.mark.parametrize("model", [formula_model, numpy_model])
@pytest.mark.parametrize("block", blocks(range(4), 1))
def test_the_shipped_backends_too(model, block):
    for seed in range(90_000 + block * 50, 90_050 + block * 50):
        case, backend = make_case(seed), model(seed)
        definition, answers = by_definition(case, backend)
        core, rows = by_core(case, random.Random(seed), backend)
        assert rows == [row_of(answer) for answer in answers], seed
        assert drop_marked(core, held(core)) == drop_marked(core, expected(definition)), seed


@pytest.mark.parametrize("block", blocks(range(8), 2))
def test_snapshot_and_deltas_into_a_new_core_at_any_cut(block):
    for seed in range(50_000 + block * 30, 50_030 + block * 30):
        case = make_case(seed)
        want = by_core(case, None)[1]
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
            fresh = Core(Toy(), case.rules, case.elapsed, case.limits)
            fresh.restore(saved)
            return fresh

        assert by_core(case, random.Random(seed + 1), between=move)[1] == want, seed


@pytest.mark.parametrize("block", blocks(range(4), 1))
def test_a_segment_taken_while_events_are_served_is_of_the_moment_it_was_asked_for(block):
    for seed in range(80_000 + block * 30, 80_030 + block * 30):
        case, rng = make_case(seed), random.Random(seed)
        by_core(case, rng, Toy(), segments_taken_while_served(case, rng, everything))


def segments_taken_while_served(case, rng, of_core):
    """Takes segments between batches, and holds each to what `of_core` said when it was asked for.

    What is restored has all its keys in memory, whatever the core has.
    """
    begun, blobs, segments = [], [], []

    def move(core):
        if begun and rng.random() < 0.5:
            begun[0].take(rng.choice([0, 1, 3]))
            if rng.random() < 0.5:
                blobs.append(b"".join(begun[0].part()()))
        elif begun:
            then, frozen = begun.pop(), begun.pop()
            frozen.take_all()
            segments.append([*blobs, b"".join(frozen.part()())])
            fresh = Core(Toy(), case.rules, case.elapsed, case.limits)
            fresh.restore(blob for parts in segments for blob in parts)
            assert of_core(fresh) == then, case
        elif rng.random() < 0.5:
            blobs.clear()
            if rng.random() < 0.3:
                segments.clear()
            begun[:] = [core.freeze(base=not segments), of_core(core)]
        return core

    return move


def everything(core):
    store = core.store
    gone = store.keys.gone
    clocks = (dict(store.largest), dict(store.epochs), gone.items(), gone.forgot)
    return held(core), columns_by_key(core), clocks


def columns_by_key(core):
    columns = core.store.columns.arrays
    return {key: [repr(column[row]) for column in columns.values()] for key, row in rows_by_key(core).items()}


def test_with_the_table_of_many_keys(monkeypatch):
    monkeypatch.setattr(key_index, "_WIDE_FROM", 0)
    monkeypatch.setattr(key_index, "_FEW", 2)
    for seed in range(70_000, 70_100):
        case = make_case(seed)
        definition, answers = by_definition(case)
        core, rows = by_core(case, random.Random(seed), Toy())
        assert rows == [row_of(answer) for answer in answers], seed
        assert drop_marked(core, held(core)) == drop_marked(core, expected(definition)), seed
