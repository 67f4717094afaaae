"""Findings in the words of a pipeline file's author, and what they are made of.

A mistake is told as `file:line:column: dotted.path: expected ..., found ...; did you mean ...?`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from streamrnn.errors import Finding, OptionError

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

    from streamrnn.config.yaml_tree import Tree

Path = tuple[str | int, ...]

_SHOWN_MAX = 60

_TYPES = {
    "int_type": "an integer",
    "int_parsing": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "a text",
    "path_type": "a path",
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "dict_type": "a mapping",
    "mapping_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "dataclass_type": "a mapping",
    "none_required": "nothing",
}
_BOUNDS = {
    "greater_than": "a number > {gt}",
    "greater_than_equal": "a number >= {ge}",
    "less_than": "a number < {lt}",
    "less_than_equal": "a number <= {le}",
    "multiple_of": "a multiple of {multiple_of}",
    "finite_number": "a finite number",
    "string_too_short": "a text of length >= {min_length}",
    "string_too_long": "a text of length <= {max_length}",
    "string_pattern_mismatch": "a text that matches {pattern}",
}
_LENGTHS = {"too_short": "a length >= {min_length}", "too_long": "a length <= {max_length}"}
_OWN_WORDS = ("value_error", "assertion_error")
_QUOTED = re.compile(r"'((?:[^'\\]|\\.)*)'|([^\s,']+)")


def dotted(path: Path) -> str:
    """A path as shown to people: `layers.2.weights`."""
    return ".".join(_printable(str(part)) for part in path)


def quoted(text: str) -> str:
    """A text in quotes, on one line, cut where it is long."""
    return repr(text if len(text) <= _SHOWN_MAX else text[: _SHOWN_MAX - 3] + "...")


def found(value: object) -> str:
    """What a value of a pipeline file is: `the text 'many'`, `the number 5`, `a mapping`."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return f"the number {value}"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    return f"the text {quoted(str(value))}"


def suggest(word: object, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` where a known word is close, else nothing."""
    closest = _closest(word, known)
    return f"; did you mean '{closest}'?" if closest is not None else ""


def problem(tree: Tree, path: Path, message: str, at_key: bool = False) -> Finding:
    """A finding about the value at `path`, or about its key."""
    mark = tree.key_mark(path) if at_key else tree.mark(path)
    return Finding(tree.file, *mark, dotted(path), message)


def from_option_error(error: OptionError, path: Path, tree: Tree) -> list[Finding]:
    """What a component says of its own options; `path` is that of the component's section."""
    return [problem(tree, path + tuple(relative), message) for relative, message in error.problems]


def translate(error: ValidationError, path: Path, model: type[BaseModel] | None, tree: Tree) -> list[Finding]:
    """One finding per mistake that pydantic found in the section at `path`.

    `model` is what the section was validated against; it knows the options' names and descriptions. Of a
    union, the alternative that fits best speaks for all.
    """
    mistakes = [_mistake(detail, path, model, tree) for detail in error.errors(include_url=False)]
    chosen = _one_alternative(mistakes, 0)
    # A misspelt option is unknown under one name and may be missing under the other: that is one mistake.
    meant = {(*m.path[:-1], _closest(m.word, m.known)) for m in chosen if m.kind == "extra_forbidden"}
    told = (m for m in chosen if m.kind != "missing" or m.path not in meant)
    return list(dict.fromkeys(mistake.finding(tree) for mistake in told))


@dataclass(frozen=True)
class _Mistake:
    """One error: `expected` in words, or else the whole `message`.

    `tags` are the names of union alternatives that led to it, each with the path of its union.
    """

    kind: str
    path: Path
    tags: tuple[tuple[Path, str], ...]
    expected: str = ""
    found: str = ""
    message: str = ""
    word: object = None
    known: tuple[str, ...] = ()
    at_key: bool = False

    def finding(self, tree: Tree) -> Finding:
        message = self.message
        if self.expected:
            message = f"expected {self.expected}, found {self.found}{suggest(self.word, self.known)}"
        return problem(tree, self.path, message, self.at_key)


def _mistake(detail: Any, path: Path, model: type[BaseModel] | None, tree: Tree) -> _Mistake:
    """The words for one of pydantic's errors."""
    kind, loc, value, context = detail["type"], detail["loc"], detail["input"], detail.get("ctx", {})
    at_key = bool(loc) and loc[-1] == "[key]"
    name = loc[-1:] if kind == "missing" or at_key else ()
    full, tags = _align(loc[: len(loc) - len(name)], value, path, tree)
    mistake = _Mistake(kind, full, tags, at_key=at_key)
    if kind == "missing":
        return replace(mistake, path=full + name, message=_missing(model, loc))
    if kind == "extra_forbidden":
        known = tuple(_fields(_models_at(model, loc[:-1])))
        word = str(loc[-1])
        listed = f"{suggest(word, known) or ';'} known: {', '.join(known)}" if known else ""
        message = f"unknown option {quoted(word)}{listed}"
        return replace(mistake, message=message, word=word, known=known, at_key=True)
    if kind in _OWN_WORDS:
        return replace(mistake, message=str(context["error"]))
    if kind.startswith("union_tag_"):
        return _union_tag(mistake, detail, _models_at(model, loc), tree)
    expected, shown, known = _expectation(kind, value, context)
    if not expected:
        return replace(mistake, message=f"{detail['msg'][:1].lower()}{detail['msg'][1:]}; found {shown}")
    return replace(mistake, expected=expected, found=_origin(tree, full) or shown, word=value, known=known)


def _expectation(kind: str, value: object, context: Mapping[str, Any]) -> tuple[str, str, tuple[str, ...]]:
    """What was expected ("" where there are no words for it), what was found, and the words known."""
    context = {name: int(x) if isinstance(x, float) and x.is_integer() else x for name, x in context.items()}
    if kind in _TYPES:
        return _TYPES[kind], found(value), ()
    if kind in _LENGTHS:
        return _LENGTHS[kind].format_map(context), str(context["actual_length"]), ()
    if kind in _BOUNDS:
        return _BOUNDS[kind].format_map(context), _bare(value), ()
    if kind in ("literal_error", "enum"):
        known = _names(context["expected"])
        return _one_of(known), _bare(value), known
    return "", found(value), ()


def _origin(tree: Tree, path: Path) -> str:
    """How to name a value that came from the environment: it may be secret, so it is not shown."""
    node = tree.node(path)
    return f"the value of {quoted(node.source)}" if node is not None and node.source is not None else ""


def _union_tag(mistake: _Mistake, detail: Any, models: Sequence[_Named], tree: Tree) -> _Mistake:
    """The option that chooses between alternatives is missing or unknown."""
    context = detail["ctx"]
    option = str(context["discriminator"]).strip("'")
    path = (*mistake.path, option)
    if "tag" in context:
        known, word = _names(context["expected_tags"]), str(context["tag"])
        shown = _origin(tree, path) or quoted(word)
        where = path if tree.node(path) else mistake.path
        return replace(mistake, path=where, expected=_one_of(known), found=shown, word=word, known=known)
    known = tuple(tag for _, model in models for tag in _literals(model, option))
    return replace(mistake, path=path, message="missing" + (f"; expected {_one_of(known)}" if known else ""))


def _missing(model: type[BaseModel] | None, loc: Path) -> str:
    field = _fields(_models_at(model, loc[:-1])).get(str(loc[-1]))
    words = ((field.description or "") if field else "").rstrip(".")
    if not words:
        return "missing; it has no default"
    words = words.split(". ")[0]
    # "The rows" begins in lower case here, but not "PyTorch's hidden_size".
    ordinary = words.split()[0][1:].islower() or words[1:2] == " "
    return f"missing; expected {words[:1].lower() if ordinary else words[:1]}{words[1:]}"


def _one_of(names: Sequence[str]) -> str:
    return f"one of {', '.join(names)}" if len(names) > 1 else "".join(names)


def _names(listed: str) -> tuple[str, ...]:
    """The words in pydantic's `'ms', 's' or 'us'`."""
    words = ((match[1], match[2]) for match in _QUOTED.finditer(listed))
    return tuple(text if text is not None else bare for text, bare in words if bare != "or")


def _bare(value: object) -> str:
    return found(value).removeprefix("the text ").removeprefix("the number ")


def _closest(word: object, known: Iterable[str]) -> str | None:
    """The known word that is most like `word`, None if none is."""
    if not isinstance(word, str) or len(word) > _SHOWN_MAX:
        return None
    by_lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), by_lower, n=1)
    return by_lower[close[0]] if close else None


def _printable(text: str) -> str:
    return quoted(text)[1:-1] if len(text) > _SHOWN_MAX or not text.isprintable() else text


def _align(loc: Path, value: object, path: Path, tree: Tree) -> tuple[Path, tuple[tuple[Path, str], ...]]:
    """The path in the file that an error's location means, and the parts of it that name alternatives.

    A part that is not in the file must be such a name. One that is may be both: then the path is right
    under which the rejected value itself is found.
    """
    ways: list[tuple[Path, tuple[tuple[Path, str], ...]]] = [(path, ())]
    for part in loc:
        kept = [((*way, part), tags) for way, tags in ways if tree.node((*way, part)) is not None]
        tagged = [(way, (*tags, (way, part)) if isinstance(part, str) else tags) for way, tags in ways]
        ways = (kept + tagged)[:16]
    exact = (way for way in ways if tree.node(way[0]) is not None and tree.value(way[0]) is value)
    return next(exact, ways[0])


def _one_alternative(mistakes: Sequence[_Mistake], level: int) -> list[_Mistake]:
    """The mistakes without those of union alternatives that nobody meant."""
    chosen = [mistake for mistake in mistakes if len(mistake.tags) <= level]
    unions: dict[Path, dict[str, list[_Mistake]]] = {}
    for mistake in mistakes:
        if len(mistake.tags) > level:
            union, tag = mistake.tags[level]
            unions.setdefault(union, {}).setdefault(tag, []).append(mistake)
    for union, alternatives in unions.items():
        chosen += _best(union, [_one_alternative(each, level + 1) for each in alternatives.values()])
    return chosen


def _best(union: Path, alternatives: Sequence[list[_Mistake]]) -> list[_Mistake]:
    """Of alternatives, the one whose shape fits and that lacks least; if none fits, all said in one."""
    if len(alternatives) == 1:
        return alternatives[0]
    flat = [mistake for each in alternatives for mistake in each]
    fitting = [each for each in alternatives if any(mistake.path != union for mistake in each)]
    own = [mistake for mistake in flat if mistake.kind in _OWN_WORDS]
    if fitting:
        return min(fitting, key=len)
    if own:
        return own[:1]
    told = [mistake for mistake in flat if mistake.expected]
    if not told:
        return flat[:1]
    expected = " or ".join(dict.fromkeys(mistake.expected for mistake in told))
    known = tuple(name for mistake in told for name in mistake.known)
    return [replace(told[0], expected=expected, known=known)]


_Named = tuple[str, Any]
"""A model with the tag that chooses it, "" if it has none."""


def _models_at(model: type[BaseModel] | None, loc: Path) -> list[_Named]:
    """The models that may stand at an error's location."""
    models: list[_Named] = [("", model)] if model is not None else []
    for part in loc:
        named = [(tag, each) for tag, each in models if part in _tags(tag, each)] if len(models) > 1 else []
        field = _fields(models).get(str(part))
        if named:
            models = named
        elif field is not None:
            models = list(_models_in(field.annotation))
    return models


def _fields(models: Sequence[_Named]) -> dict[str, Any]:
    """The fields of models by the name they have in a file."""
    every = (item for _, model in models for item in model.model_fields.items())
    return {field.alias or name: field for name, field in every}


def _models_in(annotation: Any) -> Iterator[_Named]:
    """The models inside an annotation such as `list[Annotated[Gap, Tag("gap")] | Every]`."""
    waiting = [("", annotation)]
    seen: list[Any] = []  # an alias may name itself
    while waiting:
        tag, each = waiting.pop(0)
        if any(each is other for other in seen):
            continue
        if hasattr(each, "__value__"):
            seen.append(each)
        if isinstance(each, type) and hasattr(each, "model_fields"):
            yield tag, each
        elif metadata := getattr(each, "__metadata__", ()):
            tag = next((str(item.tag) for item in metadata if hasattr(item, "tag")), tag)
            waiting.append((tag, each.__origin__))
        else:
            waiting += [(tag, inner) for inner in get_args(getattr(each, "__value__", each)) or ()]


def _tags(tag: str, model: Any) -> set[str]:
    """The names an error's location may have for a model."""
    literals = (value for field in model.model_fields for value in _literals(model, field))
    return {tag, model.__name__, *literals}


def _literals(model: Any, option: str) -> tuple[str, ...]:
    """The texts that an option of type `Literal` may be."""
    field = _fields([("", model)]).get(option)
    if field is None or get_origin(field.annotation) is not Literal:
        return ()
    return tuple(str(value) for value in get_args(field.annotation))
