"""ONNX models as a streamrnn backend; nothing heavy is imported until a model is described or built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import BaseModel

from streamrnn.hookspecs import Component, hookimpl
from streamrnn_onnx.config import OnnxConfig

if TYPE_CHECKING:
    from streamrnn.backend import TensorSpec
    from streamrnn.context import Context

__all__ = ["OnnxConfig", "streamrnn_components"]


@hookimpl
def streamrnn_components() -> list[Component]:
    """The `onnx` backend."""
    return [
        Component(
            "backend",
            "onnx",
            config=OnnxConfig,
            build="streamrnn_onnx.loading:build",
            describe="streamrnn_onnx.loading:describe",
            explain="streamrnn_onnx.explain:explain",
            offline="streamrnn_onnx.offline:build",
            summary="an ONNX model, its state found in the graph or named, run by ONNX Runtime",
            example="{path: model.onnx}",
        )
    ]


@hookimpl
def streamrnn_export(options: BaseModel, given: Mapping[str, TensorSpec], context: Context) -> bytes | None:
    """Layers of any backend."""
    if not getattr(options, "layers", None):
        return None
    from streamrnn_onnx.layer_graph import exported

    return exported(options, given, context)
