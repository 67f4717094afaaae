"""A graph that loops for ever on one event is ended by a deadline, and the others are served."""

from __future__ import annotations

import logging
import time
from threading import Event, Thread

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper
from onnx_graphs import constant, info, model

from streamrnn.build import build_backend, build_pipeline
from streamrnn.config.load import load_pipeline
from streamrnn.context import Context
from streamrnn.core import Core
from streamrnn.core.deadline import timed
from streamrnn.deadline import deadline
from streamrnn.events import Batch
from streamrnn.pipeline import run
from streamrnn.registry import Registry

PIPELINE = """
source: {type: stdin}
decode: {type: jsonl}
event: {key: k, inputs: {x: [{field: x}]}}
model: {type: onnx, path: loop.onnx}
encode: {type: jsonl}
sink: {type: stdout}
limits: {step_deadline_s: 0.2}
"""


def looping(many=1e12):
    """h' = h / 2 + x; y goes through a loop that hardly ends once an x is over 50."""
    ports = [info("i", kind=TensorProto.INT64), info("go", kind=TensorProto.BOOL), info("v", None, 1)]
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Tanh", ["v"], ["w"])],
        "body", ports, [info("on", kind=TensorProto.BOOL), info("w", None, 1)],
    )  # fmt: skip
    nodes = [
        helper.make_node("Mul", ["h_in", "half"], ["h_half"]),
        helper.make_node("Add", ["h_half", "x"], ["h_out"]),
        helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        helper.make_node("Sub", ["most", "fifty"], ["beyond"]),
        helper.make_node("Relu", ["beyond"], ["above"]),
        helper.make_node("Mul", ["above", "many"], ["trips_real"]),
        helper.make_node("Cast", ["trips_real"], ["trips"], to=TensorProto.INT64),
        helper.make_node("Loop", ["trips", "", "h_out"], ["y"], body=body),
    ]
    initializers = [constant(n, v, np.float32) for n, v in (("half", 0.5), ("fifty", 50), ("many", many))]
    inputs, outputs = [info("x", "B", 1), info("h_in", "B", 1)], [info("y", "B", 1), info("h_out", "B", 1)]
    return model(nodes, inputs, outputs, initializers, metadata={})


def test_the_event_is_refused_and_the_rest_is_served(tmp_path):
    (tmp_path / "loop.onnx").write_bytes(looping().SerializeToString())
    context = Context(base_dir=tmp_path, log=logging.Logger("quiet"))
    spec = load_pipeline(PIPELINE, "p.yaml", Registry(), context, {})
    backend, _ = build_backend(spec, context)
    calls, over = timed(backend), Event()

    def look():
        before = None
        while not over.wait(0.1):
            if (call := calls.under_way) is not None and call == before:
                calls.end(call)
            before = call

    watcher = Thread(target=look, daemon=True)
    watcher.start()
    core, began_s = Core(backend), time.monotonic()
    x = np.arange(16, dtype=np.float32)[:, None]
    x[11] = 66
    outputs = core.process(Batch([f"k{i}" for i in range(16)], {"x": x}))
    again = core.process(Batch([f"k{i}" for i in range(16)], {"x": np.ones((16, 1), np.float32)}))
    over.set()
    watcher.join()
    told = "the model refused it: ModelError: no answer within limits.step_deadline_s = 0.2 s"
    assert outputs.refused == {11: told}
    assert time.monotonic() - began_s < 60
    assert len(again) == 16
    wanted = np.delete(x[:, 0], 11) / 2 + 1
    assert np.array_equal(np.delete(again.y["y"][:, 0], 11), wanted)


def test_a_candidate_that_hangs_does_not_hold_up_the_model(tmp_path):
    """Its call is ended, and the event is one that it alone did not answer."""
    (tmp_path / "loop.onnx").write_bytes(looping().SerializeToString())
    (tmp_path / "plain.onnx").write_bytes(looping(many=0).SerializeToString())
    lines = [f'{{"k": "k{i}", "x": {66 if i == 5 else i}}}\n' for i in range(9)]
    (tmp_path / "in.jsonl").write_text("".join(lines))
    text = PIPELINE.replace("{type: stdin}", "{type: file, path: in.jsonl}")
    text = text.replace("{type: stdout}", "{type: file, path: out.jsonl}").replace("loop.onnx", "plain.onnx")
    text += "candidate: {model: {type: onnx, path: loop.onnx}, state: reset}\n"
    context = Context(base_dir=tmp_path, log=logging.Logger("quiet"))
    spec = load_pipeline(text, "p.yaml", registry := Registry(), context, {})
    pipeline = build_pipeline(spec, registry, context)
    with deadline(pipeline):
        run(pipeline, lambda: False, lambda report: None)
    tally = pipeline.parts.candidate.tally
    assert (tmp_path / "out.jsonl").read_text().count("\n") == 9
    assert (tally.events, tally.apart, tally.differing, tally.error) == (8, 1, 0, "")
