"""What `lint` and `run` call: PyTorch is imported only where a model needs it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING

from streamrnn.errors import OptionError
from streamrnn.layers import plan
from streamrnn.layers.options import GruConfig, RnnConfig

if TYPE_CHECKING:
    from streamrnn.backend import Backend, Description, TensorSpec
    from streamrnn.context import Context
    from streamrnn_torch.module_backend import TorchModule
    from streamrnn_torch.options import TorchConfig, TorchModuleConfig

Problem = tuple[tuple[str | int, ...], str]
Given = Mapping[str, "TensorSpec"]


def describe(config: TorchConfig, given: Given, context: Context) -> Description:
    """Inputs, outputs and state of layers, without PyTorch. Raises `OptionError` with all problems."""
    problems = [*_missing(), *_unknown_to_torch(config)]
    try:
        description = plan.describe(config, given, context)
    except OptionError as error:
        problems += error.problems
    if problems:
        raise OptionError(*problems)
    return description


def build(config: TorchConfig, given: Given, context: Context) -> Backend:
    """Load layers. Raises `OptionError` as `describe` does and for a device that is not there."""
    describe(config, given, context)
    from streamrnn.layers.loading import LoadedModel
    from streamrnn_torch.backend import TorchLayers

    return TorchLayers(LoadedModel(config, given, context), config)


def describe_module(config: TorchModuleConfig, given: Given, context: Context) -> Description:
    """Inputs, outputs and state of a module, which is loaded and called for it.

    Raises `OptionError` for a pipeline that does not trust code, and for a module that cannot be understood.
    """
    return build_module(config, given, context).wiring.description


def build_module(config: TorchModuleConfig, given: Given, context: Context) -> TorchModule:
    """Load a module, as `describe_module` does."""
    if problems := [*_missing()]:
        raise OptionError(*problems)
    from streamrnn_torch.module_backend import TorchModule
    from streamrnn_torch.module_loading import load_module
    from streamrnn_torch.module_wiring import wire
    from streamrnn_torch.runtime import DTYPES

    module, digest = load_module(config, context)
    module.to(DTYPES[config.dtype])
    return TorchModule(module, wire(module, config, given), digest, config)


def _missing() -> Iterator[Problem]:
    if find_spec("torch") is None:
        yield ("type",), "PyTorch is not installed: pip install 'streamrnn-torch[torch]'"


def _unknown_to_torch(config: TorchConfig) -> Iterator[Problem]:
    """Layers that no module of PyTorch computes."""
    for index, layer in enumerate(config.layers):
        if isinstance(layer, GruConfig) and not layer.reset_after:
            text = "expected true, found false: PyTorch's GRU has no other form; `type: numpy` computes it"
            yield ("layers", index, "reset_after"), text
        if isinstance(layer, RnnConfig) and layer.activation == "identity":
            text = "expected tanh or relu, found identity, which PyTorch lacks; `type: numpy` computes it"
            yield ("layers", index, "activation"), text
