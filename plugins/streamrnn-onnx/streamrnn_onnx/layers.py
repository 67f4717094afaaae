"""`layers` in the `onnx` backend: the same options and weights as `numpy`, as a graph made here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from streamrnn.explain import explain_description
from streamrnn.layers import plan as layer_plan
from streamrnn.layers.options import LayersConfig
from streamrnn.layers.plan import RecurrentPlan
from streamrnn_onnx.config import OnnxConfig
from streamrnn_onnx.graph import read_graph
from streamrnn_onnx.plan import output_layout, plan_model

if TYPE_CHECKING:
    from streamrnn.backend import Description, Fact, TensorSpec
    from streamrnn.context import Context
    from streamrnn.layers.loading import LoadedModel
    from streamrnn_onnx.axes import Reading
    from streamrnn_onnx.device import Device
    from streamrnn_onnx.layer_backend import OnnxLayers
    from streamrnn_onnx.layer_graph import Form
    from streamrnn_onnx.plan import Plan
    from streamrnn_onnx.session import Opened

FORMULAS = "onnx layers 1"
"""Part of the fingerprint: counts up when the same weights would give other bits."""


def layers_config(config: OnnxConfig) -> LayersConfig:
    """The part of the options that all backends of layers share."""
    assert config.layers is not None
    return LayersConfig(path=config.path, layers=config.layers, outputs=config.outputs)


def describe(config: OnnxConfig, given: Mapping[str, TensorSpec], context: Context) -> Description:
    """As that of the `numpy` backend. Raises `OptionError` with all problems."""
    return layer_plan.describe(layers_config(config), given, context)


def build(
    config: OnnxConfig,
    given: Mapping[str, TensorSpec],
    context: Context,
    device: Device | None = None,
) -> OnnxLayers:
    """The graph in a session; states live on `device`, by default the provider's.

    Raises `OptionError` or `ModelError`.
    """
    from streamrnn.layers.loading import LoadedModel
    from streamrnn_onnx.device import device_of
    from streamrnn_onnx.layer_backend import OnnxLayers
    from streamrnn_onnx.layer_graph import has_time, make_model, outputs_of_states
    from streamrnn_onnx.session import open_session

    model = LoadedModel(layers_config(config), given, context)
    proto, described = make_model(model), model.plan.description
    plan = plan_model(OnnxConfig(path="layers"), {s.name: s for s in described.inputs}, read_graph(proto))
    reading = _reading(plan)
    outputs = {name: output_layout(port, reading) for name, port in plan.outputs.items()}

    single, timed = config.tuned_for == "many_keys", has_time(model.plan.layers)

    def session(form: Form) -> Opened:
        made = make_model(model, form, single).SerializeToString()
        return open_session(made, config.providers, config.threads)

    opened = session("step")
    return OnnxLayers(
        plan.chosen(reading),
        {name: layout for name, layout in outputs.items() if layout is not None},
        replace(described, state=model.state(FORMULAS, opened.provider, *(["single"] if single else []))),
        opened.session,
        session("scan").session if _may_scan(model) else None,
        outputs_of_states(model) if timed else {},
        (1,) if timed and not single else (),
        [opened.fact],
        device or device_of(opened.provider),
    )


def explain(config: OnnxConfig, given: Mapping[str, TensorSpec], context: Context) -> list[Fact]:
    """The facts of the layers' description. Raises `OptionError` with all problems."""
    return explain_description(describe(config, given, context))


def _reading(plan: Plan) -> Reading:
    """That of the axes' names, which a graph without state leaves open."""
    from streamrnn_onnx.layer_graph import ROWS

    def is_meant(reading: Reading) -> bool:
        return all(
            layout.rows is not None and layout.port.dims is not None and layout.port.dims[layout.rows] == ROWS
            for layout in reading.inputs
        )

    return next(filter(is_meant, plan.readings))


def _may_scan(model: LoadedModel) -> bool:
    """Whether sequences can be one call: without tanh, h and c could stop being finite unseen."""
    from streamrnn_onnx.layer_graph import has_time

    recurrent = [layer for layer in model.plan.layers if isinstance(layer, RecurrentPlan)]
    return has_time(model.plan.layers) and all(layer.activation == "tanh" for layer in recurrent)
