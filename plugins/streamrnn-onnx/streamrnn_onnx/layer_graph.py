"""A list of layers as an ONNX step graph: inputs, outputs and states by name, any number of rows.

Where the time axis can be had, tensors are [steps, batch, width]; states are [batch, size], as those of the
numpy backend, and `<name>_next` is the next value of the state `<name>`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from streamrnn.errors import OptionError
from streamrnn.layers.loading import LoadedModel
from streamrnn.layers.options import LayersConfig
from streamrnn.layers.plan import ConcatPlan, EmbeddingPlan, LayerPlan, LinearPlan, RecurrentPlan
from streamrnn.offline import ONNX_GRU, ONNX_LSTM, PYTORCH_GRU, PYTORCH_LSTM, GateOrder
from streamrnn_onnx.activations import ACTIVATIONS
from streamrnn_onnx.gru_rows import GruRows
from streamrnn_onnx.pairing import METADATA_KEY

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamrnn.backend import TensorSpec
    from streamrnn.context import Context
    from streamrnn.layers.plan import CellPlan

    Array = NDArray[Any]

OPSET = 17
IR_VERSION = 8
ROWS, STEPS = "batch", "steps"
LENS = "steps:lens"
_GATES = {
    "lstm": GateOrder(PYTORCH_LSTM, ONNX_LSTM).blocks,
    "gru": GateOrder(PYTORCH_GRU, ONNX_GRU).blocks,
    "rnn": [0],
}
Form = Literal["export", "scan", "step"]
_ELEMENTS = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}


def has_time(layers: Sequence[LayerPlan]) -> bool:
    """Whether the graph has an axis of steps: a stateless one needs none, and LSTM has no projection."""
    recurrent = [layer for layer in layers if isinstance(layer, RecurrentPlan)]
    projected = any("weight_hr" in cell.weights for layer in recurrent for cell in layer.cells)
    return bool(recurrent) and not projected


def make_model(model: LoadedModel, form: Form = "export", single: bool = False) -> ModelProto:
    """The graph with its weights. Raises `OptionError` for an output named like an input.

    Two forms are made for serving alone, and differ where the graph has an axis of steps. "scan" takes one
    input more, `LENS` int32 [batch]: after how many steps each row's state is told. "step" is for one step:
    its states are [1, batch, size], and outputs that are a state (see `outputs_of_states`) are left out.
    In both, a GRU is made of `single` operators where that is asked for; "step" has no axis of steps then.
    """
    return _Maker(model, form if has_time(model.plan.layers) else "export", single).make()


def outputs_of_states(model: LoadedModel) -> dict[str, str]:
    """The outputs that are the h of a recurrent layer as it is, each with the name of that state."""
    tops = {
        layer.name: layer.cells[-1].states[0]
        for layer in model.plan.layers
        if isinstance(layer, RecurrentPlan)
    }
    return {name: tops[layer] for name, layer in model.plan.outputs.items() if layer in tops}


def exported(options: Any, given: Mapping[str, TensorSpec], context: Context) -> bytes:
    """The graph of a backend's layers, in float32. Raises `OptionError` and `ModelError` as loading does."""
    config = LayersConfig(path=options.path, layers=options.layers, outputs=options.outputs)
    stored: bytes = make_model(LoadedModel(config, given, context)).SerializeToString()
    return stored


class _Maker:
    def __init__(self, model: LoadedModel, form: Form, single: bool) -> None:
        self.model, self.form = model, form
        self.single = single and form != "export"
        self.time = has_time(model.plan.layers) and not (self.single and form == "step")
        self.rank = 3 if self.time else 2
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}

    def make(self) -> ModelProto:
        plan = self.model.plan
        inputs = {spec.name: spec for spec in plan.description.inputs}
        states = plan.description.state.tensors
        for name in plan.outputs:
            if name in inputs or any(name in (t.name, f"{t.name}_next") for t in states):
                text = f"'{name}' is also the name of an input or a state; give the output another one"
                raise OptionError((("outputs", name), text))
        if self.single and self.form == "scan":
            self._find_ends()
        values = {name: name for name in inputs}
        for layer in plan.layers:
            values[layer.name] = self._layer(layer, values)
        known = outputs_of_states(self.model) if self.form == "step" else {}
        outputs = [spec for spec in plan.description.outputs if spec.name not in known]
        for spec in outputs:
            self.add("Identity", [values[plan.outputs[spec.name]]], spec.name)
        ports = [*map(self._port, inputs.values()), *(self._state_port(t.name, t) for t in states)]
        if self.form == "scan":
            ports.append(helper.make_tensor_value_info(LENS, TensorProto.INT32, [ROWS]))
        graph = helper.make_graph(
            self.nodes,
            "layers",
            ports,
            [
                *map(self._port, outputs),
                *(self._state_port(f"{t.name}_next", t) for t in states),
            ],
            [numpy_helper.from_array(array, name) for name, array in self.constants.items()],
        )
        made = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION,
            producer_name="streamrnn",
        )  # fmt: skip
        said = [
            {"input": t.name, "output": f"{t.name}_next", "batch_axis": 0, "shape": list(t.shape)}
            for t in states
        ]
        made.metadata_props.add(key=METADATA_KEY, value=json.dumps(said))
        return made

    def add(self, op: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        """A node with one output, which is its name too."""
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, name: str, values: Any, dtype: str = "float32") -> str:
        """A constant, made once a name."""
        self.constants.setdefault(name, np.ascontiguousarray(values, dtype))
        return name

    @property
    def _is_one_step(self) -> bool:
        """Whether tensors have an axis of steps, of one."""
        return self.form == "step" and self.time

    def _port(self, spec: TensorSpec) -> Any:
        free = [STEPS, ROWS] if self.time else [ROWS]
        return helper.make_tensor_value_info(spec.name, _ELEMENTS[spec.dtype], [*free, *spec.shape])

    def _state_port(self, name: str, spec: TensorSpec) -> Any:
        lead = [1, ROWS] if self._is_one_step else [ROWS]
        return helper.make_tensor_value_info(name, _ELEMENTS[spec.dtype], [*lead, *spec.shape])

    def _layer(self, layer: LayerPlan, values: dict[str, str]) -> str:
        name, weights = f"layer:{layer.name}", self.model.weights
        match layer:
            case ConcatPlan():
                return self.add("Concat", [values[of] for of in layer.of], name, axis=-1)
            case EmbeddingPlan():
                table = self.constant(f"{name}/table", weights[layer.weight])
                rows = self.add("Gather", [table, values[layer.of]], f"{name}/rows", axis=0)
                shape = self.constant(f"{name}/shape", [0] * (2 if self.time else 1) + [layer.width], "int64")
                return self.add("Reshape", [rows, shape], name)
            case LinearPlan():
                y = self._product(values[layer.of], weights[layer.weight], f"{name}/product")
                if layer.bias is not None:
                    bias = self.constant(f"{name}/bias", weights[layer.bias])
                    y = self.add("Add", [y, bias], f"{name}/biased")
                return ACTIVATIONS[layer.activation](self, y, name, layer.width)
            case RecurrentPlan():
                x = values[layer.of]
                for stack, cell in enumerate(layer.cells):
                    x = self._cell(layer, cell, x, f"{name}/{stack}")
                return x

    def _cell(self, layer: RecurrentPlan, cell: CellPlan, x: str, name: str) -> str:
        """The h of every step; the states after the last one are outputs of the graph."""
        if "weight_hr" in cell.weights:
            return self._projected(cell, x, name)
        if layer.kind == "gru" and self.single:
            return self._single(cell, x, GruRows(self._weights(cell), cell.hidden, layer.reset_after, name))
        if not self.time:
            x = self.add("Unsqueeze", [x, self._axis(0)], f"{name}/step")
        one = self._is_one_step
        before = [s if one else self.add("Unsqueeze", [s, self._axis(0)], f"{name}/{s}") for s in cell.states]
        constants = [
            self.constant(f"{name}/{letter}", array)
            for letter, array in zip("WRB", onnx_weights(layer.kind, self._weights(cell)), strict=True)
        ]
        after = [f"{s}_next" if one else f"{name}/{s}_next" for s in cell.states]
        lens = LENS if self.form == "scan" else ""
        every = "" if one else f"{name}/all"
        self.nodes.append(
            helper.make_node(
                layer.kind.upper(), [x, *constants, lens, *before], [every, *after], name=name,
                hidden_size=cell.hidden, **_attributes(layer),
            )
        )  # fmt: skip
        if one:  # the only step's h is the last one
            return after[0]
        for state, last in zip(cell.states, after, strict=True):
            self.add("Squeeze", [last, self._axis(0)], f"{state}_next")
        y = self.add("Squeeze", [f"{name}/all", self._axis(1)], f"{name}/h")
        return y if self.time else self.add("Squeeze", [y, self._axis(0)], f"{name}/one")

    def _single(self, cell: CellPlan, x: str, gru: GruRows) -> str:
        """The same of single operators."""
        (state,) = cell.states
        if self.form == "step":
            return gru.step(self, state, gru.from_input(self, x), f"{state}_next")
        width = gru.weights["weight_ih"].shape[1]
        rows = self.constant(f"rows:{width}", [-1, width], "int64")
        given = gru.from_input(self, self.add("Reshape", [x, rows], f"{gru.name}/rows"))
        sizes = [self.add("Shape", [x], f"{gru.name}/sizes", end=2)]
        sizes.append(self.constant(f"size:{cell.hidden}", [cell.hidden], "int64"))
        shape = self.add("Concat", sizes, f"{gru.name}/shape", axis=0)
        every = gru.scan(self, state, [self.add("Reshape", [of, shape], f"{of}:steps") for of in given])
        self.add("GatherND", [every, "ends"], f"{state}_next")
        return every

    def _find_ends(self) -> None:
        """`ends`, int64 [batch, 2]: each row's last step, and the row."""
        zero, one = (self.constant(f"number:{n}", n, "int64") for n in (0, 1))
        last = self.add(
            "Sub", [self.add("Cast", [LENS], "ends/lens", to=TensorProto.INT64), one], "ends/last"
        )
        rows = self.add("Range", [zero, self.add("Size", [LENS], "ends/count"), one], "ends/all")
        pairs = [self.add("Unsqueeze", [each, self._axis(1)], f"{each}:1") for each in (last, rows)]
        self.add("Concat", pairs, "ends", axis=1)

    def _projected(self, cell: CellPlan, x: str, name: str) -> str:
        """One step of an LSTM with a projection, in PyTorch's order of gates."""
        weights, (h, c) = self._weights(cell), cell.states
        from_x, from_h = (
            self._product(of, weights[part], f"{name}/{part}")
            for part, of in (("weight_ih", x), ("weight_hh", h))
        )
        gates = self.add("Add", [from_x, from_h], f"{name}/gates")
        if "bias_ih" in weights:
            bias = self.constant(f"{name}/bias", weights["bias_ih"] + weights["bias_hh"])
            gates = self.add("Add", [gates, bias], f"{name}/biased")
        parts = [f"{name}/{gate}" for gate in PYTORCH_LSTM]
        self.nodes.append(helper.make_node("Split", [gates], parts, name=f"{name}/split", axis=-1))
        i, f, g, o = (
            self.add("Tanh" if gate == "g" else "Sigmoid", [part], f"{part}/open")
            for gate, part in zip(PYTORCH_LSTM, parts, strict=True)
        )
        kept = self.add("Mul", [f, c], f"{name}/kept")
        added = self.add("Mul", [i, g], f"{name}/added")
        new_c = self.add("Add", [kept, added], f"{c}_next")
        whole = self.add("Mul", [o, self.add("Tanh", [new_c], f"{name}/tanh")], f"{name}/whole")
        shrunk = self._product(whole, weights["weight_hr"], f"{name}/shrunk")
        return self.add("Identity", [shrunk], f"{h}_next")

    def _product(self, x: str, weight: Array, name: str) -> str:
        """x W^T."""
        return self.add("MatMul", [x, self.constant(f"{name}/weight", weight.T)], name)

    def _axis(self, axis: int) -> str:
        return self.constant(f"axis:{axis}", [axis], "int64")

    def _weights(self, cell: CellPlan) -> dict[str, Array]:
        return {name: self.model.weights[weight] for name, weight in cell.weights.items()}


def onnx_weights(kind: str, weights: dict[str, Array]) -> tuple[Array, Array, Array]:
    """W, R and B of a recurrent node from a cell's weights by PyTorch's names."""

    def ordered(array: Array) -> Array:
        blocks = _GATES[kind]
        return array.reshape(len(blocks), -1)[blocks].reshape(array.shape)

    zeros = np.zeros(len(weights["weight_hh"]), weights["weight_hh"].dtype)
    biases = [ordered(weights.get(name, zeros)) for name in ("bias_ih", "bias_hh")]
    w, r = ordered(weights["weight_ih"]), ordered(weights["weight_hh"])
    return w[None], r[None], np.concatenate(biases)[None]


def _attributes(layer: RecurrentPlan) -> dict[str, Any]:
    if layer.kind == "gru":
        return {"linear_before_reset": int(layer.reset_after)}
    if layer.kind == "rnn" and layer.activation == "identity":
        return {"activations": ["Affine"], "activation_alpha": [1.0], "activation_beta": [0.0]}
    return {"activations": [layer.activation.capitalize()]} if layer.kind == "rnn" else {}
