"""How long to wait before what has failed is tried again."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

_DOUBLINGS = 32


@dataclass
class Backoff:
    """Doubles from `first_s` up to `longest_s`, each less by up to a half, so that nothing returns in step.

    What ran for `steady_s` before it failed is tried again as if for the first time.
    """

    rng: random.Random
    first_s: float = 0.5
    longest_s: float = 60.0
    steady_s: float = 60.0
    failures: int = field(default=0, init=False)
    """How often it has failed since it last ran for long enough."""

    def failed(self, ran_s: float) -> float:
        """Seconds to wait after a failure, before which it ran for `ran_s`."""
        if ran_s >= self.steady_s:
            self.failures = 0
        full_s = min(self.longest_s, self.first_s * float(1 << min(self.failures, _DOUBLINGS)))
        self.failures += 1
        return full_s * self.rng.uniform(0.5, 1.0)
