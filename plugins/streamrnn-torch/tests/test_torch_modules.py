"""Modules of one's own: how they are understood, served and refused."""

from __future__ import annotations

import pickle
import shutil
import sys
import warnings
from concurrent.futures import ProcessPoolExecutor
from dataclasses import astuple
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from safetensors.torch import save_file
from streamrnn_torch.models import build_module, describe_module
from streamrnn_torch.module_backend import TorchModule
from streamrnn_torch.module_explain import explain
from streamrnn_torch.options import TorchModuleConfig
from torch_gpu import needs_gpu

from streamrnn.backend import TensorSpec
from streamrnn.config.load import load_pipeline
from streamrnn.conformance import BackendConformance
from streamrnn.context import Context
from streamrnn.core.probe import ByRow, Verdict, probe
from streamrnn.errors import ConfigError, ModelError, OptionError
from streamrnn.explain import explain_file
from streamrnn.registry import Registry
from streamrnn.testing import quiet_context, run_pipeline

NETS = Path(__file__).parent / "nets"
X3 = {"x": TensorSpec("x", (3,), "float64")}
ID_AND_NUM = {"id": TensorSpec("id", (1,), "int64", 4), "num": TensorSpec("num", (2,), "float64")}
COUNT = [{"name": "n", "shape": [1], "dtype": "int64"}]
STEP_LSTM = {"time_axis": 0}


def load(given: dict[str, TensorSpec] = X3, folder: Path = NETS, **options: Any) -> TorchModule:
    torch.manual_seed(0)  # weights of modules that are given none
    return build_module(TorchModuleConfig.model_validate(options), given, trusting(folder))


def trusting(folder: Path = NETS) -> Context:
    return Context(base_dir=folder, trusts_code=True)


def problems_of(given: dict[str, TensorSpec] = X3, folder: Path = NETS, **options: Any) -> list[str]:
    with pytest.raises(OptionError) as caught:
        load(given, folder, **options)
    return [f"{'.'.join(map(str, path))}: {text}" for path, text in caught.value.problems]


MODELS: dict[str, tuple[dict[str, Any], dict[str, TensorSpec]]] = {
    "dicts": ({"module": "alarm_net:Alarm"}, X3),
    "time first": ({"module": "odd_nets:Sequence", "time_axis": 0}, X3),
    "time second": (
        {"module": "odd_nets:Sequence", "args": {"batch_first": True, "kind": "GRU"}, "time_axis": 1},
        X3,
    ),
    "last step alone": (
        {"module": "odd_nets:Sequence", "args": {"batch_first": True, "last": True}, "time_axis": 1},
        X3,
    ),
    "named tuples": ({"module": "odd_nets:Named", "outputs": ["fast", "slow", "up"]}, ID_AND_NUM),
    "integers in place": ({"module": "odd_nets:Counter", "state": COUNT}, X3),
}


def module_of(backend: TorchModule) -> Any:
    call = backend.wiring.call
    return call if isinstance(call, torch.nn.Module) else call.__self__


class TestModules(BackendConformance):
    """Nothing is promised of a module's bits: what the probe finds on a machine holds there."""

    exact, own_slab = False, False

    @pytest.fixture(params=MODELS)
    def options(self, request):
        return MODELS[request.param]

    @pytest.fixture
    def backend(self, options):
        return self.load(*options)

    @pytest.fixture
    def reload(self, options):
        return self.load(*options)

    @pytest.fixture
    def description(self, options):
        torch.manual_seed(0)
        return describe_module(TorchModuleConfig.model_validate(options[0]), options[1], trusting())

    def load(self, options, given):
        made = load(given, **options)
        if not self.own_slab:
            return made
        again = load(given, **options)
        config = TorchModuleConfig.model_validate(options)
        module = again.wiring.call if isinstance(again.wiring.call, torch.nn.Module) else None
        return TorchModule(
            module or again.wiring.call.__self__, again.wiring, "digest", config, own_slab=True
        )


class TestModulesInASlabOfTensors(TestModules):
    own_slab = True


@needs_gpu
class TestModulesOnAGpu(TestModules):
    tolerance = 1e-5

    @pytest.fixture(params=MODELS)
    def options(self, request):
        options, given = MODELS[request.param]
        return {**options, "device": "cuda"}, given


def test_how_modules_are_understood() -> None:
    two = load(**MODELS["time second"][0])
    assert [(s.name, s.shape, s.batch_axis) for s in two.state.tensors] == [("h", (2, 5), 1)]
    assert [(s.name, s.shape, s.dtype) for s in two.outputs] == [("y", (2,), "float32")]
    assert two.scan is not None
    last = load(**MODELS["last step alone"][0])
    assert [(s.name, s.shape, s.batch_axis) for s in last.state.tensors] == [
        ("h", (2, 5), 1),
        ("c", (2, 5), 1),
    ]
    assert last.scan is None
    named = load(ID_AND_NUM, **MODELS["named tuples"][0])
    found = [(s.name, s.shape, s.batch_axis, np.asarray(s.initial).tolist()) for s in named.state.tensors]
    assert found == [("fast", (6,), 0, [0, 1, 2, 3, 4, 5]), ("slow", (6,), 1, [0] * 6)]
    assert [(s.name, s.shape, s.dtype) for s in named.outputs] == [
        ("fast", (6,), "float32"),
        ("slow", (6,), "float32"),
        ("up", (), "bool"),
    ]


EXPLAINED = {
    "dicts": [
        ("call", "step(x, state)", "", "returns (y, state); one event of each key in a call"),
        ("input", "x", "float32 [3]", "x itself, by event.inputs"),
        ("state", "h", "float32 [8]", "by initial_state(batch); rows on axis 0; begins as zeros"),
        ("state", "mean", "float32 [3]", "by initial_state(batch); rows on axis 0; begins as 0.5 throughout"),
        ("output", "score", "float32 [1]", "rows on axis 0"),
        ("output", "mean", "float32 [3]", "rows on axis 0"),
    ],
    "time second": [
        ("call", "forward(x, state)", "", "returns (y, state); several events of a key in one call"),
        ("input", "x", "float32 [3]", "x itself, with time on axis 1, by event.inputs"),
        ("state", "h", "float32 [2, 5]", "that of the only recurrent layer; rows on axis 1; begins as zeros"),
        ("output", "y", "float32 [2]", "rows on axis 0, time on axis 1"),
    ],
}


@pytest.mark.parametrize("name", EXPLAINED)
def test_how_a_module_is_understood_is_told(name: str) -> None:
    options, given = MODELS[name]
    facts = explain(TorchModuleConfig.model_validate(options), given, trusting())
    assert [astuple(fact) for fact in facts] == EXPLAINED[name]


@pytest.mark.parametrize(("given", "options"), [(g, o) for o, g in MODELS.values()], ids=list(MODELS))
def test_it_answers_as_the_module_does(given: dict[str, TensorSpec], options: dict[str, Any]) -> None:
    """Sequences of a key through the module itself, in one call where it has an axis of time."""
    backend = load(given, **options)
    rng = np.random.default_rng(0)
    x = {
        name: rng.integers(0, 4, (9, 1, *s.shape))
        if s.dtype == "int64"
        else rng.standard_normal((9, 1, *s.shape))
        for name, s in given.items()
    }
    rows = ByRow(backend, 1)
    state, told = rows.initial({n: v[0] for n, v in x.items()}, 1), []
    for k in range(9):
        events = {s.name: x[s.name][k].astype(s.dtype) for s in backend.inputs}
        state, y = rows.step(state, events, 1)
        told.append(y)
    expected = by_hand(backend, x, options)
    for name, values in expected.items():
        found = np.concatenate([y[name] for y in told])
        assert np.allclose(found[-len(values) :], values, atol=1e-6)


@torch.inference_mode()
def by_hand(backend: TorchModule, x: dict[str, np.ndarray], options: dict[str, Any]) -> dict[str, np.ndarray]:
    call, name = backend.wiring.call, options["module"].partition(":")[2]
    t = {
        n: torch.from_numpy(v).to(torch.int64 if v.dtype == np.int64 else torch.float32) for n, v in x.items()
    }
    if name == "Sequence":
        zeros = torch.zeros(2, 1, 5)
        state = zeros if options.get("args", {}).get("kind") == "GRU" else (zeros, zeros)
        y, _ = call(t["x"] if options["time_axis"] == 0 else t["x"].transpose(0, 1), state)
        return {"y": y.numpy().reshape(-1, 2)}
    state = torch.zeros(1, 1, dtype=torch.int64)
    if name != "Counter":
        state = module_of(backend).initial_state(1)
    told = []
    for k in range(9):
        y, state = call(t["x"][k] if len(t) == 1 else {n: v[k] for n, v in t.items()}, state)
        y = y if isinstance(y, dict | tuple) else (y.clone(),)
        told.append(y if isinstance(y, dict) else dict(zip(options.get("outputs", ["y"]), y, strict=True)))
    return {name: np.concatenate([y[name].numpy() for y in told]) for name in told[0]}


REFUSED = {
    "NoPair": "expected it to return (y, state), found a tensor [2, 3]",
    "Nameless": "outputs: expected 2 names for the 2 outputs of the module",
    "Shrinks": "the new state 'state': expected float32 [2, 3], as it was given, found torch.float32 [2, 2]",
    "Sums": "output 'y': expected one axis as long as the batch, found [3] for 2 rows and [3] for 3",
    "Renames": "the new state: expected a tensor, found a dict of state",
    "Raises": "it raises RuntimeError for x [2, 3] and the state state [2, 3]: mat1 and mat2 shapes",
    "Two": "state: missing; expected it, a method `initial_state(batch)` or one recurrent layer, found 2 of",
    "Unlike": "the initial state 'state': expected all rows alike, found two that differ",
    "Square": "the initial state 'state': expected one axis as long as the batch, found [2, 2] for 2 rows",
    "not_a_module": "module: expected odd_nets:not_a_module to make a torch.nn.Module, found int",
    "Absent": "module: odd_nets has no 'Absent'",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_can_be_read_in_two_ways_or_none_is_refused(name: str) -> None:
    (found,) = problems_of(module=f"odd_nets:{name}")
    assert REFUSED[name] in found


def test_options_that_do_not_fit_are_refused_together() -> None:
    state = [
        {"name": "a", "shape": [3], "batch_axis": 2},
        {"name": "a", "shape": [2], "init": [1.0, 2.0, 3.0]},
    ]
    found = problems_of(module="odd_nets:Mixes", state=state, state_as="tensor")
    assert [text.partition(":")[0] for text in found] == [
        "state.0.batch_axis",
        "state.1.init",
        "state.1.name",
        "state_as",
    ]
    assert problems_of(module="odd_nets:Mixes", state_as="dict") == [
        "state_as: it says how `state` is passed, and there is no `state`"
    ]
    assert problems_of()[0].startswith("module: missing; expected `package.module:Name`")
    (raised,) = problems_of(module="odd_nets:Fails", args={"size": 3})
    assert raised == "args: odd_nets:Fails raises ValueError: no size 3"
    (absent,) = problems_of(module="absent_nets:Fraud")
    assert absent.startswith(f"module: absent_nets cannot be imported from {NETS} or the environment")


def probed(**options: Any) -> Verdict:
    backend = load(**options)
    backend.open()
    verdict = probe(backend)
    backend.close()
    return verdict


def test_rows_that_mix_are_found_by_the_probe() -> None:
    verdict = probed(module="odd_nets:Mixes")
    assert verdict.numerics == "approximate"
    assert "answers otherwise than for each row alone" in verdict.reasons[0]


def test_functions_over_odd_widths_are_padded_until_rows_are_alike() -> None:
    verdict = probed(module="odd_nets:Gated")
    assert verdict.numerics == "batch_invariant"
    assert verdict.pad_rows in (0, 32)  # code without vectors needs none


def test_without_trust_nothing_is_imported(tmp_path: Path) -> None:
    (tmp_path / "canary_net.py").write_text("raise SystemExit('executed')\n")
    (tmp_path / "m.pt").write_bytes(b"")
    context = Context(base_dir=tmp_path)
    for options in ({"module": "canary_net:Net"}, {"path": "m.pt"}, {"path": "m.pt2"}):
        with pytest.raises(OptionError, match="runs code of its own; write `trust: code`"):
            build_module(TorchModuleConfig.model_validate(options), X3, context)
    assert "canary_net" not in sys.modules


def test_weights_must_fit_the_module(tmp_path: Path) -> None:
    shutil.copy(NETS / "alarm_net.py", tmp_path / "alarm_net_2.py")
    module = load(module="alarm_net:Alarm").wiring.call.__self__
    weights = module.state_dict()
    save_file(
        {**weights, "score.weight": torch.zeros(2, 8), "more": torch.zeros(1)}, tmp_path / "wrong.safetensors"
    )
    found = problems_of(folder=tmp_path, module="alarm_net_2:Alarm", path="wrong.safetensors")
    assert found == [
        "path: wrong.safetensors: more: not in the module",
        "path: wrong.safetensors: score.weight: expected [1, 8], found [2, 8]",
    ]
    torch.save(weights, tmp_path / "right.pt")
    right = load(folder=tmp_path, module="alarm_net_2:Alarm", path="right.pt")
    assert right.state.fingerprint
    torch.save(Path, tmp_path / "hostile.pt")
    (text,) = problems_of(folder=tmp_path, module="alarm_net_2:Alarm", path="hostile.pt")
    assert "path: hostile.pt cannot be read as weights: UnpicklingError" in text
    save_file({**weights, "score.bias": torch.tensor([torch.inf])}, tmp_path / "inf.safetensors")
    with pytest.raises(ModelError, match=r"score\.bias: expected finite numbers"):
        load(folder=tmp_path, module="alarm_net_2:Alarm", path="inf.safetensors")


class Hostile:
    """Writes a canary when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.canary,)


@pytest.mark.parametrize("form", ["new", "old", "bare", "nested"])
def test_a_pickle_is_not_executed_even_where_code_is_trusted(tmp_path: Path, form: str) -> None:
    load(module="odd_nets:Sequence", time_axis=0)  # found in its own folder, not in that of the file
    canary, file = tmp_path / "executed", tmp_path / "weights.pt"
    weights = {"score.bias": Hostile(canary)} if form == "nested" else Hostile(canary)
    if form == "bare":
        file.write_bytes(pickle.dumps(weights))
    else:
        torch.save(weights, file, _use_new_zipfile_serialization=form != "old")
    (text,) = problems_of(folder=tmp_path, module="odd_nets:Sequence", path="weights.pt", time_axis=0)
    assert text.startswith("path: weights.pt cannot be read as weights: ")
    assert not canary.exists()


def test_a_module_of_another_folder_is_not_taken_for_ones_own(tmp_path: Path) -> None:
    load(module="alarm_net:Alarm")
    shutil.copy(NETS / "alarm_net.py", tmp_path)
    (text,) = problems_of(folder=tmp_path, module="alarm_net:Alarm")
    assert f"is loaded from {NETS / 'alarm_net.py'} already" in text


def programs(folder: Path) -> None:
    """The module as TorchScript, as an exported program, and as one for two rows alone.

    To be called in a process of its own: after `torch.export.export` of an LSTM, PyTorch's ONNX exporter
    takes the steps of the next one for fixed.
    """
    module = load(module="odd_nets:Sequence", time_axis=0).wiring.call
    example = (torch.zeros(1, 2, 3), (torch.zeros(2, 2, 5), torch.zeros(2, 2, 5)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript warns that it is old
        torch.jit.save(torch.jit.trace(module, example, check_trace=False), folder / "m.pt")
        rows = torch.export.Dim("rows", min=2)
        dynamic = ({1: rows}, ({1: rows}, {1: rows}))
        torch.export.save(torch.export.export(module, example, dynamic_shapes=dynamic), folder / "m.pt2")
        torch.export.save(torch.export.export(module, example), folder / "fixed.pt2")


@pytest.mark.slow
def test_whole_programs_answer_as_the_module(tmp_path: Path) -> None:
    with ProcessPoolExecutor(1, get_context("spawn")) as apart:
        apart.submit(programs, tmp_path).result()
    state = [{"name": name, "shape": [2, 5], "batch_axis": 1} for name in "hc"]
    whole = load(module="odd_nets:Sequence", time_axis=0)
    x = np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32)
    zero = {name: np.zeros((2, 6, 5), np.float32) for name in "hc"}
    _, expected = whole.step(zero, {"x": x})
    for path in ("m.pt", "m.pt2"):
        program = load(folder=tmp_path, path=path, state=state, time_axis=0)
        assert (program.scan is None) is (path == "m.pt2")
        _, found = program.step(zero, {"x": x})
        assert np.allclose(found["y"].reshape(6, 2), expected["y"], atol=1e-6)
    (text,) = problems_of(folder=tmp_path, path="fixed.pt2", state=state, time_axis=0)
    assert text.startswith("path: it raises")


@pytest.mark.parametrize("name", ["alarm_net.py", "alarm.yaml"])
def test_the_readme_prints_the_example(name: str) -> None:
    assert (NETS / name).read_text() in (NETS.parent.parent / "README.md").read_text()


def test_a_module_runs_from_yaml_alone(tmp_path: Path) -> None:
    for name in ("alarm_net.py", "alarm.yaml"):
        shutil.copy(NETS / name, tmp_path / name.replace("alarm_net", "alarm_net_3"))
    text = (tmp_path / "alarm.yaml").read_text().replace("alarm_net", "alarm_net_3")
    torch.manual_seed(0)
    save_file(
        load(module="alarm_net:Alarm").wiring.call.__self__.state_dict(), tmp_path / "alarm.safetensors"
    )
    events = [
        {"machine": "a", "heat": 1, "load": 2, "noise": 3},
        {"machine": "a", "heat": 0, "load": 0, "noise": 0},
    ]
    context = quiet_context(base_dir=tmp_path)
    outputs, rejected = run_pipeline(text, events, context=context)
    assert rejected == []
    spec = load_pipeline(text, "alarm.yaml", Registry(), context, {})
    assert [fact.name for fact in explain_file(spec, context)][:2] == ["step(x, state)", "x"]
    assert [output["mean"] for output in outputs] == [
        pytest.approx([0.55, 0.65, 0.75]),
        pytest.approx([0.495, 0.585, 0.675]),
    ]
    with pytest.raises(
        ConfigError, match=r"model\.module: alarm_net_3:Alarm: it runs code of its own; write `trust: code`"
    ):
        run_pipeline(text.replace("trust: code\n", ""), events, context=context)
