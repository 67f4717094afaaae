"""Which events of a batch may enter at all, before anything is asked of rules or model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from streamrnn.core.lives import too_far_ahead
from streamrnn.values import oversized

if TYPE_CHECKING:
    from streamrnn.core.store import Store
    from streamrnn.events import Array, Batch, IntArray

AHEAD = "time: further ahead of the largest seen than limits.max_ahead_s allows"
FULL = "key: a new one, and limits.max_keys are held; limits.on_full says refuse"


def too_large(store: Store, fields: Mapping[str, Array]) -> dict[int, str]:
    """Events with a value that a rule would have to keep and may not, each with the reason."""
    limit, refused = store.limits.max_value_bytes, dict[int, str]()
    for path in store.kept_fields:
        reason = f"{path}: a reset rule keeps at most {limit} bytes of it"
        refused.update(dict.fromkeys(oversized(fields[path], limit).tolist(), reason))
    return refused


def admit(store: Store, batch: Batch, refused: Mapping[int, str]) -> tuple[IntArray, dict[int, str]]:
    """Indices of the events that may enter, and with the reason those too far ahead or without room."""
    index = np.arange(len(batch))
    if refused:
        index = np.delete(index, sorted(refused))
    if store.limits.max_ahead is None and not store.limits.refuse_new:
        return index, {}
    full = index[:0]
    while True:
        ahead = _ahead(store, batch, np.setdiff1d(index, full, assume_unique=True))
        entering = np.setdiff1d(index, ahead, assume_unique=True)
        now = _without_room(store, batch, entering)
        # Whoever finds no room moves no clock, and whoever is too far ahead takes no room.
        if store.limits.max_ahead is None or np.array_equal(now, full):
            entering = np.setdiff1d(entering, now, assume_unique=True)
            return entering, dict.fromkeys(ahead.tolist(), AHEAD) | dict.fromkeys(now.tolist(), FULL)
        full = now


def _ahead(store: Store, batch: Batch, index: IntArray) -> IntArray:
    ahead = store.limits.max_ahead
    if batch.time is None or ahead is None or not len(index):
        return index[:0]
    return index[too_far_ahead(batch.time[index], store.largest.get(batch.source), ahead)]


def _without_room(store: Store, batch: Batch, index: IntArray) -> IntArray:
    if not store.limits.refuse_new or len(store.keys) + len(index) <= store.limits.max_keys:
        return index[:0]
    return index[store.keys.without_room([batch.keys[i] for i in index.tolist()])]
