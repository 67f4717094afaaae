"""The components that ship with streamrnn, declared as any plugin does it; nothing heavy is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from streamrnn.hookspecs import Component, hookimpl


@hookimpl
def streamrnn_components() -> Sequence[Component]:
    """Everything in this package."""
    from streamrnn.builtins import (
        auto_layers,
        codecs,
        ends,
        features,
        formula,
        logs,
        numpy_layers,
        resets,
        sockets,
        web,
    )

    modules = (ends, logs, sockets, web, codecs, features, resets, formula, numpy_layers, auto_layers)
    return [component for module in modules for component in module.COMPONENTS]


@hookimpl(trylast=True)
def streamrnn_resolve_model(uri: str, base_dir: Path) -> Path | None:
    """Plain paths, relative to the pipeline's file."""
    return None if "://" in uri else base_dir / uri
