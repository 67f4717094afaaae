"""What becomes of a candidate's states: where it begins, goes on with a commit, or takes over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from streamrnn.commit.carry import Carrying, is_same, model_of, way
from streamrnn.warmup import Warming, build_warming

if TYPE_CHECKING:
    from streamrnn.config.spec import PipelineSpec
    from streamrnn.context import Context
    from streamrnn.line import Parts
    from streamrnn.registry import Registry

Model = Mapping[str, Any]
Fate = Literal["keep", "drop", "promote"]
"""Of the states that a candidate left: it goes on, it is gone, or it is the model itself from now on."""


def fate(model: Model, candidate: Model | None, parts: Parts) -> Fate:
    """Of the states of a `candidate` beside a `model`, as manifests describe them, under what serves now."""
    if candidate is None:
        return "drop"
    now = model_of(parts.backend)
    if is_same(candidate, now) and not is_same(model, now):
        return "promote"
    beside = parts.candidate
    return "keep" if beside is not None and is_same(candidate, model_of(beside.backend)) else "drop"


class Begin:
    """How the candidate of `parts` begins beside the model.

    Raises `StateError` if the states of that cannot be kept, or the source not be read again.
    """

    def __init__(self, spec: PipelineSpec, registry: Registry, context: Context, parts: Parts) -> None:
        assert parts.candidate is not None
        assert spec.file.candidate is not None
        self._parts, beside, asked = parts, parts.candidate, spec.file.candidate.state
        was, now = model_of(parts.backend), model_of(beside.backend)
        self._carrying = Carrying(beside.backend, "reset" if asked == "reset" else way(was, now, asked))
        self.warming: Warming | None = None
        if self._carrying.way == "warmup":
            self.warming = build_warming(spec, registry, context, beside.backend, beside.verdict)
            self._carrying.warming = self.warming

    def fill(self) -> None:
        """Fill the candidate's cores from those of the model. The next commit must hold all state of both."""
        for _, core in self._parts.shards.items():
            assert core.candidate is not None
            core.candidate.restore(self._carrying.carried([core.snapshot()]))
        self._carrying.settle(self._parts.shards.candidates())
