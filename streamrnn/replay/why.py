"""How the state of one key came about: its events since its last reset, each with what the model made of
it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from streamrnn.backends.gates import Gates
from streamrnn.core.core import join
from streamrnn.core.wrap import Wrapper
from streamrnn.layers.loading import LoadedModel
from streamrnn.layers.options import LayersConfig

if TYPE_CHECKING:
    from streamrnn.backend import Arrays, Backend
    from streamrnn.config.spec import PipelineSpec
    from streamrnn.context import Context
    from streamrnn.core import Core
    from streamrnn.events import Batch, Outputs
    from streamrnn.line import Served
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


class _Noted(Wrapper):
    """A backend of which every step is noted; it has no scan, so that there are only steps."""

    def __init__(self, inner: Backend) -> None:
        super().__init__(inner)
        self.scan = None
        self.last: tuple[Arrays, Arrays, Arrays, Arrays] | None = None
        """What the model was given, state and inputs, and what it gave."""

    def step(self, state: Arrays, x: Arrays) -> tuple[Arrays, Arrays]:
        """See `Backend.step`."""
        new_state, y = self.inner.step(state, x)
        self.last = (state, dict(x), new_state, y)
        return new_state, y


class Why:
    """Plays a replay to its end; `steps` are then those of the key since its last reset, `last` at most.

    Other keys' events are served as they come, so that what they do to it (time, evictions) is the same.
    """

    def __init__(self, replay: Replay, key: str, last: int, gates: Gates | None = None) -> None:
        self.key, self.steps = key, deque[Step](maxlen=last)
        self.dropped = 0
        """Steps since the last reset that came before those in `steps`."""
        self._replay, self._gates = replay, gates
        self._seen: list[tuple[Arrays, Arrays, Arrays, Arrays]] = []
        """Of the key's events that were accepted and whose outputs have not come by."""
        self._watched: set[int] = set()

    def play(self) -> None:
        """To the event that the replay's `until` names, or to the end. Raises what serving it does."""
        shards = self._replay.parts.shards
        for _, core in shards.items():
            self._watch(core)
        at = shards.at

        def watched(partition: str) -> Core:
            core = at(partition)
            self._watch(core)
            return core

        shards.at = watched  # type: ignore[method-assign]
        for served in self._replay:
            for i, key in enumerate(served.out.keys):
                if key == self.key:
                    self._note(served, i)

    def _watch(self, core: Core) -> None:
        """Let a core serve the key's events one by one, and note what the model makes of each."""
        if id(core) in self._watched:
            return
        self._watched.add(id(core))
        process, server = core.process, core.server
        noted = _Noted(server.backend)

        def one(batch: Batch) -> Outputs:
            plain, server.backend = server.backend, noted
            try:
                outputs = process(batch)
            finally:
                server.backend = plain
            if len(outputs) and noted.last is not None:
                self._seen.append(noted.last)
            return outputs

        def split(batch: Batch) -> Outputs:
            own = [i for i, key in enumerate(batch.keys) if key == self.key]
            if not own:
                return process(batch)
            parts, begin = [], 0
            for i in own:
                if i > begin:
                    parts.append((begin, process(batch.take(np.arange(begin, i)))))
                parts.append((i, one(batch.take(np.arange(i, i + 1)))))
                begin = i + 1
            if begin < len(batch):
                parts.append((begin, process(batch.take(np.arange(begin, len(batch))))))
            return join(parts)

        core.process = split  # type: ignore[method-assign]

    def _note(self, served: Served, i: int) -> None:
        outputs, out = served.answered.outputs, served.out
        state, x, new_state, y = self._seen.pop(0)
        axes = {tensor.name: tensor.batch_axis for tensor in self._replay.parts.backend.state.tensors}
        cause, record = int(outputs.cause[i]), int(out.records[i])
        if cause:
            self.steps.clear()
            self.dropped = 0
        self.dropped += len(self.steps) == self.steps.maxlen
        names = served.answered.cause_names
        gates = self._gates.of(state, x) if self._gates else {}
        self.steps.append(
            Step(
                number=int(out.block.numbers[record]),
                position=int(out.block.positions[record]),
                steps=int(outputs.steps[i]),
                causes=tuple(name for bit, name in enumerate(names) if cause >> bit & 1),
                event=_text(out.block.record(record)),
                output=_text(out.buffer[int(out.ends[i - 1]) if i else 0 : int(out.ends[i])]),
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


def _text(data: bytes) -> str:
    return data.decode(errors="replace").rstrip("\r\n")
