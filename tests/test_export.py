"""`streamrnn export`, as far as it needs no plugin's library."""

import re
from types import ModuleType

import numpy as np
import pytest
from pydantic import BaseModel

from streamrnn.backend import Backend, StateSpec, StateTensor, TensorSpec
from streamrnn.config.open import open_pipeline
from streamrnn.errors import ConfigError, ModelError
from streamrnn.export import LENGTHS, export
from streamrnn.hookspecs import Component, hookimpl
from streamrnn.registry import Registry

FILE = """
source: {type: stdin}
decode: {type: jsonl}
event: {inputs: {x: [{field: x}]}}
model: {type: numpy, layers: [{type: rnn, hidden: 2, weights: {weight_ih_l0: [[1.0], [0.5]], weight_hh_l0: [[0.1, 0.2], [0.3, 0.4]]}}]}
encode: {type: jsonl}
sink: {type: stdout}
"""  # noqa: E501


class PathConfig(BaseModel):
    path: str


class Loaded(Backend):
    """A "file format": the numbers of W_ih and W_hh as text, and maybe a mistake."""

    def __init__(self, config, given, context):
        with open(config.path, "rb") as file:
            self.mistake = file.read().decode()
        self.inputs = (TensorSpec("x", (1,), "float32"),)
        self.outputs = (TensorSpec("y", (3 if self.mistake == "width" else 2,), "float32"),)
        initial = 0.5 if self.mistake == "initial" else 0.0
        self.state = StateSpec((StateTensor("s", (2,), "float32", initial=initial),))

    def step(self, state, x):
        w = np.array([[1.0, 0.5]], np.float32) * (1.01 if self.mistake == "weights" else 1)
        h = np.tanh(x["x"] @ w + state["s"] @ np.array([[0.1, 0.3], [0.2, 0.4]], np.float32))
        if self.mistake == "rows" and len(h) > 1:
            h = h[::-1]
        kept = np.zeros_like(h) if self.mistake == "forgets" else h
        return {"s": kept.astype(np.float32)}, {"y": h.astype(np.float32)}


def registry_of(answer):
    plugin, found = ModuleType("fake"), Registry(entry_points=[])
    component = Component("backend", "onnx", PathConfig, Loaded, "for the test")
    plugin.streamrnn_components = hookimpl(specname="streamrnn_components")(lambda: [component])
    plugin.streamrnn_export = hookimpl(specname="streamrnn_export")(lambda options, given, context: answer)
    found.add(plugin, "tests")
    return found


def exported(folder, answer, registry=None):
    registry = registry or registry_of(answer)
    (folder / "p.yaml").write_text(FILE)
    spec, _, context = open_pipeline(str(folder / "p.yaml"), registry)
    return export(spec, registry, context, folder / "m.onnx")


def test_a_graph_that_answers_as_the_model_is_written(tmp_path):
    (tmp_path / "m.onnx").write_text("old")
    done = exported(tmp_path, b"right")
    assert (done.bytes, done.keys, done.events) == (5, len(LENGTHS), sum(LENGTHS))
    assert done.step < 1e-6
    assert (tmp_path / "m.onnx").read_bytes() == b"right"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.onnx", "p.yaml"]


WRONG = {
    "weights": r"differs from the model at event 1 of a sequence of 1: '.*' by 0\.0\d+; nothing was written",
    "forgets": "differs from the model at event 1 of a sequence of 1: 'rnn0.h0' by",
    "initial": "differs from the model at the initial state: 'rnn0.h0' by 0.5; nothing was written",
    "rows": r"differs from the model at row 1 of a call of 2: 'y' by .*; nothing was written",
    "width": r"has states .* and outputs \[\('y', 3\)\], expected",
}


@pytest.mark.parametrize("mistake", WRONG)
def test_one_that_does_not_is_not_written(tmp_path, mistake):
    (tmp_path / "m.onnx").write_text("old")
    with pytest.raises(ModelError, match=WRONG[mistake]):
        exported(tmp_path, mistake.encode())
    assert (tmp_path / "m.onnx").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.onnx", "p.yaml"]


def test_without_a_plugin_it_says_what_to_install(tmp_path):
    with pytest.raises(ConfigError, match=re.escape("it is in the package streamrnn-onnx: pip install")[6:]):
        exported(tmp_path, b"", Registry(entry_points=[]))


def test_a_model_that_nobody_exports_is_told(tmp_path):
    with pytest.raises(ConfigError, match="no installed plugin can export a model of type 'numpy'"):
        exported(tmp_path, None)


def test_a_place_that_cannot_be_written_is_told(tmp_path):
    registry = registry_of(b"right")
    (tmp_path / "p.yaml").write_text(FILE)
    spec, _, context = open_pipeline(str(tmp_path / "p.yaml"), registry)
    with pytest.raises(ModelError, match=r"nowhere/m\.onnx: cannot be written: No such file or directory"):
        export(spec, registry, context, tmp_path / "nowhere" / "m.onnx")
