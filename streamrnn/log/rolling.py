"""When a segment of a log is full, and how long full ones stay."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rolling:
    """Limits of a segment and of what a partition keeps; None sets none."""

    segment_bytes: int = 64 << 20
    segment_s: float | None = None
    keep_bytes: int | None = None
    keep_s: float | None = None
