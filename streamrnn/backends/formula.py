"""A recurrence of expressions over numpy columns, in double precision.

Each expression is compiled once into closures over whole columns: a scalar is [n], a vector [n, w]. The bits
of a row depend on nothing but the row. numpy grants that for operations on contiguous arrays, so whatever
would be a broadcast or strided view (a scalar beside a vector, one number of a vector) is copied first,
and sums run along the last axis of a C-contiguous array.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from streamrnn.backend import Backend, TensorSpec
from streamrnn.backends.expressions import Formula, Node

if TYPE_CHECKING:
    from streamrnn.backend import Arrays, IntArray
    from streamrnn.builtins.formula import FormulaConfig
    from streamrnn.context import Context

Array = NDArray[Any]
Run = Callable[[Mapping[str, Array]], Any]
Fill = Callable[[Mapping[str, Array], int], Array]


def _sigmoid(value: Array) -> Array:
    return np.true_divide(1.0, np.add(1.0, np.exp(np.negative(value))))


def _sum(vector: Array) -> Array:
    return np.asarray(np.add.reduce(vector, axis=-1))


def _dot(left: Array, right: Array) -> Array:
    return _sum(np.multiply(left, right))


_ELEMENTWISE: dict[str, Callable[..., Any]] = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "/": np.true_divide,
    "//": np.floor_divide,
    "%": np.remainder,
    "**": np.power,
    "negative": np.negative,
    "where": np.where,
    "min": lambda *args: reduce(np.minimum, args),
    "max": lambda *args: reduce(np.maximum, args),
    "abs": np.absolute,
    "exp": np.exp,
    "log": np.log,
    "sqrt": np.sqrt,
    "tanh": np.tanh,
    "sigmoid": _sigmoid,
    "and": lambda *args: reduce(np.logical_and, args),
    "or": lambda *args: reduce(np.logical_or, args),
    "not": np.logical_not,
}
_REDUCING: dict[str, Callable[..., Any]] = {
    "sum": _sum,
    "dot": _dot,
    "min": lambda vector: np.minimum.reduce(vector, axis=-1),
    "max": lambda vector: np.maximum.reduce(vector, axis=-1),
    "any": lambda vector: np.logical_or.reduce(vector, axis=-1),
    "all": lambda vector: np.logical_and.reduce(vector, axis=-1),
}
_COMPARE: dict[str, Callable[..., Any]] = {
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
    "==": np.equal,
    "!=": np.not_equal,
}


def _before(name: str) -> str:
    """Where the columns of a state before its update lie; no identifier, so it hides no name."""
    return f"prev({name})"


def _compiled(node: Node) -> Run:
    """A function from columns by name to the node's column, or to a number or [w] where it is constant."""
    run = _operation(node)
    if not node.constant:
        return run
    with np.errstate(all="ignore"):
        value = run({})
    return lambda columns: value


def _operation(node: Node) -> Run:
    match node:
        case Node(op="number"):
            return lambda columns: node.detail
        case Node(op="name", detail=str() as name):
            return lambda columns: columns[name]
        case Node(op="prev", detail=str() as name):
            before = _before(name)
            return lambda columns: columns[before]
        case Node(op="vector"):
            return _vector(node)
        case Node(op="index", detail=int() as place):
            vector = _operand(node.args[0], None)
            return lambda columns: vector(columns)[..., place].copy()
        case Node(op="compare", detail=tuple() as signs):
            return _chain(signs, _operands(node))
    reduces = node.width is None and any(arg.width for arg in node.args)
    return _applied((_REDUCING if reduces else _ELEMENTWISE)[node.op], _operands(node))


def _operands(node: Node) -> list[Run]:
    return [_operand(arg, node.width) for arg in node.args]


def _operand(node: Node, width: int | None) -> Run:
    """A column of float64, repeated to [n, width] if it is a scalar beside vectors."""
    run = _compiled(node)
    if node.constant:
        value = np.asarray(run({}), np.float64)
        return lambda columns: value
    plain = (lambda columns: run(columns).astype(np.float64)) if node.truth else run
    if width is None or node.width is not None:
        return plain
    return lambda columns: np.repeat(plain(columns), width).reshape(-1, width)


def _applied(function: Callable[..., Any], args: list[Run]) -> Run:
    """Written out by the number of operands: a short event costs little more than its numpy calls."""
    match args:
        case [one]:
            return lambda columns: function(one(columns))
        case [left, right]:
            return lambda columns: function(left(columns), right(columns))
    return lambda columns: function(*[arg(columns) for arg in args])


def _chain(signs: tuple[str, ...], args: list[Run]) -> Run:
    """Comparisons as in a < b < c, with every operand computed once."""
    functions = [_COMPARE[sign] for sign in signs]
    if len(functions) == 1:
        return _applied(functions[0], args)

    def run(columns: Mapping[str, Array]) -> Any:
        values = [arg(columns) for arg in args]
        pairs = zip(functions, values, values[1:], strict=False)
        return reduce(np.logical_and, [function(left, right) for function, left, right in pairs])

    return run


def _vector(node: Node) -> Run:
    """Scalars side by side: [n, w], or [w] if all of them are constant."""
    parts = [_operand(arg, None) for arg in node.args]
    if node.constant:
        return lambda columns: np.array([part(columns) for part in parts], np.float64)

    def run(columns: Mapping[str, Array]) -> Array:
        values = [part(columns) for part in parts]
        made = np.empty((max(np.size(value) for value in values), len(values)), np.float64)
        for place, value in enumerate(values):
            made[:, place] = value
        return made

    return run


def _filled(node: Node, shape: tuple[int, ...]) -> Fill:
    """A function to a new array [n, *shape] that nothing else holds."""
    run = _operand(node, shape[0] if shape else None)
    if node.constant:
        value = np.asarray(run({}))
        return lambda columns, n: np.broadcast_to(value, (n, *shape)).copy()
    if node.op in ("name", "prev"):
        return lambda columns, n: run(columns).copy()
    return lambda columns, n: run(columns)


class FormulaBackend(Backend):
    """H' = f(H, X), Y = g(H'): all tensors float64, a scalar of shape () and a vector of shape (w,).

    Division by zero and the like give inf or nan without a warning.
    """

    def __init__(self, formula: Formula) -> None:
        description = formula.description
        self.inputs = description.inputs
        self.outputs = description.outputs
        self.state = description.state
        self.scan = self._scan
        self._update = [(t.name, _filled(formula.update[t.name], t.shape)) for t in self.state.tensors]
        self._output = [(t.name, _filled(formula.output[t.name], t.shape)) for t in self.outputs]

    def step(self, state: Arrays, x: Arrays) -> tuple[Arrays, Arrays]:
        """See `Backend.step`; inputs of any numeric dtype become float64."""
        before = {t.name: np.ascontiguousarray(state[t.name], np.float64) for t in self.state.tensors}
        given = {t.name: _column(x[t.name], t) for t in self.inputs}
        n = len(next(iter({**given, **before}.values())))
        with np.errstate(all="ignore"):
            after = self._next(before, given, n)
            y = self._answer(before, after, given, n)
        return after, y

    def _scan(self, state: Arrays, x: Arrays, lens: IntArray) -> tuple[Arrays, Arrays, IntArray]:
        """See `Backend.scan`; the recurrence alone runs over time, all outputs are computed at once.

        Rows are put in order of falling length, so that a step's rows are the first ones; the columns hold
        all rows of step 0, then those of step 1, and so on, without gaps.
        """
        order = np.argsort(-lens, kind="stable")
        times, ranks = np.nonzero(np.arange(lens.max())[:, None] < lens[order])
        ends = np.cumsum(np.bincount(times))
        starts = np.concatenate(([0], ends[:-1]))
        rows = order[ranks]
        given = {t.name: _column(x[t.name][rows, times], t) for t in self.inputs}
        first = {t.name: np.asarray(state[t.name][order], np.float64) for t in self.state.tensors}
        with np.errstate(all="ignore"):
            after = self._trace(first, given, starts, ends)
            carried = starts[times[len(lens) :] - 1] + ranks[len(lens) :]
            before = {name: np.concatenate((first[name], after[name][carried])) for name in first}
            flat = self._answer(before, after, given, len(rows))
        length = next((x[t.name].shape[1] for t in self.inputs), int(lens.max()))
        y = {t.name: np.zeros((len(lens), length, *t.shape), np.float64) for t in self.outputs}
        for name, values in flat.items():
            y[name][rows, times] = values
        place = np.argsort(order)
        last = starts[lens - 1] + place
        return (
            {name: values[last] for name, values in after.items()},
            y,
            _first_bad([*after.values(), *flat.values()], rows, times, len(lens)),
        )

    def _trace(self, first: Arrays, given: Arrays, starts: IntArray, ends: IntArray) -> Arrays:
        """The states after every step, in the order of `given`."""
        trace = {name: np.empty((ends[-1], *values.shape[1:]), np.float64) for name, values in first.items()}
        state = first
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True) if trace else ():
            active = {name: values[: end - start] for name, values in state.items()}
            state = self._next(
                active, {name: values[start:end] for name, values in given.items()}, end - start
            )
            for name, values in state.items():
                trace[name][start:end] = values
        return trace

    def _next(self, before: Arrays, given: Arrays, n: int) -> Arrays:
        columns = {**given, **before}
        return {name: fill(columns, n) for name, fill in self._update}

    def _answer(self, before: Arrays, after: Arrays, given: Arrays, n: int) -> Arrays:
        columns = {**given, **after, **{_before(name): values for name, values in before.items()}}
        return {name: fill(columns, n) for name, fill in self._output}


def _column(values: Any, spec: TensorSpec) -> Array:
    return np.ascontiguousarray(values, np.float64).reshape(-1, *spec.shape)


def _first_bad(values: list[Array], rows: IntArray, times: IntArray, n: int) -> IntArray:
    """int64 [n]: the first time at which a row's values are not all finite, or -1."""
    bad = np.zeros(len(rows), np.bool_)
    for value in values:
        bad |= ~np.isfinite(value).reshape(len(rows), -1).all(axis=1)
    never = np.iinfo(np.int64).max
    found = np.full(n, never, np.int64)
    np.minimum.at(found, rows[bad], times[bad])
    return np.where(found == never, -1, found)


def build(config: FormulaConfig, given: Mapping[str, TensorSpec], context: Context) -> Backend:
    """The backend of a checked config; raises `OptionError` as `describe` does."""
    return FormulaBackend(config.formula(given))
