"""How a module was understood, as facts for a person."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from streamrnn.backend import Fact
from streamrnn.explain import beginning, tensor
from streamrnn_torch.models import build_module

if TYPE_CHECKING:
    from streamrnn.backend import TensorSpec
    from streamrnn.context import Context
    from streamrnn_torch.module_wiring import Wiring
    from streamrnn_torch.options import TorchModuleConfig


def explain(config: TorchModuleConfig, given: Mapping[str, TensorSpec], context: Context) -> list[Fact]:
    """The facts of a module, which is loaded and called for it. Raises `OptionError` as `describe` does."""
    wiring = build_module(config, given, context).wiring
    return [*_calls(wiring), *_states(wiring, config), *_outputs(wiring)]


def _calls(wiring: Wiring) -> Iterator[Fact]:
    called = getattr(wiring.call, "__name__", "forward")
    steps = "several events of a key in one call" if wiring.scans else "one event of each key in a call"
    yield Fact("call", f"{called}(x, state)", "", f"returns (y, state); {steps}")
    form = "x itself" if len(wiring.description.inputs) == 1 else "x[name]"
    time = "" if wiring.time_axis is None else f", with time on axis {wiring.time_axis}"
    for spec in wiring.description.inputs:
        yield Fact("input", spec.name, tensor(spec), f"{form}{time}, by event.inputs")


def _states(wiring: Wiring, config: TorchModuleConfig) -> Iterator[Fact]:
    module = getattr(wiring.call, "__self__", wiring.call)
    found = "that of the only recurrent layer"
    if config.state is not None:
        found = "by the option `state`"
    elif hasattr(module, "initial_state"):
        found = "by initial_state(batch)"
    for state in wiring.description.state.tensors:
        meaning = f"{found}; rows on axis {state.batch_axis}; {beginning(state)}"
        yield Fact("state", state.name, tensor(state), meaning)


def _outputs(wiring: Wiring) -> Iterator[Fact]:
    for spec in wiring.description.outputs:
        axes = wiring.axes[spec.name]
        time = "" if axes.time is None else f", time on axis {axes.time}"
        yield Fact("output", spec.name, tensor(spec), f"rows on axis {axes.batch}{time}")
