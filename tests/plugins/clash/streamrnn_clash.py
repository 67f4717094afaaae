"""A plugin with a component of its own and one that streamrnn has already."""

from __future__ import annotations

from pydantic import BaseModel

from streamrnn.hookspecs import Component, hookimpl


class NoOptions(BaseModel):
    """No options."""


@hookimpl
def streamrnn_components() -> list[Component]:
    """What this plugin provides."""
    return [
        Component("sink", "clash", NoOptions, "nowhere:build", "never seen"),
        Component("codec", "jsonl", NoOptions, "nowhere:build", "never seen"),
    ]
