"""Calls of a model that another thread can tell the length of, and end."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import TYPE_CHECKING, TypeVar

from streamrnn.core.wrap import Wrapper
from streamrnn.errors import ModelError

if TYPE_CHECKING:
    from streamrnn.backend import Arrays, Backend
    from streamrnn.core.wrap import Scanned
    from streamrnn.events import IntArray

_R = TypeVar("_R")


class Timed(Wrapper):
    """Numbers the calls of `inner`, so that whoever looks twice knows whether the same one is under way.

    One that is ended raises `ModelError`: what it served is then found by halving, as after any other error.
    """

    def __init__(self, inner: Backend, deadline_s: float) -> None:
        super().__init__(inner)
        self.deadline_s = deadline_s
        self._lock = Lock()
        self._calls, self._is_running, self._is_ended = 0, False, False

    @property
    def under_way(self) -> int | None:
        """The number of the call that is under way; None between two."""
        return self._calls if self._is_running else None

    def end(self, call: int) -> bool:
        """Let a call raise if it is still under way; on another thread. False if this backend cannot."""
        with self._lock:
            if self.under_way != call:
                return True
            if self.inner.interrupt is None:
                return False
            self._is_ended = True
            self.inner.interrupt(True)
            return True

    def step(self, state: Arrays, x: Arrays) -> tuple[Arrays, Arrays]:
        """See `Backend.step`."""
        return self._timed(lambda: self.inner.step(state, x))

    def _scan(self, state: Arrays, x: Arrays, lens: IntArray) -> Scanned:
        scan = super()._scan
        return self._timed(lambda: scan(state, x, lens))

    def _timed(self, call: Callable[[], _R]) -> _R:
        with self._lock:
            self._calls += 1
            self._is_running = True
        try:
            return call()
        except Exception as error:
            if self._is_ended:
                text = f"no answer within limits.step_deadline_s = {self.deadline_s:g} s"
                raise ModelError(text) from error
            raise
        finally:
            with self._lock:
                self._is_running = False
                if self._is_ended:
                    self._is_ended = False
                    assert self.inner.interrupt is not None
                    self.inner.interrupt(False)


def timed(backend: object) -> Timed | None:
    """The one among a backend's wrappers that numbers its calls, if there is one."""
    while backend is not None and not isinstance(backend, Timed):
        backend = getattr(backend, "inner", None)
    return backend
