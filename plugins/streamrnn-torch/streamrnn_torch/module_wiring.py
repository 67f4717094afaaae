"""How a module is called: found by calling it with two rows and with three, never by likeness of names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from streamrnn.backend import Description, StateSpec, StateTensor, TensorSpec
from streamrnn.errors import OptionError
from streamrnn_torch.module_state import Packing, batch_axis, first_rows, shown, states_of
from streamrnn_torch.runtime import DTYPES

if TYPE_CHECKING:
    from streamrnn_torch.options import TorchModuleConfig

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Placed:
    """Where an output has its rows and, None if it has no such axis, its time."""

    batch: int
    time: int | None


@dataclass(frozen=True)
class Wiring:
    """Everything there is to know to call a module."""

    call: Callable[..., Any]
    description: Description
    packing: Packing
    axes: Mapping[str, Placed]
    time_axis: int | None
    named: tuple[str, ...] | None

    @property
    def scans(self) -> bool:
        """Whether several steps can go into one call."""
        return self.time_axis is not None and all(axes.time is not None for axes in self.axes.values())

    def run(self, x: Mapping[str, torch.Tensor], state: Tensors) -> tuple[Tensors, Tensors]:
        """Inputs [t, n, *shape] and states to outputs [t, n, *shape] and states, outputs by name.

        Outputs without an axis of time come as [1, n, *shape].
        """
        given = {name: self._timed(values) for name, values in x.items()}
        alone = next(iter(given.values())) if len(given) == 1 else given
        y, new = unpacked(self.call(alone, self.packing.make(list(state.values()))))
        outputs = outputs_by_name(y, self.named)
        placed = {name: self._placed(values, self.axes[name]) for name, values in outputs.items()}
        return placed, self.packing.take(new, "the new state")

    def _timed(self, values: torch.Tensor) -> torch.Tensor:
        if self.time_axis is None:
            return values[0]
        return values if self.time_axis == 0 else values.transpose(0, 1)

    def _placed(self, values: torch.Tensor, axes: Placed) -> torch.Tensor:
        if axes.time is None:
            return values.movedim(axes.batch, 0)[None]
        return values.movedim((axes.time, axes.batch), (0, 1))


def wire(module: torch.nn.Module, config: TorchModuleConfig, given: Mapping[str, TensorSpec]) -> Wiring:
    """Find out how a module is called. Raises `OptionError` for what can be read in two ways or in none."""
    declared = "float64" if config.dtype == "float64" else "float32"
    inputs = tuple(
        TensorSpec(name, spec.shape, "int64" if spec.dtype == "int64" else declared)
        for name, spec in given.items()
    )
    step = getattr(module, "step", None)
    call = step if callable(step) else module
    states, packing = states_of(module, config, declared)
    trial = _Trial(call, config, inputs, states, packing)
    two, three = trial.run(2, 1), trial.run(3, 1)
    longer = None if config.time_axis is None else trial.longer()
    _check_states(states, two[1], three[1])
    axes, outputs = {}, []
    for name, first in two[0].items():
        axes[name] = _axes(name, first, three[0][name], None if longer is None else longer[0][name])
        if axes[name].time is None and longer is not None and longer[0][name].shape != first.shape:
            raise OptionError(((), f"output '{name}' changes its shape with the number of steps"))
        outputs.append(_output(name, first, axes[name], declared))
    description = Description(inputs, tuple(outputs), StateSpec(states))
    named = None if config.outputs is None else tuple(config.outputs)
    return Wiring(call, description, packing, axes, config.time_axis, named)


def unpacked(answer: Any) -> tuple[Any, Any]:
    """y and state of what a module returns. Raises `ValueError` if it is no pair."""
    if not isinstance(answer, tuple | list) or len(answer) != 2:
        raise ValueError(f"expected it to return (y, state), found {shown(answer)}")
    return answer[0], answer[1]


def outputs_by_name(y: Any, names: Sequence[str] | None) -> Tensors:
    """Outputs as tensors by name. Raises `ValueError` for outputs without names."""
    if isinstance(y, Mapping):
        if names is not None:
            raise ValueError("outputs: the module names its outputs itself; leave the option out")
        found = {str(name): value for name, value in y.items()}
    elif isinstance(y, tuple | list):
        if names is None or len(names) != len(y):
            raise ValueError(f"outputs: expected {len(y)} names for the {len(y)} outputs of the module")
        found = dict(zip(names, y, strict=True))
    else:
        if names is not None and len(names) != 1:
            raise ValueError(f"outputs: expected 1 name for the module's only output, found {len(names)}")
        found = {names[0] if names else "y": y}
    for name, value in found.items():
        if not isinstance(value, torch.Tensor):
            raise ValueError(f"output '{name}': expected a tensor, found {shown(value)}")
    return found


@dataclass(frozen=True)
class _Trial:
    call: Callable[..., Any]
    config: TorchModuleConfig
    inputs: Sequence[TensorSpec]
    states: Sequence[StateTensor]
    packing: Packing

    def longer(self) -> tuple[Tensors, Tensors] | None:
        """Two rows of three steps; None for a program that was made for single steps alone."""
        try:
            return self.run(2, 3)
        except OptionError:
            return None

    @torch.inference_mode()
    def run(self, n: int, t: int) -> tuple[Tensors, Tensors]:
        """Outputs and new states of n new keys and t steps, as the module returns them."""
        dtype = DTYPES[self.config.dtype]
        x = {}
        for spec in self.inputs:
            lead = {None: (n,), 0: (t, n), 1: (n, t)}[self.config.time_axis]
            kind = torch.int64 if spec.dtype == "int64" else dtype
            x[spec.name] = torch.zeros((*lead, *spec.shape), dtype=kind)
        state = [first_rows(tensor, n, dtype) for tensor in self.states]
        sizes = ", ".join(f"{name} {list(values.shape)}" for name, values in x.items())
        kept = ", ".join(f"{s.name} {list(v.shape)}" for s, v in zip(self.states, state, strict=True))
        try:
            y, new = unpacked(
                self.call(next(iter(x.values())) if len(x) == 1 else x, self.packing.make(state))
            )
            return outputs_by_name(y, self.config.outputs), self.packing.take(new, "the new state")
        except ValueError as error:
            text = f"{error}; it was given {sizes} and the state {kept}"
        except Exception as error:
            why = (str(error).splitlines() or [""])[0]
            text = f"it raises {type(error).__name__} for {sizes} and the state {kept}: {why}"
        hint = "" if self.config.time_axis is not None else "; `time_axis` gives inputs an axis of time"
        raise OptionError((("module",) if self.config.module else ("path",), text + hint))


def _check_states(states: Sequence[StateTensor], two: Tensors, three: Tensors) -> None:
    problems = []
    for state in states:
        for n, found in ((2, two[state.name]), (3, three[state.name])):
            expected = (*state.shape[: state.batch_axis], n, *state.shape[state.batch_axis :])
            floating = state.dtype.startswith("float")
            if tuple(found.shape) != expected or found.is_floating_point() != floating:
                given = f"{state.dtype} {list(expected)}, as it was given"
                text = f"the new state '{state.name}': expected {given}"
                problems.append(((), f"{text}, found {found.dtype} {list(found.shape)}"))
                break
    if problems:
        raise OptionError(*problems)


def _axes(name: str, two: torch.Tensor, three: torch.Tensor, longer: torch.Tensor | None) -> Placed:
    batch = batch_axis(f"output '{name}'", two, three)
    if longer is None:
        return Placed(batch, None)
    times = [i for i, pair in enumerate(zip(two.shape, longer.shape, strict=False)) if pair == (1, 3)]
    return Placed(batch, times[0] if len(times) == 1 else None)


def _output(name: str, found: torch.Tensor, axes: Placed, declared: str) -> TensorSpec:
    gone = {axes.batch, axes.time}
    shape = tuple(length for axis, length in enumerate(found.shape) if axis not in gone)
    dtype = declared if found.is_floating_point() else str(found.dtype).removeprefix("torch.")
    return TensorSpec(name, shape, dtype)
