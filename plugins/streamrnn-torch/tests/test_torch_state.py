"""A snapshot moves between backends of one model, and between slabs of numpy and of tensors."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")

from streamrnn_torch.backend import TorchLayers
from streamrnn_torch.models import build
from streamrnn_torch.options import TorchConfig
from test_torch_layers import random_model

from streamrnn.backends.layers import build as build_numpy
from streamrnn.builtins.numpy_layers import NumpyConfig
from streamrnn.context import Context
from streamrnn.core import Core
from streamrnn.events import Batch
from streamrnn.layers.loading import LoadedModel

MAKERS = {
    "numpy": lambda options, *rest: build_numpy(NumpyConfig.model_validate(options), *rest),
    "torch": lambda options, *rest: build(TorchConfig.model_validate(options), *rest),
    "tensors": lambda options, *rest: TorchLayers(
        LoadedModel(config := TorchConfig.model_validate(options), *rest), config, own_slab=True
    ),
    "bfloat16": lambda options, *rest: TorchLayers(
        LoadedModel(config := TorchConfig.model_validate({**options, "dtype": "bfloat16"}), *rest),
        config,
        own_slab=True,
    ),
}


def onnx(options: dict[str, Any], *rest: Any) -> Any:
    pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    loading = pytest.importorskip("streamrnn_onnx.loading", reason="streamrnn-onnx is not installed")
    config = import_module("streamrnn_onnx.config").OnnxConfig.model_validate(options)
    return loading.build(config, *rest)


MAKERS["onnx"] = onnx


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("first", "second", "tolerance"),
    [
        ("numpy", "torch", 1e-5),
        ("torch", "numpy", 1e-5),
        ("tensors", "numpy", 1e-5),
        ("numpy", "tensors", 1e-5),
        ("torch", "tensors", 0.0),
        ("onnx", "tensors", 1e-5),
        ("torch", "onnx", 1e-5),
        ("onnx", "numpy", 1e-5),
        ("bfloat16", "torch", 0.1),
    ],
)
def test_a_snapshot_goes_on_elsewhere(
    tmp_path: Path, seed: int, first: str, second: str, tolerance: float
) -> None:
    rng = np.random.default_rng(seed)
    layers, given = random_model(rng, tmp_path)
    options, context = {"path": "m.safetensors", "layers": layers}, Context(base_dir=tmp_path)
    cores = []
    for name in (first, first, second):
        backend = MAKERS[name](options, given, context)
        backend.open()
        cores.append(Core(backend))
    x = rng.standard_normal((200, *given["x"].shape)).astype(np.float32)
    keys = rng.choice(list("abcdefgh"), 200, p=[0.6] + [0.4 / 7] * 7).tolist()
    before, after = (Batch(keys[part], {"x": x[part]}) for part in (slice(0, 120), slice(120, 200)))
    cores[0].process(before)
    snapshot = cores[0].snapshot()
    assert cores[1].restore([snapshot]) is None
    note = cores[2].restore([snapshot])
    assert (note is None) is (tolerance == 0)
    expected, same, found = (core.process(after).y["y"] for core in cores)
    assert same.tobytes() == expected.tobytes()
    assert np.allclose(found, expected, rtol=tolerance, atol=tolerance)
    for core in cores:
        core.backend.close()
