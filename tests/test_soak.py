"""Hours of events on a clock of its own: nothing grows.

STREAMRNN_SOAK=86400000 serves as many events.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.soak import soak

EVENTS = int(os.environ.get("STREAMRNN_SOAK", "0"))


@pytest.mark.slow
@pytest.mark.timeout(0 if EVENTS else 300)
def test_nothing_grows(tmp_path):
    seen = soak(tmp_path, EVENTS or 1_000_000, 50)
    half = len(seen.rows) // 2
    (early, late) = (
        list(zip(*rows, strict=True)) for rows in (seen.rows[half // 2 : half], seen.rows[half:])
    )
    _, resident, descriptors, threads, files, keys, held = range(7)
    assert seen.outputs + seen.rejected == seen.events
    assert max(late[resident]) - max(early[resident]) < 8e6
    assert max(late[descriptors]) <= max(early[descriptors]) + 2
    assert max(late[threads]) <= max(early[threads]) + 1
    assert max(late[files]) < 2 * max(early[files])
    assert max(late[keys]) < 1.2 * max(early[keys])
    assert max(late[held]) < 3000
    if EVENTS >= 10**7:
        assert seen.growth()["resident_bytes"] < 1e6
