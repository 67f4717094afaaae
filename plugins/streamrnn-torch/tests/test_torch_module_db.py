"""PyTorch's own list of recurrent modules, configured: each is computed right, or refused with the reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
pytest.importorskip("expecttest", reason="PyTorch's test suite needs expecttest")

from safetensors.torch import save_file
from streamrnn_torch.models import build
from streamrnn_torch.options import TorchConfig
from torch import nn
from torch.testing._internal.common_modules import module_db

from streamrnn.backend import TensorSpec
from streamrnn.context import Context
from streamrnn.core.probe import ByRow
from streamrnn.errors import OptionError

LAYERS = (nn.RNN, nn.LSTM, nn.GRU)
CELLS = (nn.RNNCell, nn.LSTMCell, nn.GRUCell)


def configurations() -> Iterator[Any]:
    for info in module_db:
        if info.module_cls in (*LAYERS, *CELLS):
            inputs = info.module_inputs_func(info, "cpu", torch.float32, False, False)
            for number, each in enumerate(inputs):
                given = each.constructor_input
                yield pytest.param(
                    info.module_cls, given.args, given.kwargs, id=f"{info.module_cls.__name__}-{number}"
                )


CONFIGURATIONS = list(configurations())


def section(module: nn.Module) -> dict[str, Any]:
    """The layer in a pipeline file that stands for a module."""
    kind = type(module).__name__.removesuffix("Cell").lower()
    layer: dict[str, Any] = {"type": kind, "hidden": module.hidden_size, "weights": "r"}
    if isinstance(module, nn.RNNBase):
        layer["layers"] = module.num_layers
        layer |= {"bidirectional": True} if module.bidirectional else {}
        layer |= {"proj": module.proj_size} if module.proj_size else {}
    if kind == "rnn":
        layer["activation"] = module.nonlinearity
    return layer


def load(module: nn.Module, folder: Path) -> Any:
    suffix = "_l0" if isinstance(module, nn.RNNCellBase) else ""
    weights = {f"r.{name}{suffix}": value.detach() for name, value in module.state_dict().items()}
    save_file(weights, folder / "m.safetensors")
    config = TorchConfig.model_validate({"path": "m.safetensors", "layers": [section(module)]})
    given = {"x": TensorSpec("x", (module.input_size,), "float64")}
    return build(config, given, Context(base_dir=folder))


@torch.inference_mode()
def whole(module: nn.Module, x: np.ndarray, states: list[np.ndarray]) -> np.ndarray:
    """The module over sequences [t, n, w] from states [layers, n, size]."""
    given = tuple(map(torch.from_numpy, states))
    if isinstance(module, nn.RNNBase):
        sequence = torch.from_numpy(x)
        packed = given if len(given) > 1 else given[0]
        y = module(sequence.transpose(0, 1) if module.batch_first else sequence, packed)[0]
        return (y.transpose(0, 1) if module.batch_first else y).numpy()
    told, state = [], tuple(part[0] for part in given)
    for events in torch.from_numpy(x):
        new = module(events, state if len(state) > 1 else state[0])
        state = new if isinstance(new, tuple) else (new,)
        told.append(state[0].numpy())
    return np.stack(told)


@pytest.mark.parametrize(("kind", "args", "kwargs"), CONFIGURATIONS)
def test_a_configuration_is_computed_right_or_refused(
    tmp_path: Path, kind: type, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    module = kind(*args, **kwargs).eval()
    if kwargs.get("bidirectional"):
        with pytest.raises(OptionError, match="a backward pass starts at the end of the stream"):
            load(module, tmp_path)
        return
    backend = load(module, tmp_path)
    backend.open()
    rng = np.random.default_rng(0)
    x = rng.standard_normal((11, 3, module.input_size)).astype(np.float32)
    first = {t.name: rng.uniform(-1, 1, (3, *t.shape)).astype(np.float32) for t in backend.state.tensors}
    kept = "hc" if "LSTM" in kind.__name__ else "h"
    layers = getattr(module, "num_layers", 1)
    states = [np.stack([first[f"r.{letter}{k}"] for k in range(layers)]) for letter in kept]
    expected = whole(module, x, states)
    rows, state, told = ByRow(backend, 3), first, []
    for events in x:
        state, y = rows.step(state, {"x": events}, 3)
        told.append(y["y"])
    assert np.allclose(np.stack(told), expected, atol=1e-6)
    _, scanned, bad_at = rows.scan(first, {"x": x.transpose(1, 0, 2)}, np.full(3, 11))
    backend.close()
    assert np.allclose(scanned["y"].transpose(1, 0, 2), expected, atol=1e-6)
    assert bad_at.tolist() == [-1] * 3


def test_all_of_them_are_there() -> None:
    kinds = Counter(param.values[0].__name__ for param in CONFIGURATIONS)
    options = [param.values[2] for param in CONFIGURATIONS]
    assert kinds == {"RNN": 32, "LSTM": 32, "GRU": 16, "RNNCell": 3, "GRUCell": 2, "LSTMCell": 2}
    assert sum(bool(each.get("bidirectional")) for each in options) == 40
    assert sum("proj_size" in each for each in options) == 32
