"""Reading the parts of a pipeline file that components own, with all mistakes collected."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from streamrnn.backend import TensorSpec
from streamrnn.builtins.features import FeatureOptions
from streamrnn.config.problems import Path, found, problem, suggest, translate
from streamrnn.config.spec import REFUSE_MISSING, SECONDS, Chosen, ElapsedItem, FeatureItem, Item
from streamrnn.config.yaml_tree import Tree
from streamrnn.errors import Finding
from streamrnn.hookspecs import Kind
from streamrnn.registry import Registry

ITEM_OPTIONS = ("field", "fields", "missing", "range", "then")
"""What an item of an input may say beside its feature."""


class ElapsedOptions(BaseModel):
    """`{elapsed: s, first: 0, then: [log1p]}`."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, defer_build=True)
    elapsed: str = Field(description="a unit of time")
    first: float = Field(0.0, allow_inf_nan=False, description="the value where there is no last event")
    across_reset: bool = Field(True, description="false: the first event after a reset counts as first")


class Parts:
    """A file being read; `findings` grows."""

    def __init__(self, tree: Tree, registry: Registry) -> None:
        self.tree, self.registry = tree, registry
        self.findings: list[Finding] = []

    def report(self, path: Path, message: str, at_key: bool = False) -> None:
        """One more mistake."""
        self.findings.append(problem(self.tree, path, message, at_key))

    def validate(self, model: type[BaseModel], data: Mapping[str, Any], path: Path) -> BaseModel | None:
        """The options of a section, or None after reporting what is wrong with them."""
        try:
            return model.model_validate(dict(data))
        except ValidationError as error:
            self.findings += translate(error, path, model, self.tree)
            return None

    def choose(
        self, kind: Kind, path: Path, data: Any, common: tuple[str, ...] = ("type",), name: str | None = None
    ) -> Chosen | None:
        """The component that a section names by `type`, with its options validated."""
        if not isinstance(data, Mapping):
            return None
        name = name or data.get("type")
        if not isinstance(name, str):
            return None
        component = self.registry.find(kind, name)
        if component is None:
            self.report((*path, "type"), self.registry.missing(kind, name))
            return None
        rest = {key: value for key, value in data.items() if key not in common}
        options = self.validate(component.config, rest, path)
        return Chosen(component, options, path) if options is not None else None

    def inputs(self, data: Any) -> dict[str, list[Item]]:
        """The features of every model input; inputs with a mistake are left out."""
        found_inputs: dict[str, list[Item]] = {}
        for name, items in data.items() if isinstance(data, Mapping) else ():
            path: Path = ("event", "inputs", name)
            if not isinstance(items, list):
                continue
            if not items:
                self.report(path, "expected at least one feature, found an empty list")
            read = [self._item(item, (*path, i)) for i, item in enumerate(items)]
            if items and None not in read:
                found_inputs[name] = [item for item in read if item is not None]
        return found_inputs

    def given(self, inputs: Mapping[str, list[Item]], context: Mapping[str, int]) -> dict[str, TensorSpec]:
        """What the model is given, by input: features side by side, behind the context if there is one."""
        specs = {}
        for name, items in inputs.items():
            whole = all(item.dtype == "int64" for item in items)
            highs = [item.high for item in items]
            high = max((h for h in highs if h is not None), default=None) if None not in highs else None
            width = sum(item.width for item in items) + context.get(name, 0)
            specs[name] = TensorSpec(name, (width,), "int64" if whole else "float64", high)
        return specs

    def _item(self, item: Any, path: Path) -> Item | None:
        if not isinstance(item, dict):
            return None
        if "elapsed" in item:
            return self._elapsed(item, path)
        fields = self._fields(item, path)
        encoder, rest = self._encoder(item, path)
        then = self._then(item.get("then"), path)
        bounds = self._range(item.get("range"), encoder, path)
        if fields is None or rest or then is None or bounds is None:
            return None
        numeric = encoder is None or _options(encoder).takes == "numbers"
        if len(fields) > 1 and not numeric:
            self.report(path, "this feature takes one field, found several; write one item for each")
            return None
        missing = item.get("missing", REFUSE_MISSING)
        if numeric and missing is not REFUSE_MISSING and type(missing) not in (int, float):
            self.report((*path, "missing"), f"expected a number, found {found(missing)}")
            return None
        if numeric and missing is not REFUSE_MISSING and not bounds[0] <= missing <= bounds[1]:
            self.report((*path, "missing"), f"expected a number within the range, found {found(missing)}")
            return None
        width = self._width([*([encoder] if encoder else []), *then], len(fields))
        if width is None:
            return None
        dtype = "float64" if encoder is None or then else _options(encoder).dtype
        high = getattr(encoder.options, "high", None) if encoder else None
        return FeatureItem(fields, missing, encoder, then, width, dtype, high, bounds)

    def _range(self, given: Any, encoder: Chosen | None, path: Path) -> tuple[float, float] | None:
        """The least and the greatest number that an item takes; None after reporting what is wrong."""
        if given is None:
            return (-math.inf, math.inf)
        here = (*path, "range")
        if encoder is not None and _options(encoder).takes == "values":
            self.report(here, f"'{encoder.component.name}' takes values, and only numbers have a range")
            return None
        ends: list[Any] = given if isinstance(given, list) and len(given) == 2 else ["", ""]
        low = -math.inf if ends[0] is None else ends[0]
        high = math.inf if ends[1] is None else ends[1]
        if type(low) in (int, float) and type(high) in (int, float) and low < high:
            return float(low), float(high)
        text = "expected the least and the greatest number, [low, high], one of them null for none"
        self.report(here, f"{text}, found {found(given)}")
        return None

    def _fields(self, item: dict[str, Any], path: Path) -> tuple[str, ...] | None:
        fields = item.get("fields", item.get("field"))
        if ("field" in item) == ("fields" in item):
            both = "found both" if "field" in item else "found neither"
            self.report(path, f"expected field or fields, {both}")
            return None
        if "fields" in item and not (isinstance(fields, list) and fields):
            shown = "an empty list" if fields == [] else found(fields)
            self.report((*path, "fields"), f"expected a list of paths, found {shown}")
            return None
        places: dict[Path, Any] = {(*path, "field"): fields}
        if "fields" in item:
            places = {(*path, "fields", i): name for i, name in enumerate(item["fields"])}
        wrong = {where: name for where, name in places.items() if not (isinstance(name, str) and name)}
        for where, name in wrong.items():
            hint = "; several go into fields" if isinstance(name, list) else ""
            self.report(where, f"expected the path of a field, found {found(name)}{hint}")
        return None if wrong else tuple(places.values())

    def _encoder(self, item: dict[str, Any], path: Path) -> tuple[Chosen | None, bool]:
        """The feature that an item names by one of its keys; and whether something is wrong with it."""
        own = [key for key in item if key not in ITEM_OPTIONS]
        names = [key for key in own if self.registry.find("feature", key)]
        if len(names) > 1:
            self.report((*path, names[1]), f"one feature an item, found {' and '.join(names)}", at_key=True)
            return None, True
        if not names:
            for key in own:
                known = [*self.registry.names("feature"), *ITEM_OPTIONS, "elapsed"]
                hint = f"{suggest(key, known) or ';'} known: {', '.join(known)}"
                self.report((*path, key), f"unknown feature '{key}'{hint}", at_key=True)
            return None, bool(own)
        chosen = self.choose("feature", path, item, ITEM_OPTIONS, names[0])
        return chosen, chosen is None

    def _elapsed(self, item: dict[str, Any], path: Path) -> ElapsedItem | None:
        rest = {key: value for key, value in item.items() if key != "then"}
        options = self.validate(ElapsedOptions, rest, path)
        then = self._then(item.get("then"), path)
        if not isinstance(options, ElapsedOptions) or then is None:
            return None
        if options.elapsed not in SECONDS:
            hint = suggest(options.elapsed, SECONDS)
            text = f"expected one of {', '.join(SECONDS)}, found '{options.elapsed}'{hint}"
            self.report((*path, "elapsed"), text)
            return None
        if self._width(list(then), 1) is None:
            return None
        return ElapsedItem(options.elapsed, options.first, options.across_reset, then)

    def _then(self, steps: Any, path: Path) -> tuple[Chosen, ...] | None:
        """What follows an encoder: names, or one-key mappings of a name to its options."""
        if steps is None:
            return ()
        if not isinstance(steps, list):
            self.report((*path, "then"), f"expected a list of features, found {found(steps)}")
            return None
        chosen = []
        for i, step in enumerate(steps):
            here = (*path, "then", i)
            data = {step: True} if isinstance(step, str) else step
            if not isinstance(data, dict) or not data:
                self.report(here, f"expected the name of a feature, found {found(step)}")
                return None
            name = next((key for key in data if self.registry.find("feature", key)), next(iter(data)))
            component, before = self.registry.find("feature", name), len(self.findings)
            if component is None:
                self.report(here, self.registry.missing("feature", name))
                return None
            one = self.choose("feature", here, data, (), name)
            if isinstance(step, str) and len(self.findings) > before:
                del self.findings[before:]
                text = f"'{name}' needs options; write {{{name}: ...}}, such as {component.example}"
                self.report(here, text)
            if one is not None and _options(one).takes != "numbers":
                self.report(here, f"'{name}' takes a field's values, not numbers; it must come first")
                one = None
            chosen.append(one)
        return None if None in chosen else tuple(one for one in chosen if one is not None)

    def _width(self, chain: list[Chosen], width: int) -> int | None:
        for one in chain:
            try:
                width = _options(one).width(width)
            except ValueError as error:
                self.report(one.path, str(error))
                return None
        return width


def _options(chosen: Chosen) -> FeatureOptions:
    assert isinstance(chosen.options, FeatureOptions)
    return chosen.options
