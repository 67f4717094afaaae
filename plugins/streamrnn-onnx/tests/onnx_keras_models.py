"""The Keras models of the zoo; their weights come from a seed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
from keras import layers

Model = tuple[str, Any, str]
"""A file's name, the model, and what it is given: "numbers", "silent" with zeros among them, or "indices"."""


class Decay(layers.Layer):
    """A cell of one's own: two states that decay, of which one is slower."""

    def __init__(self, units: int, **more: Any) -> None:
        super().__init__(**more)
        self.state_size = [units, units]
        self.output_size = units
        self.dense = layers.Dense(units)

    def build(self, shape: Any) -> None:
        """See Keras."""
        self.dense.build(shape)
        super().build(shape)

    def call(self, x: Any, states: Any) -> Any:
        """See Keras."""
        fast, slow = states
        fast = 0.5 * fast + keras.ops.tanh(self.dense(x))
        slow = 0.9 * slow + 0.1 * fast
        return fast - slow, [fast, slow]


def models(width: int, hidden: int, vocab: int) -> Iterator[Model]:
    """All of them."""
    keras.utils.set_random_seed(3)
    for made in (_stacks(width, hidden), _stateful(width, hidden), _embedded(width, hidden, vocab)):
        yield from made
    yield from _with_state(width, hidden)
    yield from _cells(width, hidden)


def _over(shape: Any, *made: Any, **more: Any) -> Any:
    x = y = keras.Input(shape, name="x", **more)
    for layer in made:
        y = layer(y)
    return keras.Model(x, y)


def _stacks(width: int, hidden: int) -> Iterator[Model]:
    whole = {"return_sequences": True}

    def stack(name: str, *made: Any, kind: str = "numbers") -> Model:
        return name, _over((None, width), *made, layers.Dense(3)), kind

    yield stack("lstm", layers.LSTM(hidden, **whole))
    yield stack("lstm_2", layers.LSTM(hidden, **whole), layers.LSTM(hidden, **whole))
    yield stack("lstm_last", layers.LSTM(hidden))
    yield stack("lstm_both", layers.Bidirectional(layers.LSTM(hidden, **whole)))
    yield stack("gru", layers.GRU(hidden, **whole))
    yield stack("gru_last", layers.GRU(hidden))
    yield stack("gru_both", layers.Bidirectional(layers.GRU(hidden, **whole)))
    yield stack("gru_backwards", layers.GRU(hidden, go_backwards=True, **whole))
    yield stack("rnn", layers.SimpleRNN(hidden, **whole))
    kinds = layers.LSTM, layers.GRU, layers.SimpleRNN
    yield stack("mixed", *(kind(hidden, **whole) for kind in kinds))
    heads = layers.TimeDistributed(layers.Dense(4, activation="relu"))
    yield stack("gru_distributed", layers.GRU(hidden, **whole), heads)
    masked = [layers.Masking(0.0), layers.GRU(hidden, **whole), layers.LSTM(hidden, **whole)]
    yield stack("masked", *masked, kind="silent")
    yield stack("conv_gru", layers.Conv1D(5, 3, padding="causal"), layers.GRU(hidden, **whole))
    yield stack("rnn_of_cells", layers.RNN([layers.GRUCell(hidden) for _ in range(3)], **whole))
    yield stack("rnn_of_own", layers.RNN(Decay(hidden), **whole))
    image = layers.ConvLSTM1D(2, 2, padding="same", **whole)
    yield "conv_lstm", _over((None, width // 2, 2), image), "numbers"


def _stateful(width: int, hidden: int) -> Iterator[Model]:
    on = {"return_sequences": True, "stateful": True}
    for name, kind, rows, steps in (
        ("gru_stateful", layers.GRU, 1, None),
        ("gru_stateful_4", layers.GRU, 4, None),
        ("lstm_stateful", layers.LSTM, 1, None),
        ("gru_step", layers.GRU, 1, 1),
    ):
        layer, head = kind(hidden, **on), layers.Dense(3)
        yield name, _over(None, layer, head, batch_shape=(rows, steps, width)), "numbers"


def _embedded(width: int, hidden: int, vocab: int) -> Iterator[Model]:
    x = keras.Input((None, 1), name="x", dtype="int32")
    embedded = layers.Reshape((-1, width))(layers.Embedding(vocab, width)(x))
    y = layers.Dense(3)(layers.LSTM(hidden, return_sequences=True)(embedded))
    yield "lstm_embedding", keras.Model(x, y), "indices"
    x = keras.Input((None,), name="x", dtype="int32")
    y = layers.GRU(hidden, return_sequences=True)(layers.Embedding(vocab, width, mask_zero=True)(x))
    yield "gru_embedding", keras.Model(x, layers.Dense(3)(y)), "indices"


def _with_state(width: int, hidden: int) -> Iterator[Model]:
    both = {"return_sequences": True, "return_state": True}
    for name, layer, states in (
        ("lstm_state", layers.LSTM(hidden, **both), ("h", "c")),
        ("gru_state", layers.GRU(hidden, **both), ("h",)),
        ("gru_before_state", layers.GRU(hidden, reset_after=False, **both), ("h",)),
        ("rnn_state", layers.SimpleRNN(hidden, **both), ("h",)),
    ):
        x = keras.Input((None, width), name="x")
        given = [keras.Input((hidden,), name=state) for state in states]
        y, *after = layer(x, initial_state=given)
        yield name, keras.Model([x, *given], [layers.Dense(3)(y), *after]), "numbers"


def _cells(width: int, hidden: int) -> Iterator[Model]:
    for name, cell, states in (
        ("lstm_cell", layers.LSTMCell(hidden), ("h", "c")),
        ("gru_cell", layers.GRUCell(hidden), ("h",)),
        (
            "stacked_cells",
            layers.StackedRNNCells([layers.GRUCell(hidden) for _ in range(3)]),
            ("h0", "h1", "h2"),
        ),
    ):
        x = keras.Input((width,), name="x")
        given = [keras.Input((hidden,), name=state) for state in states]
        y, after = cell(x, given)
        outputs = [layers.Dense(3)(y), *keras.tree.flatten(after)]
        yield name, keras.Model([x, *given], outputs), "numbers"
