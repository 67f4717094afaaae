"""The JSON Schema (draft 2020-12) of pipeline files, over the components that a registry knows.

It says what each section may hold. What must hold between sections is for `lint`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import PydanticUserError, ValidationError

from streamrnn.config.model import PipelineFile
from streamrnn.config.parts import ElapsedOptions
from streamrnn.config.spec import SECONDS

if TYPE_CHECKING:
    from pydantic import BaseModel

    from streamrnn.hookspecs import Component, Kind
    from streamrnn.registry import Registry

Schema = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_SUBSTITUTED: Schema = {"type": "string", "pattern": r"^\$\{.+\}$"}
"""`${VAR}` and its other forms, which may stand for a value of any type."""
_FIELDS: Schema = {
    "field": {"type": "string", "minLength": 1, "description": "path of the field"},
    "fields": {
        "type": "array",
        "items": {"type": "string", "minLength": 1},
        "minItems": 1,
        "description": "paths of several fields, side by side",
    },
    "missing": {"description": "the value of a field that is missing; without it the event is refused"},
    "range": {
        "type": "array",
        "items": {"type": ["number", "null"]},
        "minItems": 2,
        "maxItems": 2,
        "description": "the least and the greatest number that the fields may have, null for no bound",
    },
}
_THEN = {"type": "array", "items": {"$ref": "#/$defs/Step"}, "description": "what follows, in order"}


def pipeline_schema(registry: Registry) -> Schema:
    """The schema of the whole file; every `$ref` in it leads to its own `$defs`."""
    return _Writer(registry).whole()


class _Writer:
    """A schema being written; `defs` grows."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.root = PipelineFile.model_json_schema()
        self.defs: Schema = self.root.pop("$defs")

    def whole(self) -> Schema:
        """The root with all its definitions, tidied."""
        for section, kind in (
            ("source", "source"),
            ("decode", "codec"),
            ("model", "backend"),
            ("encode", "codec"),
            ("sink", "sink"),
        ):
            self._put(section, self._typed(kind, section))  # type: ignore[arg-type]
        self.defs["Candidate"]["properties"]["model"] |= self._typed("backend", "candidate")
        self.defs["Candidate"]["properties"]["model"].pop("$ref", None)
        self.root["properties"]["reset"]["items"] = self._typed("reset", "reset")
        self._features()
        inputs = self.defs["Event"]["properties"]["inputs"]
        inputs["additionalProperties"] = {
            "type": "array",
            "items": {"$ref": "#/$defs/Feature"},
            "minItems": 1,
            "description": "features of one model input, side by side",
        }
        for name in ("Typed", "Model", "Encode"):
            self.defs.pop(name, None)
        found = {"$schema": DIALECT, "title": "streamrnn pipeline", **_tidy(self.root)}
        return {**found, "$defs": {name: _tidy(each) for name, each in sorted(self.defs.items())}}

    def _put(self, section: str, schema: Schema) -> None:
        described = self.root["properties"][section]
        described.pop("$ref", None)
        described |= schema

    def _typed(self, kind: Kind, section: str) -> Schema:
        """One of the components of a kind, told apart by `type`."""
        common = self.defs[section.capitalize() if section in ("model", "encode") else "Typed"]
        alternatives = []
        for component, _ in self.registry.components(kind):
            name = f"{section}.{component.name}"
            own = self._options(component.config, name)
            properties = {"type": {"const": component.name, "description": component.summary}}
            properties |= own.get("properties", {})
            properties |= {k: v for k, v in common["properties"].items() if k != "type"}
            required = ["type", *own.get("required", [])]
            self.defs[name] = own | {
                "properties": properties,
                "required": required,
                "description": component.summary,
            }
            alternatives.append({"$ref": f"#/$defs/{name}"})
        return {"oneOf": alternatives} if alternatives else {"not": {}}

    def _options(self, config: type[BaseModel], name: str) -> Schema:
        """A config model's own schema; what it needs is defined under names that begin with `name`."""
        try:
            schema = config.model_json_schema(ref_template="#/$defs/" + name + ".{model}")
        except PydanticUserError:  # options of types that JSON Schema cannot say, which a plugin may have
            return {"type": "object", "properties": {}}
        inner = schema.pop("$defs", {})
        self.defs |= {f"{name}.{key}": value for key, value in inner.items()}
        if "$ref" in schema:  # a model that contains itself
            return dict(self.defs[schema["$ref"].removeprefix("#/$defs/")])
        return schema

    def _features(self) -> None:
        """An item of an input, and a step that follows one."""
        items, steps, bare = [{"$ref": "#/$defs/feature"}], [], []
        self.defs["feature"] = self._item({}, [], "numbers as they are")
        for component, _ in self.registry.components("feature"):
            name = f"feature.{component.name}"
            own = self._options(component.config, name)
            required = list(dict.fromkeys([*own.get("required", []), component.name]))
            self.defs[name] = self._item(own["properties"], required, component.summary)
            if getattr(component.config, "takes", "") == "values":
                del self.defs[name]["properties"]["range"]
            items.append({"$ref": f"#/$defs/{name}"})
            if getattr(component.config, "takes", "") == "numbers":
                self.defs[f"step.{component.name}"] = own | {"required": required}
                steps.append({"$ref": f"#/$defs/step.{component.name}"})
                bare += [component.name] if _needs_no_options(component) else []
        own = self._options(ElapsedOptions, "elapsed")
        own["properties"]["elapsed"]["enum"] = list(SECONDS)
        own["properties"]["then"] = _THEN
        self.defs["feature.elapsed"] = own | {"description": "the time since the key's last event"}
        self.defs["Feature"] = {"anyOf": [*items, {"$ref": "#/$defs/feature.elapsed"}]}
        self.defs["Step"] = {"anyOf": [{"enum": bare}, *steps] if bare else steps}

    def _item(self, properties: Schema, required: list[str], description: str) -> Schema:
        return {
            "type": "object",
            "properties": {**_FIELDS, **properties, "then": _THEN},
            "required": required,
            "oneOf": [{"required": ["field"]}, {"required": ["fields"]}],
            "additionalProperties": False,
            "description": description,
        }


def _needs_no_options(component: Component) -> bool:
    """Whether a step may be its name alone, which is short for `{name: true}`."""
    try:
        component.config.model_validate({component.name: True})
    except ValidationError:
        return False
    return True


def _tidy(schema: Any) -> Any:
    """A schema without generated titles, in which `${VAR}` fits wherever it is no text that is expected."""
    if not isinstance(schema, Mapping):
        return schema
    tidy: Schema = {}
    for key, value in schema.items():
        if key in ("properties", "$defs"):
            tidy[key] = {name: _tidy(each) for name, each in value.items()}
        elif key in ("anyOf", "oneOf", "allOf", "prefixItems"):
            tidy[key] = [_tidy(each) for each in value]
        elif key in ("items", "additionalProperties", "not"):
            tidy[key] = _tidy(value)
        elif key not in ("title", "discriminator"):
            tidy[key] = value
    if tidy.get("type") in ("integer", "number", "boolean") or "enum" in tidy:
        return _substitutable(tidy)
    return tidy


def _substitutable(schema: Schema) -> Schema:
    shown = {key: schema.pop(key) for key in ("description", "default") if key in schema}
    return shown | {"anyOf": [schema, _SUBSTITUTED]}
