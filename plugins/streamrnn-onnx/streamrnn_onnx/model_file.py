"""Reading a model file as data: other formats are refused by name, and limits hold before anything runs."""

from __future__ import annotations

import hashlib
import stat
from typing import TYPE_CHECKING

from streamrnn.errors import OptionError
from streamrnn.formats import foreign_format
from streamrnn_onnx.config import OnnxConfig
from streamrnn_onnx.external import inline_external
from streamrnn_onnx.graph import Graph, read_graph
from streamrnn_onnx.limits import UnfitError, check_limits, every_tensor, is_external

if TYPE_CHECKING:
    from onnx import ModelProto

    from streamrnn.context import Context


def read_model(config: OnnxConfig, context: Context) -> tuple[Graph, bytes]:
    """The graph and the bytes of the model, external weights included. Raises `OptionError`."""
    try:
        stored = _read(config, context)
        if foreign := foreign_format(stored[:64]):
            raise UnfitError(f"expected an ONNX model, found {foreign}")
        model = _parse(stored)
        check_limits(model, config)
        digest = hashlib.sha256(stored).hexdigest()
        if any(map(is_external, every_tensor(model))):
            left = config.max_bytes - len(stored)
            inline_external(model, context.model_path(config.path).parent, context, left)
            check_limits(model, config)
            stored = model.SerializeToString()
            digest = hashlib.sha256(stored).hexdigest()
    except UnfitError as error:
        raise OptionError((("path",), f"{config.path}: {error}")) from error
    except OSError as error:
        raise OptionError((("path",), f"cannot read {config.path}: {error.strerror or error}")) from error
    if config.sha256 not in (None, digest):
        raise OptionError((("sha256",), f"expected the digest of {config.path}, which is {digest}"))
    return read_graph(model), stored


def _read(config: OnnxConfig, context: Context) -> bytes:
    assert config.path is not None
    path = context.model_path(config.path)
    status = context.fs.status(path)
    if status is not None:
        if not stat.S_ISREG(status.st_mode):
            raise UnfitError("expected a file, found a folder, pipe or device")
        if status.st_size > config.max_bytes:
            raise UnfitError(f"{status.st_size} bytes, expected at most max_bytes: {config.max_bytes}")
    return context.fs.read_bytes(path)


def _parse(stored: bytes) -> ModelProto:
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    model = onnx.ModelProto()
    try:
        model.ParseFromString(stored)
    except DecodeError as error:
        raise UnfitError(f"not an ONNX model ({error}); it is damaged or of another format") from error
    if not model.HasField("graph") or not model.opset_import:
        raise UnfitError("not an ONNX model: it has no graph, or names no set of operators")
    if not model.graph.output:
        raise UnfitError("the graph has no outputs")
    return model
