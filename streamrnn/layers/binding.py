"""Finds the weights of each layer by PyTorch's names and checks presence, shape and dtype."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from streamrnn.layers.options import LstmConfig, RecurrentConfig
from streamrnn.layers.weights import ITEM_BYTES, Problems, Weight, inline_weights, meant

GATES = {"rnn": 1, "lstm": 4, "gru": 3}
NO_BACKWARD = (
    "a backward pass starts at the end of the stream, which has none; train a forward model, or cut windows "
    "and serve them with a model of windows"
)
_RECURRENT_NAME = re.compile(r"(?:weight|bias)_(?:ih|hh|hr)_l\d+(_reverse)?")


@dataclass(slots=True)
class Section:
    """The weights of one layer by PyTorch's names without prefix; `source` names what the layer reads."""

    path: tuple[str | int, ...]
    prefix: str
    weights: Mapping[str, Weight]
    problems: Problems
    source: str
    inline: bool

    def take(self, name: str, shape: tuple[int | None, ...], words: str) -> Weight | None:
        """One weight, if it is there and of this shape; None in the shape is any length from 1.

        Otherwise the problem is noted and None returned; `words` say where the shape comes from.
        """
        weight = self.weights.get(name)
        if weight is None:
            found = ", ".join(sorted(self.weights))
            self.problems.add(
                self.path, f"{self.prefix}{name}: missing; found {found}{meant(name, self.weights)}"
            )
            return None
        if weight.dtype not in (*ITEM_BYTES, "inline"):
            self.problems.add(
                self.path,
                f"{self.prefix}{name}: expected F32 or F64, found {weight.dtype}; convert it to F32",
            )
            return None
        if not _fits(weight.shape, shape):
            expected = ", ".join("any" if length is None else str(length) for length in shape)
            source = f"; the input is {self.source!r}" if self.source and "input" in words else ""
            self.problems.add(
                (*self.path, name) if self.inline else self.path,
                f"{self.prefix}{name}: expected [{expected}] ({words}), found {list(weight.shape)}{source}",
            )
            return None
        return weight


def _fits(found: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    return len(found) == len(expected) and all(
        length == wanted or (wanted is None and length >= 1)
        for length, wanted in zip(found, expected, strict=True)
    )


@dataclass(slots=True)
class Binder:
    """All tensors of the file at `path`, and the list of problems that it adds to."""

    path: str | None
    stored: Mapping[str, Weight]
    problems: Problems

    def section(
        self,
        path: tuple[str | int, ...],
        weights: str | dict[str, Any],
        known: Sequence[str],
        source: str = "",
    ) -> Section | None:
        """The weights of one layer; None, and a problem noted, where there are none at all."""
        if isinstance(weights, dict):
            for name in weights:
                if name not in known:
                    message = f"expected {', '.join(known)}, found {name!r}{meant(name, known)}"
                    self.problems.add((*path, name), message)
            named = {name: nested for name, nested in weights.items() if name in known}
            return Section(path, "", inline_weights(named, path, self.problems), self.problems, source, True)
        if self.path is None:
            self.problems.add(
                path, f"{weights!r} is a prefix in a file, but there is no `path`; name the file"
            )
            return None
        prefix = f"{weights}." if weights else ""
        found = {
            name.removeprefix(prefix): weight
            for name, weight in self.stored.items()
            if name.startswith(prefix)
        }
        if not found:
            prefixes = sorted({name.rpartition(".")[0] for name in self.stored})
            self.problems.add(
                path,
                f"expected weights named '{prefix}*' in {self.path}, found the prefixes "
                f"{', '.join(map(repr, prefixes[:20]))}{meant(weights, prefixes)}",
            )
            return None
        return Section(path, prefix, found, self.problems, source, False)

    def cells(
        self, path: tuple[str | int, ...], config: RecurrentConfig, source: str, input_width: int | None
    ) -> list[dict[str, Weight]]:
        """The weights of each stacked cell, by PyTorch's names without "_l<k>"; those unfit are left out."""
        proj = config.proj if isinstance(config, LstmConfig) else None
        parts = ["weight_ih", "weight_hh", *(["weight_hr"] if proj else []), "bias_ih", "bias_hh"]
        known = [f"{part}_l{stack}" for stack in range(config.layers) for part in parts]
        section = self.section(path, config.weights, known, source)
        if section is None:
            return []
        self._check_surplus(section, known, config)
        biased = any(name.startswith("bias_") for name in known if name in section.weights)
        return [
            _take_cell(section, config, stack, input_width if stack == 0 else proj or config.hidden, biased)
            for stack in range(config.layers)
        ]

    def _check_surplus(self, section: Section, known: Sequence[str], config: RecurrentConfig) -> None:
        for name in section.weights:
            match = _RECURRENT_NAME.fullmatch(name)
            if match is None or name in known:
                continue
            if match[1]:
                self.problems.add(
                    section.path, f"{section.prefix}{name}: a bidirectional model: {NO_BACKWARD}"
                )
            elif name.startswith("weight_hr"):
                message = f"{section.prefix}{name}: a projection; set `proj` of an lstm to its first length"
                self.problems.add(section.path, message)
            else:
                self.problems.add(
                    section.path,
                    f"{section.prefix}{name}: found beyond `layers: {config.layers}`; raise `layers`",
                )


def _take_cell(
    section: Section, config: RecurrentConfig, stack: int, input_width: int | None, biased: bool
) -> dict[str, Weight]:
    gates, hidden = GATES[config.type], config.hidden
    rows = gates * hidden
    proj = config.proj if isinstance(config, LstmConfig) else None
    first = f"{gates} x hidden {hidden}" if gates > 1 else f"hidden {hidden}"
    wanted: dict[str, tuple[tuple[int | None, ...], str]] = {
        "weight_ih": (
            (rows, input_width),
            f"{first}, input {'of any width' if input_width is None else input_width}",
        ),
        "weight_hh": ((rows, proj or hidden), f"{first}, {'proj' if proj else 'hidden'} {proj or hidden}"),
    }
    if proj:
        wanted["weight_hr"] = ((proj, hidden), f"proj {proj}, hidden {hidden}")
    if biased:
        wanted |= {"bias_ih": ((rows,), first), "bias_hh": ((rows,), first)}
    taken = {part: section.take(f"{part}_l{stack}", *expected) for part, expected in wanted.items()}
    return {part: weight for part, weight in taken.items() if weight is not None}
