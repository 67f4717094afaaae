"""The engine-neutral core: keys, resets, waves and state of one shard; no threads, clock or files."""

from streamrnn.core.core import Core

__all__ = ["Core"]
