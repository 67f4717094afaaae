"""The options of the features, and their declarations.

A feature is named by its key: `{field: letter, one_hot: "abc"}`. What it is called with are the keys of the
item that are not `field`, `fields`, `missing` or `then`.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from streamrnn.hookspecs import Component


class FeatureOptions(BaseModel):
    """What the pipeline must know of a feature before it is built.

    `takes` is "values" (one field's values as they are), "list" (the same, where only lists of `width`
    numbers are accepted) or "numbers" (a float64 array [n, fields]); `dtype` that of what it makes, "float64"
    or "int64".
    """

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, populate_by_name=True, defer_build=True
    )
    takes: ClassVar[Literal["values", "list", "numbers"]] = "values"
    dtype: ClassVar[str] = "float64"

    def width(self, fields: int) -> int:
        """Numbers it makes of an event, from so many fields or numbers; ValueError if it cannot."""
        return fields


def _distinct(values: list[Any] | str) -> list[Any] | str:
    keys = [("number" if type(value) in (int, float) else type(value), value) for value in values]
    for at, key in enumerate(keys):
        if key in keys[:at]:
            raise ValueError(f"expected distinct values, found {values[at]!r} twice")
    return values


class OneHot(FeatureOptions):
    """One number per known value: 1 at the event's, 0 elsewhere."""

    one_hot: str | list[str | int | float | bool | None] = Field(
        description="the known values in order; a text stands for its characters"
    )
    unknown: Literal["reject", "zeros"] = Field("reject", description="what to do with other values")

    @model_validator(mode="after")
    def _is_usable(self) -> OneHot:
        if not len(self.one_hot):
            raise ValueError("expected at least one value, found none")
        _distinct(self.one_hot)
        return self

    def width(self, fields: int) -> int:
        """The number of known values."""
        return len(self.one_hot)


class Vocab(FeatureOptions):
    """The index of a value in a list, for an embedding."""

    dtype: ClassVar[str] = "int64"
    vocab: str | list[str | int | float | bool | None] = Field(
        description="the known values in order; a text stands for its characters"
    )
    unknown: int | None = Field(
        None,
        description="index reserved for other values: 0 (the known ones then start at 1) or the length of "
        "the list; without it they are refused",
    )

    @model_validator(mode="after")
    def _is_usable(self) -> Vocab:
        if not len(self.vocab):
            raise ValueError("expected at least one value, found none")
        _distinct(self.vocab)
        if self.unknown not in (None, 0, len(self.vocab)):
            raise ValueError(
                f"unknown: expected 0 (known values then start at 1) or {len(self.vocab)} (after them), "
                f"found {self.unknown}"
            )
        return self

    @property
    def first(self) -> int:
        """The index of the first known value."""
        return 1 if self.unknown == 0 else 0

    @property
    def high(self) -> int:
        """One more than the largest index it can give."""
        return len(self.vocab) + (self.unknown is not None)

    def width(self, fields: int) -> int:
        """One index."""
        return 1


class Vector(FeatureOptions):
    """A field that is a list of numbers."""

    takes: ClassVar[Literal["values", "list", "numbers"]] = "list"
    vector: int = Field(ge=1, le=65_536, description="its length")

    def width(self, fields: int) -> int:
        """The length of the list."""
        return self.vector


class Standardization(BaseModel):
    """Means and standard deviations, one each per number, given here or in a JSON file."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, populate_by_name=True, defer_build=True
    )
    path: str | None = Field(
        None, alias="from", description="a JSON file with the lists `mean` and `std`, such as a scaler's"
    )
    mean: list[float] | None = Field(None, description="subtracted from each number")
    std: list[float] | None = Field(None, description="then divided by; > 0")

    @model_validator(mode="after")
    def _is_usable(self) -> Standardization:
        if (self.path is None) == (self.mean is None):
            raise ValueError("expected either from: a file, or mean and std")
        if self.mean is not None and (self.std is None or len(self.std) != len(self.mean)):
            raise ValueError("expected mean and std of the same length")
        if self.std is not None and not all(value > 0 for value in self.std):
            raise ValueError("expected std > 0 everywhere; a constant field carries nothing, leave it out")
        return self


class Standardize(FeatureOptions):
    """(x - mean) / std, number by number."""

    takes: ClassVar[Literal["values", "list", "numbers"]] = "numbers"
    standardize: Standardization

    def width(self, fields: int) -> int:
        """As many numbers as it is given."""
        mean = self.standardize.mean
        if mean is not None and len(mean) != fields:
            raise ValueError(f"standardize has {len(mean)} means for {fields} numbers")
        return fields

    @property
    def read_paths(self) -> tuple[str, ...]:
        """See docs/plugins.md."""
        return (self.standardize.path,) if self.standardize.path else ()


class Scaling(BaseModel):
    """x becomes (x - offset) * by."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, defer_build=True)
    offset: float = Field(0.0, allow_inf_nan=False, description="subtracted first")
    by: float = Field(1.0, allow_inf_nan=False, description="multiplied with")


class Scale(FeatureOptions):
    """Multiply by a constant, after an offset if wanted."""

    takes: ClassVar[Literal["values", "list", "numbers"]] = "numbers"
    scale: float | Scaling


class Log1p(FeatureOptions):
    """log(1 + x), for counts and times; x > -1."""

    takes: ClassVar[Literal["values", "list", "numbers"]] = "numbers"
    log1p: Literal[True] = True


def _feature(name: str, config: type[FeatureOptions], summary: str, example: str) -> Component:
    build = f"streamrnn.features.encoders:{name}"
    return Component("feature", name, config=config, build=build, summary=summary, example=example)


COMPONENTS = (
    _feature("one_hot", OneHot, "1 at the value's place among the known ones", '{one_hot: "abc"}'),
    _feature("vocab", Vocab, "the value's index in a list, for an embedding", "{vocab: [red, green]}"),
    _feature("vector", Vector, "a list of numbers", "{vector: 3}"),
    _feature("standardize", Standardize, "(x - mean) / std", "{standardize: {mean: [0.0], std: [1.0]}}"),
    _feature("scale", Scale, "(x - offset) * by", "{scale: 0.01}"),
    _feature("log1p", Log1p, "log(1 + x)", "{log1p: true}"),
)
