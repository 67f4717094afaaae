"""What the keys of a core take of the memory once there are as many as may be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from streamrnn.core.store import Store

_KEY_BYTES = 24
"""A key's own bytes, taken for long ones and short ones."""
_INDEX_BYTES = 2 * _KEY_BYTES + 16 + 4 + 2 * 8 + 2 * 24 + 6
"""Where a key lies, with room for those that went and came, its hash and slots, in arrays that double."""
_OBJECT_BYTES = 56
_GONE_BYTES = 100
"""For a key that is remembered: the same but for its bytes, and twice while holes are closed; as measured."""


def footprint_bytes(store: Store) -> int:
    """About how much memory all rows that there may be take, and the keys that are remembered beside them."""
    objects = len(store.kept_fields) * _OBJECT_BYTES
    row = store.columns.row_bytes + objects + (_state_bytes(store) if store.on_host else 0) + _INDEX_BYTES
    return row * store.most_rows + _GONE_BYTES * store.limits.remember_evicted


def device_bytes(store: Store) -> int:
    """The same of the device that the states live on; 0 if that is this machine's memory."""
    return 0 if store.on_host else _state_bytes(store) * store.most_rows


def _state_bytes(store: Store) -> int:
    return sum(array.nbytes for array in store.slab.read(np.zeros(1, np.int64)).values())
