"""A pipeline file that has been understood: each part's component with its options, nothing built yet."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from streamrnn.errors import OptionError

if TYPE_CHECKING:
    from pydantic import BaseModel

    from streamrnn.backend import Description, TensorSpec
    from streamrnn.config.model import PipelineFile
    from streamrnn.config.problems import Path
    from streamrnn.config.yaml_tree import Tree
    from streamrnn.context import Context
    from streamrnn.hookspecs import Component

REFUSE_MISSING = object()
"""Stands for "no value was given for a missing field": the event is refused."""

SECONDS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Chosen:
    """A component, its validated options, and where they stand in the file."""

    component: Component
    options: BaseModel
    path: Path

    def build(self, *given: Any) -> Any:
        """What it declares, built. Raises what that does, `OptionError` with paths into the file."""
        with told_at(self.path):
            return self.component.resolve("build")(self.options, *given)


@contextmanager
def told_at(section: Path) -> Iterator[None]:
    """What is wrong with options, with the path of the section that they stand in."""
    try:
        yield
    except OptionError as error:
        raise OptionError(*((section + tuple(path), text) for path, text in error.problems)) from error


@dataclass(frozen=True)
class FeatureItem:
    """One item of an input: fields, a value where one is missing, an encoder and what follows it.

    `width` and `dtype` are those of what it makes; `high` bounds its indices, `range` the fields' numbers.
    """

    fields: tuple[str, ...]
    missing: Any
    encoder: Chosen | None
    then: tuple[Chosen, ...]
    width: int
    dtype: str
    high: int | None = None
    range: tuple[float, float] = (-math.inf, math.inf)


@dataclass(frozen=True)
class ElapsedItem:
    """The time since the key's last event, in `unit`."""

    unit: str
    first: float
    across_reset: bool
    then: tuple[Chosen, ...]
    width: int = 1
    dtype: str = "float64"
    high: int | None = None


Item = FeatureItem | ElapsedItem


@dataclass
class PipelineSpec:
    """Everything that a pipeline is built from. `given` is what the model is given, context included."""

    tree: Tree
    file: PipelineFile
    name: str
    source: Chosen
    decode: Chosen
    model: Chosen
    encode: Chosen
    sink: Chosen
    candidate: Chosen | None = None
    """The model of the section `candidate`."""
    rules: list[Chosen] = field(default_factory=list)
    inputs: dict[str, list[Item]] = field(default_factory=dict)
    given: dict[str, TensorSpec] = field(default_factory=dict)
    description: Description | None = None

    def trusting(self, context: Context) -> Context:
        """The context with what the file trusts."""
        return replace(context, trusts_code=self.file.trust == "code")

    @property
    def ticks_per_s(self) -> int:
        """Units of the rules' time in a second; 1 in a pipeline without time."""
        return self.file.event.time.ticks_per_s if self.file.event.time else 1
