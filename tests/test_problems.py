from __future__ import annotations

from enum import Enum
from typing import Annotated, Any, Literal

import pytest
from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    JsonValue,
    StringConstraints,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from streamrnn.config.environment import substitute
from streamrnn.config.problems import dotted, found, from_option_error, problem, quoted, suggest, translate
from streamrnn.config.yaml_tree import load
from streamrnn.errors import OptionError


class Options(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Gap(Options):
    type: Literal["gap"]
    gap_s: float = Field(gt=0, description="The seconds without an event that end a sequence.")


class Every(Options):
    type: Literal["every"]
    events: int = Field(ge=1)
    when: Literal["before", "after"] = "before"


class File(Options):
    type: Literal["file"]
    path: str = Field(pattern=r"\S", max_length=9)
    file: File | None = None

    @model_validator(mode="after")
    def _other(self) -> File:
        if self.path == "loop":
            raise ValueError("expected a path that leads somewhere, found 'loop'")
        return self


class OneField(Options):
    field: str
    one_hot: list[str] | str = "ab"


class ManyFields(Options):
    fields: list[str]
    missing: float = 0


class Color(Enum):
    RED = "red"
    BLUE = "blue"


def _shape(value: Any) -> str:
    return "mapping" if isinstance(value, dict) else "text"


class Pipeline(Options):
    name: str = Field("n", description="URL of the pipeline.")
    unit: Literal["ms", "s", "us"] = "ms"
    color: Color = Color.RED
    flag: bool = False
    ratio: float = Field(0.5, lt=1, multiple_of=0.25)
    keys: int = Field(3, le=9)
    key: str | list[str] = "k"
    threads: int | Literal["auto"] = "auto"
    reset: list[Annotated[Gap | Every, Field(discriminator="type")]] = []
    source: Annotated[File | Gap, Field(discriminator="type")] | None = None
    feature: OneField | ManyFields | None = None
    tagged: Annotated[
        Annotated[str, Tag("text")] | Annotated[OneField, Tag("mapping")], Discriminator(_shape)
    ] = "t"
    state: dict[Annotated[str, StringConstraints(pattern="^[a-z]+$")], int] = {}
    inputs: dict[str, list[OneField]] = {}
    layers: list[int] = Field([1], min_length=1, max_length=3)
    equals: JsonValue = None
    from_: str = Field("f", alias="from")

    @field_validator("name")
    @classmethod
    def _name(cls, name: str) -> str:
        if " " in name:
            raise ValueError(f"expected a name without spaces, found {name!r}")
        return name


KNOWN = ", ".join(field.alias or name for name, field in Pipeline.model_fields.items())
ENV = {"N": "many", "S": "secret"}

MISTAKES = {
    "unit: minutes": ["f:1:7: unit: expected one of ms, s, us, found 'minutes'"],
    "unit: m": ["f:1:7: unit: expected one of ms, s, us, found 'm'; did you mean 'ms'?"],
    "unit: 5": ["f:1:7: unit: expected one of ms, s, us, found 5"],
    "color: Blue": ["f:1:8: color: expected one of red, blue, found 'Blue'; did you mean 'blue'?"],
    "flag: on": [],
    "flag: maybe": ["f:1:7: flag: expected true or false, found the text 'maybe'"],
    "keys: many": ["f:1:7: keys: expected an integer, found the text 'many'"],
    "keys: 1.5": ["f:1:7: keys: expected an integer, found the number 1.5"],
    "keys:": ["f:1:6: keys: expected an integer, found nothing"],
    "keys: [1]": ["f:1:7: keys: expected an integer, found a list"],
    "keys: 10": ["f:1:7: keys: expected a number <= 9, found 10"],
    "ratio: much": ["f:1:8: ratio: expected a number, found the text 'much'"],
    "ratio: 1": ["f:1:8: ratio: expected a number < 1, found 1"],
    "ratio: 0.3": ["f:1:8: ratio: expected a multiple of 0.25, found 0.3"],
    "name: 1": ["f:1:7: name: expected a text, found the number 1"],
    "name: true": ["f:1:7: name: expected a text, found true"],
    "name: a b": ["f:1:7: name: expected a name without spaces, found 'a b'"],
    f"name: [{'x' * 99}]\nfrom: {{}}": [
        "f:1:7: name: expected a text, found a list",
        "f:2:7: from: expected a text, found a mapping",
    ],
    "nam: a": [f"f:1:1: nam: unknown option 'nam'; did you mean 'name'? known: {KNOWN}"],
    "zzz:\n  a: 1": [f"f:1:1: zzz: unknown option 'zzz'; known: {KNOWN}"],
    "from_: a": [f"f:1:1: from_: unknown option 'from_'; did you mean 'from'? known: {KNOWN}"],
    "reset: {type: gap}": ["f:1:8: reset: expected a list, found a mapping"],
    "reset:\n  - type: gap\n    gap_m: 3": [
        "f:3:5: reset.0.gap_m: unknown option 'gap_m'; did you mean 'gap_s'? known: type, gap_s"
    ],
    "reset:\n  - type: gap": [
        "f:2:5: reset.0.gap_s: missing; expected the seconds without an event that end a sequence"
    ],
    "reset: [{type: gap, gap_s: 0}]": ["f:1:28: reset.0.gap_s: expected a number > 0, found 0"],
    "reset: [{type: every, events: 0, when: befor}]": [
        "f:1:31: reset.0.events: expected a number >= 1, found 0",
        "f:1:40: reset.0.when: expected one of before, after, found 'befor'; did you mean 'before'?",
    ],
    "reset: [{type: every}]": ["f:1:9: reset.0.events: missing; it has no default"],
    "reset: [{type: evry}, {gap_s: 1}, 3]": [
        "f:1:16: reset.0.type: expected one of gap, every, found 'evry'; did you mean 'every'?",
        "f:1:23: reset.1.type: missing; expected one of gap, every",
        "f:1:35: reset.2: expected a mapping, found the number 3",
    ],
    "source: {type: file, file: {type: file, path: ''}}": [
        "f:1:1: source.path: missing; it has no default",
        "f:1:47: source.file.path: expected a text that matches \\S, found ''",
    ],
    "source: {type: file, path: loop}": [
        "f:1:9: source: expected a path that leads somewhere, found 'loop'"
    ],
    "source: {type: file, path: 0123456789a}": [
        "f:1:28: source.path: expected a text of length <= 9, found '0123456789a'"
    ],
    "key: {a: 1}": ["f:1:6: key: expected a text or a list, found a mapping"],
    "key: [a, 1]": ["f:1:10: key.1: expected a text, found the number 1"],
    "threads: aut": [
        "f:1:10: threads: expected an integer or auto, found the text 'aut'; did you mean 'auto'?",
    ],
    "feature: 3": ["f:1:10: feature: expected a mapping, found the number 3"],
    "feature: {field: 1}": ["f:1:18: feature.field: expected a text, found the number 1"],
    "feature: {fields: [a], mising: 3}": [
        "f:1:24: feature.mising: unknown option 'mising'; did you mean 'missing'? known: fields, missing"
    ],
    "feature: {feild: a}": [
        "f:1:11: feature.feild: unknown option 'feild'; did you mean 'field'? known: field, one_hot",
    ],
    "feature: {field: a, one_hot: 3}": [
        "f:1:30: feature.one_hot: expected a list or a text, found the number 3",
    ],
    "tagged: {field: a, one_hat: b}": [
        "f:1:20: tagged.one_hat: unknown option 'one_hat'; did you mean 'one_hot'? known: field, one_hot"
    ],
    "state: {A: 1, b: x}": [
        "f:1:9: state.A: expected a text that matches ^[a-z]+$, found 'A'",
        "f:1:18: state.b: expected an integer, found the text 'x'",
    ],
    "inputs:\n  x:\n  - field: a\n  - fild: b": [
        "f:4:5: inputs.x.1.fild: unknown option 'fild'; did you mean 'field'? known: field, one_hot"
    ],
    "layers: []": ["f:1:9: layers: expected a length >= 1, found 0"],
    "layers: [1, 2, 3, 4]": ["f:1:9: layers: expected a length <= 3, found 4"],
    "keys: ${N}\nunit: ${S}\nreset: [{type: '${S}'}]": [
        "f:1:7: keys: expected an integer, found the value of '${N}'",
        "f:2:7: unit: expected one of ms, s, us, found the value of '${S}'",
        "f:3:16: reset.0.type: expected one of gap, every, found the value of '${S}'",
    ],
}  # fmt: skip


@pytest.mark.parametrize("text", MISTAKES)
def test_one_finding_per_mistake(text: str) -> None:
    tree = load(text, "f")
    assert substitute(tree, ENV) == []
    told: list[str] = []
    try:
        Pipeline.model_validate(tree.data)
    except ValidationError as error:
        told = [str(finding) for finding in sorted(translate(error, (), Pipeline, tree))]
    assert told == MISTAKES[text]


def test_section_of_a_file() -> None:
    tree = load("a: 1\nreset:\n  - type: gap\n    gap_m: 1\n", "f")
    with pytest.raises(ValidationError) as caught:
        Gap.model_validate(tree.value(("reset", 0)))
    told = "f:4:5: reset.0.gap_m: unknown option 'gap_m'"
    hint = "; did you mean 'gap_s'? known: type, gap_s"
    assert [str(each) for each in translate(caught.value, ("reset", 0), Gap, tree)] == [told + hint]
    without = [str(each) for each in translate(caught.value, ("reset", 0), None, tree)]
    assert without == ["f:3:5: reset.0.gap_s: missing; it has no default", told]


def test_errors_without_words_of_their_own() -> None:
    class Rare(BaseModel):
        day: Annotated[str, StringConstraints(to_lower=True)] | None = None
        code: bytes = Field(b"", max_length=2)
        uuid: Annotated[int, Field(allow_inf_nan=False)] | bytes = 0

    tree = load("code: abc\nuuid: []\n", "f")
    with pytest.raises(ValidationError) as caught:
        Rare.model_validate(tree.data)
    assert [str(each) for each in translate(caught.value, (), Rare, tree)] == [
        "f:1:7: code: data should have at most 2 bytes; found the text 'abc'",
        "f:2:7: uuid: expected an integer, found a list",
    ]


def test_option_errors_keep_their_paths() -> None:
    tree = load("model:\n  layers: [{weights: g}]\n", "f")
    error = OptionError((("layers", 0, "weights"), "no tensor 'g.w'"), (("path",), "missing"), ((), "odd"))
    assert [str(finding) for finding in from_option_error(error, ("model",), tree)] == [
        "f:2:22: model.layers.0.weights: no tensor 'g.w'",
        "f:1:1: model.path: missing",
        "f:2:3: model: odd",
    ]


def test_problem_at_value_and_at_key() -> None:
    tree = load("a:\n  b: 1\n", "f")
    assert str(problem(tree, ("a", "b"), "odd")) == "f:2:6: a.b: odd"
    assert str(problem(tree, ("a", "b"), "odd", at_key=True)) == "f:2:3: a.b: odd"
    assert str(problem(tree, (), "odd")) == "f:1:1: odd"


@pytest.mark.parametrize(
    ("word", "known", "hint"),
    [
        ("gap_m", ["gap_s", "type"], "; did you mean 'gap_s'?"),
        ("URL", ["url"], "; did you mean 'url'?"),
        ("minutes", ["ms", "s"], ""),
        ("x", [], ""),
        (5, ["5"], ""),
        ("a" * 10_000, ["a" * 9_999], ""),
    ],
)
def test_suggest(word: object, known: list[str], hint: str) -> None:
    assert suggest(word, known) == hint


def test_shown_values_stay_on_one_short_line() -> None:
    assert quoted("a\n\x1b[0m") == "'a\\n\\x1b[0m'"
    assert quoted("x" * 99) == "'" + "x" * 57 + "...'"
    assert dotted(("a", 0, "b\n", "x" * 99)) == "a.0.b\\n." + "x" * 57 + "..."
    values: list[object] = [None, True, 5, 0.5, "a", [], {}, ()]
    told = [
        "nothing",
        "true",
        "the number 5",
        "the number 0.5",
        "the text 'a'",
        "a list",
        "a mapping",
        "a list",
    ]
    assert [found(value) for value in values] == told
