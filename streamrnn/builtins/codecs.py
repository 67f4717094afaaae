"""The options of the codecs, and their declarations."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag

from streamrnn.hookspecs import Component


class JsonlConfig(BaseModel):
    """One JSON object per line."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _one_sign(text: str) -> str:
    if len(text) != 1 or not text.isascii() or text.isalnum() or text in '"\n\r.+-_':
        raise ValueError(f"expected one sign such as , or ; or a tab, found {text!r}")
    return text


def _distinct(names: list[str]) -> list[str]:
    for at, name in enumerate(names):
        if name in names[:at]:
            raise ValueError(f"expected distinct names, found '{name}' twice")
    return names


def _list_or_true(value: Any) -> str:
    return "names" if isinstance(value, list | tuple) else "true"


class CsvConfig(BaseModel):
    """Delimited texts, one record a line, with quotes around those that need them."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    delimiter: Annotated[str, AfterValidator(_one_sign)] = Field(
        ",", description="the sign between two fields"
    )
    header: Annotated[
        Annotated[Literal[True], Tag("true")]
        | Annotated[list[str], Field(min_length=1), AfterValidator(_distinct), Tag("names")],
        Discriminator(_list_or_true),
    ] = Field(
        True,
        description="`true`: the first record of each file or stream names the columns; a list names them "
        "in order where there is no such record",
    )
    null: list[str] = Field(
        default=[""],
        description="texts that stand for a missing value; what is missing is written as the first of them",
    )
    types: dict[str, Literal["number", "text"]] = Field(
        default={},
        description="the type of a column: `text` leaves texts as they are, `number` refuses what is none; "
        "in other columns what JSON would take for a number is one (7, -0.5 and 1e3 are, 007 and +7 are not)",
    )


class MsgpackConfig(BaseModel):
    """MessagePack maps, each after its length in bytes."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    vectors: dict[str, Literal["float32", "float64"]] = Field(
        default={},
        description="fields that are lists of numbers in binary, little-endian, and the type of the numbers",
    )


COMPONENTS = (
    Component(
        kind="codec",
        name="jsonl",
        config=JsonlConfig,
        build="streamrnn.codecs.jsonl:build",
        summary="JSON Lines: one JSON object per line, UTF-8",
        example="{}",
    ),
    Component(
        kind="codec",
        name="csv",
        config=CsvConfig,
        build="streamrnn.codecs.csv:build",
        summary="CSV with a header or named columns, UTF-8",
        example="{types: {id: text}}",
    ),
    Component(
        kind="codec",
        name="msgpack",
        config=MsgpackConfig,
        build="streamrnn.codecs.msgpack:build",
        summary="MessagePack maps, each after its length as a big-endian uint32",
        example="{vectors: {x: float32}}",
    ),
)
