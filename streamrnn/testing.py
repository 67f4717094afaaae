"""What pipelines and plugins are tested with: a source and a sink that are lists, and a run in one call.

    outputs, rejected = run_pipeline(Path("affine.yaml").read_text(), [{"x": 3}, {"x": 3}])
    assert outputs == [{"y": 2.0}, {"y": -4.0}]

A file's own `tests:` are run by `streamrnn.pipeline_tests`.
"""

from __future__ import annotations

import logging
import os
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from streamrnn.config.spec import Chosen, PipelineSpec
from streamrnn.context import Context
from streamrnn.events import Block, Mark, Origin, OutBlock, Rejected
from streamrnn.ports import EndOfStream
from streamrnn.registry import Registry

if TYPE_CHECKING:
    from streamrnn.events import Frames
    from streamrnn.pipeline import Pipeline
    from streamrnn.ports import Codec

ORIGIN: Final = Origin("list", "list")


class Wait:
    """The type of `WAIT`."""


WAIT: Final = Wait()
"""An item of a `ListSource` at which it has nothing to give, once."""

Item = bytes | str | Mapping[str, Any] | Mark | Wait


class ListSource:
    """A `Source` of items: lines, mappings of field to value, marks and `WAIT`.

    A line gets its line end if it has none. A mapping is written as `codec` writes records; without one,
    and for lines, the codec is `jsonl`. The position of a record is the index of its item, its number one
    more; all items count.
    """

    def __init__(
        self, items: Iterable[Item], codec: Codec | None = None, max_record_bytes: int = 1 << 20
    ) -> None:
        self._items = list(items)
        self._codec = codec if codec is not None else _jsonl()
        self._framer = self._codec.framer(max_record_bytes)
        self._next = 0
        self._begins: list[int] = []
        """Where each item that was fed begins, in bytes; `_fed` holds their indices."""
        self._fed: list[int] = []
        self._bytes = 0
        self._ended = False

    def read(self, limit: int, wait_ms: int) -> Block | Mark | None:
        """See `Source.read`; never waits."""
        while not (frames := self._framer.take(limit)):
            if self._ended:
                raise EndOfStream
            item = self._items[self._next] if self._next < len(self._items) else None
            if isinstance(item, Mark | Wait):
                self._next += 1
                return item if isinstance(item, Mark) else None
            self._feed()
        return self._block(frames)

    def position(self) -> Mapping[str, int]:
        """See `Source.position`: the index of an item."""
        whole = self._framer.position >= self._bytes
        return {ORIGIN.partition: self._next if whole else self._item_at(self._framer.position)}

    def close(self) -> None:
        """See `Source.close`."""

    def _feed(self) -> None:
        """All items up to the next that is no record; without one, the end."""
        write, before = self._codec.encoder(), self._next
        while self._next < len(self._items):
            item = self._items[self._next]
            if isinstance(item, Mark | Wait):
                return
            self._begins.append(self._bytes)
            self._fed.append(self._next)
            self._next += 1
            if isinstance(item, Mapping):
                data = write({name: [value] for name, value in item.items()}, 1)[0]
            else:
                line = item.encode() if isinstance(item, str) else item
                data = line if line.endswith(b"\n") else line + b"\n"
            self._bytes += len(data)
            self._framer.feed(data)
        if self._next == before:
            self._ended = True
            self._framer.finish()

    def _block(self, frames: Frames) -> Block:
        import numpy as np

        index = np.array([self._item_at(begin) for begin in frames.positions.tolist()], np.int64)
        return Block(frames.buffer, frames.starts, frames.ends, index, index + 1, ORIGIN, frames.refused)

    def _item_at(self, byte: int) -> int:
        return self._fed[bisect_right(self._begins, byte) - 1]


class ListSink:
    """A `Sink` that keeps JSON records as Python values, and what was refused.

    `positions` are those of the events that the records answer.
    """

    def __init__(self) -> None:
        self.records: list[Any] = []
        self.positions: list[int] = []
        self.rejected: list[Rejected] = []

    def write(self, block: OutBlock) -> None:
        """See `Sink.write`."""
        import msgspec

        begin = 0
        for end in block.ends.tolist():
            self.records.append(msgspec.json.decode(block.buffer[begin:end]))
            begin = end
        self.positions += block.block.positions[block.records].tolist()
        self.rejected += block.rejected

    def flush(self) -> None:
        """See `Sink.flush`."""

    def close(self) -> None:
        """See `Sink.close`."""


def run_pipeline(
    pipeline: str | PipelineSpec,
    events: Iterable[Item],
    *,
    registry: Registry | None = None,
    context: Context | None = None,
    env: Mapping[str, str] | None = None,
) -> tuple[list[Any], list[Rejected]]:
    """Run a pipeline, the text of a file or one that was loaded, over the items of a `ListSource`.

    Returns the output records and the refused events, both in order. Neither the ends that the file names
    nor its `dead_letter` are opened. Relative paths begin at `context.base_dir`; `env` is the environment
    for `${VAR}`, by default that of the process. Raises `ConfigError` or `ModelError`.
    """
    registry = registry or Registry()
    context = context or quiet_context(models=registry.resolve_model, backends=registry.backend)
    if isinstance(pipeline, str):
        from streamrnn.config.load import load_pipeline

        pipeline = load_pipeline(
            pipeline, "pipeline.yaml", registry, context, os.environ if env is None else env
        )
    sink = serve(pipeline, events, registry, context)
    return sink.records, sink.rejected


def serve(
    spec: PipelineSpec,
    events: Iterable[Item],
    registry: Registry,
    context: Context,
    observed: bool = True,
) -> ListSink:
    """`run_pipeline` for a loaded pipeline; the sink also tells which item each output answers.

    Observers hear nothing unless it is `observed`.
    """
    from streamrnn.build import build_pipeline
    from streamrnn.pipeline import run

    limits = spec.file.limits
    codec = spec.decode.component.resolve("build")(spec.decode.options, context)
    source, sink = ListSource(events, codec, limits.max_line_bytes), ListSink()
    hooks = registry if observed else Registry([])
    pipeline = build_pipeline(_readable(spec, registry), hooks, context, source, sink)
    run(pipeline, lambda: False, lambda report: None)
    return sink


def built_unread(spec: PipelineSpec, registry: Registry, context: Context) -> Pipeline:
    """A pipeline as `run` would have it, but for its ends and `dead_letter`, of which none is opened."""
    from streamrnn.build import build_pipeline

    alone = replace(spec, file=spec.file.model_copy(update={"dead_letter": None}))
    return build_pipeline(alone, registry, context, ListSource([]), ListSink())


def quiet_context(**given: Any) -> Context:
    """A `Context` with a log that goes nowhere: what would be logged is in the results."""
    log = logging.Logger("streamrnn.testing")
    log.addHandler(logging.NullHandler())
    return Context(log=log, **given)


def _readable(spec: PipelineSpec, registry: Registry) -> PipelineSpec:
    """The pipeline with JSON as output and no file for refused events."""
    file = spec.file.model_copy(update={"dead_letter": None})
    component = registry.find("codec", "jsonl")
    if spec.encode.component.name == "jsonl" or component is None:
        return replace(spec, file=file)
    return replace(spec, file=file, encode=Chosen(component, component.config(), spec.encode.path))


def _jsonl() -> Codec:
    from streamrnn.codecs.jsonl import JsonlCodec

    return JsonlCodec()
