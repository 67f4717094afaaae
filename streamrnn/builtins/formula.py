"""The `formula` backend's options and declaration: a recurrence written as expressions."""

from __future__ import annotations

import hashlib
import json
import keyword
import unicodedata
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, WrapValidator

from streamrnn.backend import Description, FirstInput, StateSpec, StateTensor, TensorSpec
from streamrnn.backends.expressions import (
    FUNCTIONS,
    MAX_WIDTH,
    Formula,
    Node,
    Parsed,
    Scope,
    did_you_mean,
    parse,
)
from streamrnn.context import Context
from streamrnn.errors import OptionError
from streamrnn.hookspecs import Component

Problem = tuple[tuple[str | int, ...], str]
Shape = tuple[int, ...]


class First(BaseModel):
    """An initial state taken from the first event after a reset, placed before the update."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    first: str = Field(description="The input whose value becomes the state.")


def _initial(value: Any, check: Callable[[Any], Any]) -> Any:
    """One message for a value that fits none of the three forms."""
    try:
        return check(value)
    except ValidationError:
        found = repr(value)
        found = found if len(found) <= 60 else f"{found[:57]}..."
        raise ValueError(
            f"expected a finite number, a list of 2 to {MAX_WIDTH} finite numbers or {{first: <input>}}, "
            f"found {found}; a list of one number is written as the number"
        ) from None


Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Initial = Annotated[
    Number | Annotated[tuple[Number, ...], Field(min_length=2, max_length=MAX_WIDTH)] | First,
    WrapValidator(_initial),
]


class FormulaConfig(BaseModel):
    """H' = f(H, X) and Y = g(H'), an expression for each state and each output."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    state: dict[str, Initial] = Field(
        default_factory=dict,
        description="States by name, each with its initial value: a number, a list of numbers, or "
        "`{first: x}` for the first event's input `x`.",
    )
    update: dict[str, str] = Field(
        default_factory=dict,
        description="For each state the expression of its next value. All of them see the states as they "
        "were before the event, and the inputs.",
    )
    output: dict[str, str] = Field(
        min_length=1,
        description="Outputs by name, each an expression of the states after the update and the inputs; "
        "`prev(H)` is the state `H` before it.",
    )

    def formula(self, given: Mapping[str, TensorSpec]) -> Formula:
        """The recurrence for inputs of these shapes, (w,) each; raises `OptionError` with every problem."""
        widths = {name: _width(spec.shape) for name, spec in given.items()}
        tensors = [_tensor(name, initial, widths) for name, initial in self.state.items()]
        states = {tensor.name: _width(tensor.shape) for tensor in tensors}
        update = {name: parse(text, Scope(states, widths, after=False)) for name, text in self.update.items()}
        output = {name: parse(text, Scope(states, widths, after=True)) for name, text in self.output.items()}
        problems = [*self._naming(widths), *self._updating(update, states)]
        for section, expressions in (("update", update), ("output", output)):
            problems += [
                ((section, name), text) for name, found in expressions.items() for text in found.problems
            ]
        problems += self._unused([*update.values(), *output.values()], widths)
        if problems:
            raise OptionError(*problems)
        updates = {name: update[name].node for name in states}
        outputs = {name: found.node for name, found in output.items()}
        description = Description(
            tuple(TensorSpec(name, _shape(width), "float64") for name, width in widths.items()),
            tuple(TensorSpec(name, _shape(node.width), "float64") for name, node in outputs.items()),
            StateSpec(tuple(tensors), self._fingerprint(updates, outputs)),
        )
        return Formula(description, updates, outputs)

    def _naming(self, inputs: Mapping[str, int | None]) -> Iterator[Problem]:
        """Names that cannot be written in an expression, or that mean two things."""
        if not self.state and not inputs:
            yield ("output",), "a formula needs a state or an input; event.inputs gives none"
        for name, width in inputs.items():
            if not _is_name(name) or name in FUNCTIONS:
                yield ("output",), f"the input '{name}' of event.inputs {_NAME}"
            if width and width > MAX_WIDTH:
                yield ("output",), f"the input '{name}' has {width} numbers, expected at most {MAX_WIDTH}"
        for name, initial in self.state.items():
            if not _is_name(name) or name in FUNCTIONS:
                yield ("state", name), f"the state '{name}' {_NAME}"
            elif name in inputs:
                yield ("state", name), f"'{name}' is also an input of event.inputs; give one another name"
            if isinstance(initial, First) and initial.first not in inputs:
                found = f"'{initial.first}'{did_you_mean(initial.first, inputs)}"
                yield ("state", name, "first"), f"expected an input ({_listed(inputs)}), found {found}"
        for name in self.output:
            if not _is_name(name):
                yield ("output", name), f"the output '{name}' is no valid identifier"

    def _updating(self, update: Mapping[str, Parsed], states: Mapping[str, int | None]) -> Iterator[Problem]:
        """States without an update, updates without a state, and updates that do not fit."""
        for name in [name for name in states if name not in update]:
            yield (
                ("state", name),
                f"expected an update for '{name}', found none; write update: {{{name}: ...}}",
            )
        for name, found in update.items():
            if name not in states:
                hint = did_you_mean(name, states)
                yield ("update", name), f"expected a state ({_listed(states)}), found '{name}'{hint}"
            elif not found.problems and found.node.width not in (None, states[name]):
                kept = f"a list of {states[name]} numbers" if states[name] else "a single number"
                text = f"gives a vector of {found.node.width}, but the initial value of '{name}' is {kept}"
                yield ("update", name), text

    def _unused(self, expressions: Collection[Parsed], inputs: Mapping[str, int | None]) -> Iterator[Problem]:
        """Inputs that nothing reads; silent where an expression could not be read at all."""
        read = {initial.first for initial in self.state.values() if isinstance(initial, First)}
        for found in expressions:
            if found.names is None:
                return
            read |= found.names
        for name in inputs:
            if name not in read:
                text = f"event.inputs gives '{name}', which no expression uses; use it or remove it there"
                yield ("output",), text

    def _fingerprint(self, update: Mapping[str, Node], output: Mapping[str, Node]) -> str:
        """A digest in which spaces, needless brackets and the order of the entries do not count."""
        form = {
            "state": self.model_dump(mode="json")["state"],
            "update": {name: node.canonical for name, node in update.items()},
            "output": {name: node.canonical for name, node in output.items()},
        }
        return hashlib.sha256(json.dumps(form, sort_keys=True).encode()).hexdigest()


_NAME = "cannot be a name in an expression: expected an identifier that is not a function or a word of Python"


def describe(config: FormulaConfig, given: Mapping[str, TensorSpec], context: Context) -> Description:
    """What the recurrence takes, gives and keeps; raises `OptionError` with every problem."""
    return config.formula(given).description


def _is_name(name: str) -> bool:
    return name.isidentifier() and not keyword.iskeyword(name) and unicodedata.normalize("NFKC", name) == name


def _listed(names: Collection[str]) -> str:
    return ", ".join(names) or "none"


def _width(shape: Shape) -> int | None:
    size = 1
    for length in shape:
        size *= length
    return size if size > 1 else None


def _shape(width: int | None) -> Shape:
    return () if width is None else (width,)


def _tensor(
    name: str, initial: float | tuple[float, ...] | First, inputs: Mapping[str, int | None]
) -> StateTensor:
    if isinstance(initial, First):
        width = inputs.get(initial.first)
        return StateTensor(name, _shape(width), "float64", initial=FirstInput(initial.first))
    shape = (len(initial),) if isinstance(initial, tuple) else ()
    return StateTensor(name, shape, "float64", initial=initial)


COMPONENTS = (
    Component(
        "backend",
        "formula",
        config=FormulaConfig,
        build="streamrnn.backends.formula:build",
        describe="streamrnn.builtins.formula:describe",
        summary="a recurrence written as expressions in the pipeline file",
        example='{state: {H: 0}, update: {H: "2*H + x"}, output: {y: "-H + 5"}}',
    ),
)
