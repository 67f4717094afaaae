"""Plays a log through the live pipeline, and beside it through another file's keys, resets and inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from streamrnn.build import build_backend, build_source, core_limits, reset_rules
from streamrnn.config.problems import from_option_error
from streamrnn.core import Core
from streamrnn.core.serve import NOT_FINITE, OVER_NORM
from streamrnn.errors import ConfigError, ModelError, OptionError
from streamrnn.events import Mark
from streamrnn.ports import EndOfStream
from streamrnn.reading import pieces
from streamrnn.stages import elapsed_features, event_stage
from streamrnn.verify.stream import Log, Reader

if TYPE_CHECKING:
    from streamrnn.backend import Arrays, Backend, TensorSpec
    from streamrnn.config.spec import PipelineSpec
    from streamrnn.context import Context
    from streamrnn.events import Batch, Block, IntArray, Outputs
    from streamrnn.verify.stream import Stream

_BY_THE_MODEL = (NOT_FINITE, OVER_NORM, "the model refused it")


@dataclass
class Heard:
    """One side of the comparison: its stream, and the records that it refused."""

    stream: Stream
    refused: dict[int, str]


@dataclass
class Played:
    """Both sides, and the live answers [n, *shape] to the events of the live stream."""

    log: Log
    live: Heard
    reference: Heard
    y: Arrays


@dataclass
class _Side:
    """The stages of one file up to its model."""

    spec: PipelineSpec
    context: Context
    inputs: tuple[TensorSpec, ...]
    refused: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.reader = Reader(self.spec, self.context, self.inputs)
        rules = reset_rules(self.spec)
        # The stage looks at nothing of a model but its inputs.
        self.stage = event_stage(self.spec, self.reader.listener, rules, self.context)
        decode = self.spec.decode
        self.codec: Any = decode.component.resolve("build")(decode.options, self.context)
        self._decode: Callable[[Block], Any] = self.codec.decoder(self.stage.fields, ())

    def pieces(self, block: Block, first: int) -> Iterator[tuple[Batch, IntArray, Mark | None]]:
        """The events of a block and which records they are, up to each message, and that message."""
        for piece in pieces(self._decode, self.stage, block, first):
            self.refused |= {piece.first + i: reason for i, reason in piece.refused.items()}
            yield piece.batch, piece.records + piece.first, piece.message

    def add(self, batch: Batch, records: IntArray) -> IntArray:
        """Let the definition read events; the steps of those accepted."""
        refused, steps = self.reader.add(batch, records)
        self.refused |= refused
        return steps

    def hear(self, block: Block, first: int, dropped: set[int]) -> None:
        """Let the definition read a block, but for records that were dropped."""
        for batch, records, message in self.pieces(block, first):
            keep = np.array([record not in dropped for record in records.tolist()], np.bool_)
            self.add(batch.take(np.flatnonzero(keep)), records[keep])
            if message is not None:
                self.reader.mark(message)

    def heard(self) -> Heard:
        """All that was read."""
        return Heard(self.reader.stream(), self.refused)


def play(
    live: tuple[PipelineSpec, Context],
    reference: tuple[PipelineSpec, Context],
    inputs: tuple[TensorSpec, ...],
    most: int | None = None,
) -> Played:
    """Play the live file's source to its end, or `most` records of it.

    `inputs` are those of the reference's model. What the live model or its guard refuses is left out of the
    reference too. Raises what building the live pipeline raises, and `ModelError` if the engine does not keep
    to its definition.
    """
    backend, _ = build_backend(*live)
    with closing(backend):
        try:
            return _play(_Live(*live, backend), _Side(*reference, inputs), most)
        except OptionError as error:
            raise ConfigError(from_option_error(error, (), live[0].tree)) from error


class _Live:
    """The live pipeline from its source to the core."""

    def __init__(self, spec: PipelineSpec, context: Context, backend: Backend) -> None:
        self.side = _Side(spec, context, backend.inputs)
        self.core = Core(backend, reset_rules(spec), elapsed_features(spec, context), core_limits(spec))
        self.source = build_source(spec, context, self.side.codec)
        self.limit = spec.file.limits.max_batch_events
        self.y: list[Arrays] = []

    def serve(self, block: Block, first: int) -> set[int]:
        """One block through the core and the definition; the records that the model refused."""
        refused: set[int] = set()
        for batch, records, message in self.side.pieces(block, first):
            refused |= self._serve(batch, records, first)
            if message is not None:
                self.mark(message)
        return refused

    def mark(self, mark: Mark) -> None:
        """See `Core.mark`."""
        self.core.mark(mark)
        self.side.reader.mark(mark)

    def _serve(self, batch: Batch, records: IntArray, first: int) -> set[int]:
        outputs = self.core.process(batch)
        reasons = {int(records[i]): reason for i, reason in outputs.refused.items()}
        self.side.refused |= reasons
        kept = outputs.accepted
        steps = self.side.add(batch.take(kept), records[kept])
        self._check(outputs, steps, first)
        self.y.append(outputs.y)
        return {record for record, reason in reasons.items() if reason.startswith(_BY_THE_MODEL)}

    def _check(self, outputs: Outputs, steps: IntArray, first: int) -> None:
        if not np.array_equal(outputs.steps, steps):
            raise ModelError(
                f"the engine counts other steps than its definition in the batch from record {first + 1} on; "
                "this is a mistake in streamrnn, please report it"
            )

    def answers(self) -> Arrays:
        """Everything answered so far."""
        nothing = {s.name: np.zeros((0, *s.shape), s.dtype) for s in self.core.backend.outputs}
        return {name: np.concatenate([nothing[name], *(y[name] for y in self.y)]) for name in nothing}


def _play(live: _Live, reference: _Side, most: int | None) -> Played:
    log = Log()
    with closing(live.source):
        while most is None or log.length < most:
            try:
                block = live.source.read(
                    live.limit if most is None else min(live.limit, most - log.length), 100
                )
            except EndOfStream:
                break
            if isinstance(block, Mark):
                live.mark(block)
                reference.reader.mark(block)
            elif block:
                first = log.add(block)
                dropped = live.serve(block, first)
                reference.hear(block, first, dropped)
    return Played(log, live.side.heard(), reference.heard(), live.answers())
