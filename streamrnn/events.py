"""The words that travel down the line: blocks, columns, batches, outputs, marks.

An event never exists as an object. A source reads a `Block` of records, a codec turns it into
`Columns`, the event stage into a `Batch` of keys, times and inputs, the core answers with `Outputs`,
and the encoder makes an `OutBlock` of it. All columns of one of them have the same length n.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from streamrnn.refusals import code_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    IntArray = NDArray[np.int64]
    BoolArray = NDArray[np.bool_]
    Array = NDArray[Any]
    Column = NDArray[Any] | Sequence[Any]


_LINE_END_BYTES = 2


def picker(index: IntArray) -> Callable[[Column], Column]:
    """A function that takes some rows of a column, be it an array or a list."""
    at = index.tolist()

    def pick(column: Column) -> Column:
        return column[index] if hasattr(column, "dtype") else [column[i] for i in at]  # type: ignore[call-overload]

    return pick


@dataclass(frozen=True, slots=True)
class Origin:
    """Where records come from: the source's type and the partition (a file's path, a topic's part)."""

    source: str
    partition: str


@dataclass(slots=True)
class Block:
    """Records as a source read them: one buffer, and where each record lies in it.

    `starts` and `ends` are int64 [n] offsets into `buffer`; `positions` int64 [n] is where each record
    begins in its partition (bytes, for a file), `numbers` int64 [n] counts records from 1. `refused`
    maps the index of a record that framing refused (too long) to the reason. `fields` holds what the source
    knows of each record beside its bytes, by the path that a pipeline reaches it under. `origins` has that of
    each record where they have not all come from `origin`.
    """

    buffer: bytes
    starts: IntArray
    ends: IntArray
    positions: IntArray
    numbers: IntArray
    origin: Origin
    refused: dict[int, str] = field(default_factory=dict)
    connection: IntArray | None = None
    fields: Mapping[str, Column] = field(default_factory=dict)
    origins: Sequence[Origin] | None = None

    def __len__(self) -> int:
        return len(self.starts)

    def origin_of(self, index: int) -> Origin:
        """Where one record comes from."""
        return self.origin if self.origins is None else self.origins[index]

    def record(self, index: int) -> bytes:
        """The raw bytes of one record; for messages and the rejected file."""
        return self.buffer[self.starts[index] : self.ends[index]]

    def part(self, start: int, stop: int) -> Block:
        """Records start..stop, at least one, in a buffer of their own.

        Bytes that are of no record, as a header is, stay in front of those they stand before.
        """
        if stop - start == len(self):
            return self
        header = self.buffer[: self.starts[0]]
        gaps = (self.starts[1 : start + 1] - self.ends[:start] > _LINE_END_BYTES).nonzero()[0].tolist()
        for gap in reversed(gaps):
            text = self.buffer[self.ends[gap] : self.starts[gap + 1]]
            if text.strip(b"\r\n"):
                header = text
                break
        shift = self.starts[start] - len(header)
        pick = slice(start, stop)
        return Block(
            header + self.buffer[self.starts[start] : self.ends[stop - 1]],
            self.starts[pick] - shift,
            self.ends[pick] - shift,
            self.positions[pick],
            self.numbers[pick],
            self.origin,
            {i - start: reason for i, reason in self.refused.items() if start <= i < stop},
            None if self.connection is None else self.connection[pick],
            {path: column[pick] for path, column in self.fields.items()},
            None if self.origins is None else self.origins[pick],
        )


@dataclass(slots=True)
class Frames:
    """What a framer found: a `Block` that does not know yet where it came from."""

    buffer: bytes
    starts: IntArray
    ends: IntArray
    positions: IntArray
    numbers: IntArray
    refused: dict[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.starts)

    def block(self, origin: Origin) -> Block:
        """The same records as read from `origin`; nothing is copied."""
        return Block(self.buffer, self.starts, self.ends, self.positions, self.numbers, origin, self.refused)


@dataclass(frozen=True, slots=True)
class Mark:
    """What travels in the stream and is no event: `source_end` or `control`, with its position.

    `keys` names the keys it is meant for, `glob` live ones by a pattern; without both all are meant.
    """

    kind: str
    origin: Origin
    position: int = 0
    keys: tuple[str, ...] | None = None
    glob: str | None = None


@dataclass(slots=True)
class Columns:
    """Decoded fields by path; a list of Python values or an array each. A missing field is None.

    `refused` maps the index of a record that could not be decoded to the reason; its values are None.
    """

    n: int
    fields: dict[str, Column]
    refused: dict[int, str] = field(default_factory=dict)

    def take(self, index: IntArray) -> Columns:
        """Some of the records, none of them refused."""
        pick = picker(index)
        return Columns(len(index), {path: pick(column) for path, column in self.fields.items()})


@dataclass(slots=True)
class Batch:
    """What the core eats: n events with valid keys, in log order.

    `time` is int64 [n] in the pipeline's unit, or None in a pipeline without time. `inputs` maps a
    model input to an array [n, *shape]. `fields` holds the columns that reset rules look at.
    `positions` is int64 [n] as in `Block`. `source` names the stream `max_ahead` is judged in. `ids` tell an
    event from one that is read twice, in a pipeline that asks.
    """

    keys: Sequence[str]
    inputs: Mapping[str, Array]
    time: IntArray | None = None
    fields: Mapping[str, Column] = field(default_factory=dict)
    positions: IntArray | None = None
    source: str = ""
    ids: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, index: IntArray) -> Batch:
        """Some of the events."""
        pick = picker(index)
        return Batch(
            [self.keys[i] for i in index.tolist()],
            {name: array[index] for name, array in self.inputs.items()},
            None if self.time is None else self.time[index],
            {path: pick(column) for path, column in self.fields.items()},
            None if self.positions is None else self.positions[index],
            self.source,
            None if self.ids is None else [self.ids[i] for i in index.tolist()],
        )


@dataclass(slots=True)
class Outputs:
    """What the core answers, in the order of the batch.

    `accepted` int64 [m] are the indices into the batch that were served; every column has length m:
    `y` arrays [m, *shape], `steps` int64 (1 on the first event after a reset), `cause` int64 (bits, named
    by `Core.cause_names`; 0 where nothing was reset). `refused` maps the other indices to the reason.
    """

    accepted: IntArray
    y: dict[str, Array]
    steps: IntArray
    cause: IntArray
    refused: dict[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.accepted)


@dataclass(slots=True)
class OutBlock:
    """The answers to one block on their way to a sink: encoded outputs, and what was refused.

    `ends` int64 [n] is where each output ends in `buffer`, `keys` whose it is, `records` int64 [n] which
    record of `block` it answers; `rejected` are those that got no output, in order. `silent` are records
    that nothing is to be said of, by index: messages.
    """

    buffer: bytes
    ends: IntArray
    keys: Sequence[str]
    records: IntArray
    block: Block
    rejected: tuple[Rejected, ...] = ()
    silent: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.ends)


@dataclass(frozen=True, slots=True)
class Rejected:
    """One event that was refused: where it stood, why, its raw bytes, and which `record` of its block.

    Unless it is `kept`, the pipeline's file asks for it to be counted and otherwise forgotten. `by` is the
    index of the record that was read when it was refused: another one if it had to wait for its turn.
    """

    origin: Origin
    position: int
    number: int
    reason: str
    raw: bytes
    record: int = 0
    kept: bool = True
    by: int = 0

    @property
    def code(self) -> str:
        """One of `streamrnn.refusals.CODES`, or "other"."""
        return code_of(self.reason)


@dataclass(slots=True)
class Report:
    """What one turn of the pipeline did: `events` were read, `outputs` written, `held` are waiting by now.

    `evicted` and `expired` count the keys that were forgotten since the run began. `read_s` includes waiting
    for the events, `write_s` is what the sink took, `serve_s` all between.
    """

    events: int = 0
    outputs: int = 0
    live_keys: int = 0
    rejected: tuple[Rejected, ...] = ()
    held: int = 0
    evicted: int = 0
    expired: int = 0
    read_s: float = field(default=0.0, compare=False)
    serve_s: float = field(default=0.0, compare=False)
    write_s: float = field(default=0.0, compare=False)
