"""Control messages among the events: the rule `control`, by the definition, and how they are answered."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from functools import cache

import pytest
from crash_harness import REGISTRY, swapped
from model_of_all import ORDERS, PIPELINE, Model

from streamrnn import build
from streamrnn.config.load import load_pipeline
from streamrnn.core.probe import probe
from streamrnn.pipeline import run
from streamrnn.testing import ListSink, ListSource, quiet_context, run_pipeline
from streamrnn.verify.play import play

SOURCE = "source: {type: stdin}"
MESSAGES = [{"keys": "a"}, {"keys": ["b", "z"]}, {"glob": "n?"}, {"glob": "*"}, {"all": True}, {}, {"all": 1}]


def lines(rng, n):
    """Events out of order, double and bad, with messages between them."""
    made, now = [], 0
    for _ in range(n):
        now += rng.choice([0, 1, 2, 7, 30])
        event = {"k": rng.choice(["a", "b", "c", f"n{rng.randrange(9)}"]), "x": rng.randint(-4, 4)}
        if rng.random() < 0.05:
            event["x"] = 1e3  # over the norm
        event |= {"t": now - rng.choice([0, 0, 1, 5, 11]), "w": rng.choice("aab"), "u": rng.randrange(30)}
        made.append(event)
        if rng.random() < 0.2:
            made.append({"op": "reset", **rng.choice(MESSAGES)})
        elif rng.random() < 0.1:
            made.append(rng.choice([{"op": "other"}, {"k": "a", "t": now}]))
    return [json.dumps(each) for each in made]


@cache
def understood(order, batch):
    text = f"{SOURCE}{PIPELINE.replace('ORDER', ORDERS[order])}".replace(
        "limits:\n  {", f"limits:\n  {{max_batch_events: {batch}, "
    )
    return load_pipeline(text, "p.yaml", REGISTRY, quiet_context(), {})


@cache
def probed(_=None):
    return probe(build.load_backend(understood("as they come", 1), quiet_context()))


def run_cut(spec, given):
    """Outputs, and what is refused in the order in which it is told."""
    context, sink, refused = quiet_context(), ListSink(), []
    codec = spec.decode.component.resolve("build")(spec.decode.options, context)
    source = ListSource(given, codec, spec.file.limits.max_line_bytes)
    pipeline = build.build_pipeline(unwritten(spec), REGISTRY, context, source, sink)
    run(pipeline, lambda: False, lambda report: refused.extend(report.rejected))
    return sink.records, refused


def unwritten(spec):
    return replace(spec, file=spec.file.model_copy(update={"dead_letter": None}))


@pytest.mark.parametrize("order", ORDERS)
def test_messages_reset_where_they_stand_however_the_stream_is_cut(order):
    probed()
    for seed in range(10):
        given, model = lines(random.Random(seed), 60), Model(understood(order, 1), quiet_context())
        for line in given:
            model.read(line.encode())
        for event in model.order.rest():
            model.serve(event)
        assert any("control" in output["c"] for output in model.outputs)
        for batch in (1, 3, 512):
            with swapped(build, "probe", lambda _: probed()):
                outputs, refused = run_cut(understood(order, batch), given)
            assert outputs == model.outputs, (seed, batch)
            codes = [event.code for event in refused]
            assert codes == [code or was for code, was in zip(model.refused, codes, strict=True)], seed


FORMULA = """
source: {type: stdin}
decode: {type: jsonl}
event: {key: [plant, id], inputs: {x: [{field: x}]}}
reset: [{type: control, field: do.what, equals: 7, keys: do.keys, glob: do.like, all: do.all}]
model: {type: formula, state: {n: 0}, update: {n: n + x}, output: {total: n}}
encode: {type: jsonl, fields: {total: {type: output, output: total}, cause: {type: meta, name: cause}}}
sink: {type: stdout}
"""
A, B = {"plant": "p", "id": 1, "x": 1}, {"plant": "p", "id": 2, "x": 1}


@pytest.mark.parametrize(
    ("asked", "totals"),
    [
        ({"keys": [["p", 1]]}, [1, 2]),
        ({"keys": ['["p","1"]', ["p", "2"]]}, [1, 1]),
        ({"like": '["p",*]'}, [1, 1]),
        ({"like": '*"2"?'}, [2, 1]),
        ({"like": "p"}, [2, 2]),
        ({"all": True}, [1, 1]),
    ],
)
def test_keys_of_several_fields(asked, totals):
    outputs, refused = run_pipeline(FORMULA, [A, B, {"do": {"what": 7, **asked}}, A, B])
    assert [output["total"] for output in outputs[2:]] == totals
    assert [output["cause"] for output in outputs[2:]] == [["control"] * (total == 1) for total in totals]
    assert refused == []


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({}, "expected one of do.keys, do.like, do.all, found none of them"),
        ({"keys": "a", "like": "b"}, "expected one of do.keys, do.like, do.all, found do.keys and do.like"),
        ({"keys": []}, "do.keys: expected at least one key, found an empty list"),
        ({"keys": ["a", True]}, "do.keys: expected keys, texts or integers, found true"),
        ({"keys": [["p", None]]}, 'do.keys: expected keys, texts or integers, found ["p",null]'),
        ({"like": 3}, "do.like: expected a pattern of keys, found 3"),
        ({"all": "yes"}, 'do.all: expected true, found "yes"'),
    ],
)
def test_a_message_that_does_not_say_who_is_meant_is_refused_and_resets_nobody(asked, why):
    outputs, refused = run_pipeline(FORMULA, [A, {"do": {"what": 7, **asked}}, A])
    assert [output["total"] for output in outputs] == [1, 2]
    assert [(event.number, event.reason, event.code) for event in refused] == [
        (2, f"do.what: a control message: {why}", "control")
    ]


def test_types_count_and_a_message_needs_no_more_than_it_says():
    outputs, _ = run_pipeline(
        FORMULA, [A, {**A, "do": {"what": "7", "all": True}}, {"do": {"what": 7.0, "all": True}}]
    )
    assert [output["total"] for output in outputs] == [1, 2]


def test_verify_heeds_them(tmp_path):
    (tmp_path / "in.jsonl").write_text("\n".join(lines(random.Random(5), 200)))
    text = f"source: {{type: file, path: in.jsonl}}{PIPELINE.replace('ORDER', '')}".replace(
        "1.0 * s", "s + 0.0"
    )
    context = quiet_context(base_dir=tmp_path)
    spec = load_pipeline(text, "p.yaml", REGISTRY, context, {})
    with_inputs = build.load_backend(spec, context).inputs
    played = play((spec, context), (spec, context), with_inputs)
    stream = played.live.stream
    assert list(stream.cause) == list(played.reference.stream.cause)
    assert (stream.cause >> stream.cause_names.index("control") & 1).sum() > 5
