"""State in the variables of Loop and Scan nodes: given, hidden and exposed, or refused with the reason."""

from __future__ import annotations

import onnx_zoo
import onnx_zoo_keras
import onnx_zoo_loops
import pytest

BY_HAND = list(onnx_zoo_loops.specimens())
EVERY_DAY = (
    "LSTM, 2 layers, state hidden",
    "GRU, LSTM and Masking of silent steps",
    "GRUCell",
    "GRU, both ways",
)


@pytest.mark.parametrize("specimen", BY_HAND, ids=lambda specimen: specimen.name)
def test_a_loop_is_wired_rightly_or_refused_for_the_right_reason(specimen):
    assert onnx_zoo.check(specimen).wrong == ""


@pytest.mark.parametrize(
    "specimen", [s for s in onnx_zoo_keras.specimens() if s.name in EVERY_DAY], ids=lambda s: s.name
)
def test_a_keras_export_answers_as_keras_did(specimen):
    assert onnx_zoo.check(specimen).wrong == ""
