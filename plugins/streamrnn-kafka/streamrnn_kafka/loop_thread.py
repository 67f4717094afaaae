"""A thread that runs an event loop, for clients that are asynchronous."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from selectors import DefaultSelector
from threading import Thread
from typing import Any, TypeVar

T = TypeVar("T")
_PATIENCE_S = 2
"""How long tasks of the client may take to notice that they are cancelled, and connections to close."""
_AGAIN_S = 0.01
_OWN_FILES = 1
"""What a loop looks at without any connection: its own waking up."""


class LoopThread:
    """Runs coroutines on a thread of its own, for a thread that waits for their results."""

    def __init__(self, name: str) -> None:
        self._selector = DefaultSelector()
        self.loop = asyncio.SelectorEventLoop(self._selector)
        self.loop.set_exception_handler(_not_waited_for)
        self._thread = Thread(target=self.loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of a coroutine; raises what it raises."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    def close(self) -> None:
        """End the loop and its thread; twice is fine."""
        if self.loop.is_closed():
            return
        self.call(self._settle())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    async def _settle(self) -> None:
        """Wait a little for connections that are being closed: with TLS, that takes an answer."""
        await _cancel_others()
        until_s = self.loop.time() + _PATIENCE_S
        while len(self._selector.get_map()) > _OWN_FILES and self.loop.time() < until_s:
            await asyncio.sleep(_AGAIN_S)


def _not_waited_for(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What went wrong in a task of the client that nobody waits for; whoever needed it was told as well."""
    log = logging.getLogger("streamrnn.kafka")
    log.debug("%s", context.get("message"), exc_info=context.get("exception"))


async def _cancel_others() -> None:
    """Let no task be destroyed while it waits."""
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    if others:
        await asyncio.wait(others, timeout=_PATIENCE_S)
