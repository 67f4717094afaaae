"""Which backend serves `type: auto`: the first of a fixed order that is there and keeps the numerics promise.

The order is fixed, not measured at each start, since the backend decides the last bits: a busy machine must
not change the answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from streamrnn.backend import Fact
from streamrnn.builtins.numpy_layers import COMPONENTS
from streamrnn.errors import ModelError, OptionError, StreamrnnError
from streamrnn.explain import explain_description
from streamrnn.layers import plan
from streamrnn.layers.options import RecurrentConfig

if TYPE_CHECKING:
    from streamrnn.backend import Backend, TensorSpec
    from streamrnn.builtins.auto_layers import AutoConfig
    from streamrnn.context import Context
    from streamrnn.hookspecs import Component

# Microseconds of CPU per event in onnx, torch and numpy, one core with AVX-512, float32, 32 numbers in; by
# the rows of a step, and for a scan of 4 rows and 64 steps:
#                   1              64                 512                scan
#   GRU of 64    31,   90,  22   1.4, 1.7, 1.0      0.9, 0.9, 0.7      2.7, 6.2, 5.4
#   GRU of 128   38,   91,  18   4.0, 3.0, 2.1      2.7, 2.3, 2.1      4.3, 8.3, 7.7
#   GRU of 256   51,  139,  28   8.3, 8.4, 6.2      7.3, 7.8, 6.4      8.7,  22,  13
#   GRU of 512   87,  282, 234    21,  28,  25       22,  24,  26       27,  66,  87
#   LSTM of 64   34,  158,  14   1.2, 2.6, 1.1      0.8, 1.0, 0.8      2.8, 9.4, 4.8
#   LSTM of 128  39,  190,  19   2.5, 4.5, 2.5      2.0, 2.3, 2.5      4.8,  13, 7.0
#   LSTM of 256  60,  296,  46   6.7,  10, 9.0      7.1, 8.2, 8.9       11,  32,  39
#   LSTM of 512 107, 1211, 594    26,  48,  36       25,  27,  37       32, 113, 178
ORDER: tuple[tuple[str, int], ...] = (("onnx", 256), ("torch", 512), ("numpy", 1))
"""Backends, and the hidden size from which each is faster than those behind it."""
NUMPY = COMPONENTS[0]


def candidates(
    config: AutoConfig, given: Mapping[str, TensorSpec], context: Context
) -> Iterator[tuple[Component, BaseModel]]:
    """The backends of `ORDER` that are installed and take these layers, with their options."""
    widest = max((layer.hidden for layer in config.layers if isinstance(layer, RecurrentConfig)), default=1)
    given_options = config.model_dump(exclude_unset=True)
    for name, least in ORDER:
        component = context.backends(name) if context.backends else NUMPY if name == "numpy" else None
        if component is None or widest < least:
            continue
        try:
            options = component.config.model_validate(given_options)
            component.resolve("describe")(options, given, context)
        except (ValidationError, OptionError):
            continue
        yield component, options


def explain(config: AutoConfig, given: Mapping[str, TensorSpec], context: Context) -> list[Fact]:
    """The model as any backend understands it, and which is asked first. Raises `OptionError`."""
    description = plan.describe(config, given, context)
    first, *others = (component.name for component, _ in candidates(config, given, context))
    rest = f", else {', '.join(others)}" if others else ""
    taken = Fact("backend", first, "", f"if the probe finds that answers do not depend on the batch{rest}")
    return [taken, *explain_description(description)]


def build(config: AutoConfig, given: Mapping[str, TensorSpec], context: Context) -> Backend:
    """The first candidate that is found batch invariant; its `label` is its name.

    Raises `OptionError` for mistakes in the layers, `ModelError` if no candidate can be loaded.
    """
    from streamrnn.core.probe import probe  # not at the top: `lint` asks for candidates without numpy

    plan.describe(config, given, context)
    left: list[str] = []
    for component, options in candidates(config, given, context):
        try:
            backend: Any = component.resolve("build")(options, given, context)
        except StreamrnnError as error:
            left.append(f"{component.name}: {error}")
            continue
        backend.label = component.name
        backend.open()
        verdict = probe(backend)
        if verdict.numerics == "batch_invariant":
            return backend  # type: ignore[no-any-return]
        backend.close()
        left.append(f"{component.name}: {'; '.join(verdict.reasons)}")
    raise ModelError(f"no installed backend serves these layers alike in every batch: {'; '.join(left)}")
