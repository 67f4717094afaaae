"""A plugin that listens to a hook that does not exist."""

from __future__ import annotations

from streamrnn.hookspecs import hookimpl


@hookimpl
def streamrnn_batch_dnoe() -> None:
    """Never called."""
