"""Prints the tables of options in docs/pipelines.md, made of the options' own declarations.

python tools/options.py              all of them
python tools/options.py FILE...      renew what stands in these files between `<!-- begin NAME -->` and
                                     `<!-- end NAME -->`: a table of that name, or the file of that path
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter

from streamrnn.config import model as m
from streamrnn.config.parts import ElapsedOptions
from streamrnn.hookspecs import KINDS
from streamrnn.layers.options import LayerConfig
from streamrnn.registry import Registry

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"(<!-- begin (\S+) -->\n).*?(<!-- end \2 -->)", re.DOTALL)
SECTIONS: Mapping[str, type[BaseModel]] = {
    "file": m.PipelineFile,
    "event": m.Event,
    "time": m.Time,
    "elapsed": ElapsedOptions,
    "order": m.Order,
    "duplicates": m.Duplicates,
    "model": m.Model,
    "candidate": m.Candidate,
    "encode": m.Encode,
    "state": m.State,
    "limits": m.Limits,
    "dead_letter": m.DeadLetter,
    "checkpoint": m.Checkpoint,
    "tests": m.Test,
}
UNIONS: Mapping[str, Any] = {"layers": LayerConfig, "fields": m.EncodedField}

Schema = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """One option, and the variants of its section that have it."""

    name: str
    type: str
    default: str
    meaning: str
    of: tuple[str, ...] = ()


def tables() -> dict[str, str]:
    """Every table by name, as Markdown."""
    found = {f"options:{name}": _fixed(model.model_json_schema()) for name, model in SECTIONS.items()}
    for kind in KINDS:
        ours = [component for component, package in Registry().components(kind) if package == "streamrnn"]
        lead = [f"- `{c.name}`: {_sentence(c.summary)} Example: `{c.example}`" for c in ours]
        table = _variants((c.name, c.config.model_json_schema()) for c in ours)
        found[f"options:{kind}"] = "\n".join(lead) + ("\n\n" + table if table else "")
    for name, union in UNIONS.items():
        found[f"options:{name}"] = _union(TypeAdapter(union).json_schema())
    return found


def renewed(text: str) -> str:
    """The text of a page with everything between its markers made anew."""
    made = tables()

    def content(match: re.Match[str]) -> str:
        begin, name, end = match.groups()
        return f"{begin}{made[name] if name in made else printed(name)}\n{end}"

    return BLOCK.sub(content, text)


def printed(path: str) -> str:
    """A file of the project as a block of code."""
    return f"```{Path(path).suffix[1:].replace('py', 'python')}\n{(ROOT / path).read_text().rstrip()}\n```"


def rows(schema: Schema, definitions: Schema, nested: bool = False) -> Iterator[Row]:
    """The options of a section; if `nested`, those of a mapping inside it under dotted names too."""
    required = schema.get("required", ())
    for name, option in schema["properties"].items():
        if name == "type" and "const" in option:
            continue
        inner = [_definition(each, definitions) for each in _alternatives(option) if "$ref" in each]
        default = "required" if name in required else _default(option)
        told = next(part for part in (option, *inner, schema) if "description" in part)["description"]
        yield Row(name, _type(option), default, _sentence(told))
        if nested:
            for row in (row for each in inner for row in rows(each, definitions, nested)):
                yield replace(row, name=f"{name}.{row.name}")


def _definition(schema: Schema, definitions: Schema) -> Schema:
    found: Schema = definitions[schema["$ref"].rsplit("/")[-1]]
    return found


def _fixed(schema: Schema) -> str:
    return _table(rows(schema, schema.get("$defs", {})))


def _union(schema: Schema) -> str:
    options = [_definition(each, schema["$defs"]) for each in schema["oneOf"]]
    named = [(option["properties"]["type"]["const"], option) for option in options]
    lead = [f"- `{name}`: {_sentence(option['description'])}" for name, option in named]
    return "\n".join(lead) + "\n\n" + _variants(named)


def _variants(named: Iterable[tuple[str, Schema]]) -> str:
    """One table for sections of several types; an option that means the same in some of them is one row."""
    merged: dict[Row, list[str]] = {}
    for name, schema in named:
        for row in rows(schema, schema.get("$defs", {}), nested=True):
            merged.setdefault(row, []).append(name)
    return _table([replace(row, of=tuple(names)) for row, names in merged.items()])


def _table(rows: Iterable[Row]) -> str:
    listed = list(rows)
    if not listed:
        return ""
    several = any(row.of for row in listed)
    head = ["option", *(["of"] if several else []), "type", "default", "meaning"]
    lines = [head, ["---"] * len(head)]
    for row in listed:
        of = [", ".join(row.of)] if several else []
        lines.append([f"`{row.name}`", *of, row.type, row.default, row.meaning])
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def _alternatives(schema: Schema) -> list[Schema]:
    """What a value may be, nothing apart."""
    given = schema.get("anyOf") or schema.get("oneOf") or [schema]
    return [each for each in given if each.get("type") != "null"]


def _type(schema: Schema) -> str:
    return " or ".join(dict.fromkeys(_one_type(each) for each in _alternatives(schema)))


def _one_type(schema: Schema) -> str:
    if "const" in schema or "enum" in schema:
        values = schema["enum"] if "enum" in schema else [schema["const"]]
        return ", ".join(f"`{value if isinstance(value, str) else json.dumps(value)}`" for value in values)
    kind = schema.get("type")
    if kind == "array":
        of = _type(schema["items"]) if schema["items"] else ""
        plain = of.replace(" ", "").isalpha() and " or " not in of
        return f"list of {of}s" if plain else "list of values"
    if kind == "object" or "$ref" in schema:
        values = schema.get("additionalProperties")
        return f"name to {_type(values)}" if isinstance(values, dict) and values else "mapping"
    words = {"string": "text", "boolean": "true or false", None: "any value"}
    return str(words.get(kind, kind)) + _bounds(schema)


def _bounds(schema: Schema) -> str:
    low, above, high = (schema.get(name) for name in ("minimum", "exclusiveMinimum", "maximum"))
    if low is not None and high is not None:
        return f", {low} to {high}"
    signs = ((">=", low), (">", above), ("<=", high))
    return "".join(f", {sign} {int(bound)}" for sign, bound in signs if bound is not None)


def _default(option: Schema) -> str:
    default = option.get("default")
    if default in (None, [], {}) or isinstance(default, dict):
        return ""
    return f"`{default if isinstance(default, str) else json.dumps(default)}`"


def _sentence(text: str) -> str:
    """With a full stop, and a capital unless it begins with a name or a formula."""
    first = text.split(" ")[0].rstrip(",;")
    capital = first.isalpha() and (len(first) > 1 or first == "a")
    return (text[:1].upper() + text[1:] if capital else text).rstrip(".") + "."


def main() -> None:
    """Print the tables, or renew files."""
    for name in sys.argv[1:]:
        Path(name).write_text(renewed(Path(name).read_text()))
    if not sys.argv[1:]:
        print("\n\n".join(f"<!-- {name} -->\n{table}" for name, table in tables().items()))


if __name__ == "__main__":
    main()
