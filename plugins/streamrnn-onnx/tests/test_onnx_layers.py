"""`layers` as an ONNX graph: what numpy answers, bits that no batch changes, state that moves between."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from pydantic import ValidationError
from streamrnn_onnx.activations import ACTIVATIONS
from streamrnn_onnx.config import OnnxConfig
from streamrnn_onnx.layer_graph import make_model
from streamrnn_onnx.loading import build, describe

from streamrnn.backend import TensorSpec
from streamrnn.backends.layers import build as build_numpy
from streamrnn.builtins.numpy_layers import NumpyConfig
from streamrnn.conformance import BackendConformance
from streamrnn.context import Context
from streamrnn.core import Core
from streamrnn.core.probe import draw, probe, settle
from streamrnn.errors import ModelError, OptionError
from streamrnn.events import Batch
from streamrnn.layers.loading import LoadedModel
from streamrnn.layers.options import LayersConfig

GATES = {"rnn": 1, "gru": 3, "lstm": 4}


def recurrent(kind, inputs, hidden, layers=1, proj=None, bias=True, seed=0, **options):
    rng, rows, weights = np.random.default_rng(seed), GATES[kind] * hidden, {}
    for k in range(layers):
        shapes = {
            "weight_ih": (rows, inputs if k == 0 else proj or hidden),
            "weight_hh": (rows, proj or hidden),
        }
        shapes |= {"weight_hr": (proj, hidden)} if proj else {}
        shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)} if bias else {}
        for name, shape in shapes.items():
            weights[f"{name}_l{k}"] = (rng.normal(size=shape) / np.sqrt(hidden)).tolist()
    sizes = {"hidden": hidden, "layers": layers, **({"proj": proj} if proj else {})}
    return {"type": kind, **sizes, **options, "weights": weights}


def linear(inputs, out, activation="identity", bias=True, seed=1):
    rng = np.random.default_rng(seed)
    weights = {"weight": rng.normal(size=(out, inputs)).tolist()}
    weights |= {"bias": rng.normal(size=out).tolist()} if bias else {}
    return {"type": "linear", "out": out, "activation": activation, "weights": weights}


def table(rows, size):
    return {"weight": np.random.default_rng(2).normal(size=(rows, size)).tolist()}


def numbers(width):
    return {"x": TensorSpec("x", (width,), "float64")}


MODELS = {
    "gru": ({"layers": [recurrent("gru", 3, 5), linear(5, 2)]}, numbers(3)),
    "gru, reset before": ({"layers": [recurrent("gru", 3, 5, reset_after=False)]}, numbers(3)),
    "lstm": ({"layers": [recurrent("lstm", 7, 9, bias=False), linear(9, 3, "softmax")]}, numbers(7)),
    "lstm of width 1": ({"layers": [recurrent("lstm", 1, 1), linear(1, 1, bias=False)]}, numbers(1)),
    "lstm of three": ({"layers": [recurrent("lstm", 4, 17, 3), linear(17, 1, "sigmoid")]}, numbers(4)),
    "lstm with projection": ({"layers": [recurrent("lstm", 3, 6, 2, proj=4), linear(4, 3)]}, numbers(3)),
    "rnn": ({"layers": [recurrent("rnn", 3, 5, 2), linear(5, 2)]}, numbers(3)),
    "rnn, relu": ({"layers": [recurrent("rnn", 3, 5, activation="relu"), linear(5, 2)]}, numbers(3)),
    "rnn, identity": ({"layers": [recurrent("rnn", 3, 5, activation="identity")]}, numbers(3)),
    "no recurrence": ({"layers": [linear(1, 2)]}, numbers(1)),
    "embedding and numbers": (
        {
            "layers": [
                {"type": "embedding", "name": "vectors", "of": "id", "weights": table(6, 4)},
                {"type": "concat", "name": "both", "of": ["vectors", "x"]},
                {**recurrent("gru", 11, 5), "name": "rnn"},
                {**linear(5, 2, "log_softmax"), "name": "head"},
            ],
            "outputs": {"p": "head", "h": "rnn"},
        },
        {"id": TensorSpec("id", (2,), "int64", 6), **numbers(3)},
    ),
}  # fmt: skip


def both(options, given):
    """The same model by numpy and by ONNX Runtime, opened."""
    ours = build_numpy(NumpyConfig.model_validate(options), given, Context())
    theirs = build(OnnxConfig.model_validate(options), given, Context())
    ours.open()
    theirs.open()
    return ours, theirs


def played(model, steps=30, rows=4, seed=5, inputs=None):
    """Outputs and states of random sequences."""
    rng, found = np.random.default_rng(seed), []
    state = {t.name: np.zeros((rows, *t.shape), t.dtype) for t in model.state.tensors}
    for _ in range(steps):
        state, y = model.step(state, {spec.name: draw(spec, rows, rng) for spec in inputs or model.inputs})
        found += [*y.values(), *(state[t.name] for t in model.state.tensors)]
    return found


@pytest.mark.parametrize("name", MODELS)
def test_it_answers_as_numpy_does_and_no_batch_changes_a_bit(name):
    ours, theirs = both(*MODELS[name])
    assert theirs.inputs == ours.inputs
    assert theirs.outputs == ours.outputs
    assert theirs.state.tensors == ours.state.tensors
    assert theirs.state.meaning == ours.state.meaning
    assert theirs.state.fingerprint != ours.state.fingerprint
    for found, expected in zip(played(theirs), played(ours), strict=True):
        assert found.dtype == expected.dtype
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)
    verdict = probe(theirs)
    assert verdict.numerics == "batch_invariant", verdict.reasons
    one_by_one = ("lstm with projection", "rnn, relu", "rnn, identity", "no recurrence")
    assert verdict.scan == (name not in one_by_one)
    ours.close()


def for_many_keys(options, given):
    return build(OnnxConfig.model_validate({**options, "tuned_for": "many_keys"}), given, Context())


OF_SINGLE_OPERATORS = {
    "gru": MODELS["gru"],
    "gru, reset before": MODELS["gru, reset before"],
    "gru of width 1": ({"layers": [recurrent("gru", 1, 1), linear(1, 1)]}, numbers(1)),
    "gru of three without bias": ({"layers": [recurrent("gru", 4, 17, 3, bias=False)]}, numbers(4)),
    "embedding and numbers": MODELS["embedding and numbers"],
}


@pytest.mark.parametrize("name", OF_SINGLE_OPERATORS)
def test_a_gru_of_single_operators_answers_alike_and_no_batch_changes_a_bit(name):
    options, given = OF_SINGLE_OPERATORS[name]
    ours, single = build(OnnxConfig.model_validate(options), given, Context()), for_many_keys(options, given)
    assert single.state.meaning == ours.state.meaning
    assert single.state.fingerprint != ours.state.fingerprint
    found, expected = played(single), played(ours)
    for some, others in zip(found, expected, strict=True):
        np.testing.assert_allclose(some, others, rtol=2e-5, atol=2e-5)
    assert any((some != others).any() for some, others in zip(found, expected, strict=True))
    verdict = probe(single)
    assert (verdict.numerics, verdict.scan, verdict.reasons) == ("batch_invariant", True, ())


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_answers_as_numpy_does(activation):
    for width in (1, 3, 16, 17):
        head = linear(5, width, activation)
        head["weights"]["weight"] = (40 * np.array(head["weights"]["weight"])).tolist()
        ours, theirs = both({"layers": [recurrent("gru", 3, 5), head]}, numbers(3))
        for found, expected in zip(played(theirs), played(ours), strict=True):
            np.testing.assert_allclose(found, expected, rtol=2e-5, atol=5e-5)
        assert probe(theirs).numerics == "batch_invariant"
        ours.close()


class TestGru(BackendConformance):
    @pytest.fixture
    def backend(self):
        options, given = MODELS["gru"]
        return build(OnnxConfig.model_validate(options), given, Context())

    @pytest.fixture
    def reload(self):
        options, given = MODELS["gru"]
        return build(OnnxConfig.model_validate(options), given, Context())

    @pytest.fixture
    def description(self):
        options, given = MODELS["gru"]
        return describe(OnnxConfig.model_validate(options), given, Context())


class TestGruOfSingleOperators(TestGru):
    @pytest.fixture
    def backend(self):
        return for_many_keys(*MODELS["gru"])

    @pytest.fixture
    def reload(self):
        return for_many_keys(*MODELS["gru"])


class TestEmbedding(TestGru):
    @pytest.fixture
    def backend(self):
        options, given = MODELS["embedding and numbers"]
        return build(OnnxConfig.model_validate(options), given, Context())

    @pytest.fixture
    def reload(self):
        return None

    @pytest.fixture
    def description(self):
        return None


class TestProjection(TestEmbedding):
    @pytest.fixture
    def backend(self):
        options, given = MODELS["lstm with projection"]
        return build(OnnxConfig.model_validate(options), given, Context())


@pytest.mark.parametrize("name", ["lstm of three", "embedding and numbers"])
def test_a_snapshot_moves_between_numpy_and_onnx(name):
    ours, theirs = both(*MODELS[name])
    rng = np.random.default_rng(0)
    batches = [
        Batch([f"k{i}" for i in range(6)], {spec.name: draw(spec, 6, rng) for spec in ours.inputs})
        for _ in range(4)
    ]
    for first, second in ((ours, theirs), (theirs, ours)):
        whole, before, after = (Core(settle(m, probe(m))) for m in (first, first, second))
        expected = [whole.process(batch).y for batch in batches]
        for batch in batches[:2]:
            before.process(batch)
        after.restore([before.snapshot()])
        for batch, y in zip(batches[2:], expected[2:], strict=True):
            for name_of, found in after.process(batch).y.items():
                np.testing.assert_allclose(found, y[name_of], rtol=1e-4, atol=1e-5)
    ours.close()


@pytest.mark.parametrize("name", MODELS)
def test_the_graph_as_a_file_says_itself_what_is_state(tmp_path, name):
    options, given = MODELS[name]
    model = LoadedModel(LayersConfig.model_validate(options), given, Context())
    proto = make_model(model)
    onnx.checker.check_model(proto, full_check=True)
    onnx.save_model(proto, tmp_path / "m.onnx")
    told = json.loads(next(entry.value for entry in proto.metadata_props if entry.key == "streamrnn.state"))
    assert [one["input"] for one in told] == [t.name for t in model.plan.description.state.tensors]
    loaded = build(OnnxConfig(path="m.onnx"), given, Context(base_dir=tmp_path))
    ours = build(OnnxConfig.model_validate(options), given, Context())
    assert loaded.state.tensors == ours.state.tensors
    for found, expected in zip(played(loaded, inputs=ours.inputs), played(ours), strict=True):
        np.testing.assert_array_equal(found, expected)


REFUSED = {
    "two models": (
        {"layers": [linear(3, 2)], "path": "m", "state": []},
        "expected layers without state, which is",
    ),
    "many keys of a file": (
        {"path": "m", "tuned_for": "many_keys"},
        "expected tuned_for beside layers only; a model's file has its own operators",
    ),
    "many keys elsewhere": (
        {"layers": [linear(3, 2)], "tuned_for": "many_keys", "providers": ["cuda", "cpu"]},
        "expected tuned_for: many_keys with the provider cpu alone",
    ),
    "no model": ({}, "expected path, the file of a model, or layers, found neither"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_options_of_files_and_of_layers_are_told_apart(name):
    options, message = REFUSED[name]
    with pytest.raises(ValidationError, match=message):
        OnnxConfig.model_validate(options)


def test_mistakes_of_layers_are_those_of_numpy():
    config = OnnxConfig.model_validate({"layers": [recurrent("gru", 4, 5), linear(3, 2)]})
    with pytest.raises(OptionError) as caught:
        describe(config, numbers(3), Context())
    assert [path[:2] for path, _ in caught.value.problems] == [("layers", 0), ("layers", 1)]


def test_an_output_needs_a_name_of_its_own():
    config = OnnxConfig.model_validate({"layers": [linear(3, 2)], "outputs": {"x": "linear0"}})
    with pytest.raises(OptionError, match="'x' is also the name of an input or a state"):
        build(config, numbers(3), Context())


def test_an_index_that_an_embedding_lacks_is_refused():
    options, given = MODELS["embedding and numbers"]
    model = build(OnnxConfig.model_validate(options), given, Context())
    state = {t.name: np.zeros((1, *t.shape), t.dtype) for t in model.state.tensors}
    for index in (6, -1):
        x = {"id": np.array([[0, index]]), "x": np.zeros((1, 3), np.float32)}
        with pytest.raises(ModelError, match=f"expected indices from 0 to 5, found {index} in 'id'"):
            model.step(state, x)


def test_a_type_is_said_of_layers_alone():
    OnnxConfig.model_validate({"layers": [linear(3, 2)], "dtype": "float32"})
    for options in ({"layers": [linear(3, 2)], "dtype": "float64"}, {"path": "m.onnx", "dtype": "float32"}):
        with pytest.raises(ValidationError, match="dtype"):
            OnnxConfig.model_validate(options)
