"""What a model file may hold: no other files, no more than it says, nothing that grows without end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from typing import TYPE_CHECKING

from streamrnn_onnx.graph import all_nodes, title

if TYPE_CHECKING:
    from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto

    from streamrnn_onnx.config import OnnxConfig

_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
_OPENS_FILES = ("EPContext",)
_BITS = {1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 14: 64, 15: 128,
         16: 16, 17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4, 23: 4, 24: 8, 25: 2, 26: 2}  # fmt: skip
"""Bits of an element by ONNX's number of its type; texts have none."""
_FIELDS = {1: "float_data", 7: "int64_data", 11: "double_data", 12: "uint64_data", 13: "uint64_data"}
_SPARSE_MAX = 1 << 24


class UnfitError(ValueError):
    """A file that will not be loaded; the message says what was found and what to do."""


def check_limits(model: ModelProto, config: OnnxConfig) -> None:
    """Raises `UnfitError` for the first thing that is over a limit, or not what it says it is."""
    _check_size(model, config.max_nodes)
    known = {*_DOMAINS, *(function.domain for function in model.functions)}
    for node in _every_node(model):
        if node.domain not in known:
            raise UnfitError(f"{title(node)} is of the domain '{node.domain}', whose operators are not known")
        if node.op_type in _OPENS_FILES:
            raise UnfitError(f"{title(node)} names a file of compiled code, which is never opened")
    for tensor in every_tensor(model):
        if is_external(tensor) and not config.external_data:
            raise UnfitError(
                f"the weights '{tensor.name}' lie in another file; write external_data: true if that is meant"
            )
        if not is_external(tensor):
            _check_tensor(tensor)
    for graph in _every_graph(model):
        for sparse in graph.sparse_initializer:
            if prod(sparse.dims) > _SPARSE_MAX:
                raise UnfitError(f"a sparse tensor {list(sparse.dims)} has more than {_SPARSE_MAX} elements")


def is_external(tensor: TensorProto) -> bool:
    """Whether a tensor's numbers are said to lie in another file."""
    return tensor.data_location == 1 or bool(tensor.external_data)


def every_tensor(model: ModelProto) -> Iterator[TensorProto]:
    """All tensors of a file, wherever they hide."""
    for graph in _every_graph(model):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    for node in _every_node(model):
        for attribute in node.attribute:
            yield from [attribute.t] if attribute.HasField("t") else []
            yield from attribute.tensors
            sparses = [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []
            for sparse in (*sparses, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)


def _every_graph(model: ModelProto) -> Iterator[GraphProto]:
    yield model.graph
    for training in model.training_info:
        yield from (training.initialization, training.algorithm)
    for node in _every_node(model):
        for attribute in node.attribute:
            yield from [attribute.g] if attribute.HasField("g") else []
            yield from attribute.graphs


def _every_node(model: ModelProto) -> Iterator[NodeProto]:
    yield from all_nodes(model.graph)
    for training in model.training_info:
        yield from all_nodes(training.initialization)
        yield from all_nodes(training.algorithm)
    for function in model.functions:
        yield from all_nodes(function)


def _check_tensor(tensor: TensorProto) -> None:
    """That a tensor has as many numbers as its sizes say, before anybody makes room for them."""
    where = f"the tensor '{tensor.name}' {list(tensor.dims)}"
    if any(size < 0 for size in tensor.dims):
        raise UnfitError(f"{where} has a negative size")
    count = prod(tensor.dims)
    if tensor.data_type == 8:
        found, expected = len(tensor.string_data), count
    elif tensor.data_type not in _BITS:
        raise UnfitError(f"{where} is of the unknown type {tensor.data_type}")
    elif tensor.HasField("raw_data"):
        found, expected = len(tensor.raw_data), -(-count * _BITS[tensor.data_type] // 8)
    else:
        found = len(getattr(tensor, _FIELDS.get(tensor.data_type, "int32_data")))
        expected = 2 * count if tensor.data_type in (14, 15) else count
        if tensor.data_type in (14, 15):
            found = len(tensor.float_data) or len(tensor.double_data)
        elif _BITS[tensor.data_type] < 8:
            expected = -(-count * _BITS[tensor.data_type] // 8)
    if found != expected:
        raise UnfitError(f"{where} should hold {expected} numbers or bytes, found {found}")


def _check_size(model: ModelProto, most: int) -> None:
    """Nodes, functions written out wherever they are called."""
    functions = {(f.domain, f.name): f for f in model.functions}
    counted: dict[tuple[str, str], int] = {}
    # Called functions first; the depth of calls is bounded, since each is counted once.
    for key in functions:
        _count_function(key, functions, counted, (), most)
    count = _count(model.graph, counted)
    if count > most:
        raise UnfitError(f"{count} nodes, expected at most max_nodes: {most}")


def _count_function(
    key: tuple[str, str],
    functions: Mapping[tuple[str, str], FunctionProto],
    counted: dict[tuple[str, str], int],
    callers: tuple[tuple[str, str], ...],
    most: int,
) -> None:
    if key in counted:
        return
    if key in callers:
        raise UnfitError(f"the function '{key[1]}' calls itself")
    if len(callers) >= 100:
        raise UnfitError("functions call each other more than 100 deep")
    for node in all_nodes(functions[key]):
        called = (node.domain, node.op_type)
        if called in functions:
            _count_function(called, functions, counted, (*callers, key), most)
    counted[key] = _count(functions[key], counted)
    if counted[key] > most:
        raise UnfitError(
            f"the function '{key[1]}' is {counted[key]} nodes, expected at most max_nodes: {most}"
        )


def _count(graph: GraphProto | FunctionProto, counted: Mapping[tuple[str, str], int]) -> int:
    return sum(counted.get((node.domain, node.op_type), 1) for node in all_nodes(graph))
