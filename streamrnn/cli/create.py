"""`streamrnn create`: a pipeline file to start from."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from streamrnn.errors import StreamrnnError

if TYPE_CHECKING:
    from streamrnn.backend import TensorSpec
    from streamrnn.hookspecs import Component, Kind
    from streamrnn.registry import Registry

DEFAULT = "stdin/formula/stdout"

_WIDTH = 100
_VALUES = (3, 1, 4)
"""What the numbers of the example's events are."""


@click.command("create")
@click.argument("expression", default=DEFAULT, metavar="[SOURCE/MODEL/SINK]")
def command(expression: str) -> None:
    """Print a pipeline file to start from, such as stdin/formula/stdout, with every option explained."""
    from streamrnn.registry import Registry

    names = expression.split("/")
    if len(names) != 3:
        raise click.UsageError(f"expected source/model/sink such as {DEFAULT}, found '{expression}'")
    registry = Registry()
    registry.load_for(names)
    kinds: tuple[Kind, ...] = ("source", "backend", "sink")
    source, model, sink = (_find(registry, *each) for each in zip(kinds, names, strict=True))
    click.echo(starter(registry, source, model, sink), nl=False)


def starter(registry: Registry, source: Component, model: Component, sink: Component) -> str:
    """The text of a pipeline file with a test of its own.

    The outputs in the test are what the model answers; if it cannot be loaded yet, any will do.
    """
    from streamrnn.testing import run_pipeline

    inputs = _inputs(model)
    events = [{name: _value(spec, value) for name, spec in inputs.items()} for value in _VALUES]
    text = "\n".join(_lines(registry, source, model, sink, inputs)) + "\n"
    try:
        outputs, _ = run_pipeline(text, events, registry=registry, env={})
    except StreamrnnError:
        outputs = [{} for _ in events]
    return text + "\n".join(_test(events, outputs)) + "\n"


def _find(registry: Registry, kind: Kind, name: str) -> Component:
    component = registry.find(kind, name)
    if component is None:
        raise click.UsageError(registry.missing(kind, name))
    return component


def _inputs(model: Component) -> Mapping[str, TensorSpec]:
    """What the example of a backend takes; `x`, a number, where it cannot say so by itself."""
    from streamrnn.backend import TensorSpec
    from streamrnn.testing import quiet_context

    given = {"x": TensorSpec("x", (1,), "float64")}
    if model.describe is None:
        return given
    try:
        options = model.config.model_validate(_example(model))
        description = model.resolve("describe")(options, given, quiet_context())
    except (StreamrnnError, ValueError):
        return given
    return {tensor.name: tensor for tensor in description.inputs}


def _example(component: Component) -> dict[str, Any]:
    from streamrnn.config.yaml_tree import load

    data: dict[str, Any] = load(component.example or "{}", f"the example of {component.name}").data
    return data


def _feature(name: str, spec: TensorSpec) -> str:
    if spec.dtype.startswith("int"):
        return f"{{field: {name}, vocab: [a]}}"
    return f"{{field: {name}, vector: {spec.width}}}" if spec.width > 1 else f"{{field: {name}}}"


def _value(spec: TensorSpec, value: int) -> Any:
    """A field that `_feature` can read."""
    if spec.dtype.startswith("int"):
        return "a"
    return [value] * spec.width if spec.width > 1 else value


def _lines(
    registry: Registry,
    source: Component,
    model: Component,
    sink: Component,
    inputs: Mapping[str, TensorSpec],
) -> Iterator[str]:
    """The sections in the order in which an event passes them."""
    jsonl = _find(registry, "codec", "jsonl")
    yield "# yaml-language-server: $schema=streamrnn.schema.json"
    yield "# `streamrnn lint` finds mistakes in this file, `streamrnn test` runs the tests at its end."
    yield f"name: {model.name}-starter"
    yield from _section("source", source)
    yield from _section("decode", jsonl)
    yield from ("", "event:", "  # Field that says whose state an event belongs to; without it there is one.")
    yield from ("  # key: user", "  # When it happened; rules and limits with a time need it.")
    yield from ("  # time: {field: ts, unit: ms}", "  # The model's inputs, each a list of features.")
    yield "  inputs:"
    for name, spec in inputs.items():
        yield f"    {name}: [{_feature(name, spec)}]"
    yield from _rules(registry)
    yield from _section("model", model)
    yield from _section("encode", jsonl)
    yield from ("  # Fields of the event to pass on.", "  # include: []")
    yield from _section("sink", sink)


def _rules(registry: Registry) -> Iterator[str]:
    yield from ("", "# When a key's state starts anew; any mix of rules.", "reset:")
    for component, _ in registry.components("reset"):
        inside = component.example.strip()[1:-1]
        entry = f"- {{type: {component.name}{', ' if inside else ''}{inside}}}"
        mark = "" if component.name == "on_value" else "# "
        yield f"  {mark}{entry}  # {component.summary}"


def _section(name: str, component: Component) -> Iterator[str]:
    """A section with the options of the example, and the others as comments with their defaults."""
    from streamrnn.cli.echo import to_flow
    from streamrnn.cli.list import options

    yield from ("", f"{name}:", *_comment(component.summary), f"  type: {component.name}")
    example = _example(component)
    for option, told in options(component).items():
        yield from _comment(told["description"])
        if option in example:
            yield f"  {option}: {to_flow(example[option])}"
        else:
            yield f"  # {option}: {'...' if told['required'] else to_flow(told['default'])}"


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent="  # ", subsequent_indent="  # ")


def _test(events: list[dict[str, Any]], outputs: list[Any]) -> Iterator[str]:
    from streamrnn.cli.echo import to_flow

    yield from ("", "# Outputs are compared with what is written here, and may hold more.", "tests:")
    yield "  - name: what the example answers"
    for name, records in (("input", events), ("output", outputs)):
        yield f"    {name}:"
        for record in records:
            yield f"      - {to_flow(record)}"
