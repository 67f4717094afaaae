"""Signals that end a run: the first one lets it finish within its grace, a second one is a kill."""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Callable
from threading import Thread
from types import FrameType, TracebackType
from typing import BinaryIO

NUMBERS = (signal.SIGINT, signal.SIGTERM)


Waiting = tuple[str, int]
"""What a run is waiting for, in words, and the code to exit with if it never comes."""


class Stopping:
    """Turns the first SIGINT or SIGTERM into a wish to stop; from then on the run has `grace_s` to end.

    Before the run has begun it ends the process with `early_code`: nothing was served, so there is nothing to
    finish.
    The time is kept on a thread that the system's handler wakes, so that it runs out also while the main
    thread is held up in a library or by the disk. Until there is a pipeline, that is what is waited for.
    For one run of a process: once it is over, signals are ignored, since there is nothing left to stop.
    """

    def __init__(self, early_code: int = 0) -> None:
        self._early_code = early_code
        self.asked = False
        self.has_begun = False
        """Whether there may be something to finish."""
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
            # An exception would come up inside whatever is being imported, which may take it for its own.
            os._exit(self._early_code)

    def _watch(self) -> None:
        with os.fdopen(self._woken, "rb", buffering=0) as woken:
            first = _next_stop(woken)
            if first is None:
                return
            self.told()
            give_up_s = time.monotonic() + self.grace_s
            while True:
                left_s = max(0.0, give_up_s - time.monotonic())
                if not select.select([woken], [], [], left_s)[0]:
                    self._give_up(signal.Signals(first).name)
                again = woken.read(1)
                if not again:
                    return
                if again[0] in NUMBERS:  # the main thread could not see to the first one, so it has this one
                    os.kill(os.getpid(), signal.SIGKILL)

    def _give_up(self, name: str) -> None:
        what, code = self.waiting()
        sys.stderr.write(f"{name}: not done after grace_s: {self.grace_s:g} s; still waiting for {what}\n")
        sys.stderr.flush()
        os._exit(code)


def _next_stop(woken: BinaryIO) -> int | None:
    """The next signal that means to stop; others have handlers of their own. None once there are no more."""
    while number := woken.read(1):
        if number[0] in NUMBERS:
            return number[0]
    return None
