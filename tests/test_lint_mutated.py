from __future__ import annotations

import json
import random
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from streamrnn.config.load import load_pipeline
from streamrnn.context import Context
from streamrnn.errors import ConfigError
from streamrnn.registry import Registry

PIPELINES = Path(__file__).parent.parent / "pipelines"

ODD: list[Any] = [
    None,
    True,
    0,
    -1,
    7,
    1e9,
    1.5,
    10**30,
    "",
    "x",
    "${X}",
    [],
    [1],
    [[]],
    {},
    {"a": 1},
    {"type": "gap"},
]


def places(data: Any) -> list[tuple[Any, Any]]:
    """Every key and index in nested data, with what holds it."""
    parts = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [place for part, value in parts for place in ((data, part), *places(value))]


def mutate(data: dict[str, Any], rng: random.Random) -> None:
    """One change: a value replaced, removed, or swapped with another, or a key renamed."""
    holder, part = rng.choice(places(data))
    match rng.randrange(4):
        case 0:
            holder[part] = deepcopy(rng.choice(ODD))
        case 1:
            del holder[part]
        case 2:
            other, at = rng.choice(places(data))
            inside = places(holder[part]) + places(other[at])
            if all(other is not each and holder is not each for each, _ in inside):
                holder[part], other[at] = other[at], holder[part]
        case 3 if isinstance(holder, dict):
            holder[rng.choice(["type", "field", "then", "elapsed", "y", part[:-1]])] = holder.pop(part)


@pytest.mark.parametrize("name", ["affine", "next_letter"])
def test_a_mutated_pipeline_is_accepted_or_has_findings(name: str) -> None:
    rng, text = random.Random(name), (PIPELINES / f"{name}.yaml").read_text()
    whole = yaml.safe_load(text)
    registry, context, found = Registry([]), Context(base_dir=PIPELINES), 0
    for _ in range(500):
        if rng.random() < 0.3:
            lines = text.splitlines()
            del lines[rng.randrange(len(lines))]
            mutated = "\n".join(lines)
        else:
            data = deepcopy(whole)
            for _ in range(rng.choice([1, 1, 2, 3])):
                mutate(data, rng)
            mutated = json.dumps(data)
        try:
            load_pipeline(mutated, "p.yaml", registry, context, {"X": "x"})
        except ConfigError as error:
            found += bool(error.findings)
    assert found > 250
