from __future__ import annotations

import contextlib
import math
import random
import string
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from streamrnn.backend import Backend, Description, FirstInput, TensorSpec
from streamrnn.backends import expressions
from streamrnn.backends.expressions import Scope, parse
from streamrnn.backends.formula import build
from streamrnn.builtins.formula import COMPONENTS, FormulaConfig, describe
from streamrnn.context import Context
from streamrnn.errors import OptionError

TEXTBOOK = {"state": {"H": 0}, "update": {"H": "2*H + x"}, "output": {"y": "-H + 5"}}
SEEN = {
    "state": {"seen": [0, 0, 0]},
    "update": {"seen": "seen + x"},
    "output": {"y": "dot(prev(seen), x) > 0"},
}
AGAIN = {"state": {"last": [0, 0, 0]}, "update": {"last": "x"}, "output": {"y": "all(x == prev(last))"}}
MEAN = {
    "state": {"E": {"first": "x"}},
    "update": {"E": "0.9*E + 0.1*x"},
    "output": {"y": "E", "d": "x - prev(E)"},
}


def specs(**widths: int) -> dict[str, TensorSpec]:
    return {name: TensorSpec(name, (width,), "float64") for name, width in widths.items()}


def model(options: dict[str, Any], **widths: int) -> Backend:
    return build(FormulaConfig.model_validate(options), specs(**widths), Context())


def described(options: dict[str, Any], **widths: int) -> Description:
    return describe(FormulaConfig.model_validate(options), specs(**widths), Context())


def initial(backend: Backend, x: dict[str, Any], n: int) -> dict[str, Any]:
    state = {}
    for tensor in backend.state.tensors:
        value = x[tensor.initial.input] if isinstance(tensor.initial, FirstInput) else tensor.initial
        state[tensor.name] = np.broadcast_to(np.asarray(value, np.float64), (n, *tensor.shape)).copy()
    return state


def played(backend: Backend, events: list[Any]) -> dict[str, Any]:
    state = initial(backend, {"x": [events[0]]}, 1)
    answers: dict[str, list[float]] = {output.name: [] for output in backend.outputs}
    for event in events:
        state, y = backend.step(state, {"x": np.array([event])})
        for name, value in y.items():
            answers[name].append(value[0].tolist())
    return answers


def bits(values: Any) -> Any:
    """The bits, with all kinds of nan made one: they never leave the guard."""
    assert values.dtype == np.float64
    return np.where(np.isnan(values), np.nan, values).view(np.int64).tolist()


# What it computes


def test_the_textbook() -> None:
    assert played(model(TEXTBOOK, x=1), [3, 3, 3]) == {"y": [2.0, -4.0, -16.0]}


A, B, C = [1, 0, 0], [0, 1, 0], [0, 0, 1]


@pytest.mark.parametrize(
    ("options", "expected"),
    [(SEEN, [0.0, 0.0, 1.0, 1.0, 0.0, 1.0]), (AGAIN, [0.0, 0.0, 0.0, 1.0, 0.0, 0.0])],
    ids=["seen before", "equal to the one before"],
)
def test_repetitions(options: dict[str, Any], expected: list[float]) -> None:
    assert played(model(options, x=3), [A, B, A, A, C, B]) == {"y": expected}


def test_a_mean_that_starts_at_the_first_input() -> None:
    first = 0.9 * 7.5 + 0.1 * 7.5
    second = 0.9 * first + 0.1 * 2.5
    assert played(model(MEAN, x=1), [7.5, 2.5]) == {"y": [first, second], "d": [0.0, 2.5 - first]}


def test_updates_see_the_state_before_the_event() -> None:
    options = {"state": {"a": 1, "b": 2}, "update": {"a": "b", "b": "a + 0*x"}, "output": {"y": "[a, b]"}}
    assert played(model(options, x=1), [0, 0]) == {"y": [[2.0, 1.0], [1.0, 2.0]]}


X, Y, V, W = 1.75, -0.6, (3.0, -1.5, 0.25), (1.0, 2.0, 0.25)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x + y", X + Y),
        ("  x - y * 2 ", X - Y * 2),
        ("x / y", X / Y),
        ("x // y", X // Y),
        ("y % x", Y % X),
        ("7 % -3 + 0*x", 7 % -3),
        ("-x ** 2", -(X**2)),
        ("2 ** -y", 2**0.6),
        ("x ** (1/3)", X ** (1 / 3)),
        ("+y", Y),
        ("not x", 0.0),
        ("not 0*x", 1.0),
        ("y < 0 < x", 1.0),
        ("y < 0 < x < 1", 0.0),
        ("x == 1.75", 1.0),
        ("x != 1.75", 0.0),
        ("x >= 2 or y <= 0", 1.0),
        ("x and y and 0", 0.0),
        ("(x > 0) + (y < 0) + True", 3.0),
        ("-(x > 0)", -1.0),
        ("x if y > 0 else y", Y),
        ("1if x else 2", 1.0),
        ("where(x > y, x, y)", X),
        ("where(v > 0, 1, y)", [1.0, Y, 1.0]),
        ("min(x, y, 0.5)", Y),
        ("max(v, w)", [3.0, 2.0, 0.25]),
        ("min(v)", -1.5),
        ("max(v, 0)", [3.0, 0.0, 0.25]),
        ("max(v)", 3.0),
        ("abs(y)", 0.6),
        ("exp(x)", math.exp(X)),
        ("log(x)", math.log(X)),
        ("sqrt(x)", math.sqrt(X)),
        ("tanh(y)", math.tanh(Y)),
        ("sigmoid(y)", 1 / (1 + math.exp(-Y))),
        ("sum(v)", 1.75),
        ("dot(v, w)", 0.0625),
        ("any(v > 2)", 1.0),
        ("all(v > 2)", 0.0),
        ("all([True, 1]) + 0*x", 1.0),
        ("v", list(V)),
        ("v[0] - v[-1]", 2.75),
        ("(v * w)[1]", -3.0),
        ("v + x", [4.75, 0.25, 2.0]),
        ("x ** [0, 1, 2]", [1.0, X, X**2]),
        ("[x, 2, y]", [X, 2.0, Y]),
        ("(x, v[1])", [X, -1.5]),
        ("[1, 2, 3]", [1.0, 2.0, 3.0]),
        ("[1, 2, 3][1]", 2.0),
        ("dot((1, 2), (3, 4))", 11.0),
        ("2 * exp(0) + 1", 3.0),
        ("5", 5.0),
        ("True", 1.0),
        ("1e3\n + x", 1000 + X),
        ("1 / 0", math.inf),
        ("log(0 * x)", -math.inf),
        ("sigmoid(-1e9 * x)", 0.0),
    ],
)
def test_expressions(text: str, expected: Any) -> None:
    keep = "0*(x + y + sum(v) + sum(w))"
    backend = model({"output": {"r": text, "keep": keep}}, x=1, y=1, v=3, w=3)
    rows = {"x": np.array([X] * 2), "y": np.array([Y] * 2), "v": np.array([V] * 2), "w": np.array([W] * 2)}
    answer = backend.step({}, rows)[1]["r"]
    assert answer.dtype == np.float64
    assert answer.tolist() == [pytest.approx(expected, rel=1e-15)] * 2
    assert backend.outputs[0] == TensorSpec("r", np.shape(expected), "float64")


def test_overflow_and_nan_raise_no_warning() -> None:
    backend = model({"output": {"a": "x / 0", "b": "exp(x * 1e6)", "c": "sqrt(-x)", "d": "(-x) ** 0.5"}}, x=1)
    assert not any(np.isfinite(y).any() for y in backend.step({}, {"x": np.array([1, 2])})[1].values())


# What it tells about itself


def test_description() -> None:
    options = {
        "state": {"H": 1, "V": [0, 2.5], "E": {"first": "x"}},
        "update": {"H": "H + k", "V": "V", "E": "E"},
        "output": {"y": "H", "z": "V * 2", "w": "x"},
    }
    found = described(options, x=3, k=1)
    assert [(t.name, t.shape, t.dtype) for t in found.inputs] == [
        ("x", (3,), "float64"),
        ("k", (), "float64"),
    ]
    assert [(t.name, t.shape) for t in found.outputs] == [("y", ()), ("z", (2,)), ("w", (3,))]
    assert [(t.name, t.shape, t.dtype, t.initial) for t in found.state.tensors] == [
        ("H", (), "float64", 1.0),
        ("V", (2,), "float64", (0.0, 2.5)),
        ("E", (3,), "float64", FirstInput("x")),
    ]


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({}, True),
        ({"update": {"H": "(2 *H)+ x"}}, True),
        ({"update": {"H": "2*(H + x)"}}, False),
        ({"state": {"H": 1}}, False),
        ({"output": {"y": "-H + 4"}}, False),
    ],
)
def test_fingerprint(change: dict[str, Any], same: bool) -> None:
    fingerprint = described(TEXTBOOK, x=1).state.fingerprint
    assert (described({**TEXTBOOK, **change}, x=1).state.fingerprint == fingerprint) is same
    assert len(fingerprint) == 64
    assert model(TEXTBOOK, x=1).state.fingerprint == fingerprint


def test_the_component_declares_itself() -> None:
    (component,) = COMPONENTS
    assert component.resolve("build") is build
    assert component.resolve("describe") is describe
    assert set(FormulaConfig.model_json_schema()["properties"]) == {"state", "update", "output"}


def test_linting_loads_no_numpy() -> None:
    code = "import sys, streamrnn.builtins.formula; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# What it refuses

ALLOWED = expressions.ALLOWED


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("__import__('os')", "column 1: found a call of `__import__`; the functions are where"),
        ("import os", "column 1: cannot read `import os`; allowed are numbers"),
        ("x.real", "column 1: found an attribute, `x.real`; allowed are numbers"),
        ("x + x.__class__", "column 5: found an attribute, `x.__class__`"),
        ("__class__", "column 1: found the name '__class__', expected a state (H, V) or an input (x, v)"),
        ("lambda: x", "column 1: found a lambda"),
        ("sine(x)", "column 1: found a call of `sine`"),
        ("sqr(x)", "did you mean 'sqrt'?"),
        ("x()", "column 1: found a call of `x`"),
        ("x.f()", "column 1: found a call of `x.f`"),
        ("(y := x)", "column 2: found an assignment, `y := x`"),
        ("f'{x}'", "column 1: found an f-string"),
        ("[a for a in v]", "column 1: found a comprehension"),
        ("sum(a for a in v)", "column 4: found a comprehension"),
        ("{x}", "column 1: found a part of the kind Set"),
        ("x + 'a'", "column 5: found a constant that is not a number, `'a'`"),
        ("None", "column 1: found a constant that is not a number"),
        ("1j", "column 1: found a constant that is not a number"),
        ("...", "column 1: found a constant that is not a number"),
        ("x @ x", "column 1: found an operator, `x @ x`"),
        ("~x", "column 1: found an operator, `~x`"),
        ("x is 1", "column 1: found a comparison with is or in"),
        ("x in v", "column 1: found a comparison with is or in"),
        ("x = 1", "column 3: cannot read `= 1`"),
        ("x +", "cannot read the end"),
        ("", "column 1: cannot read the end"),
        ("  x +  $y", "column 8: cannot read `$y`"),
        ("x # twice", "column 3: found '#', but an expression has no comments"),
        ("x\0", "column 1: cannot read `x"),
        (
            "Hh + x",
            "column 1: found the name 'Hh', expected a state (H, V) or an input (x, v); did you mean 'H'?",
        ),
        ("größe(x) + h2", "column 1: found a call of `größe`"),
        ("v[0] + (é := 1)", "column 9: found an assignment, `é := 1`"),
        ("exp", "column 1: found the function exp without arguments; write exp(a)"),
        ("exp(x, x)", "column 1: expected exp(a), found `exp(x, x)`"),
        ("exp(a=x)", "column 1: expected exp(a), found `exp(a=x)`"),
        ("where(x, x)", "expected where(condition, a, b), found `where(x, x)`"),
        ("max(*v)", "column 5: found a star"),
        ("min(x)", "column 1: expected min(vector) or min(a, b, ...), found `min(x)` with a scalar"),
        ("sum(x)", "column 1: expected sum(vector), found `sum(x)` with a scalar"),
        ("dot(v, x)", "column 1: expected dot(vector, vector), found `dot(v, x)` with a scalar"),
        ("1 + V * v", "column 5: expected vectors of one length, found `V` of 2 and `v` of 3"),
        ("x if v else V", "column 6: expected vectors of one length, found `v` of 3 and `V` of 2"),
        ("[v, x]", "column 2: expected scalars in a vector, found a vector, `v`"),
        ("[x]", "column 1: expected a vector of at least 2 numbers, found `[x]`"),
        ("v[3]", "column 3: expected an index from 0 to 2, found 3"),
        ("v[x]", "column 3: expected a whole number as in V[0], found `x`"),
        ("v[True]", "column 3: expected a whole number"),
        ("v[0:1]", "column 3: expected a whole number"),
        ("x[0]", "column 1: expected a vector before [, found a scalar, `x`"),
        ("9**9**9", "column 4: expected a constant exponent between -1024 and 1024, found `9**9`"),
        ("x ** -1025", "column 6: expected a constant exponent"),
        ("1e999", "column 1: expected a number that is finite in double precision, found `1e999`"),
        ("1" * 400, "column 1: expected a number that is finite in double precision"),
        ("+".join("x" * 501), "column 1001: expected at most 1000 characters, found 1001"),
        ("[" + "-1," * 300 + "1]", "column 1: expected at most 500 names, numbers and operations, found 602"),
        ("+".join("x" * 200), "expected at most 100 operations inside each other, found more"),
        ("-" * 999 + "x", "column 1: cannot be read|operations inside each other"),
        ("(" * 500 + "x" + ")" * 499, "column"),
        ("prev(H)", "column 1: prev is for outputs; in update the name itself is the state before the event"),
    ],
)
def test_refused_expressions(text: str, message: str) -> None:
    options = {
        "state": {"H": 0, "V": [0, 0]},
        "update": {"H": text, "V": "V + x + sum(v)"},
        "output": {"y": "H"},
    }
    with pytest.raises(OptionError) as error:
        described(options, x=1, v=3)
    (path, found), *rest = error.value.problems
    assert path == ("update", "H")
    assert any(part in found for part in message.split("|")), found
    assert all(path == ("update", "H") for path, _ in rest)


def test_columns_count_characters() -> None:
    found = parse("  é + größe.x\n + ü(x)", Scope({}, {"x": None}, after=False)).problems
    assert [problem.partition(":")[0] for problem in found] == ["column 3", "column 7", "column 18"]


def test_prev_takes_a_state() -> None:
    with pytest.raises(
        OptionError, match=r"output.y: column 3: expected prev of a state \(H\), found `prev\(x\)`"
    ):
        described({**TEXTBOOK, "output": {"y": "1+prev(x)"}}, x=1)


@pytest.mark.parametrize(
    ("change", "path", "message"),
    [
        ({"update": {}, "output": {"y": "x"}}, ("state", "H"), "expected an update for 'H', found none"),
        (
            {"update": {"H": "x", "HH": "x"}},
            ("update", "HH"),
            "expected a state (H), found 'HH'; did you mean 'H'?",
        ),
        ({"state": {"H": {"first": "X"}}}, ("state", "H", "first"), "expected an input (x), found 'X'"),
        (
            {"update": {"H": "[x, H]"}},
            ("update", "H"),
            "gives a vector of 2, but the initial value of 'H' is a",
        ),
        ({"state": {"H": [0, 0, 0]}, "update": {"H": "[x, 1]"}}, ("update", "H"), "is a list of 3 numbers"),
        ({"output": {"a b": "H"}}, ("output", "a b"), "no valid identifier"),
        ({"update": {"H": "H"}}, ("output",), "event.inputs gives 'x', which no expression uses"),
    ],
)
def test_refused_options(change: dict[str, Any], path: tuple[str, ...], message: str) -> None:
    with pytest.raises(OptionError) as error:
        described({**TEXTBOOK, **change}, x=1)
    ((where, found),) = error.value.problems
    assert where == path
    assert message in found


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x", "'x' is also an input of event.inputs"),
        ("max", "expected an identifier that is not a function"),
        ("if", "expected an identifier that is not a function"),
        ("2a", "expected an identifier that is not a function"),
    ],
)
def test_refused_state_names(name: str, message: str) -> None:
    with pytest.raises(OptionError) as error:
        described({"state": {name: 0}, "update": {name: "x"}, "output": {"y": "x"}}, x=1)
    assert error.value.problems == ((("state", name), error.value.problems[0][1]),)
    assert message in error.value.problems[0][1]


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ({"x": 1, "sum": 1}, "the input 'sum' of event.inputs cannot be a name in an expression"),
        ({"x": 65537}, "the input 'x' has 65537 numbers, expected at most 65536"),
        ({}, "a formula needs a state or an input"),
    ],
)
def test_refused_inputs(widths: dict[str, int], message: str) -> None:
    with pytest.raises(OptionError) as error:
        described({"output": {"y": "x"}}, **widths)
    assert any(path == ("output",) and message in found for path, found in error.value.problems)


def test_every_problem_is_told_at_once() -> None:
    options = {
        "state": {"H": 0, "G": 0},
        "update": {"H": "y + os.x", "K": "1"},
        "output": {"y": "Gg"},
    }
    with pytest.raises(OptionError) as error:
        described(options, x=1, z=1)
    assert [path for path, _ in error.value.problems] == [
        ("state", "G"),
        ("update", "K"),
        ("update", "H"),
        ("update", "H"),
        ("output", "y"),
        ("output",),
        ("output",),
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"state": {"H": "0"}},
        {"state": {"H": True}},
        {"state": {"H": math.inf}},
        {"state": {"H": [0]}},
        {"state": {"H": [0, math.nan]}},
        {"state": {"H": {"last": "x"}}},
        {"state": {"H": [0.0] * 65537}},
    ],
)
def test_refused_initial_values(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as error:
        FormulaConfig.model_validate({**TEXTBOOK, **change})
    (found,) = error.value.errors()
    assert found["loc"] == ("state", "H")
    assert "expected a finite number, a list of 2 to 65536 finite numbers or {first: <input>}" in found["msg"]


@pytest.mark.parametrize("change", [{"output": {}}, {"hidden": 1}, {"output": {"y": 5}}])
def test_refused_sections(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        FormulaConfig.model_validate({**TEXTBOOK, **change})


def test_garbage_is_refused_and_no_more() -> None:
    rng = random.Random(7)
    words = [
        *"xHV+-*/%()[],.<>=!@~&|^'\"\\{}:;$#?_ \t\n\0\ud800é0159",
        "prev(",
        "lambda ",
        "**",
        " if ",
        " else ",
    ]
    words += [
        "not ",
        " and ",
        " for ",
        " in ",
        "f'",
        ":=",
        "1e9",
        "0x",
        "1_0",
        "await ",
        "yield ",
        "\N{ROMAN NUMERAL ONE}",
    ]
    scope = Scope({"H": None, "V": 3}, {"x": None}, after=True)
    for round_ in range(2000):
        pool = words if round_ % 2 else list(string.printable)
        text = "".join(rng.choices(pool, k=rng.randrange(40)))
        with contextlib.suppress(OptionError):
            described({"state": {"H": 0}, "update": {"H": text}, "output": {"y": "H + x"}}, x=1)
        assert parse(text, scope).problems or parse(text, scope).names is not None


# The bits do not depend on the batch

UNARY = ["-{}", "(not {})", "abs({})", "exp({})", "log({})", "sqrt({})", "tanh({})", "sigmoid({})", "({})**2"]
BINARY = [
    *("({} + {})", "({} - {})", "({} * {})", "({} / {})", "({} // {})", "({} % {})", "({} ** {})"),
    *("({} < {})", "({} and {})", "({} or {})", "min({}, {})", "max({}, {})", "({0} if {1} else {1})"),
]
REDUCE = ["sum({})", "min({})", "max({})", "dot({0}, {0})", "any({})", "all({})", "({})[1]"]
SCALARS, VECTORS = ["H", "E", "x", "0.7", "-2", "3"], ["V", "v", "[0.1, 2, -3]", "[x, H, 1]"]


def random_formula(rng: random.Random, vector: bool, depth: int, after: bool) -> str:
    def part(wide: bool) -> str:
        return random_formula(rng, wide, depth - 1, after)

    if depth == 0:
        leaf = rng.choice(VECTORS if vector else SCALARS)
        return f"prev({leaf})" if after and leaf in ("H", "E", "V") and rng.random() < 0.4 else leaf
    if not vector and rng.random() < 0.25:
        return rng.choice(REDUCE).format(part(True))
    if rng.random() < 0.4:
        return rng.choice(UNARY).format(part(vector))
    parts = [part(vector), part(vector and rng.random() < 0.5)]
    rng.shuffle(parts)
    return rng.choice(BINARY).format(*parts)


def random_model(seed: int) -> Backend:
    rng = random.Random(seed)
    update = {
        "H": f"tanh({random_formula(rng, False, 2, False)}) + 0.5*H",
        "V": f"sigmoid({random_formula(rng, True, 2, False)}) - V/2",
        "E": "0.9*E + 0.1*x",
    }
    output = {name: random_formula(rng, name < "c", 3, True) for name in "abcd"}
    state = {"H": 0.5, "V": [0, 0.25, -1], "E": {"first": "x"}}
    return model(
        {"state": state, "update": update, "output": {**output, "e": "x + v + E + prev(H)"}}, x=1, v=3
    )


def columns(rng: Any, *lead: int) -> dict[str, Any]:
    return {
        "x": rng.standard_normal(lead),
        "v": np.where(rng.random((*lead, 3)) < 0.3, 0.0, rng.normal(size=(*lead, 3))),
    }


@pytest.mark.parametrize("seed", range(12))
def test_rows_are_independent(seed: int) -> None:
    backend, rng = random_model(seed), np.random.default_rng(seed)
    x = columns(rng, 33)
    state = {**initial(backend, x, 33), "H": rng.standard_normal(33), "V": rng.standard_normal((33, 3))}

    def stepped(rows: Any) -> list[Any]:
        found = backend.step({k: v[rows] for k, v in state.items()}, {k: v[rows] for k, v in x.items()})
        return [bits(values) for part in found for values in part.values()]

    alone = [stepped(np.array([row])) for row in range(33)]
    for n in range(1, 34):
        rows = rng.permutation(33)[:n]
        assert stepped(rows) == [[alone[row][part][0] for row in rows] for part in range(len(alone[0]))]


@pytest.mark.parametrize("seed", range(40))
def test_scan_equals_steps(seed: int) -> None:
    backend, rng = random_model(seed), np.random.default_rng(seed)
    n, most = int(rng.integers(1, 9)), int(rng.integers(1, 12))
    lens = rng.integers(1, most + 1, n)
    x = columns(rng, n, most)
    state = initial(backend, {"x": x["x"][:, 0]}, n)
    assert backend.scan is not None
    after, y, bad_at = backend.scan(state, x, lens)
    for row in range(n):
        one, first_bad = {name: values[row : row + 1] for name, values in state.items()}, -1
        for t in range(lens[row]):
            one, answer = backend.step(one, {name: values[row : row + 1, t] for name, values in x.items()})
            assert {name: bits(values[row : row + 1, t]) for name, values in y.items()} == {
                name: bits(values) for name, values in answer.items()
            }
            finite = all(np.isfinite(values).all() for values in (*one.values(), *answer.values()))
            first_bad = t if first_bad < 0 and not finite else first_bad
        assert bits(one["V"]) == bits(after["V"][row : row + 1])
        assert bits(one["H"]) == bits(after["H"][row : row + 1])
        assert bad_at is not None
        assert bad_at[row] == first_bad


def test_scan_names_the_first_bad_step() -> None:
    options = {"state": {"H": 0}, "update": {"H": "H + x"}, "output": {"y": "1 / (H - 3)"}}
    backend = model(options, x=1)
    assert backend.scan is not None
    nan = math.nan
    x = np.array([[1, 2, 3, 4], [1, 1, 1, 1], [nan, 1, 1, 1], [1, nan, nan, nan], [1, 1, 1e999, 3]])
    lens = np.array([4, 4, 2, 1, 3])
    state, y, bad_at = backend.scan({"H": np.zeros(5)}, {"x": x}, lens)
    assert bad_at is not None
    assert bad_at.tolist() == [1, 2, 0, -1, 2]
    assert bad_at.dtype == np.int64
    assert state["H"][3] == 1.0
    assert y["y"].shape == (5, 4)


def test_a_formula_without_inputs_counts() -> None:
    backend = model({"state": {"n": 0}, "update": {"n": "n + 1"}, "output": {"n": "n"}})
    assert backend.scan is not None
    state, y, bad_at = backend.scan({"n": np.zeros(2)}, {}, np.array([1, 3]))
    assert state["n"].tolist() == [1.0, 3.0]
    assert y["n"].tolist() == [[1.0, 0.0, 0.0], [1.0, 2.0, 3.0]]
    assert bad_at is not None
    assert bad_at.tolist() == [-1, -1]
    assert backend.step({"n": np.zeros(2)}, {})[1]["n"].tolist() == [1.0, 1.0]


def test_scan_without_a_state() -> None:
    backend = model({"output": {"y": "2*x", "one": "1"}}, x=1)
    assert backend.scan is not None
    state, y, _ = backend.scan({}, {"x": np.array([[1, 2], [3, 4]])}, np.array([2, 1]))
    assert state == {}
    assert y["y"].tolist() == [[2.0, 4.0], [6.0, 0.0]]
    assert y["one"].tolist() == [[1.0, 1.0], [1.0, 0.0]]


def test_arguments_are_neither_written_to_nor_given_back() -> None:
    options = {
        "state": {"H": 0, "V": [0, 0], "K": 1},
        "update": {"H": "x", "V": "V", "K": "1"},
        "output": {"h": "H", "p": "prev(V)", "x": "x", "i": "V[0]", "plus": "+H"},
    }
    backend = model(options, x=1)
    state = {"H": np.zeros(1), "V": np.ones((1, 2)), "K": np.ones(1)}
    x = {"x": np.array([3.0])}
    given = [*state.values(), *x.values()]
    for array in given:
        array.flags.writeable = False
    assert backend.scan is not None
    once = backend.step(state, x)
    run = backend.scan(state, {"x": x["x"][:, None]}, np.array([1]))
    for after, y, *_ in (once, run):
        made = [*after.values(), *y.values()]
        assert all(array.flags.writeable for array in made)
        for place, array in enumerate(made):
            assert not any(np.shares_memory(array, other) for other in [*given, *made[:place]])


@pytest.mark.parametrize("dtype", ["int64", "float32", "float64"])
def test_inputs_of_any_dtype(dtype: str) -> None:
    backend = model({"output": {"y": "x // 2"}}, x=1)
    answer = backend.step({}, {"x": np.array([[3], [4]], dtype)})[1]["y"]
    assert answer.dtype == np.float64
    assert answer.tolist() == [1.0, 2.0]
