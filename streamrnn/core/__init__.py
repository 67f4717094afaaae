"""The engine-neutral core: keys, resets, waves and state of one shard; no threads, clock or files."""

from streamrnn.core.core import Core
from streamrnn.core.shards import Shards

__all__ = ["Core", "Shards"]
