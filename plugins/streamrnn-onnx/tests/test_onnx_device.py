"""States that stay with a provider: as in the host's memory, alone, in the core and over the conformance kit.

What runs on a GPU is run on the CPU too, where the same graphs move the states about.
"""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from onnx_graphs import saved
from streamrnn_onnx import OnnxConfig
from streamrnn_onnx.device import Device, DeviceArray
from streamrnn_onnx.device_slab import DeviceSlab
from streamrnn_onnx.layers import build as build_layers
from streamrnn_onnx.loading import build_graph
from streamrnn_onnx.model_file import read_model
from test_onnx_backend import GRAPHS, X
from test_onnx_layers import MODELS

from streamrnn.backend import FirstInput, StateSpec, StateTensor
from streamrnn.conformance import BackendConformance, check_slab
from streamrnn.context import Context
from streamrnn.core import Core
from streamrnn.core.probe import difference, draw
from streamrnn.core.wrap import WithContext
from streamrnn.events import Batch
from streamrnn.limits import Limits
from streamrnn.resets.rules import Every

HAS_CUDA = "CUDAExecutionProvider" in ort.get_available_providers()
PROVIDERS = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not HAS_CUDA, reason="this onnxruntime has no CUDA provider"),
        ],
    ),
]
SPEC = StateSpec(
    (
        StateTensor("h", (2, 3), batch_axis=1, initial=[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]),
        StateTensor("n", (), "int64", initial=7),
        StateTensor("first", (2,), initial=FirstInput("x")),
        StateTensor("wide", (3,), "float64", initial=0.5),
        StateTensor("half", (4,), "float16"),
        StateTensor("on", (1,), "bool", batch_axis=1),
    )
)
DEEP = ("gru", "lstm", "stacked", "plain step", "hidden lstm")
"""Graphs that take any number of rows."""


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("seed", range(10))
def test_both_slabs_store_alike(seed, provider):
    check_slab(lambda capacity: DeviceSlab(SPEC, capacity, Device(provider)), SPEC, seed)


def graph(name, folder, provider, on_device=True):
    """One of the graphs, its states on the device or in the host's memory."""
    path = saved(folder, GRAPHS[name]())
    config, context = OnnxConfig(path=path, providers=[provider]), Context(base_dir=folder)
    device = Device(provider) if on_device else None
    return build_graph(config, X, *read_model(config, context), device)


def layered(name, provider, on_device=True):
    """One of the models of layers, likewise."""
    options, given = MODELS[name]
    config = OnnxConfig.model_validate({**options, "providers": [provider]})
    return build_layers(config, given, Context(), Device(provider) if on_device else None)


@pytest.mark.parametrize("name", [*DEEP, *(name for name in MODELS if name != "no recurrence")])
@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_core_with_states_there_answers_as_with_states_here(tmp_path, name, provider):
    """Resets, evictions, events that the guard refuses, cuts and a snapshot on the way."""
    rng, cores = np.random.default_rng(len(name)), []
    for on_device in (False, True):
        where = "cpu" if not on_device else provider
        made = graph(name, tmp_path, where, on_device) if name in GRAPHS else layered(name, where, on_device)
        assert (made.make_slab is not None) == on_device
        made.open()
        limits = Limits(max_keys=6, max_state_norm=1e6, guard=("keep_previous", "reset")[len(name) % 2])
        cores.append(Core(made, [Every("every", "initial", "after", 7)], limits=limits))
    x = {spec.name: draw(spec, 300, rng) for spec in cores[0].backend.inputs}
    if provider == "cpu":  # what becomes of infinity is the operators' own on each device
        x["x"][rng.random(300) < 0.02] = np.inf
    keys = rng.choice(list("abcdefghij"), 300, p=[0.55] + [0.05] * 9).tolist()
    start = 0
    while start < 300:
        stop = start + int(rng.integers(1, 90))
        batch = [
            core.process(Batch(keys[start:stop], {n: a[start:stop] for n, a in x.items()})) for core in cores
        ]
        here, there = batch
        assert there.refused == here.refused
        assert there.steps.tolist() == here.steps.tolist()
        assert not difference(there.y, here.y, None if provider == "cpu" else 1e-4)
        start = stop
    if provider == "cpu" and name in GRAPHS:
        assert cores[0].snapshot() == cores[1].snapshot()
    for core in cores:
        core.backend.close()


class TestStateOfAGraph(BackendConformance):
    @pytest.fixture(params=PROVIDERS)
    def provider(self, request):
        return request.param

    def settle(self, provider):
        """On a GPU nothing is promised of the bits."""
        self.exact, self.tolerance = provider == "cpu", 1e-5

    @pytest.fixture(params=DEEP)
    def backend(self, request, provider, tmp_path):
        self.settle(provider)
        return graph(request.param, tmp_path, provider)


class TestStateOfLayers(TestStateOfAGraph):
    @pytest.fixture(params=["gru", "lstm of three", "lstm with projection", "embedding and numbers"])
    def backend(self, request, provider):
        self.settle(provider)
        return layered(request.param, provider)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_state_there_that_is_not_finite_is_refused(tmp_path, provider):
    core = Core(graph("plain step", tmp_path, provider))
    x = np.ones((6, 5), np.float32)
    x[3, 2] = np.nan
    outputs = core.process(Batch(["a", "b", "a", "a", "b", "a"], {"x": x}))
    assert list(outputs.refused) == [3]
    assert outputs.steps.tolist() == [1, 1, 2, 2, 3]


def test_a_call_of_few_rows_has_its_states_in_the_hosts_memory(tmp_path):
    made = graph("fixed batch", tmp_path, "cpu")
    assert (made.max_rows, made.make_slab) == (1, None)


def test_a_context_is_kept_here_beside_a_state_there(tmp_path):
    made = WithContext(graph("gru", tmp_path, "cpu"), {"x": 2})
    slab, x = made.make_slab(3), {"x": np.ones((3, 3))}
    state, _ = made.step(slab.take(np.arange(3), np.ones(3, np.int8), x), x)
    found = {name: type(array) for name, array in state.items()}
    assert found == {"h0": DeviceArray, "context.x": np.ndarray}
    slab.put(np.arange(3), state, np.array([True, False, True]))
    assert slab.read(np.arange(3))["context.x"].tolist() == [[1, 1], [0, 0], [1, 1]]
