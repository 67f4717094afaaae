"""Graphs that Keras on TensorFlow and tf2onnx made, and what Keras itself answered.

TensorFlow is too heavy for every run of the tests, so the graphs lie in `keras_zoo.zip`, made with
TensorFlow 2.21, Keras 3.15 and tf2onnx 1.17 by

    pip install tensorflow-cpu tf2onnx -e . -e plugins/streamrnn-onnx
    python plugins/streamrnn-onnx/tests/onnx_zoo_keras.py

The models themselves are in `onnx_keras_models.py`.
"""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx_zoo import CUTS, Arrays, Specimen, draw

GRAPHS = Path(__file__).parent / "keras_zoo.zip"
ANSWERS = GRAPHS.with_suffix(".npz")
F, H, VOCAB = 6, 8, 5
KERAS = "Keras"


def specimens() -> Iterator[Specimen]:
    """All of them, from the files."""
    for title, file in (
        ("LSTM, state hidden", "lstm"),
        ("LSTM, 2 layers, state hidden", "lstm_2"),
        ("LSTM, state in and out", "lstm_state"),
        ("LSTM, last answer only", "lstm_last"),
        ("GRU, state hidden", "gru"),
        ("GRU, state in and out", "gru_state"),
        ("GRU, reset before the product", "gru_before_state"),
        ("GRU, last answer only", "gru_last"),
        ("GRU, stateful, one row", "gru_stateful"),
        ("GRU, stateful, four rows", "gru_stateful_4"),
        ("LSTM, stateful, one row", "lstm_stateful"),
        ("SimpleRNN, state hidden", "rnn"),
        ("SimpleRNN, state in and out", "rnn_state"),
        ("LSTM, then GRU, then SimpleRNN", "mixed"),
        ("RNN of three stacked cells", "rnn_of_cells"),
        ("RNN of a cell of one's own", "rnn_of_own"),
    ):
        yield _specimen(title, file)
    yield _specimen("GRU, LSTM and Masking of silent steps", "masked", silent=True)
    yield _specimen("LSTM over an embedding", "lstm_embedding", vocab=VOCAB)
    yield _specimen("GRU over an embedding that masks 0", "gru_embedding", vocab=VOCAB)
    yield _specimen("ConvLSTM1D", "conv_lstm")
    fails = "a call of 2 rows and 1 steps fails"
    yield _specimen("GRU, TimeDistributed that ONNX Runtime cannot run", "gru_distributed", refused=fails)
    yield _specimen("LSTM, both ways", "lstm_both", refused="bidirectional")
    yield _specimen("GRU, both ways", "gru_both", refused="a sequence is not that step alone")
    yield _specimen("GRU, backwards", "gru_backwards", refused="a sequence is not that step alone")
    yield _specimen("causal Conv1D, then GRU", "conv_gru", refused="may carry numbers from step to step")
    yield _specimen("GRU of one row and one step", "gru_step", refused="write hidden_state: forget")
    goes_on = {"hidden_state": "expose"}
    yield _specimen("the same, told to go on", "gru_step", options=goes_on)
    for title, file, names in (
        ("LSTMCell", "lstm_cell", ("h", "c")),
        ("GRUCell", "gru_cell", ("h",)),
        ("three cells, stacked", "stacked_cells", ("h0", "h1", "h2")),
    ):
        state = [{"input": name, "output": f"Identity_{i}:0"} for i, name in enumerate(names, 1)]
        refused = "If the next values come in the order of the inputs, write state: [{input: h"
        yield _specimen(title, file, refused=refused)
        yield _specimen("the same, written", file, options={"state": state})


def _specimen(name: str, file: str, **more: Any) -> Specimen:
    with zipfile.ZipFile(GRAPHS) as packed:
        model = onnx.load_from_string(packed.read(f"{file}.onnx"))
    port = model.graph.input[0]
    width = 1 if "vocab" in more else F
    return Specimen(name, KERAS, model, {port.name: width}, _recorded(file, port.name), **more)


def _recorded(file: str, name: str) -> Callable[[Arrays], Arrays]:
    """What Keras answered to these numbers."""

    def whole(x: Arrays) -> Arrays:
        with np.load(ANSWERS) as answers:
            for i in range(sum(len(cuts) - 1 for _, cuts in CUTS)):
                if np.array_equal(answers[f"{file}.x.{i}"], x[name]):
                    return {str(answers[f"{file}.output"]): answers[f"{file}.y.{i}"]}
        raise LookupError(f"{file}: nothing was recorded for these inputs; make the files anew")

    return whole


def make() -> None:
    """Make the files anew."""
    import keras
    import onnx_keras_models

    answers: dict[str, Any] = {}
    graphs: dict[str, bytes] = {}
    for file, model, kind in onnx_keras_models.models(F, H, VOCAB):
        for i, x in enumerate(_cuts(kind)):
            answers[f"{file}.x.{i}"] = x
            answers[f"{file}.y.{i}"] = _answer(keras, model, x)
        # The state that a layer has now would become the one to begin with.
        _forget(model)
        # Keras would make a fixed number of rows free, but for this.
        shapes = [each.shape for each in model.inputs]
        fixed = [keras.InputSpec(shape=shape, dtype="float32", name="x") for shape in shapes if shape[0]]
        more = {"input_signature": fixed} if fixed else {}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "m.onnx"
            model.export(path, format="onnx", verbose=False, **more)
            graphs[f"{file}.onnx"] = path.read_bytes()
        answers[f"{file}.output"] = onnx.load_from_string(graphs[f"{file}.onnx"]).graph.output[0].name
    np.savez_compressed(ANSWERS, **answers)
    with zipfile.ZipFile(GRAPHS, "w", zipfile.ZIP_LZMA) as packed:
        for name, stored in graphs.items():
            packed.writestr(zipfile.ZipInfo(name), stored, zipfile.ZIP_LZMA)


def _cuts(kind: str) -> Iterator[Any]:
    vocab = VOCAB if kind == "indices" else 0
    drawn = draw({"x": 1 if vocab else F}, vocab, kind == "silent")
    for key, cuts in CUTS:
        for a, b in pairwise(cuts):
            yield drawn[key]["x"][a:b]


def _answer(keras: Any, model: Any, x: Any) -> Any:
    """The first output for a whole sequence [t, width], states beginning at zero.

    A model of one step, or of the last answer only, is asked again for each.
    """
    _forget(model)
    rows, steps, *sizes = (*model.inputs[0].shape,)
    if steps and not sizes:
        return _step_by_step(model, x)
    x = np.repeat(x.reshape(1, len(x), *sizes), rows or 1, 0)
    states = [np.zeros((1, *each.shape[1:]), np.float32) for each in model.inputs[1:]]

    def asked(part: Any) -> Any:
        found = model([part, *states] if states else part)
        return np.asarray(found[0] if states else found)[0]

    if steps == 1:
        return np.concatenate([asked(x[:, k : k + 1]) for k in range(x.shape[1])])
    if len(model.outputs[0].shape) < 3:
        return np.stack([asked(x[:, : k + 1]) for k in range(x.shape[1])])
    return asked(x)


def _forget(model: Any) -> None:
    for layer in model.layers:
        if getattr(layer, "stateful", False):
            layer.reset_states()


def _step_by_step(model: Any, x: Any) -> Any:
    states = [np.zeros((1, *each.shape[1:]), np.float32) for each in model.inputs[1:]]
    answers = []
    for row in x:
        y, *states = (np.asarray(each) for each in model([row[None], *states]))
        answers.append(y[0])
    return np.stack(answers)


if __name__ == "__main__":
    make()
