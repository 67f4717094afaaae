"""From an import path, or the file of a program, to a module of PyTorch with its weights."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import io
import json
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from streamrnn.errors import ModelError, OptionError

if TYPE_CHECKING:
    from streamrnn.context import Context
    from streamrnn_torch.options import TorchModuleConfig

PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl")
UNTRUSTED = "it runs code of its own; write `trust: code` at the top of the pipeline file if you trust it"


def load_module(config: TorchModuleConfig, context: Context) -> tuple[nn.Module, str]:
    """The module with its weights in eval mode, and a digest of its code, arguments and weights.

    Raises `OptionError` for a pipeline that does not trust code and for what is wrong with options or files,
    `ModelError` for weights that are not finite.
    """
    if config.module is None and config.path is None:
        raise OptionError((("module",), "missing; expected `package.module:Name`, or a program in `path`"))
    if not context.trusts_code:
        where = "module" if config.module is not None else "path"
        raise OptionError(((where,), f"{getattr(config, where)}: {UNTRUSTED}"))
    said = json.dumps([config.module, config.args], sort_keys=True)
    digest = hashlib.blake2b(said.encode(), digest_size=16)
    stored = b"" if config.path is None else _read(config.path, context)
    if config.module is None:
        digest.update(stored)
        return _program(config, stored), digest.hexdigest()
    module, source = _make(config, context.base_dir)
    digest.update(source.encode())
    if config.path is not None:
        _put_weights(module, _weights(config.path, stored), config.path)
    for name, tensor in module.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise ModelError(f"{name}: expected finite numbers, found others; train it again")
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode() + _bytes(tensor))
    return module.eval(), digest.hexdigest()


def _read(path: str, context: Context) -> bytes:
    try:
        return context.fs.read_bytes(context.model_path(path))
    except OSError as error:
        raise OptionError((("path",), f"cannot read {path}: {error.strerror or error}")) from error


def _make(config: TorchModuleConfig, base_dir: Path) -> tuple[nn.Module, str]:
    """The module, and the source of its class, "" where there is none."""
    assert config.module is not None
    package, _, attribute = config.module.partition(":")
    made_by = getattr(_import(package, base_dir), attribute, None)
    if made_by is None:
        raise OptionError((("module",), f"{package} has no '{attribute}'"))
    try:
        module = made_by(**config.args)
    except Exception as error:
        text = f"{config.module} raises {type(error).__name__}: {error}"
        raise OptionError((("args",) if config.args else ("module",), text)) from error
    if not isinstance(module, nn.Module):
        found = type(module).__name__
        raise OptionError((("module",), f"expected {config.module} to make a torch.nn.Module, found {found}"))
    try:
        return module, inspect.getsource(type(module))
    except (OSError, TypeError):
        return module, ""


def _import(package: str, base_dir: Path) -> Any:
    """The module of that name, as `python -m` started in the pipeline's folder would find it."""
    if str(base_dir) not in sys.path:
        sys.path.insert(0, str(base_dir))
    importlib.invalidate_caches()
    try:
        found = importlib.import_module(package)
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        text = f"{package} cannot be imported from {base_dir} or the environment: {why}"
        raise OptionError((("module",), text)) from error
    own = base_dir.joinpath(*package.split("."))
    here = [path for path in (own.with_suffix(".py"), own / "__init__.py") if path.exists()]
    file = getattr(found, "__file__", None)
    if here and (file is None or Path(file).resolve() != here[0].resolve()):
        text = f"{package} is loaded from {file} already, so {here[0]} cannot be; rename one of them"
        raise OptionError((("module",), text))
    return found


def _program(config: TorchModuleConfig, stored: bytes) -> nn.Module:
    """A whole program: TorchScript, or an exported one."""
    path = config.path or ""
    if config.args:
        raise OptionError((("args",), "a program takes no arguments; leave them out, or name its `module`"))
    try:
        if path.endswith(".pt2"):
            return torch.export.load(io.BytesIO(stored)).module()
        if path.endswith(".pt"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript as such
                program: nn.Module = torch.jit.load(  # type: ignore[no-untyped-call]
                    io.BytesIO(stored), map_location="cpu"
                )
            return program.eval()
    except Exception as error:
        text = f"{path} is no program that PyTorch {torch.__version__} reads: {_first_line(error)}"
        raise OptionError((("path",), text)) from error
    raise OptionError((("path",), f"expected a program (.pt, .pt2) or `module` beside it, found {path}"))


def _weights(path: str, stored: bytes) -> dict[str, torch.Tensor]:
    try:
        if path.endswith(".safetensors"):
            from safetensors.torch import load

            return dict(load(stored))
        if path.endswith(PICKLES):
            found = torch.load(io.BytesIO(stored), map_location="cpu", weights_only=True)
            if isinstance(found, dict) and all(isinstance(value, torch.Tensor) for value in found.values()):
                return found
            raise OptionError((("path",), f"{path}: expected a state_dict, found {type(found).__name__}"))
    except OptionError:
        raise
    except Exception as error:
        raise OptionError((("path",), f"{path} cannot be read as weights: {_first_line(error)}")) from error
    raise OptionError((("path",), f"expected weights in .safetensors or {', '.join(PICKLES)}, found {path}"))


def _put_weights(module: nn.Module, weights: dict[str, torch.Tensor], path: str) -> None:
    """Every weight by its name; nothing missing, nothing left over."""
    own = module.state_dict()
    wrong = [
        *(f"{name}: missing" for name in own if name not in weights),
        *(f"{name}: not in the module" for name in weights if name not in own),
        *(
            f"{name}: expected {list(own[name].shape)}, found {list(weights[name].shape)}"
            for name in own
            if name in weights and own[name].shape != weights[name].shape
        ),
    ]
    if wrong:
        raise OptionError(*((("path",), f"{path}: {text}") for text in wrong))
    module.load_state_dict(weights)


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
