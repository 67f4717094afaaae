"""The graphs that move states about on a device: what numpy does for the host's memory.

ONNX Runtime offers no operations on its arrays but graphs. Tensors of a state are numbered in the order of
their spec; `result` or `result.<number>` is what a graph makes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from streamrnn_onnx.layer_graph import IR_VERSION, OPSET

if TYPE_CHECKING:
    from streamrnn.backend import StateSpec


@cache
def dtype_of(element: int) -> np.dtype[Any]:
    """Numpy's type of an ONNX one."""
    return helper.tensor_dtype_to_np_dtype(element)


class Form(NamedTuple):
    """What graphs have to know of a tensor of state: sizes of a row, type, and the axis of the rows."""

    shape: tuple[int, ...]
    dtype: str
    axis: int

    @property
    def rank(self) -> int:
        """Axes of the tensor, that of the rows among them."""
        return len(self.shape) + 1

    @property
    def rows_first(self) -> list[int]:
        """The order of axes in which rows come to axis 0."""
        return [self.axis, *(axis for axis in range(self.rank) if axis != self.axis)]

    @property
    def rows_back(self) -> list[int]:
        """The reverse."""
        rest = list(range(1, self.rank))
        return [*rest[: self.axis], 0, *rest[self.axis :]]


Forms = tuple[Form, ...]


def forms(spec: StateSpec) -> Forms:
    """Those of all tensors."""
    return tuple(Form(tensor.shape, tensor.dtype, tensor.batch_axis) for tensor in spec.tensors)


class _Graph:
    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.ports: list[Any] = []
        self.results: list[Any] = []
        self.constants: list[Any] = []

    def port(self, name: str, dtype: str, rank: int) -> str:
        """An input."""
        self.ports.append(_value(name, dtype, rank))
        return name

    def add(self, op: str, inputs: Sequence[str], name: str = "", **attributes: Any) -> str:
        """A node; the name of its output."""
        name = name or f"{op}:{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], **attributes))
        return name

    def result(self, op: str, inputs: Sequence[str], name: str, dtype: str, rank: int, **more: Any) -> None:
        """A node whose output is one of the graph."""
        self.results.append(_value(self.add(op, inputs, name, **more), dtype, rank))

    def constant(self, values: Any, dtype: str) -> str:
        """A constant of its own."""
        name = f"constant:{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def made(self) -> bytes:
        """The model."""
        graph = helper.make_graph(self.nodes, "state", self.ports, self.results, self.constants)
        opsets = [helper.make_opsetid("", OPSET)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION).SerializeToString()


def _value(name: str, dtype: str, rank: int) -> Any:
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return helper.make_tensor_value_info(name, element, [None] * rank)


@cache
def zeros(dtype: str) -> bytes:
    """`shape` int64 [rank] to zeros."""
    graph = _Graph()
    value = numpy_helper.from_array(np.zeros(1, dtype))
    shape = graph.port("shape", "int64", 1)
    graph.add("ConstantOfShape", [shape], "result", value=value)
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph.results.append(helper.make_tensor_value_info("result", element, None))
    return graph.made()


@cache
def joined(dtype: str, rank: int) -> bytes:
    """`first` and `second`, one behind the other."""
    graph = _Graph()
    both = [graph.port(name, dtype, rank) for name in ("first", "second")]
    graph.result("Concat", both, "result", dtype, rank, axis=0)
    return graph.made()


@cache
def picked(dtype: str, rank: int, axis: int) -> bytes:
    """The places `index` int64 [n] of `array` along an axis."""
    graph = _Graph()
    inputs = [graph.port("array", dtype, rank), graph.port("index", "int64", 1)]
    graph.result("Gather", inputs, "result", dtype, rank, axis=axis)
    return graph.made()


@cache
def merged(forms: Forms) -> bytes:
    """The rows `among` int64 [n] of those of `new.<number>` with those of `old.<number>` behind them."""
    graph = _Graph()
    among = graph.port("among", "int64", 1)
    for place, form in enumerate(forms):
        states = [graph.port(f"{name}.{place}", form.dtype, form.rank) for name in ("new", "old")]
        # `Where` is not there for all types, neither on the CPU nor on GPUs.
        both = graph.add("Concat", states, axis=form.axis)
        graph.result("Gather", [both, among], f"result.{place}", form.dtype, form.rank, axis=form.axis)
    return graph.made()


@cache
def taken(forms: Forms, anew: bool) -> bytes:
    """The rows int64 [n] of `slab.<number>` [capacity, *shape], laid along the batch axis.

    With `anew`, of these, with the rows of `begun.<number>` [m, *shape] behind them, the rows that
    `among.<number>` int64 [n] names.
    """
    graph = _Graph()
    rows = graph.port("rows", "int64", 1)
    for place, form in enumerate(forms):
        slab = graph.port(f"slab.{place}", form.dtype, form.rank)
        kept = graph.add("Gather", [slab, rows], axis=0)
        if anew:
            begun = graph.port(f"begun.{place}", form.dtype, form.rank)
            among = graph.port(f"among.{place}", "int64", 1)
            kept = graph.add("Gather", [graph.add("Concat", [kept, begun], axis=0), among], axis=0)
        perm = form.rows_back
        graph.result("Transpose", [kept], f"result.{place}", form.dtype, form.rank, perm=perm)
    return graph.made()


@cache
def stored(forms: Forms) -> bytes:
    """`slab.<number>` with the places `picks` int64 [m] of `state.<number>` in its rows int64 [m, 1]."""
    graph = _Graph()
    rows, picks = graph.port("rows", "int64", 2), graph.port("picks", "int64", 1)
    for place, form in enumerate(forms):
        slab, state = (graph.port(f"{name}.{place}", form.dtype, form.rank) for name in ("slab", "state"))
        some = graph.add("Gather", [state, picks], axis=form.axis)
        some = graph.add("Transpose", [some], perm=form.rows_first)
        graph.result("ScatterND", [slab, rows, some], f"result.{place}", form.dtype, form.rank)
    return graph.made()


@cache
def squares(forms: Forms) -> bytes:
    """`result.<number>` float64 [n] for each tensor of floats `state.<number>`: the sum of its squares."""
    return _sums(forms, lambda graph, wide: graph.add("Mul", [wide, wide]))


@cache
def flaws(forms: Forms) -> bytes:
    """`result.<number>` float64 [n] for each tensor of floats `state.<number>`: 0, or NaN if one is not
    finite."""
    return _sums(forms, lambda graph, wide: graph.add("Mul", [wide, graph.constant(0, "float64")]))


def _sums(forms: Forms, terms: Callable[[_Graph, str], str]) -> bytes:
    graph = _Graph()
    for place, form in enumerate(forms):
        if np.dtype(form.dtype).kind != "f":
            continue
        state = graph.port(f"state.{place}", form.dtype, form.rank)
        rows = graph.add("Transpose", [state], perm=form.rows_first)
        flat = graph.add("Reshape", [rows, graph.constant([-1, prod(form.shape)], "int64")])
        wide = graph.add("Cast", [flat], to=TensorProto.DOUBLE)
        axis = graph.constant([1], "int64")
        graph.result("ReduceSum", [terms(graph, wide), axis], f"result.{place}", "float64", 1, keepdims=0)
    return graph.made()
