"""Events that arrive late, early or twice are served as the definition says, whatever is cut or lost when.

STREAMRNN_ORDER_CASES=10000 runs as many permuted streams.
"""

from __future__ import annotations

import io
import json
import os
import random

import numpy as np
import pytest
from crash_harness import BASE, FORMULA, SABOTAGES, run_seed, swapped
from order_cases import (
    BOUND_S,
    GUARDED,
    IN_TIME,
    Shared,
    arrived,
    as_lines,
    happened,
    in_files,
    served,
    sorted_outputs,
)

from streamrnn.cli.progress import Progress
from streamrnn.commit.edit import editing
from streamrnn.config.load import load_pipeline
from streamrnn.context import Context, ManualClock
from streamrnn.errors import ConfigError, StateError
from streamrnn.events import Block, Mark, Origin, Report
from streamrnn.order import settle as settling
from streamrnn.order.definition import Definition, Refused
from streamrnn.order.policy import Policy
from streamrnn.order.seen import Seen
from streamrnn.order.settle import Arrivals, Held, settle
from streamrnn.order.waiting import Waiting
from streamrnn.registry import Registry
from streamrnn.sources.file import FileSource
from streamrnn.testing import run_pipeline

CASES = int(os.environ.get("STREAMRNN_ORDER_CASES", "40"))
PARTS = 4


def a_policy(rng):
    return Policy(
        behind=rng.choice([None, 0, 1, 5, 20]),
        ahead=rng.choice([None, 3, 15]),
        late=rng.choice(["accept", "dead_letter"]),
        on_full=rng.choice(["release", "dead_letter"]),
        max_events=rng.choice([3, 8, 1000]),
        max_bytes=rng.choice([10, 1000]),
        remember=rng.choice([None, 1, 5, 50]),
    )


def a_stream(rng):
    """Tuples of time, bytes and id."""
    t, found = 0, []
    for _ in range(rng.randrange(1, 60)):
        t += rng.choice([0, 0, 1, 3])
        found.append((max(0, t + rng.randrange(-12, 6)), rng.randrange(1, 6), rng.randrange(12)))
    return found


def defined(policy, stream):
    """Who goes on, who is refused and why, who waits, and the largest time."""
    definition, leaving, refused = Definition(policy), [], {}
    for i, (time, size, name) in enumerate(stream):
        try:
            leaving += definition.arrive(time, size, name, i)
        except Refused as refusal:
            refused[i] = str(refusal)
    waiting = sorted(definition.waiting, key=lambda held: held.number)
    return leaving, refused, [held.event for held in waiting], definition.largest


def settled(policy, stream, rng):
    """The same by `settle`, in batches."""
    largest, held, leaving, refused, at = None, [], [], {}, 0
    seen = None if policy.remember is None else Seen(policy.remember)
    while at < len(stream):
        part = list(range(at, min(len(stream), at + rng.choice([1, 2, 7, 60]))))
        times, sizes, names = (np.array([stream[i][c] for i in held + part], np.int64) for c in range(3))
        h = len(held)
        found = settle(
            policy,
            largest,
            Held(times[:h], sizes[:h], h, int(sizes[:h].sum())),
            Arrivals(times[h:], sizes[h:], () if seen is None else names[h:].tolist()),
            seen,
        )
        both = held + part
        gone = [both[i] for i in found.leaving.tolist()]
        leaving += gone
        held = [i for i in held if i not in gone] + [part[i] for i in found.entering.tolist()]
        refused |= {at + i: why for i, why in found.refused.items()}
        largest, at = found.largest, at + len(part)
    return leaving, refused, held, largest


@pytest.mark.parametrize("block", range(4))
def test_batches_settle_as_the_definition_does_event_by_event(block):
    for seed in range(block * 150, block * 150 + 150):
        rng = random.Random(seed)
        policy, stream = a_policy(rng), a_stream(rng)
        assert settled(policy, stream, rng) == defined(policy, stream), seed


def test_both_ways_of_settling_a_batch_are_taken():
    taken = {True: 0, False: 0}
    at_once = settling._at_once

    def counted(*arguments):
        found = at_once(*arguments)
        taken[found is None] += 1
        return found

    with swapped(settling, "_at_once", counted):
        for seed in range(100):
            rng = random.Random(seed)
            settled(a_policy(rng), a_stream(rng), rng)
    assert min(taken.values()) > 30


@pytest.fixture(scope="module")
def in_time():
    return Shared(IN_TIME)


@pytest.fixture(scope="module")
def as_it_comes():
    return Shared(GUARDED)


def permuted_case(in_time, as_it_comes, seed):
    """None if a permuted stream gives what the sorted one gives, however often power is lost."""
    rng = random.Random(seed)
    made = happened(rng, rng.choice([5, 20, 60]))
    wanted = sorted_outputs(as_it_comes, made)
    in_time.holding(in_files(rng, as_lines(arrived(rng, made), rng)))
    whole = in_time.whole()
    if whole[0] != wanted:
        return "another order gave other outputs"
    return run_seed(in_time, whole, seed).wrong


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_any_order_within_the_bound_gives_what_the_sorted_stream_gives_crashes_included(
    in_time, as_it_comes, part
):
    wrong = {seed: permuted_case(in_time, as_it_comes, seed) for seed in range(part, CASES, PARTS)}
    assert {seed: why for seed, why in wrong.items() if why} == {}


def test_beyond_the_bound_it_does_not(as_it_comes):
    rng = random.Random(1)
    made = happened(rng, 60)
    wanted = sorted_outputs(as_it_comes, made)
    narrow = Shared(IN_TIME.replace(f"max_behind_s: {BOUND_S}", "max_behind_s: 3"))
    narrow.holding({"a.jsonl": as_lines(arrived(rng, made))})
    assert narrow.whole()[0] != wanted


@pytest.mark.parametrize("name", ["source position ahead of the state", "no cut on recovery"])
def test_sabotages_show_here_too(in_time, name):
    rng = random.Random(2)
    in_time.holding({"a.jsonl": as_lines(arrived(rng, happened(rng, 60)))})
    whole = in_time.whole()
    assert any(run_seed(in_time, whole, seed, SABOTAGES[name]).wrong for seed in range(100))


def test_commits_without_those_that_wait_would_lose_them(in_time):
    rng = random.Random(2)
    in_time.holding({"a.jsonl": as_lines(arrived(rng, happened(rng, 60)))})
    whole = in_time.whole()
    frozen = Waiting.frozen

    def empty(self):
        arrays = frozen(self)()
        return lambda: {"clock": arrays["clock"]}

    with swapped(Waiting, "frozen", empty):
        assert any(run_seed(in_time, whole, seed).wrong for seed in range(20))


def test_a_run_that_is_stopped_serves_nothing_early(in_time):
    """What a stop would serve, a longer stream might have gone before."""
    rng = random.Random(3)
    in_time.holding({"a.jsonl": as_lines(arrived(rng, happened(rng, 60)))})
    whole = in_time.whole()[0]
    for turns in range(0, 12, 3):
        out = served(in_time, turns).content(BASE / "out.txt")
        assert whole.startswith(out)


def test_state_in_another_order_is_refused(in_time, as_it_comes):
    in_time.holding({"a.jsonl": as_lines(happened(random.Random(3), 30))})
    fs, as_it_comes.promised = served(in_time, 4), 0
    as_it_comes.files = in_time.files
    with pytest.raises(StateError, match=r'order: was .*"event_time".*, is nothing'):
        as_it_comes.live(fs, random.Random(1))


def test_each_partition_is_in_an_order_of_its_own():
    """One that ends lets go of all of its own, and nothing of another's."""
    rng = random.Random(5)
    parts = {f"{name}.jsonl": happened(rng, 40) for name in "ab"}
    with swapped(FileSource, "partitioned", True):
        as_it_comes = Shared(GUARDED).holding({name: as_lines(made) for name, made in parts.items()})
        wanted = as_it_comes.whole()[0]
        files = {name: as_lines(arrived(rng, made)) for name, made in parts.items()}
        in_time = Shared(IN_TIME).holding(files)
        whole = in_time.whole()
        assert whole[0] == wanted
        assert {seed: why for seed in range(8) if (why := run_seed(in_time, whole, seed).wrong)} == {}


def test_a_reset_by_hand_leaves_those_that_wait(in_time):
    """They come behind it, as they would have without a commit in between."""
    in_time.holding({"a.jsonl": as_lines(arrived(random.Random(4), happened(random.Random(4), 40)))})
    whole = in_time.whole()[0].splitlines()
    fs = served(in_time, 4)
    before = fs.content(BASE / "out.txt").splitlines()
    with editing(BASE / "job", Context(base_dir=BASE, fs=fs)) as edit:
        edit.reset_all("a test", [""], {"all": True})
    in_time.promised = 0
    in_time.live(fs, random.Random(1))
    after = fs.content(BASE / "out.txt").splitlines()
    assert 0 < len(before) < len(whole) == len(after)
    assert after[: len(before)] == before
    assert [json.loads(line)["k"] for line in after] == [json.loads(line)["k"] for line in whole]


PIPELINE = """
source: {type: stdin}
decode: {type: jsonl}
event: {key: k, time: {field: t, unit: s}, inputs: {x: [{field: x, missing: 1}]}}
order: ORDER
model: {type: formula, state: {n: 0}, update: {n: n + x}, output: {n: n}}
encode: {type: jsonl, include: [t]}
sink: {type: stdout}
"""


def run(order, events):
    """Times of the outputs in order, and refused events as (number, code)."""
    outputs, rejected = run_pipeline(PIPELINE.replace("ORDER", order), [{"k": "a", **e} for e in events])
    return [output["t"] for output in outputs], [(event.number, event.code) for event in rejected]


def at(*times):
    return [{"t": t} for t in times]


def lines(*times):
    return [{"k": "a", "t": t} for t in times]


@pytest.mark.parametrize(
    ("order", "times", "served", "refused"),
    [
        ("max_behind_s: 5", [3, 1, 2, 9, 8, 20], [1, 2, 3, 8, 9, 20], []),
        ("max_behind_s: 5", [10, 5, 20, 7, 15], [5, 10, 7, 15, 20], []),
        ("max_behind_s: 5, late: dead_letter", [10, 5, 4, 20, 7], [5, 10, 20], [(3, "late"), (5, "late")]),
        ("max_behind_s: 0", [1, 3, 2, 4], [1, 3, 2, 4], []),
        ("max_behind_s: 0, late: dead_letter", [1, 3, 2, 3], [1, 3, 3], [(3, "late")]),
        ("max_behind_s: 100, max_held_events: 2", [5, 4, 3, 2, 1], [3, 2, 1, 4, 5], []),
        ("max_behind_s: 9, max_held_events: 1, on_full: dead_letter", [5, 4, 20], [5, 20], [(2, "no_room")]),
        ("max_behind_s: 100, max_held_bytes: 1", [5, 4], [5, 4], []),
    ],
    ids=str,
)  # fmt: skip
def test_order_by_time(order, times, served, refused):
    assert run(f"{{type: event_time, {order}}}", at(*times)) == (served, refused)


def test_equal_times_stay_as_they_came():
    order = "{type: event_time, max_behind_s: 5}"
    outputs, _ = run_pipeline(
        PIPELINE.replace("ORDER", order).replace("[t]", "[t, x]"),
        [{"k": "a", "t": t, "x": x} for t, x in [(2, 1), (1, 2), (2, 3), (1, 4), (9, 5)]],
    )
    assert [output["x"] for output in outputs] == [2, 4, 1, 3, 5]


def test_one_that_runs_too_far_ahead_moves_no_clock():
    order, limits = "{type: event_time, max_behind_s: 5}", "\nlimits: {max_ahead_s: 50}"
    outputs, rejected = run_pipeline(
        PIPELINE.replace("ORDER", order) + limits, [{"k": "a", "t": t} for t in (1, 10**9, 3, 2, 40, 4)]
    )
    assert [output["t"] for output in outputs] == [1, 2, 3, 4, 40]
    assert [(event.number, event.code) for event in rejected] == [(2, "ahead")]


def test_what_is_refused_by_itself_moves_no_clock():
    times, refused = run("{type: event_time, max_behind_s: 5}", [*at(1), {"t": 100, "x": "?"}, *at(3, 2)])
    assert times == [1, 2, 3]
    assert refused == [(2, "wrong_type")]


def test_an_event_refused_by_the_model_is_refused_when_its_turn_comes():
    events = [{"t": 3, "x": 1e200}, {"t": 2, "x": 1e200}, {"t": 1, "x": 1}]
    text = PIPELINE.replace("ORDER", "{type: event_time, max_behind_s: 5}").replace("n + x", "n + x*x")
    outputs, rejected = run_pipeline(text, [{"k": "a", **event} for event in events])
    assert [output["t"] for output in outputs] == [1]
    assert [event.number for event in rejected] == [2, 1]
    assert [json.loads(event.raw)["t"] for event in rejected] == [2, 3]


@pytest.mark.parametrize(
    ("kind", "rules", "served", "counts"),
    [
        ("source_end", "[]", [1, 2, 3, 4], [1, 2, 3, 4]),
        ("source_end", "[{type: source_end}]", [2, 4, 1, 3], [1, 2, 1, 2]),
        ("control", "[]", [2, 4, 1, 3], [1, 2, 1, 2]),
    ],
)
def test_a_mark_that_means_something_lets_those_before_it_go_first(kind, rules, served, counts):
    mark = Mark(kind, Origin("list", "list"))
    text = PIPELINE.replace("ORDER", "{type: event_time, max_behind_s: 5}") + f"reset: {rules}"
    outputs, _ = run_pipeline(text, [*lines(4, 2), mark, *lines(3, 1)])
    assert [output["t"] for output in outputs] == served
    assert [output["n"] for output in outputs] == counts


DUPLICATES = "duplicates: {id: u, remember: 2}"


def ids(*names):
    return [{"t": t, "u": name} for t, name in enumerate(names)]


@pytest.mark.parametrize("order", ["type: arrival", "type: event_time, max_behind_s: 1"])
def test_an_event_that_is_read_twice_is_refused(order):
    events = ids("a", "a", "b", "a", "c", "a", 1, "1", None, True, "x" * 300)
    served, refused = run(f"{{{order}, {DUPLICATES}}}", events)
    assert served == [0, 2, 4, 5, 6]
    assert refused == [
        (2, "duplicate"),
        (4, "duplicate"),
        (8, "duplicate"),
        (9, "id"),
        (10, "id"),
        (11, "id"),
    ]


def test_ids_of_several_fields():
    order = "{type: arrival, duplicates: {id: [k, u]}}"
    events = [{"t": t, "k": k, "u": u} for t, (k, u) in enumerate([("a", 1), ("b", 1), ("a", 2), ("b", 1)])]
    assert run(order, events) == ([0, 1, 2], [(4, "duplicate")])


def test_an_event_that_was_refused_may_come_again():
    order = f"{{type: event_time, max_behind_s: 5, late: dead_letter, {DUPLICATES}}}"
    events = [
        {"t": 20, "u": "a"},
        {"t": 1, "u": "b"},
        {"t": 17, "u": "b"},
        {"t": 99, "u": "b"},
        {"t": 21, "u": "c"},
    ]
    assert run(order, events) == ([17, 20, 21], [(2, "late"), (4, "duplicate")])


def test_a_duplicate_that_is_dropped_is_counted_and_not_kept(tmp_path):
    text = (
        PIPELINE.replace("ORDER", "{type: arrival, duplicates: {id: u, then: drop}}")
        .replace("stdin}", "file, path: in.jsonl}")
        .replace("stdout}", "file, path: out.jsonl}")
    )
    text += "dead_letter: {path: bad.jsonl}\n"
    lines = ['{"k": "a", "t": 1, "u": 1}', "nonsense", '{"k": "a", "t": 2, "u": 1}']
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    from streamrnn.build import build_pipeline
    from streamrnn.pipeline import run as serve

    context = Context(base_dir=tmp_path)
    pipeline = build_pipeline(load_pipeline(text, "p.yaml", REGISTRY, context, {}), REGISTRY, context)
    reports = []
    serve(pipeline, lambda: False, reports.append)
    assert sum(len(report.rejected) for report in reports) == 2
    assert [json.loads(line)["code"] for line in (tmp_path / "bad.jsonl").read_text().splitlines()] == [
        "json"
    ]
    assert (tmp_path / "out.jsonl").read_text() == '{"t":1,"n":1.0}\n'


def test_how_many_wait_is_told():
    told = io.StringIO()
    with Progress(ManualClock(), told, quiet=False) as progress:
        progress.told(Report(events=5, live_keys=1, held=2))
    assert ", 2 waiting" in told.getvalue()


REGISTRY = Registry()


@pytest.mark.parametrize(
    ("order", "found"),
    [
        ("{type: event_time}", r"order\.max_behind_s: missing"),
        ("{type: arrival, late: accept}", "goes with type: event_time"),
        ("{type: sideways}", "sideways"),
        ("{type: arrival, duplicates: {}}", r"order\.duplicates\.id: missing"),
    ],
)
def test_what_does_not_go_together_is_refused(order, found):
    with pytest.raises(ConfigError, match=found):
        load_pipeline(PIPELINE.replace("ORDER", order), "p.yaml", REGISTRY, Context(), {})


def test_event_time_needs_a_time():
    text = PIPELINE.replace("ORDER", "{type: event_time, max_behind_s: 1}").replace(
        "time: {field: t, unit: s}, ", ""
    )
    with pytest.raises(ConfigError, match=r"needs event\.time"):
        load_pipeline(text, "p.yaml", REGISTRY, Context(), {})


@pytest.mark.parametrize("codec", ["{type: csv}", "{type: csv, header: [k, t, x]}", "{type: msgpack}"])
def test_every_codec(codec):
    text = PIPELINE.replace("{type: jsonl}", codec, 1).replace("[t]", "[t, x]")
    text = text.replace("ORDER", "{type: event_time, max_behind_s: 5}")
    rng = random.Random(1)
    events = [{"k": "ab"[t % 2], "t": t, "x": 10 * t} for t in range(60)]
    permuted = sorted(events, key=lambda event: event["t"] + rng.uniform(0, 5))
    outputs, rejected = run_pipeline(text, permuted)
    assert rejected == []
    assert [(output["t"], output["x"]) for output in outputs] == [(t, 10 * t) for t in range(60)]


def test_files_with_headers_of_their_own():
    """Records of two files meet in a block, each under the header of its own file."""
    text = FORMULA.replace("{type: jsonl}", "{type: csv}", 1).replace("*.jsonl", "*.csv")
    job = Shared(text.replace("reset:", "order: {type: event_time, max_behind_s: 50}\nreset:"))
    job.holding({"a.csv": b"k,t,x,w\na,1,1,u\na,3,3,u\n", "b.csv": b"t,x,k,w\n2,2,a,u\n4,4,a,u\n"})
    whole = job.whole()
    sums = [json.loads(line)["y"] for line in whole[0].splitlines()]
    assert sums == pytest.approx([1.15, 2.345, 3.7035, 5.11105])
    for turns in range(8):
        fs = served(job, turns, batch=1)
        assert job.outcome(fs, job.live(fs, random.Random(1))) == whole


def block(lines, connection=None, fields=None, origin="a"):
    data = "\n".join(lines).encode() + b"\n"
    ends = np.flatnonzero(np.frombuffer(data, np.uint8) == 10)
    starts = np.append(0, ends[:-1] + 1)
    numbers = np.arange(len(lines))
    made = Block(data, starts, ends, starts, numbers, Origin("test", origin), connection=connection)
    made.fields = fields or {}
    return made


def told(found):
    """All that is known of each record of a block."""
    names = sorted(found.fields)
    return [
        (
            found.record(i).decode(),
            int(found.positions[i]),
            int(found.numbers[i]),
            found.origin_of(i).partition,
            None if found.connection is None else int(found.connection[i]),
            *(found.fields[name][i] for name in names),
        )
        for i in range(len(found))
    ]


def test_a_record_keeps_what_is_known_of_it():
    waiting = Waiting(Policy(behind=10), None, 100)
    first = block(["r0", "r1", "r2"], np.array([7, 8, 9]), {"f": ["x", None, "z"], "g": np.array([1, 2, 3])})
    second = block(["s0", "s1"], np.array([5, 6]), {"f": ["v", "w"], "g": np.array([4, 5])}, "b")
    waiting.arrive(first, np.array([0, 2]), np.array([5, 1]), None)
    waiting.arrive(second, np.array([0, 1]), np.array([3, 2]), None)
    wanted = [
        ("r2", 6, 2, "a", 9, "z", 3),
        ("s1", 3, 1, "b", 6, "w", 5),
        ("s0", 0, 0, "b", 5, "v", 4),
        ("r0", 0, 0, "a", 7, "x", 1),
    ]
    restored = Waiting(Policy(behind=10), None, 100)
    restored.load(waiting.frozen()())
    assert [record for found, _ in waiting.rest() for record in told(found)] == wanted
    assert [record for found, _ in restored.rest() for record in told(found)] == [
        (*record[:4], None, *record[5:]) for record in wanted
    ]


def test_bytes_of_records_that_have_left_are_let_go():
    waiting = Waiting(Policy(behind=1000, max_events=10**6, max_bytes=1 << 40), None, 64)
    out = []
    for i in range(200):
        lines = [f"{i}-{j}" + "x" * 1000 for j in range(20)]
        time = np.full(20, 10 * i)
        time[3] += 999
        turn = waiting.arrive(block(lines), np.arange(20), time, None)
        out += [record[0].split("x")[0] for found, _ in turn.released for record in told(found)]
        assert waiting._chunk_bytes <= 2 * waiting._bytes + (1 << 20) + 21_000
        assert waiting._chunk_bytes == sum(len(c.block.buffer) for c in waiting._chunks.values())
    out += [record[0].split("x")[0] for found, _ in waiting.rest() for record in told(found)]
    assert len(out) == len(set(out)) == 4000
    assert len(waiting) == waiting._bytes == waiting._chunk_bytes == 0
