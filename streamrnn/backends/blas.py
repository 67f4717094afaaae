"""BLAS at one thread while a model is open: with more, a product may be split by their number."""

from __future__ import annotations

import threading
from typing import Any

from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]


class BlasLimit:
    """Holds BLAS at one thread while anyone needs it.

    The number of threads belongs to the process, so models that are open at once share one limit.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holders = 0
        self._limiter: Any = None

    def hold(self) -> None:
        """Set the limit, if nobody holds it yet."""
        with self._lock:
            if self._holders == 0:
                self._limiter = threadpool_limits(limits=1, user_api="blas")
            self._holders += 1

    def release(self) -> None:
        """Lift the limit, if nobody else holds it."""
        with self._lock:
            self._holders -= 1
            if self._holders == 0 and self._limiter is not None:
                self._limiter.restore_original_limits()

    def __enter__(self) -> None:
        self.hold()

    def __exit__(self, *raised: object) -> None:
        self.release()


BLAS_LIMIT = BlasLimit()
