"""Exported graphs of many kinds: each must be wired rightly or refused for the right reason.

python plugins/streamrnn-onnx/tests/onnx_zoo.py     renews docs/onnx_zoo.md; needs torch and onnxscript
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from streamrnn_onnx.config import OnnxConfig
from streamrnn_onnx.explain import explain

from streamrnn.errors import ConfigError, ModelError
from streamrnn.testing import quiet_context, run_pipeline

PAGE = Path(__file__).parents[3] / "docs" / "onnx_zoo.md"
STEPS, RESET_AT = 17, 9
CUTS = ((0, (0, STEPS)), (1, (0, RESET_AT, STEPS)))
"""Each key with where its sequences begin and end."""
Arrays = dict[str, Any]


@dataclass(frozen=True)
class Specimen:
    """A graph with what it must come to.

    `whole` answers one key's inputs [t, width] from a fresh state with the outputs [t, ...]: it is what the
    graph was exported from, or runs the file itself over the whole sequence. `refused` is a part of the
    reason that must be given; empty for a graph that must be wired. `vocab` makes inputs indices; `silent`
    makes every fourth event nothing but zeros.
    """

    name: str
    maker: str
    model: onnx.ModelProto = field(repr=False)
    widths: dict[str, int]
    whole: Callable[[Arrays], Arrays] | None = None
    options: dict[str, Any] = field(default_factory=dict)
    refused: str = ""
    vocab: int = 0
    silent: bool = False
    tolerance: float = 1e-4


@dataclass(frozen=True)
class Result:
    """What became of a specimen; `wrong` says what should not have, or is empty."""

    specimen: Specimen
    understood: str
    verdict: str
    wrong: str = ""


def check(specimen: Specimen) -> Result:
    """Serve two keys in turns, one of them reset half way, and compare with whole sequences."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        onnx.save_model(specimen.model, folder / "m.onnx")
        x = draw(specimen.widths, specimen.vocab, specimen.silent)
        try:
            outputs, rejected = run_pipeline(
                _pipeline(specimen), list(_events(specimen, x)), context=quiet_context(base_dir=folder)
            )
        except (ConfigError, ModelError) as error:
            return _refused(specimen, error)
        understood = _understood(specimen, folder)
    if specimen.refused:
        return Result(specimen, understood, "wired", f"expected a refusal: {specimen.refused}")
    if rejected:
        return Result(specimen, understood, "wired", f"refused events: {rejected[0].reason}")
    return Result(specimen, understood, "equal to whole sequences", _difference(specimen, x, outputs))


def _refused(specimen: Specimen, error: Exception) -> Result:
    findings = getattr(error, "findings", ())
    text = "; ".join(finding.message for finding in findings) or str(error)
    expected = bool(specimen.refused) and specimen.refused in text
    return Result(specimen, text, "refused", "" if expected else f"refused: {text}")


def draw(widths: dict[str, int], vocab: int, silent: bool = False) -> list[Arrays]:
    """Inputs [t, width] of each of two keys; see `Specimen`."""
    rng = np.random.default_rng(5)

    def one(width: int) -> Any:
        if vocab:
            return rng.integers(0, vocab, (STEPS, width))
        x = rng.normal(size=(STEPS, width)).astype(np.float32)
        x[3 :: 4 if silent else STEPS] *= not silent
        return x

    return [{name: one(width) for name, width in widths.items()} for _ in range(2)]


def _pipeline(specimen: Specimen) -> str:
    def items(name: str, width: int) -> list[dict[str, Any]]:
        fields = [f"{name}_{i}" for i in range(width)]
        if specimen.vocab:
            return [{"field": one, "vocab": list(range(specimen.vocab))} for one in fields]
        return [{"fields": fields}]

    options = dict(specimen.options)
    numerics = options.pop("numerics", None)
    inputs = {name: items(name, width) for name, width in specimen.widths.items()}
    parts = {
        "source": {"type": "stdin"},
        "decode": {"type": "jsonl"},
        "event": {"key": "key", "inputs": inputs},
        "reset": [{"type": "on_value", "field": "fresh", "equals": True}],
        # Long enough for a machine that does much else.
        "model": {"type": "onnx", "path": "m.onnx", "first_step_s": 60, **options},
        "encode": {"type": "jsonl", "include": ["key"]},
        "sink": {"type": "stdout"},
        "limits": {"max_batch_events": 7},
    }
    return json.dumps(parts | ({"numerics": numerics} if numerics else {}))


def _events(specimen: Specimen, x: list[Arrays]) -> Iterator[dict[str, Any]]:
    turns = np.random.default_rng(6).permutation([0] * STEPS + [1] * STEPS)
    at = [0, 0]
    for key in turns.tolist():
        k = at[key]
        values = {
            f"{name}_{i}": number
            for name, array in x[key].items()
            for i, number in enumerate(array[k].tolist())
        }
        yield {"key": key, "fresh": key == 1 and k == RESET_AT, **values}
        at[key] += 1


def _difference(specimen: Specimen, x: list[Arrays], outputs: list[dict[str, Any]]) -> str:
    assert specimen.whole is not None, specimen.name
    for key, cuts in CUTS:
        own = [out for out in outputs if out["key"] == key]
        parts = [
            specimen.whole({name: array[a:b] for name, array in x[key].items()}) for a, b in pairwise(cuts)
        ]
        for name in parts[0]:
            expected = np.concatenate([part[name] for part in parts]).reshape(STEPS, -1)
            found = np.array([np.ravel(out[name]) for out in own])
            if found.shape != expected.shape or not np.allclose(
                found, expected, specimen.tolerance, specimen.tolerance
            ):
                gap = np.abs(found - expected).max() if found.shape == expected.shape else found.shape
                return f"key {key}, output {name}: off by {gap}"
    return ""


def _understood(specimen: Specimen, folder: Path) -> str:
    from streamrnn.backend import TensorSpec

    options = {k: v for k, v in specimen.options.items() if k not in ("context", "numerics")}
    config = OnnxConfig.model_validate({"path": "m.onnx", **options})
    context = specimen.options.get("context", {})
    given = {
        name: TensorSpec(name, (width + context.get(name, 0),), "int64" if specimen.vocab else "float64")
        for name, width in specimen.widths.items()
    }
    facts = explain(config, given, quiet_context(base_dir=folder))
    states = [f"{f.name}: {f.meaning.partition(';')[0]}" for f in facts if f.part == "state" and f.name]
    others = [
        fact.meaning for fact in facts if fact.part == "rows" or (fact.part == "state" and not fact.name)
    ]
    return "; ".join([*states, *others])


def specimens() -> list[Specimen]:
    """All of them, in the order of the page."""
    import onnx_zoo_hand
    import onnx_zoo_keras
    import onnx_zoo_loops
    import onnx_zoo_torch

    parts = onnx_zoo_torch, onnx_zoo_keras, onnx_zoo_hand, onnx_zoo_loops
    return [specimen for part in parts for specimen in part.specimens()]


def page(results: list[Result]) -> str:
    """docs/onnx_zoo.md."""
    wired = [result for result in results if result.verdict != "refused"]
    unwritten = [r for r in wired if "state" not in r.specimen.options]
    rows = "\n".join(
        f"| {r.specimen.name} | {r.specimen.maker} | {_cell(r.understood)} | {r.verdict} |" for r in results
    )
    refused, wrong = len(results) - len(wired), sum(bool(r.wrong) for r in results)
    return f"""# A zoo of exported graphs

{len(results)} graphs made by a [script](../plugins/streamrnn-onnx/tests/onnx_zoo.py):
{len(wired)} are served, {len(unwritten)} of these without a word about state in the pipeline file,
{refused} are refused, {wrong} are wrong. A graph that is served is compared, for two keys in turns of
which one is reset half way, with what it was exported from over whole sequences. Long texts are cut.

| graph | made by | understood as | verdict |
| --- | --- | --- | --- |
{rows}
"""


def _cell(text: str) -> str:
    # How far numbers are apart is another on every machine.
    text = re.sub(r" by up to [0-9.e+-]+", "", text).replace("|", "\\|").replace("\n", " ")
    return text if len(text) <= 220 else text[:217] + "..."


if __name__ == "__main__":
    import sys

    sys.path.insert(0, str(Path(__file__).parent))
    found = [check(specimen) for specimen in specimens()]
    for result in found:
        print((result.wrong and "WRONG ") or "", result.specimen.name, "|", result.verdict, result.wrong)
    PAGE.write_text(page(found))
