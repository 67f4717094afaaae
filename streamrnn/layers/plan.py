"""From the list of layers to plans: every name, width and weight resolved, nothing computed, no numpy.

`describe` and `build` share them, so what `lint` accepts is what runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from streamrnn.backend import Description, StateSpec, StateTensor, TensorSpec
from streamrnn.errors import OptionError
from streamrnn.layers.binding import NO_BACKWARD, Binder
from streamrnn.layers.options import (
    ConcatConfig,
    EmbeddingConfig,
    GruConfig,
    LayersConfig,
    LinearConfig,
    LstmConfig,
    RecurrentConfig,
    RnnConfig,
)
from streamrnn.layers.weights import HeaderError, Problems, Weight, meant, read_header

if TYPE_CHECKING:
    from streamrnn.context import Context


@dataclass(frozen=True, slots=True)
class EmbeddingPlan:
    """`rows` vectors of `size`; reads int64 indices."""

    name: str
    of: str
    width: int
    rows: int
    weight: Weight


@dataclass(frozen=True, slots=True)
class ConcatPlan:
    """Its sources side by side."""

    name: str
    of: tuple[str, ...]
    width: int


@dataclass(frozen=True, slots=True)
class CellPlan:
    """One of the stacked layers: its weights in PyTorch's layout and its state tensors' names."""

    hidden: int
    width: int
    weights: Mapping[str, Weight]
    states: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RecurrentPlan:
    """Stacked cells of one kind: "rnn", "lstm" or "gru"; `width` is that of h (the projection's, if any)."""

    name: str
    of: str
    width: int
    kind: str
    cells: tuple[CellPlan, ...]
    activation: str = "tanh"
    reset_after: bool = True


@dataclass(frozen=True, slots=True)
class LinearPlan:
    """y = activation(x W^T + b)."""

    name: str
    of: str
    width: int
    activation: str
    weight: Weight
    bias: Weight | None


LayerPlan = EmbeddingPlan | ConcatPlan | RecurrentPlan | LinearPlan


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """All layers in order, and what the model takes, gives and keeps."""

    layers: tuple[LayerPlan, ...]
    description: Description
    outputs: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Wire:
    """What a model input or a layer gives: int64 indices or numbers; `width` None if an error hides it."""

    width: int | None
    indices: bool = False
    input: bool = False


def describe(config: LayersConfig, given: Mapping[str, TensorSpec], context: Context) -> Description:
    """Inputs, outputs and state, from the options and the header of the weights' file.

    The fingerprint is left empty, since it covers the weights' bytes. Raises `OptionError` with all problems.
    """
    if config.path is None:
        return plan_model(config, given, None).description
    try:
        with context.fs.open_read(context.model_path(config.path)) as file:
            return plan_model(config, given, file).description
    except OSError as error:
        raise OptionError((("path",), f"cannot read {config.path}: {error.strerror or error}")) from error


def plan_model(config: LayersConfig, given: Mapping[str, TensorSpec], file: BinaryIO | None) -> ModelPlan:
    """Resolve the whole model; `file` is the open file of weights. Raises `OptionError` with all problems."""
    try:
        stored = read_header(file) if file is not None else {}
    except HeaderError as error:
        raise OptionError((("path",), f"{config.path}: {error}")) from None
    planner = _Planner(config, given, Binder(config.path, stored, Problems()))
    model = planner.plan()
    if problems := planner.problems.found:
        raise OptionError(*problems)
    return model


class _Planner:
    def __init__(self, config: LayersConfig, given: Mapping[str, TensorSpec], binder: Binder) -> None:
        self.config = config
        self.given = given
        self.binder = binder
        self.problems = binder.problems
        self.wires: dict[str, Wire] = {}
        self.read: set[str] = set()
        self.names: list[str] = []

    def plan(self) -> ModelPlan:
        """Plan every layer; layers with problems are missing from the result."""
        self._add_inputs()
        plans = [self._add_layer(index) for index in range(len(self.config.layers))]
        if self.config.path is not None and all(
            isinstance(layer, ConcatConfig) or isinstance(layer.weights, dict) for layer in self.config.layers
        ):
            self.problems.add(("path",), "no layer reads this file: all weights are inline; leave `path` out")
        outputs = self._outputs()
        self._check_all_read(set(outputs.values()))
        layers = tuple(plan for plan in plans if plan is not None)
        return ModelPlan(layers, self._description(layers, outputs), outputs)

    def _add_inputs(self) -> None:
        for name, spec in self.given.items():
            if len(spec.shape) != 1 or spec.shape[0] < 1:
                found = list(spec.shape)
                self.problems.add((), f"input {name!r}: expected one axis of at least 1, found shape {found}")
            self.wires[name] = Wire(spec.width, indices=spec.dtype.startswith("int"), input=True)
        if not self.given:
            self.problems.add((), "expected at least one input in `event.inputs`, found none")

    def _add_layer(self, index: int) -> LayerPlan | None:
        config = self.config.layers[index]
        name = self._name(index)
        plan: LayerPlan | None
        match config:
            case ConcatConfig():
                width, plan = self._plan_concat(index, name, config)
            case EmbeddingConfig():
                width, plan = self._plan_embedding(index, name, config)
            case LinearConfig():
                width, plan = config.out, self._plan_linear(index, name, config)
            case _:
                width = (isinstance(config, LstmConfig) and config.proj) or config.hidden
                plan = self._plan_recurrent(index, name, config, width)
        self.names.append(name)
        self.wires.setdefault(name, Wire(width))
        return plan

    def _name(self, index: int) -> str:
        config = self.config.layers[index]
        prefix = None if isinstance(config, ConcatConfig) else config.weights
        name = config.name or (prefix if isinstance(prefix, str) and prefix else f"{config.type}{index}")
        if name in self.wires:
            owner = "an input" if self.wires[name].input else f"layer {self.names.index(name)}"
            self.problems.add(
                ("layers", index, "name" if config.name else "type"),
                f"the name {name!r} is already that of {owner}; give this layer a `name` of its own",
            )
        return name

    def _source(
        self, index: int, of: str | None, path: Sequence[str | int], indices: bool
    ) -> tuple[str, Wire]:
        if of is None:
            of = self.names[index - 1] if index else self._only_input(index)
            path = path[:2]
        unknown = of, Wire(None, indices)
        if not of:
            return unknown
        wire = self.wires.get(of)
        if wire is None:
            known = f"expected a model input or an earlier layer ({', '.join(self.wires)})"
            self.problems.add(path, f"{known}, found {of!r}{meant(of, self.wires)}")
            return unknown
        self.read.add(of)
        if wire.indices != indices:
            message = (
                f"expected indices, found {of!r}, which is numbers; give the input a `vocab` feature alone"
                if indices
                else f"expected numbers, found {of!r}, which is indices; put an `embedding` layer between"
            )
            self.problems.add(path, message)
            return unknown
        return of, wire

    def _only_input(self, index: int) -> str:
        if len(self.given) > 1:
            inputs = ", ".join(self.given)
            self.problems.add(("layers", index), f"expected `of`, since there are several inputs ({inputs})")
        return next(iter(self.given)) if len(self.given) == 1 else ""

    def _plan_concat(
        self, index: int, name: str, config: ConcatConfig
    ) -> tuple[int | None, ConcatPlan | None]:
        sources = [
            self._source(index, of, ("layers", index, "of", place), indices=False)
            for place, of in enumerate(config.of)
        ]
        widths = [wire.width for _, wire in sources if wire.width is not None]
        if len(widths) != len(sources):
            return None, None
        return sum(widths), ConcatPlan(name, tuple(of for of, _ in sources), sum(widths))

    def _plan_embedding(
        self, index: int, name: str, config: EmbeddingConfig
    ) -> tuple[int | None, EmbeddingPlan | None]:
        of, wire = self._source(index, config.of, ("layers", index, "of"), indices=True)
        section = self.binder.section(("layers", index, "weights"), config.weights, ("weight",))
        weight = section.take("weight", (None, None), "rows, vector size") if section else None
        if weight is None or wire.width is None:
            return None, None
        rows, size = weight.shape
        return size * wire.width, EmbeddingPlan(name, of, size * wire.width, rows, weight)

    def _plan_linear(self, index: int, name: str, config: LinearConfig) -> LinearPlan | None:
        of, wire = self._source(index, config.of, ("layers", index, "of"), indices=False)
        section = self.binder.section(("layers", index, "weights"), config.weights, ("weight", "bias"), of)
        if section is None:
            return None
        weight = section.take("weight", (config.out, wire.width), f"out {config.out}, input {wire.width}")
        bias = section.take("bias", (config.out,), f"out {config.out}") if "bias" in section.weights else None
        return LinearPlan(name, of, config.out, config.activation, weight, bias) if weight else None

    def _plan_recurrent(
        self, index: int, name: str, config: RecurrentConfig, width: int
    ) -> RecurrentPlan | None:
        path = ("layers", index)
        of, wire = self._source(index, config.of, (*path, "of"), indices=False)
        if config.bidirectional:
            self.problems.add((*path, "bidirectional"), f"expected false, found true: {NO_BACKWARD}")
        if isinstance(config, LstmConfig) and config.proj is not None and config.proj >= config.hidden:
            self.problems.add(
                (*path, "proj"), f"expected less than hidden {config.hidden}, found {config.proj}"
            )
        bound = self.binder.cells((*path, "weights"), config, of, wire.width)
        kept = ("h", "c") if isinstance(config, LstmConfig) else ("h",)
        cells = tuple(
            CellPlan(config.hidden, width, weights, tuple(f"{name}.{letter}{stack}" for letter in kept))
            for stack, weights in enumerate(bound)
        )
        activation = config.activation if isinstance(config, RnnConfig) else "tanh"
        reset_after = not isinstance(config, GruConfig) or config.reset_after
        return RecurrentPlan(name, of, width, config.type, cells, activation, reset_after)

    def _outputs(self) -> dict[str, str]:
        if self.config.outputs is None:
            return {"y": self.names[-1]}
        for name, layer in self.config.outputs.items():
            if layer not in self.names:
                known = ", ".join(self.names)
                self.problems.add(
                    ("outputs", name),
                    f"expected a layer ({known}), found {layer!r}{meant(layer, self.names)}",
                )
        return dict(self.config.outputs)

    def _check_all_read(self, outputs: set[str]) -> None:
        if self.problems.found:  # an unread layer is then most often the shadow of another mistake
            return
        for name in self.given:
            if name not in self.read:
                self.problems.add(("layers",), f"no layer reads the input {name!r}; read it or leave it out")
        for index, name in enumerate(self.names):
            if name not in self.read | outputs:
                self.problems.add(
                    ("layers", index), f"nothing reads this layer ({name!r}); read it, or leave it out"
                )

    def _description(self, layers: Sequence[LayerPlan], outputs: Mapping[str, str]) -> Description:
        dtype = self.config.state_dtype
        rows = {layer.of: layer.rows for layer in layers if isinstance(layer, EmbeddingPlan)}
        inputs = tuple(
            TensorSpec(name, spec.shape, "int64" if self.wires[name].indices else dtype, rows.get(name))
            for name, spec in self.given.items()
        )
        wires = {name: self.wires.get(layer, Wire(None)) for name, layer in outputs.items()}
        specs = tuple(TensorSpec(name, (wire.width or 0,), dtype) for name, wire in wires.items())
        return Description(inputs, specs, StateSpec(tuple(_state_tensors(layers, dtype))))


def _state_tensors(layers: Sequence[LayerPlan], dtype: str) -> list[StateTensor]:
    return [
        StateTensor(name, (cell.hidden if place else cell.width,), dtype)
        for layer in layers
        if isinstance(layer, RecurrentPlan)
        for cell in layer.cells
        for place, name in enumerate(cell.states)
    ]
