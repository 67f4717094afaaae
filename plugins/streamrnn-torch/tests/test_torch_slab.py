"""The slab of tensors does what the slab of numpy arrays does, alone and inside the core."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from streamrnn_torch.backend import TorchLayers
from streamrnn_torch.options import TorchConfig
from streamrnn_torch.slab import DeviceSlab
from test_torch_layers import random_model
from torch_gpu import MARKS, needs_gpu

from streamrnn.backend import FirstInput, StateSpec, StateTensor
from streamrnn.conformance import check_slab
from streamrnn.context import Context
from streamrnn.core import Core
from streamrnn.core.probe import difference
from streamrnn.events import Batch
from streamrnn.layers.loading import LoadedModel
from streamrnn.limits import Limits
from streamrnn.resets.rules import Every

SPEC = StateSpec(
    (
        StateTensor("h", (2, 3), batch_axis=1, initial=[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]),
        StateTensor("n", (), "int64", initial=7),
        StateTensor("first", (2,), initial=FirstInput("x")),
        StateTensor("wide", (3,), "float64", initial=0.5),
    )
)
STORED = {"h": torch.float32, "n": torch.int64, "first": torch.float32, "wide": torch.float64}


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=MARKS)])
@pytest.mark.parametrize("seed", range(20))
def test_both_slabs_store_alike(seed: int, device: str) -> None:
    check_slab(lambda capacity: DeviceSlab(SPEC, capacity, torch.device(device), STORED), SPEC, seed)


@pytest.mark.parametrize("seed", range(12))
def test_a_core_with_either_gives_the_same_bits(tmp_path: Path, seed: int) -> None:
    """Resets, evictions, events that the guard refuses, cuts and a snapshot on the way."""
    rng = np.random.default_rng(seed)
    layers, given = random_model(rng, tmp_path)
    config = TorchConfig.model_validate({"path": "m.safetensors", "layers": layers})
    cores = []
    for own_slab in (False, True):
        model = LoadedModel(config, given, Context(base_dir=tmp_path))
        backend = TorchLayers(model, config, own_slab)
        backend.open()
        guard = ("keep_previous", "reset", "quarantine")[seed % 3]
        limits = Limits(max_keys=6, max_state_norm=2.5 if seed % 2 else None, guard=guard)
        cores.append(Core(backend, [Every("every", "initial", "after", 7)], limits=limits))
    x = rng.standard_normal((400, *given["x"].shape)).astype(np.float32)
    x[rng.random(400) < 0.02] = np.inf
    keys = rng.choice(list("abcdefghij"), 400, p=[0.55] + [0.05] * 9).tolist()
    start = 0
    while start < 400:
        stop = start + int(rng.integers(1, 90))
        found = []
        for core in cores:
            outputs = core.process(Batch(keys[start:stop], {"x": x[start:stop]}))
            found.append([outputs.y["y"].tobytes(), outputs.refused, outputs.steps.tolist()])
        assert found[0] == found[1]
        start = stop
    assert cores[0].snapshot() == cores[1].snapshot()
    for core in cores:
        core.backend.close()


@needs_gpu
@pytest.mark.parametrize("seed", range(6))
def test_a_core_on_a_gpu_goes_on_from_a_snapshot_as_on_the_cpu(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    layers, given = random_model(rng, tmp_path)

    def core(device: str) -> Core:
        config = TorchConfig.model_validate({"path": "m.safetensors", "layers": layers, "device": device})
        backend = TorchLayers(LoadedModel(config, given, Context(base_dir=tmp_path)), config)
        backend.open()
        return Core(backend, [Every("every", "initial", "after", 7)], limits=Limits(max_keys=6))

    on_cpu, on_gpu = core("cpu"), core("cuda")
    x = rng.standard_normal((400, *given["x"].shape)).astype(np.float32)
    keys = rng.choice(list("abcdefghij"), 400, p=[0.55] + [0.05] * 9).tolist()
    for start in range(0, 400, 50):
        if start == 200:
            kept, on_gpu = on_gpu.snapshot(), core("cuda")
            assert on_gpu.restore([kept]) is None
        batch = [
            one.process(Batch(keys[start : start + 50], {"x": x[start : start + 50]}))
            for one in (on_cpu, on_gpu)
        ]
        assert not difference(batch[1].y, batch[0].y, 1e-4)
        assert batch[1].steps.tolist() == batch[0].steps.tolist()
    told = core("cpu").restore([on_gpu.snapshot()])
    assert told is not None, "another device computes other bits, which a person is to know"
