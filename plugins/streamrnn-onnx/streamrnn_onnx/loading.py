"""From the options of a pipeline file to a description, or to a proven and opened model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from streamrnn.backend import Description, Fact, TensorSpec
from streamrnn.errors import ModelError, OptionError
from streamrnn_onnx import layers
from streamrnn_onnx.config import OnnxConfig
from streamrnn_onnx.graph import Graph, all_nodes, title
from streamrnn_onnx.model_file import read_model
from streamrnn_onnx.plan import Plan, describe_plan, description, plan_model

if TYPE_CHECKING:
    from streamrnn.context import Context
    from streamrnn_onnx.axes import Layout, Reading
    from streamrnn_onnx.backend import OnnxBackend
    from streamrnn_onnx.device import Device
    from streamrnn_onnx.proof import Proven, Prover
    from streamrnn_onnx.session import Opened
    from streamrnn_onnx.trial import Feed

FORMULAS = "onnx 1"
"""Part of the fingerprint: counts up when the same file would give other bits or another state."""
_CARRIES = (
    "Attention", "AveragePool", "Conv", "CumSum", "LinearAttention", "Loop", "MaxPool", "MultiHeadAttention",
    "ReduceMean", "ReduceMax", "ReduceSum", "ReverseSequence", "Scan", "Softmax",
)  # fmt: skip


def describe(config: OnnxConfig, given: Mapping[str, TensorSpec], context: Context) -> Description | None:
    """Inputs, outputs and state by the file alone; None if the model must run to tell.

    The fingerprint is left empty. Raises `OptionError` with all problems.
    """
    if config.layers is not None:
        return layers.describe(config, given, context)
    graph, _ = read_model(config, context)
    return describe_plan(plan_model(config, given, graph))


def build(config: OnnxConfig, given: Mapping[str, TensorSpec], context: Context) -> OnnxBackend:
    """The model, its reading proven. Raises `OptionError`, or `ModelError` if ONNX Runtime refuses it."""
    if config.layers is not None:
        return layers.build(config, given, context)
    return build_graph(config, given, *read_model(config, context))


def build_graph(
    config: OnnxConfig,
    given: Mapping[str, TensorSpec],
    graph: Graph,
    stored: bytes,
    device: Device | None = None,
) -> OnnxBackend:
    """The same of a graph and its bytes; states live on `device`, by default the provider's."""
    from streamrnn_onnx.backend import OnnxBackend
    from streamrnn_onnx.device import device_of
    from streamrnn_onnx.proof import Prover
    from streamrnn_onnx.session import open_session
    from streamrnn_onnx.trial import needs_trial, try_first_step

    plan = plan_model(config, given, graph)
    served = stored if plan.original is None else plan.graph.proto.SerializeToString()
    if needs_trial(plan.graph.proto):
        failure = try_first_step(served, [_example(plan, reading) for reading in plan.readings], config)
        if failure:
            raise ModelError(f"{config.path}: {failure}")
    opened = open_session(served, config.providers, config.threads)
    original = (
        None if plan.original is None else open_session(stored, [opened.provider], config.threads).session
    )
    proven = _settle(Prover(plan, opened.session, original))
    fingerprint = _fingerprint(config, stored, proven)
    described = description(proven.plan, proven.outputs, fingerprint)
    facts, device = _loaded(proven, opened), device or device_of(opened.provider)
    made = OnnxBackend(proven.plan, proven.outputs, described, opened.session, proven.scans, facts, device)
    made.original = original
    return made


def _example(plan: Plan, reading: Reading) -> dict[str, Feed]:
    """The inputs of one call of a step: zeros, and the constants as they are."""
    n = reading.fixed_rows or 1
    feeds: dict[str, Feed] = {}
    for layout in (*reading.inputs, *reading.states):
        sizes = {layout.rows: n, layout.steps: 1}
        shape = [sizes.get(axis, size) for axis, size in enumerate(layout.sizes)]
        feeds[layout.port.name] = (shape, layout.port.dtype, 0)
    for constant in plan.constants:
        value = constant.value if constant.rows is None else constant.value.repeat(n, constant.rows)
        feeds[constant.port.name] = (value.shape, str(value.dtype), value.tolist())
    return feeds


def _loaded(proven: Proven, opened: Opened) -> list[Fact]:
    """What is only known of a model that has been loaded."""
    proofs = ["rows are apart"] if proven.plan.readings[0].fixed_rows != 1 else []
    if proven.compared:
        whole = "the unchanged graph's over a sequence" if proven.plan.original else "a sequence in one call"
        proofs.append(f"steps equal {whole}")
    return [
        Fact("axes", "", "", str(proven.plan.readings[0])),
        *(Fact("proven", "", "", proof) for proof in proofs),
        opened.fact,
    ]


def _settle(prover: Prover) -> Proven:
    """The one reading that holds."""
    from streamrnn_onnx.proof import FailedError, RefutedError

    refuted: list[str] = []
    failed: list[str] = []
    held: list[Proven] = []
    readings = prover.plan.readings
    for reading in readings:
        try:
            held.append(prover.prove(reading))
        except RefutedError as error:
            read_as = f"read as {reading.of_inputs}: " if len(readings) > 1 else ""
            (failed if isinstance(error, FailedError) else refuted).append(f"{read_as}{error}")
    held = [one for one in held if not _is_a_row_of_another(one, held)]
    if len(held) == 1:
        return held[0]
    if held:
        ways = " or ".join(str(one.plan.readings[0]) for one in held)
        text = f"the axes can be read in {len(held)} ways that hold: {ways}"
        raise OptionError(((), f"{text}; write batch_axis and time_axis under inputs"))
    told = "; ".join(dict.fromkeys(refuted or failed))
    raise OptionError(((), told + (_suspects(prover.plan) if "a sequence" in told else "")))


def _is_a_row_of_another(one: Proven, held: Sequence[Proven]) -> bool:
    """Whether it is another reading called with one row, and so nothing but slower."""
    own = one.plan.readings[0]
    others = (other.plan.readings[0] for other in held if other is not one)
    return own.fixed_rows == 1 and any(
        other.fixed_rows is None and all(map(_same_for_one_row, own.layouts, other.layouts))
        for other in others
    )


def _same_for_one_row(one: Layout, other: Layout) -> bool:
    def sizes(layout: Layout) -> list[int]:
        return [1 if axis == layout.rows else size for axis, size in enumerate(layout.sizes)]

    return one.steps == other.steps and sizes(one) == sizes(other)


def _suspects(plan: Plan) -> str:
    states = {pair.input.name for pair in plan.pairs}
    found = [
        title(node)
        for node in all_nodes(plan.graph.proto.graph)
        if node.op_type in _CARRIES and states.isdisjoint(node.input)
    ]
    if not found:
        return ""
    return f"; what may carry numbers from step to step beside the state: {', '.join(found[:5])}"


def _fingerprint(config: OnnxConfig, stored: bytes, proven: Proven) -> str:
    """A digest of the file and of everything that decides what its state means."""
    reading = proven.plan.readings[0]
    said = {
        "formulas": FORMULAS,
        "states": [
            [p.input.name, p.output.name, str(p.options.init), str(s)]
            for p, s in zip(proven.plan.pairs, reading.states, strict=True)
        ],
        "inputs": [[layout.port.name, str(layout)] for layout in reading.inputs],
        "constants": {name: str(value) for name, value in config.constants.items()},
        "fixed_rows": reading.fixed_rows,
    }
    digest = hashlib.blake2b(json.dumps(said, sort_keys=True).encode(), digest_size=16)
    digest.update(stored)
    return digest.hexdigest()
