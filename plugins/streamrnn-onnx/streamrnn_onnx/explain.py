"""How a graph was understood, as facts for a person."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from streamrnn.backend import Fact, TensorSpec
from streamrnn_onnx import layers
from streamrnn_onnx.axes import EXPOSED, Layout
from streamrnn_onnx.config import OnnxConfig
from streamrnn_onnx.graph import Port, mixing, shown, title
from streamrnn_onnx.model_file import read_model
from streamrnn_onnx.plan import Plan, output_layout, plan_model

if TYPE_CHECKING:
    from streamrnn.context import Context

_LATER = "; its axes are found when the model is loaded"


def explain(config: OnnxConfig, given: Mapping[str, TensorSpec], context: Context) -> list[Fact]:
    """The facts by the file alone. Raises `OptionError` as `describe` does."""
    if config.layers is not None:
        return layers.explain(config, given, context)
    graph, _ = read_model(config, context)
    plan = plan_model(config, given, graph)
    return [*_inputs(plan), *_states(plan), *_constants(plan), *_changes(plan), *_outputs(plan)]


def _inputs(plan: Plan) -> Iterator[Fact]:
    only = plan.readings[0] if len(plan.readings) == 1 else None
    for place, port in enumerate(plan.data):
        layout = only.inputs[place] if only else None
        meaning = "data, by event.inputs"
        if layout is None:
            meaning += _LATER
        elif layout.steps is not None:
            meaning += "; an event is one step"
        yield Fact("input", port.name, _tensor(port, layout), meaning)
    for node in mixing(plan.graph.proto.graph):
        text = (
            f"{title(node)} scales all rows of a call by their largest number: events are served one by one"
        )
        yield Fact("rows", "1", "", text)
    if only and only.fixed_rows is not None:
        calls = "events are served one by one" if only.fixed_rows == 1 else f"{only.fixed_rows} at a time"
        yield Fact("rows", str(only.fixed_rows), "", f"the graph's number of rows is fixed: {calls}")


def _states(plan: Plan) -> Iterator[Fact]:
    only = plan.readings[0] if len(plan.readings) == 1 else None
    for place, pair in enumerate(plan.pairs):
        layout = only.states[place] if only else None
        found = "hidden in a node, exposed" if pair.how == EXPOSED else f"paired {pair.how}"
        init = pair.options.init
        begins = "zeros" if init == "zeros" else init if isinstance(init, float) else "a constant tensor"
        if not isinstance(init, str | float | list):
            begins = f"the first event's '{init.first}'"
        yield Fact(
            "state",
            f"{pair.input.name} -> {pair.output.name}",
            _tensor(pair.input, layout),
            f"{found}; begins as {begins}{'' if layout else _LATER}",
        )
    for node in plan.unused:
        yield Fact("state", "", "", f"{node} begins anew, in a branch that is seen not to be taken")
    if plan.forgets:
        yield Fact("state", "", "", "recurrent nodes begin anew with every event, as the options say")
    elif not plan.pairs:
        yield Fact("state", "", "", "none: every event is answered by itself")


def _constants(plan: Plan) -> Iterator[Fact]:
    for constant in plan.constants:
        value = constant.value.ravel()[:5].tolist()
        text = str(value[0]) if constant.value.size == 1 else f"{value}{'...' * (constant.value.size > 5)}"
        yield Fact("constant", constant.port.name, _tensor(constant.port, None), f"always {text}")


def _changes(plan: Plan) -> Iterator[Fact]:
    for change in plan.changes:
        yield Fact("changed", "", "", change)


def _outputs(plan: Plan) -> Iterator[Fact]:
    only = plan.readings[0] if len(plan.readings) == 1 else None
    for name, port in plan.outputs.items():
        layout = output_layout(port, only) if only else None
        source = "" if name == port.name else f"the graph's '{port.name}'"
        yield Fact("output", name, _tensor(port, layout), source)


def _tensor(port: Port, layout: Layout | None) -> str:
    return f"{port.dtype} {layout if layout is not None else shown(port.dims)}"
