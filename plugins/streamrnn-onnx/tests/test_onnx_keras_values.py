"""The values that Keras's own tests expect of constant weights, from `layers` on numpy and on ONNX Runtime.

They are those of lstm_test.py, gru_test.py and simple_rnn_test.py in keras/src/layers/rnn of Keras 3.15.
Input weights are 0.01, recurrent ones 0.02, biases 0.03; inputs count up from 0. Last answers are compared.
By hand: Keras's gates of an LSTM stand in PyTorch's order and only its first bias has numbers, of which those
of the forget gate are 1 unless told otherwise; a GRU with reset_after has both biases.
"""

from __future__ import annotations

import numpy as np
import pytest
from streamrnn_onnx.config import OnnxConfig
from streamrnn_onnx.loading import build

from streamrnn.backend import TensorSpec
from streamrnn.backends.layers import build as build_numpy
from streamrnn.builtins.numpy_layers import NumpyConfig
from streamrnn.context import Context

GATES = {"rnn": 1, "gru": 3, "lstm": 4}
LONG, SHORT, WIDE = (3, 6, 4), (2, 3, 4), (2, 4, 3)


def layer(kind, inputs, hidden, first_bias, second_bias=None, **options):
    """`first_bias` has a number for each gate, or is one for all."""
    rows = GATES[kind] * hidden
    weights = {"weight_ih": np.full((rows, inputs), 0.01), "weight_hh": np.full((rows, hidden), 0.02)}
    for name, bias in (("bias_ih", first_bias), ("bias_hh", second_bias)):
        gates = np.broadcast_to(0.0 if bias is None else bias, GATES[kind])
        weights[name] = np.repeat(gates, hidden)
    lists = {f"{name}_l0": array.tolist() for name, array in weights.items()}
    return {"layers": [{"type": kind, "hidden": hidden, **options, "weights": lists}]}


FORGETS = (0.03, 1.0, 0.03, 0.03)
LSTM, LSTM_4, LSTM_2 = (layer("lstm", *sizes, FORGETS) for sizes in ((4, 3), (4, 4), (3, 2)))
GRU, GRU_4, GRU_2 = (layer("gru", *sizes, 0.03, 0.03) for sizes in ((4, 3), (4, 4), (3, 2)))
RNN, RNN_4 = (layer("rnn", inputs, 4, 0.03) for inputs in (4, 3))
COUNTED = {"h": [[0, 1], [2, 3]]}

VALUES = [
    ("LSTM", LSTM, LONG, {}, 1, [0.6288687, 0.86899155, 0.9460773]),
    ("LSTM, no unit_forget_bias", layer("lstm", 4, 3, 0.03), LONG, {}, 1, [0.57019705, 0.8661914, 0.9459622]),
    ("LSTM, use_bias=False", layer("lstm", 4, 3, None), LONG, {}, 1, [0.54986924, 0.86226785, 0.9443936]),
    ("LSTM, stateful", LSTM_4, SHORT, {}, 2, [0.3124785, 0.6863672]),
    (
        "LSTM, initial state", LSTM_2, WIDE, {"h": COUNTED["h"], "c": COUNTED["h"]}, 1,
        [[0.20574439, 0.3558822], [0.64930826, 0.66276]],
    ),
    ("GRU", GRU, LONG, {}, 1, [0.5217289, 0.6371659, 0.39384964]),
    (
        "GRU, reset_after=False", layer("gru", 4, 3, 0.03, reset_after=False), LONG, {}, 1,
        [0.51447755, 0.6426879, 0.40208298],
    ),
    ("GRU, use_bias=False", layer("gru", 4, 3, None), LONG, {}, 1, [0.49988455, 0.64701194, 0.4103359]),
    ("GRU, stateful", GRU_4, SHORT, {}, 2, [0.29542392, 0.5885018]),
    ("GRU, initial state", GRU_2, WIDE, COUNTED, 1, [[0.23774096, 0.33508456], [0.83659905, 1.0227708]]),
    ("SimpleRNN", RNN, SHORT, {}, 1, [0.405432, 0.73605347]),
    ("SimpleRNN, stateful", RNN, SHORT, {}, 2, [0.40559256, 0.7361247]),
    ("SimpleRNN, initial state", RNN_4, WIDE, {"h": [range(4), range(4, 8)]}, 1, [0.33621645, 0.6262637]),
]  # fmt: skip


@pytest.mark.parametrize("backend", ["numpy", "onnx"])
@pytest.mark.parametrize(
    ("options", "sizes", "begins", "times", "last"), [case[1:] for case in VALUES], ids=[v[0] for v in VALUES]
)
def test_the_last_answer_is_the_one_that_keras_expects(backend, options, sizes, begins, times, last):
    given = {"x": TensorSpec("x", sizes[2:], "float64")}
    make, config = {"numpy": (build_numpy, NumpyConfig), "onnx": (build, OnnxConfig)}[backend]
    model = make(config.model_validate(options), given, Context())
    state = {
        tensor.name: first_state(tensor, begins.get(tensor.name[-2], 0), sizes[0])
        for tensor in model.state.tensors
    }
    x = np.arange(np.prod(sizes)).reshape(sizes).astype(np.float32)
    for _ in range(times):
        for k in range(sizes[1]):
            state, y = model.step(state, {"x": x[:, k]})
    (answer,) = y.values()
    expected = np.array(last) if np.ndim(last) == 2 else np.array(last)[:, None]
    np.testing.assert_allclose(answer, np.broadcast_to(expected, answer.shape), rtol=1e-5, atol=1e-5)


def first_state(tensor, value, rows):
    """[rows, *shape] with the rows where the state has them."""
    whole = np.zeros((rows, *tensor.shape), tensor.dtype)
    whole[:] = np.reshape(value, (rows, *tensor.shape)) if np.ndim(value) else value
    return np.moveaxis(whole, 0, tensor.batch_axis)
