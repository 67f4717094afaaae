"""Seeds of property tests: the first few every day, the others with all that is slow."""

from collections.abc import Sequence

import pytest


def blocks(seeds: Sequence[int], daily: int) -> list:
    """Parameters, those behind the first `daily` marked slow."""
    return [*seeds[:daily], *(pytest.param(seed, marks=pytest.mark.slow) for seed in seeds[daily:])]
