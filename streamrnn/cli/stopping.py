"""Signals that end a run: the first one lets it finish within its grace, a second one is a kill."""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Callable
from threading import Thread
from types import FrameType, TracebackType

NUMBERS = (signal.SIGINT, signal.SIGTERM)


class Stopped(BaseException):
    """A run was told to stop before it had begun; nothing was served, so there is nothing to finish."""


Waiting = tuple[str, int]
"""What a run is waiting for, in words, and the code to exit with if it never comes."""


class Stopping:
    """Turns the first SIGINT or SIGTERM into a wish to stop; from then on the run has `grace_s` to end.

    The time is kept on a thread that the system's handler wakes, so that it runs out also while the main
    thread is held up in a library or by the disk. Until there is a pipeline, that is what is waited for.
    For one run of a process: once it is over, signals are ignored, since there is nothing left to stop.
    """

    def __init__(self) -> None:
        self.asked = False
        self.has_begun = False
        """Whether there may be something to finish; before that, a signal raises `Stopped` at once."""
        self.grace_s = 10.0
        self.told: Callable[[], None] = lambda: None
        """Called once when the first signal comes, on a thread of its own."""
        self.waiting: Callable[[], Waiting] = lambda: ("the pipeline to be loaded", 3)

    def __enter__(self) -> Stopping:
        self._woken, self._wake = os.pipe()
        os.set_blocking(self._wake, False)
        Thread(target=self._watch, name="streamrnn-stopping", daemon=True).start()
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        for number in NUMBERS:
            signal.signal(number, self._ask)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number in NUMBERS:
            signal.signal(number, signal.SIG_IGN)
        signal.set_wakeup_fd(-1)
        os.close(self._wake)  # ends the thread, too

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        for again in NUMBERS:
            signal.signal(again, signal.SIG_DFL)
        if not self.has_begun:
            raise Stopped

    def _watch(self) -> None:
        with os.fdopen(self._woken, "rb", buffering=0) as woken:
            first = woken.read(1)
            if not first:
                return
            self.told()
            if not select.select([woken], [], [], self.grace_s)[0]:
                self._give_up(signal.Signals(first[0]).name)
            if woken.read(1):  # the main thread could not see to the first one, so it has this one, too
                os.kill(os.getpid(), signal.SIGKILL)

    def _give_up(self, name: str) -> None:
        what, code = self.waiting()
        sys.stderr.write(f"{name}: not done after grace_s: {self.grace_s:g} s; still waiting for {what}\n")
        sys.stderr.flush()
        os._exit(code)
