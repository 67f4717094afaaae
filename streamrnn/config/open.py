"""From the path of a pipeline file to its `PipelineSpec`: what every command begins with."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from streamrnn.config.load import load_pipeline
from streamrnn.config.spec import PipelineSpec
from streamrnn.context import Context
from streamrnn.errors import ConfigError, Finding
from streamrnn.registry import Registry


def open_pipeline(
    file: str, registry: Registry | None = None, env: Mapping[str, str] | None = None
) -> tuple[PipelineSpec, Registry, Context]:
    """Read a pipeline file and what is needed to build it. Raises `ConfigError`."""
    registry = registry or Registry()
    context = Context(
        base_dir=Path(file).parent.absolute(), models=registry.resolve_model, backends=registry.backend
    )
    try:
        text = context.fs.read_bytes(Path(file))
    except OSError as error:
        raise ConfigError([Finding(file, 1, 1, "", f"cannot be read: {error.strerror}")]) from error
    spec = load_pipeline(text, file, registry, context, os.environ if env is None else env)
    return spec, registry, context
