"""Options that do not fit the graph: told all at once, each where it stands, with the way out."""

import re

import numpy as np
import onnxruntime as ort
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper
from onnx_graphs import cell, info, model, saved
from streamrnn_onnx import OnnxConfig
from streamrnn_onnx.loading import build, describe

from streamrnn.backend import FirstInput, TensorSpec
from streamrnn.cli.lint import command as lint
from streamrnn.context import Context
from streamrnn.errors import OptionError

X = {"x": TensorSpec("x", (5,), "float64")}
PIPELINE = """
source: {type: stdin}
decode: {type: jsonl}
event: {key: k, inputs: {x: [{fields: [a, b, c, d, e]}]}}
model:
  type: onnx
  path: m.onnx
  %s
encode: {type: jsonl}
sink: {type: stdout}
"""


def problems(folder, made, given=X, **options):
    saved(folder, made)
    with pytest.raises(OptionError) as caught:
        describe(OnnxConfig.model_validate({"path": "m.onnx", **options}), given, Context(base_dir=folder))
    return {".".join(map(str, path)): text for path, text in caught.value.problems}


def test_names_that_the_graph_does_not_have(tmp_path):
    found = problems(
        tmp_path,
        cell("LSTM"),
        constants={"sr": 16000, "x": 1},
        inputs={"z": {"batch_axis": 0}},
        outputs={"p": "yy"},
        state=[{"input": "h", "output": "hn"}, {"input": "c0", "output": "hn"}],
    )
    assert found == {
        "constants.sr": "the graph has no input 'sr'; it has: x, h0, c0",
        "constants.x": "'x' is also in event.inputs; leave it out of one of them",
        "inputs.z": "the graph has no input 'z'; it has: x, h0, c0",
        "outputs.p": "the graph has no output 'yy'; did you mean 'y'? it has: y, hn, cn",
        "state.0.input": "the graph has no input 'h'; did you mean 'h0'? it has: x, h0, c0",
        "state.0.output": "'hn' is that of another state too",
        "state.1.output": "'hn' is that of another state too",
    }


def test_shapes_and_values_that_are_not_the_graphs(tmp_path):
    states = [
        {"input": "h0", "output": "hn", "shape": [1, 7], "dtype": "float16", "init": [[1, 2]]},
        {"input": "c0", "output": "cn", "init": {"first": "z"}},
    ]
    found = problems(tmp_path, cell("LSTM"), state=states)
    assert found == {
        "state.0.dtype": "expected float32, the graph's own, found float16",
        "state.0.shape": "expected [1, 4], the graph's own, found [1, 7]",
        "state.0.init": "expected nested lists of [1, 4], found [1, 2]",
        "state.1.init.first": "expected an input of event.inputs as wide as the state [1, 4], found 'z'",
    }


def test_the_way_out_names_what_is_known(tmp_path):
    found = problems(tmp_path, cell("LSTM", names=("h0", "memory", "hn", "hn2")), given={})
    assert "Write state: [" in found[""]
    assert "outputs out of y (float32 [T, B, 4]), hn (float32 [1, B, 4])" in found[""]


@pytest.mark.parametrize(
    "names",
    [("h:0", "31", "Identity_1:0", "Identity_2:0"), ("null", "on", "a.b", "~"), ("h", "c", "1e3", "0x1F")],
)
def test_the_state_of_a_message_can_be_pasted_into_yaml(names, tmp_path):
    h, c, new_h, new_c = names
    states = [info(name, "B", 5) for name in names]
    adds = [
        helper.make_node("Add", ["x", h], [new_h]),
        helper.make_node("Mul", ["x", c], [new_c]),
        helper.make_node("Cast", [new_h], ["y"], to=TensorProto.DOUBLE),
    ]
    y = info("y", "B", 5, kind=TensorProto.DOUBLE)
    made = model(adds, [info("x", "B", 5), *states[:2]], [y, *states[2:]])
    (message,) = problems(tmp_path, made, given=X).values()
    written = re.search(r"in the order of the inputs, write (state: \[.*\]); the outputs", message).group(1)
    file = tmp_path / "p.yaml"
    file.write_text(PIPELINE % written)
    result = CliRunner().invoke(lint, ["--explain", str(file)])
    assert result.exit_code == 0, result.exception
    lines = [" ".join(line.split()) for line in result.output.splitlines()]
    for before, after in ((h, new_h), (c, new_c)):
        assert any(line.startswith(f"state {before} -> {after} ") and "as written" in line for line in lines)


def test_an_input_of_another_name_is_told_by_the_pipeline(tmp_path):
    saved(tmp_path, cell("GRU"))
    given = {"xx": TensorSpec("xx", (5,), "float64")}
    described = describe(OnnxConfig(path="m.onnx"), given, Context(base_dir=tmp_path))
    assert [spec.name for spec in described.inputs] == ["x"]


def test_a_state_may_begin_as_an_input_or_a_number(tmp_path):
    saved(tmp_path, cell("GRU", hidden=5))
    state = [{"input": "h0", "output": "hn", "init": {"first": "x"}}]
    config = OnnxConfig.model_validate({"path": "m.onnx", "state": state})
    model = build(config, X, Context(base_dir=tmp_path))
    assert model.state.tensors[0].initial == FirstInput("x")


def test_outputs_are_renamed_and_may_be_states(tmp_path):
    saved(tmp_path, cell("GRU"))
    config = OnnxConfig(path="m.onnx", outputs={"answer": "y", "memory": "hn"})
    model = build(config, X, Context(base_dir=tmp_path))
    state, y = model.step({"h0": np.zeros((1, 3, 4), np.float32)}, {"x": np.ones((3, 5), np.float32)})
    assert {name: array.shape for name, array in y.items()} == {"answer": (3, 4), "memory": (3, 1, 4)}
    np.testing.assert_array_equal(y["memory"][:, 0], state["hn" if "hn" in state else "h0"][0])


def test_told_to_forget_it_answers_every_event_by_itself(tmp_path):
    made = cell("GRU", names=())
    saved(tmp_path, made)
    model = build(OnnxConfig(path="m.onnx", hidden_state="forget"), X, Context(base_dir=tmp_path))
    assert model.state.tensors == ()
    assert model.scan is None
    x = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    _, y = model.step({}, {"x": x})
    session = ort.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(y["y"], session.run(["y"], {"x": x[None]})[0][0], rtol=1e-6)


def test_axes_that_two_readings_allow_must_be_written(tmp_path):
    tanh = [helper.make_node("Tanh", ["x"], ["y"])]
    saved(tmp_path, model(tanh, [info("x", "p", "q", 5)], [info("y", "p", "q", 5)]))
    config = OnnxConfig(path="m.onnx")
    assert describe(config, X, Context(base_dir=tmp_path)) is None
    with pytest.raises(
        OptionError, match=r"can be read in 2 ways that hold: x \[rows, steps, 5\] or x \[steps"
    ):
        build(config, X, Context(base_dir=tmp_path))
    told = OnnxConfig.model_validate({"path": "m.onnx", "inputs": {"x": {"batch_axis": 1, "time_axis": 0}}})
    assert build(told, X, Context(base_dir=tmp_path)).outputs[0].shape == (5,)


@pytest.mark.parametrize("names", [(), None], ids=["hidden", "in and out"])
def test_features_of_another_width_are_told_as_such(tmp_path, names):
    saved(tmp_path, cell("LSTM", names=names))
    file = tmp_path / "p.yaml"
    file.write_text(PIPELINE.replace("[a, b, c, d, e]", "[a, b, c]").replace("  %s\n", ""))
    told = CliRunner().invoke(lint, [str(file)])
    assert told.exit_code == 1, told.output
    assert told.output.strip().splitlines() == [
        f"{file}:4:29: event.inputs.x: the model wants 5 numbers, the features make 3"
    ]
