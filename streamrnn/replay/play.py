"""A replay from its first event to its last, beside the outputs that were recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from streamrnn.replay.compare import compare
from streamrnn.replay.outputs import LONGEST_BYTES, Record, Recorded, replayed
from streamrnn.replay.report import Report, Tally, told
from streamrnn.replay.values import Values

if TYPE_CHECKING:
    from streamrnn.config.spec import PipelineSpec
    from streamrnn.context import Context
    from streamrnn.line import Served
    from streamrnn.ports import Codec, Place
    from streamrnn.replay.replay import Replay

Write = Callable[[bytes], object]


def play(replay: Replay, write: Write | None = None) -> Report:
    """Serve all of it; each block's outputs go to `write`."""
    tally = Tally()
    for _ in _written(tally.count(replay), write):
        pass
    return Report(tally, replay.until)


def play_beside(
    replay: Replay,
    spec: PipelineSpec,
    context: Context,
    path: Path,
    before: Place | None,
    tolerance: float | None,
    write: Write | None = None,
) -> Report:
    """The same, compared with the outputs in a file, those behind the place `before` that a commit gave.

    By value if there is a `tolerance`, else byte by byte. Raises `StateError` if the commit is of other
    outputs, `SinkError` if they cannot be read.
    """
    codec: Codec = spec.encode.component.resolve("build")(spec.encode.options, context)
    values = Values(spec.encode.component.name, codec, _fields(replay))
    tally = Tally()

    def equal(was: Record, now: Record) -> bool:
        return was.data == now.data or (tolerance is not None and values.agree(was, now, tolerance))

    with closing(Recorded(context.fs, path, codec.framer, before)) as recorded:
        framer = recorded.framer_alike(codec.framer(LONGEST_BYTES))
        now = replayed(_written(tally.count(replay), write), framer)
        comparison = compare(recorded, now, equal, whole=replay.until is None)
    first = told(comparison, values, tolerance or 0.0)
    return Report(tally, replay.until, path, comparison, first)


def _fields(replay: Replay) -> list[str]:
    encode = replay.parts.encode
    return [*encode.include, *encode.made]


def _written(served_blocks: Iterable[Served], write: Write | None) -> Iterator[Served]:
    for served in served_blocks:
        if write is not None:
            write(served.out.buffer)
        yield served
