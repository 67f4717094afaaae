"""Expressions of the `formula` backend: read by Python's parser, checked against a whitelist, never executed.

An expression becomes a tree of `Node`s with known widths. Numbers are IEEE double precision; comparisons,
`and`, `or`, `not`, `any` and `all` are 1 or 0 wherever a number is needed. `a if c else b` is
`where(c, a, b)`: both sides are computed and one is chosen.
"""

from __future__ import annotations

import ast
import difflib
import math
import operator
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from streamrnn.backend import Description

MAX_LENGTH = 1000
"""Characters of an expression."""
MAX_NODES = 500
"""Names, numbers and operations of an expression."""
MAX_DEPTH = 100
"""Operations inside each other; a sum of k terms is k deep."""
MAX_EXPONENT = 1024.0
"""Largest magnitude of a constant exponent."""
MAX_WIDTH = 65536
"""Numbers in a vector."""

FUNCTIONS = {
    "where": "where(condition, a, b)",
    "min": "min(vector) or min(a, b, ...)",
    "max": "max(vector) or max(a, b, ...)",
    "abs": "abs(a)",
    "exp": "exp(a)",
    "log": "log(a)",
    "sqrt": "sqrt(a)",
    "tanh": "tanh(a)",
    "sigmoid": "sigmoid(a)",
    "sum": "sum(vector)",
    "dot": "dot(vector, vector)",
    "any": "any(vector)",
    "all": "all(vector)",
    "prev": "prev(state)",
}
ALLOWED = (
    "allowed are numbers, True, False, names of states and inputs, + - * / // % **, comparisons, and, or, "
    "not, `a if c else b`, vectors such as [a, b], V[0] and the functions " + ", ".join(FUNCTIONS)
)

_BINARY = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "//", ast.Mod: "%"}
_COMPARE = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!="}
_ARITHMETIC: dict[str, Callable[..., float]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
    "**": operator.pow,
    "negative": operator.neg,
}
_TRUTH = frozenset({"compare", "and", "or", "not", "any", "all"})
_REDUCES = frozenset({"sum", "dot", "any", "all"})
_ARGUMENTS = {"where": (3, 3), "dot": (2, 2), "min": (1, MAX_NODES), "max": (1, MAX_NODES)}
_FOUND: dict[type[ast.AST], str] = {
    **dict.fromkeys((ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp), "a comprehension"),
    ast.Attribute: "an attribute",
    ast.BinOp: "an operator",
    ast.Compare: "a comparison with is or in",
    ast.Constant: "a constant that is not a number",
    ast.JoinedStr: "an f-string",
    ast.Lambda: "a lambda",
    ast.NamedExpr: "an assignment",
    ast.Starred: "a star",
    ast.UnaryOp: "an operator",
}

Detail = float | str | tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Node:
    """One operation of a checked expression; `width` is None for a scalar, else the vector's length.

    `op` is an operator, a function, or one of: number, name, prev (`detail` is the value or the name),
    index (`detail` is where), compare (`detail` is the operators of the chain), vector, negative.
    """

    op: str
    args: tuple[Node, ...] = ()
    width: int | None = None
    detail: Detail = ""

    @property
    def truth(self) -> bool:
        """Whether the value is a truth value, to be counted as 1 or 0."""
        return self.op in _TRUTH

    @property
    def constant(self) -> bool:
        """Whether it reads neither a state nor an input."""
        return self.op not in ("name", "prev") and all(arg.constant for arg in self.args)

    @property
    def canonical(self) -> str:
        """The same text for the same meaning, whatever the spaces and brackets were."""
        inner = ",".join(arg.canonical for arg in self.args)
        return f"{self.op}:{self.detail!r}({inner})" if inner else f"{self.op}:{self.detail!r}"


_REFUSED = Node("refused")


@dataclass(frozen=True)
class Scope:
    """What an expression may name: widths of the `states` and of the `inputs`, and whether `prev` exists."""

    states: Mapping[str, int | None]
    inputs: Mapping[str, int | None]
    after: bool

    @property
    def names(self) -> dict[str, int | None]:
        """Everything with a width."""
        return {**self.inputs, **self.states}


@dataclass
class Parsed:
    """An expression after the check: `node` is to be used only if `problems` is empty.

    `names` are the identifiers in it, or None if it could not be read as an expression at all.
    """

    node: Node
    problems: list[str] = field(default_factory=list)
    names: frozenset[str] | None = None


@dataclass(frozen=True)
class Formula:
    """A whole checked recurrence: the next value of each state, and each output."""

    description: Description
    update: dict[str, Node]
    output: dict[str, Node]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: "; did you mean 'x'?" or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


def parse(text: str, scope: Scope) -> Parsed:
    """Check one expression; raises nothing, whatever the text is."""
    line = text.translate({ord(space): " " for space in "\t\n\r\f"})
    read = _read(line)
    if isinstance(read, str):
        return Parsed(_REFUSED, [read])
    names = frozenset(found.id for found in ast.walk(read) if isinstance(found, ast.Name))
    checker = _Checker(line, scope)
    if not checker.too_large(read):
        return Parsed(checker.check(read), checker.problems, names)
    return Parsed(_REFUSED, checker.problems, names)


def _read(line: str) -> ast.expr | str:
    """The syntax tree, or what is wrong."""
    if len(line) > MAX_LENGTH:
        return f"column {MAX_LENGTH + 1}: expected at most {MAX_LENGTH} characters, found {len(line)}"
    if "#" in line:
        return f"column {line.index('#') + 1}: found '#', but an expression has no comments; {ALLOWED}"
    lead = len(line) - len(line.lstrip(" "))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(line.strip(" "), mode="eval").body
    except SyntaxError as error:
        # The parser says 0 for the end of the text.
        offset = 1 if error.offset is None else error.offset or len(line) + 1
        column = min(lead + max(offset, 1), len(line) + 1)
        rest = line[column - 1 : column + 19]
        return f"column {column}: cannot read {f'`{rest}`' if rest.strip() else 'the end'}; {ALLOWED}"
    except (ValueError, RecursionError, MemoryError):
        return f"column 1: cannot be read as an expression; {ALLOWED}"


class _Checker:
    """Turns a syntax tree into nodes and collects every problem on the way."""

    def __init__(self, line: str, scope: Scope) -> None:
        self.problems: list[str] = []
        self._bytes = line.encode("utf-8", "surrogatepass")
        self._lead = len(line) - len(line.lstrip(" "))
        self._scope = scope
        self._names = scope.names

    def fail(self, at: ast.expr, message: str) -> Node:
        """Note a problem at a place of the expression."""
        start = self._bytes[self._lead : self._lead + at.col_offset]
        column = self._lead + len(start.decode("utf-8", "surrogatepass")) + 1
        self.problems.append(f"column {column}: {message}")
        return _REFUSED

    def source(self, at: ast.expr) -> str:
        """The text of a part, for messages."""
        end = at.end_col_offset if at.end_col_offset is not None else at.col_offset
        part = self._bytes[self._lead + at.col_offset : self._lead + end].decode("utf-8", "replace")
        return f"`{part}`" if len(part) <= 40 else f"`{part[:37]}...`"

    def too_large(self, tree: ast.expr) -> bool:
        """Whether the tree is beyond the limits, found without recursion."""
        stack: list[tuple[ast.AST, int]] = [(tree, 1)]
        nodes, at = 0, tree
        while stack:
            found, depth = stack.pop()
            if isinstance(found, ast.expr):
                nodes, at = nodes + 1, found
            if depth > MAX_DEPTH:
                self.fail(at, f"expected at most {MAX_DEPTH} operations inside each other, found more")
                return True
            stack.extend((child, depth + 1) for child in ast.iter_child_nodes(found))
        if nodes > MAX_NODES:
            self.fail(tree, f"expected at most {MAX_NODES} names, numbers and operations, found {nodes}")
        return nodes > MAX_NODES

    def check(self, at: ast.expr) -> Node:
        """The node of one part of the tree."""
        match at:
            case ast.Constant(value=bool() | int() | float() as value):
                return self._number(at, value)
            case ast.Name(id=name):
                return self._name(at, name)
            case ast.BinOp(op=ast.Pow()):
                return self._power(at)
            case ast.BinOp(op=sign) if type(sign) in _BINARY:
                return self._elementwise(_BINARY[type(sign)], [at.left, at.right])
            case ast.UnaryOp(op=ast.UAdd()):
                return self.check(at.operand)
            case ast.UnaryOp(op=ast.USub()):
                return self._elementwise("negative", [at.operand])
            case ast.UnaryOp(op=ast.Not()):
                return self._elementwise("not", [at.operand])
            case ast.Compare(ops=signs) if all(type(sign) in _COMPARE for sign in signs):
                chain = tuple(_COMPARE[type(sign)] for sign in signs)
                return self._elementwise("compare", [at.left, *at.comparators], chain)
            case ast.BoolOp(op=both):
                return self._elementwise("and" if isinstance(both, ast.And) else "or", at.values)
            case ast.IfExp():
                return self._elementwise("where", [at.test, at.body, at.orelse])
            case ast.Tuple() | ast.List():
                return self._vector(at)
            case ast.Subscript():
                return self._index(at)
            case ast.Call():
                return self._call(at)
            case _:
                found = _FOUND.get(type(at), f"a part of the kind {type(at).__name__}")
                return self.fail(at, f"found {found}, {self.source(at)}; {ALLOWED}")

    def _number(self, at: ast.expr, value: float) -> Node:
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            return self.fail(
                at, f"expected a number that is finite in double precision, found {self.source(at)}"
            )
        return Node("number", detail=number)

    def _name(self, at: ast.expr, name: str) -> Node:
        if name in self._names:
            return Node("name", width=self._names[name], detail=name)
        if name in FUNCTIONS:
            return self.fail(at, f"found the function {name} without arguments; write {FUNCTIONS[name]}")
        return self.fail(at, f"found the name '{name}', expected {self._known(name)}")

    def _known(self, name: str) -> str:
        states, inputs = ", ".join(self._scope.states) or "none", ", ".join(self._scope.inputs) or "none"
        return f"a state ({states}) or an input ({inputs}){did_you_mean(name, self._names)}"

    def _elementwise(self, op: str, operands: Sequence[ast.expr], detail: Detail = "") -> Node:
        """A node whose operands are scalars, or vectors of one length, or both."""
        args = tuple(self.check(operand) for operand in operands)
        return self._joined(op, operands, args, detail)

    def _joined(
        self, op: str, operands: Sequence[ast.expr], args: tuple[Node, ...], detail: Detail = ""
    ) -> Node:
        if any(arg is _REFUSED for arg in args):
            return _REFUSED
        vectors = [(part, arg.width) for part, arg in zip(operands, args, strict=True) if arg.width]
        for part, width in vectors[1:]:
            if width != vectors[0][1]:
                first, length = vectors[0]
                return self.fail(
                    first,
                    f"expected vectors of one length, found {self.source(first)} of {length} and "
                    f"{self.source(part)} of {width}",
                )
        return _folded(Node(op, args, vectors[0][1] if vectors else None, detail))

    def _power(self, at: ast.BinOp) -> Node:
        args = (self.check(at.left), self.check(at.right))
        constant = args[1].detail if args[1].op == "number" else None
        if isinstance(constant, float) and abs(constant) > MAX_EXPONENT:
            return self.fail(
                at.right,
                f"expected a constant exponent between -{MAX_EXPONENT:g} and {MAX_EXPONENT:g}, "
                f"found {self.source(at.right)}",
            )
        return self._joined("**", [at.left, at.right], args)

    def _vector(self, at: ast.Tuple | ast.List) -> Node:
        if len(at.elts) < 2:
            return self.fail(at, f"expected a vector of at least 2 numbers, found {self.source(at)}")
        args = tuple(self.check(part) for part in at.elts)
        for part, arg in zip(at.elts, args, strict=True):
            if arg.width:
                return self.fail(part, f"expected scalars in a vector, found a vector, {self.source(part)}")
        joined = self._joined("vector", at.elts, args)
        return joined if joined is _REFUSED else Node("vector", args, len(args))

    def _index(self, at: ast.Subscript) -> Node:
        vector, place = self.check(at.value), None
        match at.slice:
            case ast.Constant(value=int() as index) if not isinstance(index, bool):
                place = index
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() as index)):
                place = -index
        if place is None:
            return self.fail(at.slice, f"expected a whole number as in V[0], found {self.source(at.slice)}")
        if vector is _REFUSED:
            return _REFUSED
        if vector.width is None:
            return self.fail(at, f"expected a vector before [, found a scalar, {self.source(at.value)}")
        if not -vector.width <= place < vector.width:
            return self.fail(at.slice, f"expected an index from 0 to {vector.width - 1}, found {place}")
        return Node("index", (vector,), None, place % vector.width)

    def _call(self, at: ast.Call) -> Node:
        if not isinstance(at.func, ast.Name) or at.func.id not in FUNCTIONS:
            called = at.func.id if isinstance(at.func, ast.Name) else ""
            return self.fail(
                at,
                f"found a call of {self.source(at.func)}; the functions are {', '.join(FUNCTIONS)}"
                f"{did_you_mean(called, FUNCTIONS)}",
            )
        name = at.func.id
        if name == "prev":
            return self._prev(at)
        expected = f"expected {FUNCTIONS[name]}, found {self.source(at)}"
        least, most = _ARGUMENTS.get(name, (1, 1))
        if at.keywords or not least <= len(at.args) <= most:
            return self.fail(at, expected)
        node = self._elementwise(name, at.args)
        reduces = name in _REDUCES or (name in ("min", "max") and len(at.args) == 1)
        if node is _REFUSED or not reduces:
            return node
        if any(arg.width is None for arg in node.args):
            return self.fail(at, f"{expected} with a scalar")
        return Node(name, node.args)

    def _prev(self, at: ast.Call) -> Node:
        if not self._scope.after:
            return self.fail(
                at, "prev is for outputs; in update the name itself is the state before the event"
            )
        match at:
            case ast.Call(args=[ast.Name(id=name)], keywords=[]) if name in self._scope.states:
                return Node("prev", width=self._scope.states[name], detail=name)
        states = ", ".join(self._scope.states) or "none"
        return self.fail(at, f"expected prev of a state ({states}), found {self.source(at)}")


def _folded(node: Node) -> Node:
    """Arithmetic on numbers as its result, where that is a finite number."""
    if node.op not in _ARITHMETIC or any(arg.op != "number" for arg in node.args):
        return node
    try:
        value = _ARITHMETIC[node.op](*(arg.detail for arg in node.args))
    except (ZeroDivisionError, OverflowError):
        return node
    return Node("number", detail=value) if isinstance(value, float) and math.isfinite(value) else node
