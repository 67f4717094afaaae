"""What a file of weights is by its first bytes."""

import json
import pickle

import numpy as np
import pytest
from safetensors.numpy import load, save

from streamrnn.formats import foreign_format


@pytest.mark.parametrize("length", [*range(200, 4000, 8), 25384])
def test_no_length_of_a_header_makes_safetensors_something_else(length):
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).ljust(length).encode()
    stored = len(header).to_bytes(8, "little") + header + b"\0" * 4
    assert load(stored)["w"].shape == (1,)
    assert foreign_format(stored[:64]) is None


def test_pickles_are_named():
    for protocol in range(6):
        stored = pickle.dumps({"w": np.float32}, protocol=protocol)
        found = foreign_format(stored[:64])
        assert protocol < 2 or found == "a pickle, which can run code when it is read"
    assert foreign_format(save({"w": np.zeros(3, np.float32)})[:64]) is None
