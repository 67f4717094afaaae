"""The backends `torch`, recurrent layers computed by PyTorch, and `torch_module`, modules of one's own."""

from __future__ import annotations

from streamrnn.hookspecs import Component, hookimpl
from streamrnn_torch.options import TorchConfig, TorchModuleConfig


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
            offline="streamrnn_torch.module_offline:build",
            summary="a PyTorch module of your own, by its import path or as a program, if you trust its code",
            example="{module: 'my_nets:Fraud', path: fraud.safetensors}",
        ),
    ]
