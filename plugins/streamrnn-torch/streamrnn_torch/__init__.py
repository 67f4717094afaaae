"""The backends `torch`, recurrent layers computed by PyTorch, and `torch_module`, modules of one's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import BaseModel

from streamrnn.hookspecs import Component, hookimpl
from streamrnn_torch.options import TorchConfig, TorchModuleConfig

if TYPE_CHECKING:
    from streamrnn.backend import TensorSpec
    from streamrnn.context import Context


@hookimpl
def streamrnn_components() -> list[Component]:
    """All that this package offers."""
    return [
        Component(
            "backend",
            "torch",
            TorchConfig,
            build="streamrnn_torch.models:build",
            describe="streamrnn_torch.models:describe",
            offline="streamrnn.backends.offline_layers:build",
            summary="recurrent layers from a YAML list, weights from safetensors or inline, by PyTorch",
            example="{layers: [{type: rnn, hidden: 1, "
            "weights: {weight_ih_l0: [[1.0]], weight_hh_l0: [[2.0]]}}]}",
        ),
        Component(
            "backend",
            "torch_module",
            TorchModuleConfig,
            build="streamrnn_torch.models:build_module",
            describe="streamrnn_torch.models:describe_module",
            explain="streamrnn_torch.module_explain:explain",
            offline="streamrnn_torch.module_offline:build",
            summary="a PyTorch module of your own, by its import path or as a program, if you trust its code",
            example="{module: 'my_nets:Fraud', path: fraud.safetensors}",
        ),
    ]


@hookimpl
def streamrnn_export(options: BaseModel, given: Mapping[str, TensorSpec], context: Context) -> bytes | None:
    """Modules of one's own."""
    if not isinstance(options, TorchModuleConfig):
        return None
    from streamrnn_torch.module_export import export

    return export(options, given, context)
