"""The end of a model that does not answer: of its call where that can be, else of the process."""

from __future__ import annotations

import faulthandler
import os
import sys
from contextlib import AbstractContextManager, ExitStack
from threading import Event, Thread
from typing import TYPE_CHECKING

from streamrnn.core.deadline import Timed, timed

if TYPE_CHECKING:
    from types import TracebackType

    from streamrnn.pipeline import Pipeline

LOOKS = 8
"""How often a call is looked for within its deadline. Time passes only with them: a process that was stopped
for a while, or a machine that slept, has not been waiting for its model."""
_DEAF = 4
"""Deadlines after which a model that holds the interpreter itself is ended; nothing else could run then."""


class Deadline:
    """Looks after the calls of a pipeline's model, on a thread of its own."""

    def __init__(self, pipeline: Pipeline, calls: Timed) -> None:
        self._pipeline, self._calls = pipeline, calls
        self._over = Event()
        self._thread = Thread(target=self._look, name="streamrnn-deadline", daemon=True)

    def __enter__(self) -> Deadline:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()

    def _look(self) -> None:
        deadline_s = self._calls.deadline_s
        before, seen, has_asked = None, 0, False
        while not self._over.wait(deadline_s / LOOKS):
            faulthandler.dump_traceback_later(_DEAF * deadline_s + 1, exit=True)
            call = self._calls.under_way
            seen = seen + 1 if call is not None and call == before else 0
            has_asked = has_asked and seen > 0
            before = call
            if call is not None and seen >= LOOKS:
                if has_asked or not self._calls.end(call):
                    self._give_up()
                seen, has_asked = 1, True

    def _give_up(self) -> None:
        told = f"no answer of the model within limits.step_deadline_s = {self._calls.deadline_s:g} s"
        block = self._pipeline.parts.watch.now
        if block is not None and len(block):
            first = f"from record {block.numbers[0]} of {block.origin.partition} on, at {block.positions[0]}"
            told = f"{told}; it was given {len(block)} events {first}"
        sys.stderr.write(f"{told}; the process ends\n")
        sys.stderr.flush()
        os._exit(3)


def deadline(pipeline: Pipeline) -> AbstractContextManager[object]:
    """From now on, what keeps `limits.step_deadline_s` of a pipeline's models; nothing if there is none."""
    kept = ExitStack()
    for backend in pipeline.parts.backends:
        if (calls := timed(backend)) is not None:
            kept.enter_context(Deadline(pipeline, calls))
    return kept
