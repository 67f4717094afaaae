"""How the state of one key came about: its events since its last reset, each with what the model made of
it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from streamrnn.backends.gates import Gates
from streamrnn.core.wrap import Wrapper
from streamrnn.layers.loading import LoadedModel
from streamrnn.layers.options import LayersConfig
from streamrnn.pipeline import serve

if TYPE_CHECKING:
    from streamrnn.backend import Arrays
    from streamrnn.config.spec import PipelineSpec
    from streamrnn.context import Context
    from streamrnn.core import Core
    from streamrnn.events import Block
    from streamrnn.pipeline import Served
    from streamrnn.replay.replay import Replay


@dataclass(frozen=True)
class Step:
    """One event of the key. State, outputs and gates are of one row: arrays without the axis of rows."""

    number: int
    """Of the record in its partition."""
    position: int
    steps: int
    causes: tuple[str, ...]
    event: str
    output: str
    x: Arrays
    state: Arrays
    y: Arrays
    gates: Mapping[str, Any]

    def data(self) -> dict[str, Any]:
        """As JSON has it."""
        arrays = {"x": self.x, "state": self.state, "y": self.y, "gates": self.gates}
        shown = {what: {name: array.tolist() for name, array in of.items()} for what, of in arrays.items()}
        return {
            "number": self.number,
            "position": self.position,
            "steps": self.steps,
            "causes": list(self.causes),
            "event": self.event,
            "output": self.output,
            **shown,
        }


@dataclass
class _Seen:
    """What the model was last given, and what it gave."""

    calls: list[tuple[Arrays, Arrays, Arrays, Arrays]] = field(default_factory=list)


class _Watched(Wrapper):
    """A backend of which every step is noted; it has no scan, so that there are only steps."""

    def __init__(self, inner: Any, seen: _Seen) -> None:
        super().__init__(inner)
        self.scan = None
        self._seen = seen

    def step(self, state: Arrays, x: Arrays) -> tuple[Arrays, Arrays]:
        """See `Backend.step`."""
        new_state, y = self.inner.step(state, x)
        self._seen.calls.append((state, dict(x), new_state, y))
        return new_state, y


class Why:
    """Plays a replay to its end; `steps` are then those of the key since its last reset, at most `last`.

    Events of other keys are served as they come, so that whatever they do to it (time, evictions) is the
    same.
    """

    def __init__(self, replay: Replay, key: str, last: int, gates: Gates | None = None) -> None:
        self.key, self.steps = key, deque[Step](maxlen=last)
        self.dropped = 0
        """Steps since the last reset that came before those in `steps`."""
        self._replay, self._gates = replay, gates
        self._seen = _Seen()

    def play(self) -> None:
        """To the event that the replay's `until` names, or to the end. Raises what serving it does."""
        self._replay.serves = self._serve
        for _ in self._replay:
            pass

    def _serve(self, block: Block) -> Iterator[Served]:
        """The events of the key one by one, and those between them together."""
        parts = self._replay.parts
        batch, records, _ = parts.event.read(parts.decode(block), block)
        own = [int(records[i]) for i, key in enumerate(batch.keys) if key == self.key]
        begin = 0
        for record in own:
            if record > begin:
                yield serve(parts, part(block, begin, record))
            yield self._one(part(block, record, record + 1))
            begin = record + 1
        if begin < len(block):
            yield serve(parts, part(block, begin, len(block)))

    def _one(self, block: Block) -> Served:
        core = self._replay.parts.shards.of(block.origin)
        backend = core.server.backend
        core.server.backend = _Watched(backend, self._seen)
        self._seen.calls.clear()
        try:
            served = serve(self._replay.parts, block)
        finally:
            core.server.backend = backend
        if len(served.out):
            self._note(served, core)
        return served

    def _note(self, served: Served, core: Core) -> None:
        outputs, block = served.answered.outputs, served.out.block
        state, x, new_state, y = self._seen.calls[-1]
        axes = {tensor.name: tensor.batch_axis for tensor in core.backend.state.tensors}
        steps, cause = int(outputs.steps[0]), int(outputs.cause[0])
        if cause:
            self.steps.clear()
            self.dropped = 0
        self.dropped += len(self.steps) == self.steps.maxlen
        causes = tuple(name for bit, name in enumerate(core.cause_names) if cause >> bit & 1)
        gates = self._gates.of(state, x) if self._gates else {}
        self.steps.append(
            Step(
                number=int(block.numbers[0]),
                position=int(block.positions[0]),
                steps=steps,
                causes=causes,
                event=block.record(0).decode(errors="replace").rstrip("\r\n"),
                output=served.out.buffer.decode(errors="replace").rstrip("\r\n"),
                x={name: array[0] for name, array in x.items()},
                state={name: np.take(array, 0, axes[name]) for name, array in new_state.items()},
                y={name: array[0] for name, array in y.items()},
                gates={name: array[0] for name, array in gates.items()},
            )
        )


def gates_of(spec: PipelineSpec, context: Context) -> Gates | None:
    """The gates of a model of layers; None of another, or where the layers see more than the event's
    inputs.
    """
    options = spec.model.options
    if not isinstance(options, LayersConfig) or spec.file.model.context:
        return None
    return Gates(LoadedModel(options, spec.given, context))


def part(block: Block, begin: int, end: int) -> Block:
    """Some records of a block that follow each other."""
    return replace(
        block,
        starts=block.starts[begin:end],
        ends=block.ends[begin:end],
        positions=block.positions[begin:end],
        numbers=block.numbers[begin:end],
        refused={i - begin: why for i, why in block.refused.items() if begin <= i < end},
        connection=None if block.connection is None else block.connection[begin:end],
        fields={path: column[begin:end] for path, column in block.fields.items()},
    )
