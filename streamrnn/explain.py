"""How a pipeline's model is understood, as facts to read: for `lint --explain` and `dry-run`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from streamrnn.backend import Fact, FirstInput
from streamrnn.memory import in_words

if TYPE_CHECKING:
    from streamrnn.backend import Backend, Description, StateTensor, TensorSpec
    from streamrnn.config.spec import PipelineSpec
    from streamrnn.context import Context
    from streamrnn.core import Shards
    from streamrnn.core.probe import Verdict

NOT_BEFORE_LOADING = Fact("model", "", "", "tells its inputs, outputs and state only when it is loaded")


def explain_file(spec: PipelineSpec, context: Context) -> list[Fact]:
    """What a pipeline's file and its model's say, without loading the model. Raises `OptionError`."""
    component = spec.model.component
    if component.explain is not None:
        given = spec.model.options, spec.given, spec.trusting(context)
        facts: list[Fact] = list(component.resolve("explain")(*given))
    elif spec.description is not None:
        facts = explain_description(spec.description)
    else:
        facts = [NOT_BEFORE_LOADING]
    return [*facts, *_context(spec)]


def memory_fact(shards: Shards) -> Fact:
    """What keys may come to take."""
    each = ", for each partition" if shards.partitioned else ""
    on_device = shards.device_bytes
    there = f", and {in_words(on_device)} on the model's device" if on_device else ""
    told = f"about {in_words(shards.footprint_bytes)} for all keys that there may be{there}{each}"
    return Fact("memory", "", "", told)


def explain_loaded(spec: PipelineSpec, context: Context, backend: Backend, verdict: Verdict) -> list[Fact]:
    """The same of a loaded and probed model, with what only then is known."""
    if spec.model.component.explain is None:
        facts = [*explain_description(backend), *_context(spec)]
    else:
        facts = explain_file(spec, context)
    shown = [*backend.explain()] if backend.explain is not None else []
    return [*facts, *shown, *_served(backend, verdict)]


def explain_description(model: Description | Backend) -> list[Fact]:
    """Inputs, states and outputs."""
    inputs = [Fact("input", spec.name, tensor(spec)) for spec in model.inputs]
    states = [
        Fact("state", t.name, tensor(t), beginning(t))
        for t in model.state.tensors
        if not t.name.startswith("context.")
    ]
    outputs = [Fact("output", spec.name, tensor(spec)) for spec in model.outputs]
    return [*inputs, *states, *outputs]


def tensor(spec: TensorSpec) -> str:
    """`float32 [2, 64]`, without the axis of the rows."""
    return f"{spec.dtype} {list(spec.shape)}"


def beginning(state: StateTensor) -> str:
    """What a state is after a reset, in words."""
    import numpy as np

    if isinstance(state.initial, FirstInput):
        return f"begins as the first event's '{state.initial.input}'"
    values = np.unique(np.asarray(state.initial))
    if len(values) == 1:
        return "begins as zeros" if values[0] == 0 else f"begins as {values[0]:g} throughout"
    return "begins as a constant tensor"


def _context(spec: PipelineSpec) -> Iterator[Fact]:
    for name, size in spec.file.model.context.items():
        meaning = f"a key's last {size} numbers of '{name}', put in front of an event's own; zeros at first"
        yield Fact("context", name, f"[{size}]", meaning)


def _served(backend: Backend, verdict: Verdict) -> Sequence[Fact]:
    scan = "one call" if backend.scan is not None else "a call each"
    meaning = "an answer's bits do not depend on the batch, as the probe has found"
    if verdict.numerics == "approximate":
        meaning = "an answer's last bits may depend on the batch"
    pad = f"; rows are padded to a multiple of {verdict.pad_rows}" if verdict.pad_rows else ""
    facts = [Fact("numerics", verdict.numerics, "", meaning + pad)]
    facts += [Fact("numerics", "", "", reason) for reason in verdict.reasons]
    return [*facts, Fact("scan", "", "", f"several events of a key in a batch take {scan}")]
