"""`${VAR}` in the values of a pipeline file.

Substitution works on the finished tree, so what a variable holds can never change the file's structure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from streamrnn.config.problems import Path, problem, quoted
from streamrnn.config.yaml_tree import Node, Scalar, Tree, resolve
from streamrnn.errors import Finding

_DOLLAR = re.compile(r"\$(?:\$|\{(?P<inside>[^}]*)(?P<close>\}?))")
_INSIDE = re.compile(r"(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::(?P<form>[-?])(?P<rest>.*))?", re.DOTALL)
_LINE_END = re.compile(r"[\r\n]")
_FORMS = "${NAME}, ${NAME:-default} or ${NAME:?message}"


def substitute(tree: Tree, env: Mapping[str, str]) -> list[Finding]:
    """Replace `${VAR}`, `${VAR:-default}`, `${VAR:?message}` and `$$` in all text values, in place.

    Defaults and messages apply to what is unset or empty. A plain scalar that is one substitution and
    nothing else is read again as a plain scalar, so a number arrives as a number; everything else stays a
    text. Returns what went wrong; the values concerned stay as they were.
    """
    findings = []
    for path, container, part, node in list(_texts(tree)):
        text = container[part]
        try:
            value = _value(text, node.plain, env)
        except ValueError as error:
            findings.append(problem(tree, path, str(error)))
            continue
        if value != text or not isinstance(value, str):
            container[part], node.source = value, text
    return findings


def _texts(tree: Tree) -> Iterator[tuple[Path, Any, str | int, Node]]:
    """Every text with a `$`: its path, what holds it, under which key or index, and its node."""
    waiting: list[tuple[Path, Any, Node]] = [((), tree.data, tree.root)]
    while waiting:
        path, container, parent = waiting.pop()
        for part, node in (parent.children or {}).items():
            value = container[part]
            if node.children is not None:
                waiting.append(((*path, part), value, node))
            elif isinstance(value, str) and "$" in value:
                yield (*path, part), container, part, node


def _value(text: str, plain: bool, env: Mapping[str, str]) -> Scalar:
    """What a text becomes. Raises `ValueError` with the reason why it cannot."""
    value = _DOLLAR.sub(lambda match: _replacement(match, env), text)
    if not plain or value == text:
        return value
    if len(_LINE_END.findall(value)) > len(_LINE_END.findall(text)):
        raise ValueError(f"{quoted(text)} gives more than one line; put it in quotes if that is meant")
    whole = _DOLLAR.fullmatch(text)
    return resolve(value) if whole is not None and text != "$$" else value


def _replacement(match: re.Match[str], env: Mapping[str, str]) -> str:
    """What one `$$` or `${...}` stands for."""
    if match[0] == "$$":
        return "$"
    inside = _INSIDE.fullmatch(match["inside"])
    if not match["close"]:
        raise ValueError(f"expected {_FORMS}, found {quoted(match[0])} without a closing brace")
    if inside is None or "${" in match["inside"]:
        raise ValueError(f"expected {_FORMS}, found {quoted(match[0])}; write $$ for a $ before a brace")
    name, form, rest = inside["name"], inside["form"], inside["rest"]
    value = env.get(name)
    if value is None and form is None:
        raise ValueError(f"environment variable {name} is not set; give a default with ${{{name}:-...}}")
    if form is not None and not value:
        if form == "?":
            raise ValueError(rest or f"environment variable {name} is not set or empty")
        return str(rest)
    return _text(name, value or "")


def _text(name: str, value: str) -> str:
    """The value of a variable, known to be text: the system hands over bytes of any kind."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"environment variable {name} is not UTF-8") from None
    return value
