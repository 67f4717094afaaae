"""Events and outputs as they pass, for whoever listens; the stream waits for nobody."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streamrnn.context import Clock
    from streamrnn.events import Block
    from streamrnn.line import Served

_HELD = 1000
_LONGEST_BYTES = 4096
_PER_BATCH = 50


class Tap:
    """What one listener is to see: of `key`, or a sample of all, at most `per_s` events a second.

    `offer` is called on the pipeline's thread and `take` on another. At most a thousand events wait to be
    taken; then the oldest go. `passed` counts all events since it began to listen, `shown` those that were
    kept.
    """

    def __init__(self, clock: Clock, key: str | None = None, per_s: float = 100.0) -> None:
        self.key, self.passed, self.shown = key, 0, 0
        self._clock, self._per_s = clock, per_s
        self._allowance, self._last_s = per_s, clock.monotonic()
        self._held: deque[dict[str, Any]] = deque(maxlen=_HELD)

    def offer(self, block: Block, served: Served) -> None:
        """Keep what the listener is to see of a batch."""
        self.passed += len(block)
        now_s = self._clock.monotonic()
        self._allowance = min(self._per_s, self._allowance + (now_s - self._last_s) * self._per_s)
        self._last_s = now_s
        room = min(int(self._allowance), _PER_BATCH)
        if room < 1:
            return
        kept = [*self._outputs(served, room)]
        if self.key is None:
            kept += [self._refused(event) for event in served.out.rejected[: room - len(kept)]]
        self._allowance -= len(kept)
        self.shown += len(kept)
        self._held.extend(kept)

    def take(self) -> Iterator[dict[str, Any]]:
        """What waits, oldest first."""
        while self._held:
            yield self._held.popleft()

    def _outputs(self, served: Served, room: int) -> Iterator[dict[str, Any]]:
        out, keys = served.out, served.out.keys
        if self.key is None:
            # Evenly over the batch: its first events alone might be those of one client.
            chosen = range(0, len(keys), max(1, -(-len(keys) // room)))
        else:
            chosen = [i for i, key in enumerate(keys) if key == self.key][:room]  # type: ignore[assignment]
        for i in chosen:
            begin = int(out.ends[i - 1]) if i else 0
            record = int(out.records[i])
            yield {
                "key": keys[i],
                "partition": out.block.origin.partition,
                "position": int(out.block.positions[record]),
                "event": _text(out.block.record(record)),
                "output": _text(out.buffer[begin : int(out.ends[i])]),
            }

    def _refused(self, event: Any) -> dict[str, Any]:
        return {
            "key": None,
            "partition": event.origin.partition,
            "position": event.position,
            "event": _text(event.raw),
            "refused": event.reason,
        }


def _text(data: bytes) -> str:
    return data[:_LONGEST_BYTES].decode(errors="replace").rstrip("\r\n")
