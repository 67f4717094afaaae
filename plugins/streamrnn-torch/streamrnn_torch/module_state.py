"""A module's state: which tensors, where their rows are, and in what form they are passed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from streamrnn.backend import StateTensor
from streamrnn.errors import OptionError

if TYPE_CHECKING:
    from streamrnn_torch.options import TorchModuleConfig

Tensors = dict[str, torch.Tensor]
States = tuple[StateTensor, ...]


@dataclass(frozen=True)
class Packing:
    """The form in which a module takes and returns several tensors: one alone, a tuple, a dict."""

    names: tuple[str, ...]
    make: Callable[[list[torch.Tensor]], Any]

    def take(self, packed: Any, what: str) -> Tensors:
        """The tensors by name. Raises `ValueError` if they are packed otherwise."""
        form = self.make([torch.empty(0)] * len(self.names))
        found = packed if isinstance(packed, Mapping) else None
        if isinstance(form, torch.Tensor) and isinstance(packed, torch.Tensor):
            return {self.names[0]: packed}
        if isinstance(form, dict) and found is not None and found.keys() == form.keys():
            return {name: found[name] for name in self.names}
        if isinstance(form, tuple) and isinstance(packed, tuple | list) and len(packed) == len(form):
            return dict(zip(self.names, packed, strict=True))
        raise ValueError(f"{what}: expected {shown(form)}, found {shown(packed)}")


def states_of(module: nn.Module, config: TorchModuleConfig, declared: str) -> tuple[States, Packing]:
    """The state's tensors and how they are passed: by the options, by the module, by its recurrent layer."""
    if config.state is not None:
        return _states_given(config, declared)
    if config.state_as is not None:
        raise OptionError((("state_as",), "it says how `state` is passed, and there is no `state`"))
    made_by = getattr(module, "initial_state", None)
    if callable(made_by):
        return _states_made(made_by, declared)
    layers = [part for part in module.modules() if isinstance(part, nn.RNNBase)]
    if len(layers) == 1:
        return _states_of_layer(layers[0], declared)
    found = "none" if not layers else f"{len(layers)} of them, which can be passed in several ways"
    text = f"missing; expected it, a method `initial_state(batch)` or one recurrent layer, found {found}"
    raise OptionError((("state",), text))


def _states_given(config: TorchModuleConfig, declared: str) -> tuple[States, Packing]:
    states: list[StateTensor] = []
    problems: list[tuple[tuple[str | int, ...], str]] = []
    for index, option in enumerate(config.state or ()):
        shape, init = tuple(option.shape), option.init
        if option.batch_axis > len(shape):
            text = f"expected at most {len(shape)}, the number of axes in `shape`, found {option.batch_axis}"
            problems.append((("state", index, "batch_axis"), text))
        try:
            torch.as_tensor(init, dtype=torch.float64).expand(shape)
        except (RuntimeError, ValueError, TypeError) as error:
            text = f"expected a number, or nested lists of shape {list(shape)}: {error}"
            problems.append((("state", index, "init"), text))
        if option.name in [state.name for state in states]:
            problems.append((("state", index, "name"), f"'{option.name}' is taken; give it another name"))
        dtype = declared if option.dtype == "float32" else option.dtype
        states.append(StateTensor(option.name, shape, dtype, None, option.batch_axis, init))
    names = tuple(state.name for state in states)
    form = config.state_as or ("tensor" if len(states) == 1 else "tuple")
    if form == "tensor" and len(states) > 1:
        problems.append((("state_as",), f"expected tuple or dict for {len(states)} tensors, found tensor"))
    if problems:
        raise OptionError(*problems)
    makers: dict[str, Callable[[list[torch.Tensor]], Any]] = {
        "tensor": lambda tensors: tensors[0],
        "tuple": tuple,
        "dict": lambda tensors: dict(zip(names, tensors, strict=True)),
    }
    return tuple(states), Packing(names, makers[form])


def _states_made(made_by: Callable[[int], Any], declared: str) -> tuple[States, Packing]:
    """From `initial_state(batch)`, asked for two rows and for three."""
    try:
        two, three = made_by(2), made_by(3)
    except Exception as error:
        raise OptionError(((), f"initial_state(batch) raises {type(error).__name__}: {error}")) from error
    packing = _packing_of(two)
    try:
        of_two, of_three = (packing.take(each, "initial_state") for each in (two, three))
    except ValueError as error:
        raise OptionError(((), f"initial_state(batch) differs with the batch: {error}")) from error
    names = packing.names
    return tuple(_state_made(name, of_two[name], of_three[name], declared) for name in names), packing


def _packing_of(packed: Any) -> Packing:
    if isinstance(packed, torch.Tensor):
        return Packing(("state",), lambda tensors: tensors[0])
    if isinstance(packed, Mapping):
        names = tuple(map(str, packed))
        return Packing(names, lambda tensors: dict(zip(names, tensors, strict=True)))
    if isinstance(packed, tuple) and packed:
        fields = getattr(packed, "_fields", None)
        kind = type(packed)
        if fields is not None:
            return Packing(tuple(fields), lambda tensors: kind(*tensors))
        return Packing(tuple(f"state{i}" for i in range(len(packed))), tuple)
    text = "expected initial_state(batch) to return a tensor, a tuple or a dict of tensors"
    raise OptionError(((), f"{text}, found {shown(packed)}"))


def _state_made(name: str, two: torch.Tensor, three: torch.Tensor, declared: str) -> StateTensor:
    axis = batch_axis(f"the initial state '{name}'", two, three)
    rows = two.detach().movedim(axis, 0)
    if not torch.equal(rows[0], rows[1]):
        raise OptionError(((), f"the initial state '{name}': expected all rows alike, found two that differ"))
    dtype = declared if two.is_floating_point() else str(two.dtype).removeprefix("torch.")
    return StateTensor(name, tuple(rows.shape[1:]), dtype, None, axis, rows[0].float().cpu().numpy())


def _states_of_layer(layer: nn.RNNBase, declared: str) -> tuple[States, Packing]:
    if layer.bidirectional:
        text = "a bidirectional layer needs the whole sequence; a stream has no end to start from"
        raise OptionError((("module",), text))
    sizes = {"h": layer.proj_size or layer.hidden_size}
    if isinstance(layer, nn.LSTM):
        sizes["c"] = layer.hidden_size
    states = tuple(StateTensor(n, (layer.num_layers, size), declared, None, 1) for n, size in sizes.items())
    return states, Packing(tuple(sizes), tuple if len(sizes) > 1 else lambda tensors: tensors[0])


def batch_axis(what: str, two: torch.Tensor, three: torch.Tensor) -> int:
    """The one axis that has a row for each key, from a call with two of them and one with three."""
    found = [list(two.shape), list(three.shape)]
    axes = [i for i, pair in enumerate(zip(*found, strict=False)) if pair == (2, 3)]
    if len(axes) == 1:
        without = [[*shape[: axes[0]], *shape[axes[0] + 1 :]] for shape in found]
        if without[0] == without[1]:
            return axes[0]
    text = f"{what}: expected one axis as long as the batch, found {found[0]} for 2 rows and {found[1]} for 3"
    raise OptionError(((), text))


def shown(value: Any) -> str:
    """What a value is, for a person."""
    if isinstance(value, torch.Tensor):
        return "a tensor" if value.numel() == 0 else f"a tensor {list(value.shape)}"
    if isinstance(value, Mapping):
        return f"a dict of {', '.join(map(str, value))}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return type(value).__name__


def first_rows(tensor: StateTensor, n: int, dtype: torch.dtype) -> torch.Tensor:
    """The initial states of n keys, with the rows at the batch axis."""
    kept = dtype if tensor.dtype in ("float32", "float64") else getattr(torch, tensor.dtype)
    row = torch.as_tensor(tensor.initial, dtype=kept).expand(tensor.shape)
    return row.unsqueeze(tensor.batch_axis).repeat_interleave(n, tensor.batch_axis)
