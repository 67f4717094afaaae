"""Reading a model file as data: other formats are refused by name, and nothing beside the file is opened."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from streamrnn.errors import OptionError
from streamrnn_onnx.config import OnnxConfig
from streamrnn_onnx.graph import Graph, all_nodes, read_graph

if TYPE_CHECKING:
    from onnx import ModelProto

    from streamrnn.context import Context

_FORMATS = (
    (b"PK\x03\x04", "a zip archive: torch's checkpoints, TorchScript and .pt2 are, and can run code"),
    (b"\x80", "a pickle, which can run code"),
    (b"\x89HDF", "an HDF5 file"),
    (b"TFL3", "a TensorFlow Lite model"),
    (b"ORTM", "a model in ONNX Runtime's own format"),
)


def read_model(config: OnnxConfig, context: Context) -> tuple[Graph, bytes]:
    """The graph and the bytes of the model's file. Raises `OptionError`."""
    stored = _read(config, context)
    model = _parse(config, stored)
    count = sum(1 for _ in all_nodes(model.graph))
    if count > config.max_nodes:
        raise _wrong(config, f"{count} nodes, expected at most max_nodes: {config.max_nodes}")
    return read_graph(model), stored


def _read(config: OnnxConfig, context: Context) -> bytes:
    assert config.path is not None
    path = context.model_path(config.path)
    try:
        status = context.fs.status(path)
        if status is not None and status.st_size > config.max_bytes:
            raise _wrong(config, f"{status.st_size} bytes, expected at most max_bytes: {config.max_bytes}")
        stored = context.fs.read_bytes(path)
    except OSError as error:
        raise OptionError((("path",), f"cannot read {config.path}: {error.strerror or error}")) from error
    digest = hashlib.sha256(stored).hexdigest()
    if config.sha256 not in (None, digest):
        raise OptionError((("sha256",), f"expected the digest of {config.path}, which is {digest}"))
    return stored


def _parse(config: OnnxConfig, stored: bytes) -> ModelProto:
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    for magic, name in _FORMATS:
        if stored[: len(magic)] == magic or stored[4 : 4 + len(magic)] == magic == b"ORTM":
            raise _wrong(config, f"{name}; expected an ONNX model")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(stored)
    except DecodeError as error:
        raise _wrong(config, f"not an ONNX model ({error}); it is damaged or of another format") from error
    if not model.HasField("graph") or not model.opset_import:
        raise _wrong(config, "not an ONNX model: it has no graph, or names no operator set")
    return model


def _wrong(config: OnnxConfig, what: str) -> OptionError:
    return OptionError((("path",), f"{config.path}: {what}"))
