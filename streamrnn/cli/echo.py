"""`streamrnn echo`: a pipeline file as it is understood."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click
import yaml
from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from streamrnn.config.parts import ITEM_OPTIONS, ElapsedOptions
from streamrnn.config.spec import ElapsedItem
from streamrnn.config.yaml_tree import resolve

if TYPE_CHECKING:
    from streamrnn.config.spec import Chosen, Item, PipelineSpec
    from streamrnn.config.yaml_tree import Node

_WIDTH = 110
_RESOLVER: Any = yaml.resolver.Resolver()


@click.command("echo")
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--resolve", "resolved", is_flag=True, help="Show what the variables held. It may be secret.")
def command(file: str, resolved: bool) -> None:
    """Print a pipeline file as it is understood, with every default written out.

    What comes out means the same as what went in, beside the same files: relative paths stay relative.
    Values from environment variables stay `${VAR}`.
    """
    from streamrnn.config.open import open_pipeline

    spec, _, _ = open_pipeline(file)
    click.echo(to_yaml(normalised(spec, resolved)), nl=False)


@dataclass(frozen=True)
class Reference:
    """A value of the file that names variables; `plain` says that it had no quotes."""

    text: str
    plain: bool


def normalised(spec: PipelineSpec, resolved: bool = False) -> dict[str, Any]:
    """A pipeline file's data with all defaults but null.

    Unless `resolved`, a `Reference` stands for each value that came from the environment.
    """
    data = _given(spec.tree.data, spec.tree.root, resolved)
    whole: dict[str, Any] = _filled(data, spec.file)
    whole["name"] = data.get("name") or spec.name
    for name in ("source", "decode", "model", "encode", "sink"):
        whole[name] = _section(data[name], getattr(spec, name), getattr(spec.file, name))
    if spec.candidate is not None and spec.file.candidate is not None:
        given = data["candidate"]["model"]
        whole["candidate"]["model"] = _section(given, spec.candidate, spec.file.candidate.model)
    rules = zip(data.get("reset", []), spec.rules, spec.file.reset, strict=True)
    whole["reset"] = [_section(*rule) for rule in rules]
    whole["event"]["inputs"] = {
        name: [_item(*each) for each in zip(items, spec.inputs[name], strict=True)]
        for name, items in data["event"]["inputs"].items()
    }
    order = ["name", *type(spec.file).model_fields]
    return {name: whole[name] for name in sorted(whole, key=order.index)}


def _given(data: Any, node: Node, resolved: bool) -> Any:
    """The data of the file; what was substituted becomes a `Reference`."""
    if node.children is None:
        is_reference = node.source is not None and not resolved
        return Reference(str(node.source), node.plain) if is_reference else data
    if isinstance(data, list):
        return [_given(value, node.children[i], resolved) for i, value in enumerate(data)]
    return {key: _given(value, node.children[key], resolved) for key, value in data.items()}


def _filled(given: Any, known: Any) -> Any:
    """What is given, and the defaults of the options models that it was validated as."""
    if isinstance(known, BaseModel) and isinstance(given, dict):
        return _options(given, known)
    if isinstance(known, Mapping) and isinstance(given, dict):
        return {key: _filled(value, known.get(key)) for key, value in given.items()}
    if isinstance(known, Sequence) and isinstance(given, list) and len(known) == len(given):
        return [_filled(*pair) for pair in zip(given, known, strict=True)]
    return given


def _options(given: Mapping[str, Any], known: BaseModel) -> dict[str, Any]:
    """Options in the order of their declaration. A default of null is left out: null may say something."""
    fields = type(known).model_fields
    found = {}
    for name, field in sorted(fields.items(), key=lambda item: item[0] != "type"):
        alias, value = field.alias or name, getattr(known, name)
        if alias in given or name in given:
            found[alias] = _filled(given.get(alias, given.get(name)), value)
        elif isinstance(value, BaseModel):
            found[alias] = _options({}, value)
        elif value is not None:
            found[alias] = to_jsonable_python(value, by_alias=True, exclude_none=True)
    return found


def _section(given: dict[str, Any], chosen: Chosen, section: BaseModel) -> dict[str, Any]:
    """A section with its type, the component's options and those that all components share."""
    return {"type": given["type"], **_options(given, chosen.options), **_options(given, section)}


def _item(given: dict[str, Any], item: Item) -> dict[str, Any]:
    """A feature of an input."""
    found = {name: given[name] for name in ITEM_OPTIONS if name in given}
    if isinstance(item, ElapsedItem):
        known = ElapsedOptions(elapsed=item.unit, first=item.first, across_reset=item.across_reset)
        found |= _options(given, known)
    elif item.encoder is not None:
        found |= _options(given, item.encoder.options)
    if "then" in given:
        steps = zip(found.pop("then"), item.then, strict=True)
        found["then"] = [_filled(step, chosen.options) for step, chosen in steps]
    return found


def to_yaml(data: Mapping[str, Any]) -> str:
    """YAML that reads back as the same data; `Reference` is written as it stood in its file."""
    text: str = yaml.serialize(_node(data), Dumper=yaml.SafeDumper, allow_unicode=True, width=_WIDTH)
    return text


def to_flow(value: Any) -> str:
    """A value on one line."""
    node = _node(value, flow=True)
    text: str = yaml.serialize(node, Dumper=yaml.SafeDumper, allow_unicode=True, width=float("inf"))
    return text.removesuffix("\n").removesuffix("\n...")


def _node(value: Any, flow: bool = False) -> yaml.Node:
    """Short collections of scalars go on one line; not references, whose `{` would be a bracket there."""
    if isinstance(value, Mapping):
        pairs = [(_scalar(key, is_key=True), _node(each, flow)) for key, each in value.items()]
        return yaml.MappingNode(
            "tag:yaml.org,2002:map", pairs, flow_style=flow or _is_short(value.values(), *value)
        )
    if isinstance(value, list | tuple):
        nodes = [_node(each, flow) for each in value]
        return yaml.SequenceNode("tag:yaml.org,2002:seq", nodes, flow_style=flow or _is_short(value))
    return _scalar(value)


def _is_short(values: Collection[Any], *keys: str) -> bool:
    nested = any(isinstance(value, Mapping | list | tuple | Reference) for value in values)
    return not nested and sum(len(str(value)) + 2 for value in (*values, *keys)) <= _WIDTH


def _scalar(value: Any, is_key: bool = False) -> yaml.ScalarNode:
    if isinstance(value, Reference):
        return _plain(value.text) if value.plain else _quoted(value.text)
    if value is None or isinstance(value, bool):
        return _plain({None: "null", True: "true", False: "false"}[value])
    if isinstance(value, int | float):
        return _plain(repr(value))
    if not is_key and ("$$" in value or "${" in value):
        value = value.replace("$", "$$")
    return _quoted(value) if _is_doubtful(value) else _plain(value)


def _plain(text: str) -> yaml.ScalarNode:
    """Without quotes, whatever YAML 1.1 would take it for."""
    return yaml.ScalarNode(_RESOLVER.resolve(yaml.ScalarNode, text, (True, False)), text)


def _quoted(text: str) -> yaml.ScalarNode:
    return yaml.ScalarNode("tag:yaml.org,2002:str", text, style='"')


def _is_doubtful(text: str) -> bool:
    """Whether a text without quotes would be read as something else, here or by YAML 1.1."""
    try:
        here = isinstance(resolve(text), str)
    except ValueError:
        here = False
    there = _RESOLVER.resolve(yaml.ScalarNode, text, (True, False)) == "tag:yaml.org,2002:str"
    return not (here and there and text.isprintable())
