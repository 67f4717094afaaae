"""A module over whole sequences, and what it would be with the gates of its layers in another order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from streamrnn.errors import ModelError, OptionError
from streamrnn.offline import PYTORCH_GRU, PYTORCH_LSTM, GateOrder, Offline, Variant, gate_orders
from streamrnn_torch.module_loading import load_module
from streamrnn_torch.module_state import first_rows, shown
from streamrnn_torch.module_wiring import outputs_by_name, wire
from streamrnn_torch.runtime import DTYPES, THREAD_LIMIT
from streamrnn_torch.slab import host

if TYPE_CHECKING:
    from streamrnn.backend import Arrays, TensorSpec
    from streamrnn.context import Context
    from streamrnn_torch.options import TorchModuleConfig

Tensors = dict[str, torch.Tensor]
KINDS = (((nn.LSTM, nn.LSTMCell), PYTORCH_LSTM), ((nn.GRU, nn.GRUCell), PYTORCH_GRU))


def build(config: TorchModuleConfig, given: Mapping[str, TensorSpec], context: Context) -> OfflineModule:
    """The module on the CPU. Raises `OptionError` and `ModelError` as the backend does."""
    config = config.model_copy(update={"device": "cpu", "compile": False})
    module, _ = load_module(config, context)
    if config.sequence is not None and not callable(getattr(module, config.sequence.method, None)):
        text = f"the module has no method '{config.sequence.method}'"
        raise OptionError((("sequence", "method"), text))
    made = OfflineModule(module.to(DTYPES[config.dtype]), config, given)
    made.hold_threads()
    return made


class OfflineModule(Offline):
    """Answers by the method of `sequence`; without it, by the axis of time or else step by step."""

    def __init__(self, module: nn.Module, config: TorchModuleConfig, given: Mapping[str, TensorSpec]) -> None:
        self._module, self._config, self._given = module, config, given
        self._wiring, self._holds = wire(module, config, given), False
        self.inputs = self._wiring.description.inputs
        self.outputs = self._wiring.description.outputs

    def hold_threads(self) -> None:
        """Hold the configured number of threads until `close`. Raises `ModelError` if another is held."""
        THREAD_LIMIT.hold(self._config.threads)
        self._holds = True

    def close(self) -> None:
        """See `Offline.close`."""
        if self._holds:
            THREAD_LIMIT.release()
            self._holds = False

    @torch.inference_mode()
    def sequence(self, x: Arrays, zeros: bool = False) -> Arrays:
        """See `Offline.sequence`."""
        dtype = DTYPES[self._config.dtype]
        given = {
            name: torch.from_numpy(np.array(array)[:, None]).to(
                dtype if array.dtype.kind == "f" else torch.int64
            )
            for name, array in x.items()
        }
        if self._config.sequence is not None:
            y = self._whole(given, zeros)
        else:
            y = self._by_wiring(given, self._first(zeros, dtype))
        return {spec.name: host(y[spec.name][:, 0], spec.dtype) for spec in self.outputs}

    def variants(self) -> Iterator[Variant]:
        """See `Offline.variants`: all layers of a kind with their gates in another order, then each alone."""
        for classes, names in KINDS:
            parts = [name for name, part in self._module.named_modules() if isinstance(part, classes)]
            groups = [parts, *([name] for name in parts if len(parts) > 1)] if parts else []
            for group in groups:
                where = ", ".join(f"'{name}'" for name in group)
                for order in gate_orders(names):
                    yield Variant(order.text(where), self._reordered(group, order))

    def _first(self, zeros: bool, dtype: torch.dtype) -> Tensors:
        found = {t.name: first_rows(t, 1, dtype).clone() for t in self._wiring.description.state.tensors}
        return {name: torch.zeros_like(state) for name, state in found.items()} if zeros else found

    def _by_wiring(self, given: Tensors, state: Tensors) -> Tensors:
        if self._wiring.scans:
            return self._wiring.run(given, state)[0]
        answers = []
        for k in range(len(next(iter(given.values())))):
            y, state = self._wiring.run({name: v[k : k + 1].clone() for name, v in given.items()}, state)
            answers.append(y)
        return {name: torch.cat([y[name] for y in answers]) for name in answers[0]}

    def _whole(self, given: Tensors, zeros: bool) -> Tensors:
        assert self._config.sequence is not None
        if zeros and any(np.any(t.initial) for t in self._wiring.description.state.tensors):
            raise ModelError("the module's whole sequences begin with its own initial state, not with zeros")
        axis, length = self._config.sequence.time_axis, len(next(iter(given.values())))
        placed = {name: values.movedim(0, axis) for name, values in given.items()}
        call: Any = getattr(self._module, self._config.sequence.method)
        answer = call(next(iter(placed.values())) if len(placed) == 1 else placed)
        try:
            y = outputs_by_name(answer, self._config.outputs)
        except ValueError as error:
            raise ModelError(f"the module's {self._config.sequence.method}: {error}") from error
        for spec in self.outputs:
            expected = [length, 1] if axis == 0 else [1, length]
            if spec.name not in y or [*y[spec.name].shape] != [*expected, *spec.shape]:
                found = shown(y[spec.name]) if spec.name in y else f"outputs {', '.join(y)}"
                text = f"expected '{spec.name}' as a tensor {[*expected, *spec.shape]}, found {found}"
                raise ModelError(f"the module's {self._config.sequence.method}: {text}")
        return {name: values.movedim(axis, 0) for name, values in y.items()}

    def _reordered(self, group: Sequence[str], order: GateOrder) -> OfflineModule:
        module = deepcopy(self._module)
        with torch.no_grad():
            for part in group:
                for name, weight in module.get_submodule(part).named_parameters(recurse=False):
                    if "_hr" not in name:  # a projection has no gates
                        blocks = weight.reshape(len(order.read), -1)[order.blocks]
                        weight.copy_(blocks.reshape(weight.shape))
        return OfflineModule(module, self._config, self._given)
