"""From the text of a pipeline file to a `PipelineSpec`, or to all of its mistakes at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from streamrnn import __version__
from streamrnn.backend import Description, TensorSpec
from streamrnn.config import checks
from streamrnn.config.environment import substitute
from streamrnn.config.model import NOT_YET, PipelineFile
from streamrnn.config.parts import ITEM_OPTIONS, ElapsedOptions, Parts
from streamrnn.config.problems import from_option_error, translate
from streamrnn.config.spec import Chosen, Item, PipelineSpec
from streamrnn.config.yaml_tree import Tree, load
from streamrnn.context import Context
from streamrnn.errors import ConfigError, Finding, ModelError, OptionError
from streamrnn.registry import Registry

_SECTIONS = (
    ("source", "source", ("type",)),
    ("decode", "codec", ("type",)),
    ("model", "backend", ("type", "context")),
    ("encode", "codec", ("type", "include", "fields")),
    ("sink", "sink", ("type",)),
)


def load_pipeline(
    text: str | bytes, file: str, registry: Registry, context: Context, env: Mapping[str, str]
) -> PipelineSpec:
    """Read a pipeline file. Raises `ConfigError` with everything that is wrong with it.

    `file` is the name shown in messages; relative paths inside start at `context.base_dir`.
    """
    tree = load(text, file)
    parts = Parts(tree, registry)
    unset = substitute(tree, env)
    data = tree.data
    registry.load_for(_types(data), [name for name in _list(data.get("plugins")) if isinstance(name, str)])
    _refuse_later_sections(parts, data)
    fixed = _fixed(parts, data)
    context = replace(context, trusts_code=data.get("trust") == "code")
    chosen = {name: parts.choose(kind, (name,), data.get(name), common) for name, kind, common in _SECTIONS}  # type: ignore[arg-type]
    rules = [parts.choose("reset", ("reset", i), item) for i, item in enumerate(_list(data.get("reset")))]
    event = data.get("event")
    inputs = parts.inputs(event.get("inputs") if isinstance(event, dict) else None)
    for i, name in enumerate(_list(data.get("plugins"))):
        if isinstance(name, str) and name in registry.failures:
            parts.report(("plugins", i), registry.failures[name])
    if fixed is None or not all(chosen.values()):
        _describe_alone(parts, chosen["model"], data, inputs, context)
        raise _error(parts, unset)
    spec = PipelineSpec(tree, fixed, fixed.name or Path(file).stem, **chosen)  # type: ignore[arg-type]
    spec.rules = [rule for rule in rules if rule is not None]
    spec.candidate = parts.choose("backend", ("candidate", "model"), _candidate(data))
    spec.inputs = inputs
    _check(parts, spec, context, whole=len(inputs) == len(fixed.event.inputs))
    if parts.findings or unset:
        raise _error(parts, unset)
    return spec


def _candidate(data: Mapping[str, Any]) -> Any:
    """The section of the candidate's model."""
    section = data.get("candidate")
    return section.get("model") if isinstance(section, dict) else None


def _error(parts: Parts, unset: list[Finding]) -> ConfigError:
    """Everything that is wrong; of a value that could not be substituted, nothing but that."""
    places = {(finding.line, finding.column) for finding in unset}
    return ConfigError([*unset, *(f for f in parts.findings if (f.line, f.column) not in places)])


def _fixed(parts: Parts, data: dict[str, Any]) -> PipelineFile | None:
    """The part of the file that does not depend on components."""
    try:
        return PipelineFile.model_validate({k: v for k, v in data.items() if k not in NOT_YET})
    except ValidationError as error:
        parts.findings += translate(error, (), PipelineFile, parts.tree)
        return None


def _refuse_later_sections(parts: Parts, data: dict[str, Any]) -> None:
    for name in NOT_YET:
        if name in data:
            text = f"'{name}' is planned, but streamrnn {__version__} cannot do it yet; remove it"
            parts.report((name,), text, at_key=True)


def _check(parts: Parts, spec: PipelineSpec, context: Context, whole: bool) -> None:
    """Everything that holds between sections; `whole` is false when some inputs could not be read."""
    for path, message in (
        *checks.time_problems(spec.file, spec.rules, spec),
        *checks.order_problems(spec.file),
        *checks.rule_problems(spec.file, spec.rules),
        *checks.state_problems(spec.file),
        *checks.checkpoint_problems(spec),
        *checks.secret_problems(spec),
        *checks.field_problems(spec),
    ):
        parts.report(path, message)
    if not whole:
        return
    for path, message in checks.context_problems(spec):
        parts.report(path, message)
    spec.given = parts.given(spec.inputs, spec.file.model.context)
    spec.description = _describe(parts, spec.model, spec.given, context)
    if spec.description is not None:
        outputs = {tensor.name: tensor for tensor in spec.description.outputs}
        for path, message in (
            *checks.model_problems(spec, spec.description.inputs),
            *checks.encode_problems(spec, outputs),
        ):
            parts.report(path, message)
    if spec.candidate is not None:
        other = _describe(parts, spec.candidate, spec.given, context)
        if spec.description is not None and other is not None:
            for path, message in checks.candidate_problems(spec.description, other):
                parts.report(path, message)


def _describe(
    parts: Parts, model: Chosen, given: Mapping[str, TensorSpec], context: Context
) -> Description | None:
    """Ask the backend what the model is, where it can say so without loading it."""
    if model.component.describe is None:
        return None
    try:
        description: Description | None = model.component.resolve("describe")(model.options, given, context)
    except OptionError as error:
        parts.findings += from_option_error(error, model.path, parts.tree)
    except ModelError as error:
        parts.report(model.path, str(error))
    else:
        return description
    return None


def _describe_alone(
    parts: Parts, model: Chosen | None, data: dict[str, Any], inputs: dict[str, list[Item]], context: Context
) -> None:
    """A model's own mistakes, in a file whose other sections cannot all be read."""
    event = data.get("event")
    named = event.get("inputs") if isinstance(event, dict) else None
    whole = isinstance(named, dict) and inputs.keys() == named.keys()
    if model is not None and whole and "context" not in data["model"]:
        _describe(parts, model, parts.given(inputs, {}), context)


def _types(data: Mapping[str, Any]) -> list[str]:
    """Every name that might be a component's, to know which plugins to load."""
    sections = [data.get(name) for name, _, _ in _SECTIONS] + _list(data.get("reset")) + [_candidate(data)]
    types = [section.get("type") for section in sections if isinstance(section, dict)]
    event = data.get("event")
    inputs = event.get("inputs") if isinstance(event, dict) else None
    for items in inputs.values() if isinstance(inputs, dict) else ():
        for item in _list(items):
            types += _feature_names(item)
    return [name for name in types if isinstance(name, str)]


def _feature_names(item: Any) -> Iterable[str]:
    if not isinstance(item, dict):
        return
    own = (*ITEM_OPTIONS, *(ElapsedOptions.model_fields if "elapsed" in item else ()))
    yield from (name for name in item if name not in own)
    for step in _list(item.get("then")):
        yield from [step] if isinstance(step, str) else step if isinstance(step, dict) else []


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


__all__ = ["Chosen", "Tree", "load_pipeline"]
