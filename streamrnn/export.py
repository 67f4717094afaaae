"""A pipeline's model as an ONNX file, written only if it answers as the model does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from streamrnn.build import load_backend
from streamrnn.config.problems import from_option_error, problem
from streamrnn.core.probe import ByRow, draw
from streamrnn.errors import ConfigError, ModelError, OptionError

if TYPE_CHECKING:
    from streamrnn.backend import Arrays, Backend
    from streamrnn.config.spec import PipelineSpec
    from streamrnn.context import Context
    from streamrnn.events import Array
    from streamrnn.registry import Registry

LENGTHS = (1, 2, 3, 5, 8, 13, 21, 34, 50)
"""Events of the keys that are compared."""
ABSOLUTE, RELATIVE = 1e-5, 1e-4


@dataclass(frozen=True)
class Exported:
    """What was written: `step` is the largest distance of a step, `drift` that after whole sequences."""

    bytes: int
    keys: int
    events: int
    step: float
    drift: float


class DifferentError(Exception):
    """The exported graph is not the model; the message says where."""


def export(spec: PipelineSpec, registry: Registry, context: Context, target: Path) -> Exported:
    """Write the model to `target`, which is replaced as a whole or not at all.

    The graph is loaded as a pipeline would load it, and answers random sequences of several keys beside the
    model. Raises `ConfigError` without a plugin that can export it, and what loading the model raises;
    `ModelError` if an answer differs.
    """
    registry.load_for(["onnx"])
    component = registry.find("backend", "onnx")
    if component is None:
        raise _wrong(spec, f"it is exported as ONNX, and there is {registry.missing('backend', 'onnx')}")
    with closing(load_backend(spec, context)) as model:
        stored = _graph(spec, registry, context)
        part = target.with_name(f".{target.name}.part")
        try:
            _write(context, part, stored)
            options = component.config.model_validate({"path": str(part.absolute())})
            exported: Backend = component.resolve("build")(options, spec.given, context)
            with closing(exported):
                exported.open()
                checked = _compare(model, exported, len(stored))
            context.fs.replace(part, target)
        except DifferentError as error:
            raise ModelError(f"{_unlike_itself(spec, context, model)}{error}; nothing was written") from error
        except OptionError as error:
            raise ModelError(f"the exported graph cannot be served: {error}") from error
        except OSError as error:
            raise ModelError(f"{target}: cannot be written: {error.strerror or error}") from error
        finally:
            context.fs.remove(part)
    return checked


def _unlike_itself(spec: PipelineSpec, context: Context, model: Backend) -> str:
    """A hint where the model is another one each time it is loaded."""
    with closing(load_backend(spec, context)) as again:
        if again.state.fingerprint == model.state.fingerprint:
            return ""
    return "the model is another one each time it is loaded, maybe for want of weights in `path`: "


def _wrong(spec: PipelineSpec, text: str) -> ConfigError:
    return ConfigError([problem(spec.tree, (*spec.model.path, "type"), text)])


def _graph(spec: PipelineSpec, registry: Registry, context: Context) -> bytes:
    model = spec.model
    asked = {"options": model.options, "given": spec.given, "context": spec.trusting(context)}
    try:
        stored: bytes | None = registry.hooks.hook.streamrnn_export(**asked)
    except OptionError as error:
        raise ConfigError(from_option_error(error, model.path, spec.tree)) from error
    if stored is None:
        text = f"no installed plugin can export a model of type '{model.component.name}'"
        raise _wrong(spec, f"{text}; layers and modules of PyTorch can be exported")
    return stored


def _write(context: Context, path: Path, stored: bytes) -> None:
    with context.fs.open_write(path, append=False) as file:
        context.fs.write(file, stored)
        context.fs.sync(file)


def _compare(model: Backend, exported: Backend, size: int) -> Exported:
    """Raises `DifferentError` where outputs, initial states or steps differ."""
    names = _paired(model, exported)
    alone, other = ByRow(model, 1), ByRow(exported, 1)
    rng, step, drift = np.random.default_rng(0), 0.0, 0.0
    for length in LENGTHS:
        events = list(_events(model, length, rng))
        state = alone.initial(events[0], 1)
        free = other.initial(events[0], 1)
        _distance(state, _renamed(free, names), "the initial state")
        for place, x in enumerate(events, 1):
            where = f"event {place} of a sequence of {length}"
            taken, answer = other.step({names[n]: array for n, array in state.items()}, x, 1)
            free, freely = other.step(free, x, 1)
            state, y = alone.step(state, x, 1)
            step = max(step, _distance(y, answer, where), _distance(state, _renamed(taken, names), where))
            drift = max(drift, *(float(np.abs(y[n] - freely[n]).max()) for n in y))
        _check_together(other, free, min(length, 8), rng)
    return Exported(size, len(LENGTHS), sum(LENGTHS), step, drift)


def _paired(model: Backend, exported: Backend) -> dict[str, str]:
    """By the model's state tensors those of the graph, in order. Raises `DifferentError` for other shapes."""
    shapes = [[(t.shape, t.batch_axis) for t in each.state.tensors] for each in (model, exported)]
    outputs = [[(spec.name, spec.width) for spec in each.outputs] for each in (model, exported)]
    if shapes[0] != shapes[1] or outputs[0] != outputs[1]:
        raise DifferentError(
            f"the exported graph has states {shapes[1]} and outputs {outputs[1]}, expected {shapes[0]} and "
            f"{outputs[0]}"
        )
    pairs = zip(model.state.tensors, exported.state.tensors, strict=True)
    return {ours.name: theirs.name for ours, theirs in pairs}


def _renamed(states: Arrays, names: dict[str, str]) -> Arrays:
    return {ours: states[theirs] for ours, theirs in names.items()}


def _events(model: Backend, length: int, rng: np.random.Generator) -> Iterator[Arrays]:
    for _ in range(length):
        yield {spec.name: draw(spec, 1, rng) for spec in model.inputs}


def _distance(expected: Arrays, found: Arrays, where: str) -> float:
    """The largest distance; raises `DifferentError` beyond the tolerance."""
    worst = 0.0
    for name, want in expected.items():
        a, b = _wide(found[name]).reshape(want.shape), _wide(want)
        if not np.allclose(a, b, rtol=RELATIVE, atol=ABSOLUTE, equal_nan=True):
            gap = float(np.nanmax(np.abs(a - b)))
            text = f"the exported graph differs from the model at {where}: '{name}' by {gap:.2g}"
            raise DifferentError(text)
        worst = max(worst, float(np.abs(a - b).max(initial=0)))
    return worst


def _wide(array: Any) -> Array:
    wide: Array = np.asarray(array).astype(np.float64)
    return wide


def _check_together(alone: ByRow, state: Arrays, n: int, rng: np.random.Generator) -> None:
    """Whether the graph takes n rows, and answers each as it does alone; `state` has one."""
    many, x = ByRow(alone.backend, n), {spec.name: draw(spec, n, rng) for spec in alone.backend.inputs}
    _, together = many.step({name: np.repeat(array, n, axis=0) for name, array in state.items()}, x, n)
    for k in range(n):
        _, y = alone.step(state, {name: array[k : k + 1] for name, array in x.items()}, 1)
        found = {name: array[k : k + 1] for name, array in together.items()}
        _distance(y, found, f"row {k + 1} of a call of {n}")
