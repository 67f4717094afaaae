"""A codec of lines such as `7|text|`: whole numbers, texts, and nothing for a missing field."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from streamrnn.codecs.lines import LineFramer
from streamrnn.events import Block, Columns
from streamrnn.hookspecs import Component, hookimpl

if TYPE_CHECKING:
    from streamrnn.events import Column


class PipeSeparatedConfig(BaseModel):
    """Fields between pipes."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    columns: list[str] = Field(default_factory=list, description="names of the fields, for decode")


class PipeSeparated:
    """The `pipe_separated` codec."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = list(names)

    def framer(self, max_record_bytes: int, position: int = 0) -> LineFramer:
        """See `Codec.framer`."""
        return LineFramer(max_record_bytes, position)

    def decoder(self, fields: Sequence[str], verbatim: Sequence[str]) -> Callable[[Block], Columns]:
        """See `Codec.decoder`."""
        wanted = [*fields, *verbatim]

        def decode(block: Block) -> Columns:
            rows, refused = [], dict(block.refused)
            for i in range(len(block)):
                values = block.record(i).decode(errors="replace").split("|")
                if len(values) != len(self._names):
                    refused.setdefault(i, f"expected {len(self._names)} fields, found {len(values)}")
                rows.append({} if i in refused else dict(zip(self._names, map(_value, values), strict=True)))
            return Columns(len(block), {name: [row.get(name) for row in rows] for name in wanted}, refused)

        return decode

    def encoder(self) -> Callable[[Mapping[str, Column], int], tuple[bytes, NDArray[np.int64]]]:
        """See `Codec.encoder`."""

        def encode(columns: Mapping[str, Column], n: int) -> tuple[bytes, NDArray[np.int64]]:
            rows = zip(*(map(_text, column) for column in columns.values()), strict=True)
            lines = ["|".join(row).encode() + b"\n" for row in rows]
            return b"".join(lines), np.fromiter(accumulate(map(len, lines)), np.int64, n)

        return encode


def _value(text: str) -> Any:
    return int(text) if text.isdecimal() else text or None


def _text(value: Any) -> str:
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def build(config: PipeSeparatedConfig, context: Any) -> PipeSeparated:
    """Build from the YAML section."""
    return PipeSeparated(config.columns)


@hookimpl
def streamrnn_components() -> list[Component]:
    """What this plugin provides."""
    return [Component("codec", "pipe_separated", PipeSeparatedConfig, build, "fields between pipes")]
