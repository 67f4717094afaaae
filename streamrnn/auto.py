"""Which backend serves `type: auto`: the first of a fixed order that is there and keeps the numerics promise.

The order is fixed, not measured at each start, since the backend decides the last bits: a busy machine must
not change the answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from streamrnn.builtins.numpy_layers import COMPONENTS
from streamrnn.errors import ModelError, OptionError, StreamrnnError
from streamrnn.layers import plan
from streamrnn.layers.options import RecurrentConfig

if TYPE_CHECKING:
    from streamrnn.backend import Backend, TensorSpec
    from streamrnn.builtins.auto_layers import AutoConfig
    from streamrnn.context import Context
    from streamrnn.hookspecs import Component

# Microseconds of CPU per event in numpy and in torch, one core with AVX-512, float32, by rows in a call:
#                   1              64             512                     1             64             512
#   GRU of 64   14,  80     1.3, 1.6     1.1, 0.8     LSTM of 64   13, 204     1.6, 3.9     1.4, 1.0
#   GRU of 128  15,  88     3.2, 3.0     5.5, 2.1     LSTM of 128  24, 226     5.0, 4.5     5.2, 2.5
#   GRU of 256  26, 129     11,  7.9     18,  7.2     LSTM of 256  43, 236     17,  9.2     20,  8.1
# In long sequences of few rows numpy is the faster up to 128, and from 256 on they are about alike.
ORDER: tuple[tuple[str, int], ...] = (("onnx", 1), ("torch", 256), ("numpy", 1))
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
