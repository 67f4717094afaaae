"""Makes commits: what a moment between two batches was, published by one rename.

The order is the promise; docs/design.md says why each step stands where it does. When the moment comes,
only places are noted. State is copied a piece at a time between the batches that follow, and written in
parts beside the stream; outputs are made durable there too, before the commit that counts them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from streamrnn.commit import manifest as m
from streamrnn.commit.control import ControlLog
from streamrnn.core.shards import BESIDE
from streamrnn.errors import StateError
from streamrnn.ports import Committing, Place, Resumable

if TYPE_CHECKING:
    from streamrnn.config.model import Checkpoint
    from streamrnn.context import Context, Pending
    from streamrnn.core import Core
    from streamrnn.core.frozen import Frozen
    from streamrnn.core.segment import Chunks
    from streamrnn.line import Parts
    from streamrnn.watch import Watch

_T = TypeVar("_T")
_PART_BYTES = 16 << 20
_PIECE_ROWS = 4096
"""Rows copied between two batches at most; a fraction of what a batch of as many events takes."""
_LEAST_ROWS = 256
_CHUNK_BYTES = 1 << 19
_REST = 3
"""How many times as long as it writes and hashes the thread beside the stream rests: copies of megabytes slow
down a stream that reaches all over the memory for the state of its keys."""


@dataclass
class Chain:
    """The segments that make the state of all partitions, and which commits need which files.

    Those of a partition begin with a base; `kept` maps the number of each commit that can be gone on from to
    the files it names; `number` is that of the newest commit, good or broken.
    """

    number: int = 0
    segments: list[dict[str, Any]] = field(default_factory=list)
    kept: dict[int, set[str]] = field(default_factory=dict)
    places: dict[int, list[Place | None]] = field(default_factory=dict)
    """By commit, where the source and the sink stood."""

    def wants_base(self, partition: str) -> bool:
        """Whether a partition's deltas have come to weigh more than what they are laid over."""
        weight = {"base": 0, "delta": 0}
        for segment in self.segments:
            if m.partition_of(segment) == partition:
                weight[m.kind_of(segment)] += segment["bytes"]
        return not weight["base"] or weight["delta"] > weight["base"]


@dataclass(frozen=True)
class Freezing:
    """The state of a partition as the commit under way has it: all of it if `anew`, else what changed."""

    partition: str
    anew: bool
    frozen: Frozen


@dataclass
class Making:
    """A commit under way: its manifest but for `segments`, and what is still to be copied and written."""

    manifest: m.Manifest
    places: Mapping[str, Callable[[], Place | None]]
    left: list[Freezing]
    segments: list[dict[str, Any]]
    parts: int = 0
    bytes: int = 0
    last: bool = False
    """Whether all that is left to do has been handed over."""


@dataclass(frozen=True)
class Made:
    """A commit that was made: `bytes` were written for it, within `duration_s` from its moment on.

    `events` were served up to that moment, in all runs together.
    """

    number: int
    events: int
    bytes: int
    duration_s: float


class Writer:
    """Writes commits into a folder, in the order that is the promise. `keep` of them stay.

    Which files lie there already is in `chain`.
    """

    def __init__(self, folder: Path, context: Context, chain: Chain, keep: int) -> None:
        self.folder, self._chain, self._keep = folder, chain, keep
        self._fs, self._clock = context.fs, context.clock
        self._last_s = self._clock.monotonic()
        self._stopped = False
        """Whether the run has failed: what is being written must not be published any more."""
        self.made: Made | None = None
        """The last commit that was made."""
        self.in_haste = True
        """Whether somebody waits for it; else it leaves the memory to the stream most of the time."""

    def write_part(self, making: Making, partition: str, anew: bool, part: Callable[[], Chunks]) -> None:
        """Write a part of a partition's segment; a base takes the place of all segments before it."""
        number, chunks = making.manifest["number"], part()
        size = sum(map(len, chunks))
        name = m.segment_name(number, "base" if anew else "delta", making.parts)
        making.parts += 1
        making.bytes += size
        digest = self._write(self.folder / name, chunks)
        if anew:
            making.segments = [
                each
                for each in making.segments
                if m.partition_of(each) != partition or m.number_of(each) == number
            ]
        making.segments.append({"name": name, "bytes": size, "digest": digest, "partition": partition})

    def write_manifest(self, making: Making) -> None:
        """Write the manifest of a commit whose state is written, and publish it."""
        number = making.manifest["number"]
        outputs = {name: place() for name, place in making.places.items()}
        encoded = m.encode({**making.manifest, "outputs": outputs, "segments": making.segments})
        if not self._stopped:
            self._chain.segments = making.segments
            self._publish(number, encoded)
            self._chain.kept[number] = {segment["name"] for segment in making.segments}
            self._chain.places[number] = places_of({**making.manifest, "outputs": outputs})
            self._prune()
            size, duration_s = making.bytes + len(encoded), self._clock.monotonic() - self._last_s
            self.made = Made(number, making.manifest["events"], size, duration_s)

    def _publish(self, number: int, data: bytes) -> None:
        """Make the manifest the newest, once all that it names is on the disk under its name."""
        unfinished = self.folder / m.UNFINISHED
        self._write(unfinished, [data])
        self._sync_folder()
        self._fs.replace(unfinished, self.folder / m.commit_name(number))
        self._sync_folder()

    def _write(self, path: Path, chunks: Chunks) -> str:
        """Write a file, durably; the digest of it."""
        digest = m.Digest()
        with closing(self._fs.open_write(path, append=False)) as file:
            for chunk in _of_size(chunks):
                started_s = self._clock.monotonic()
                self._fs.write(file, chunk)
                digest.update(chunk)
                if not self.in_haste:
                    self._clock.sleep(_REST * (self._clock.monotonic() - started_s))
            self._sync(file)
        return str(digest)

    def _sync(self, file: BinaryIO) -> None:
        self._fs.sync(file)

    def _sync_folder(self) -> None:
        self._fs.sync_folder(self.folder)

    def _prune(self) -> None:
        """Remove what no commit needs that is kept; only once the newest one is on the disk."""
        kept = self._chain.kept
        for number in sorted(kept)[: -self._keep]:
            del kept[number]
            self._chain.places.pop(number, None)
        needed = {m.LOCK, *(m.commit_name(number) for number in kept)}.union(*kept.values())
        for name in self._fs.names(self.folder):
            if name not in needed and name.startswith(("commit", "state-")):
                self._fs.remove(self.folder / name)


class Commits(Writer):
    """The commits of one pipeline, one at a time. `fixed` is what every manifest says of the pipeline itself.

    A commit that fails raises, and none is made after it: what the disk holds is not known then.
    """

    def __init__(
        self,
        folder: Path,
        config: Checkpoint,
        parts: Parts,
        context: Context,
        fixed: Mapping[str, Any],
        chain: Chain,
        lock: BinaryIO,
        control: ControlLog | None = None,
    ) -> None:
        super().__init__(folder, context, chain, config.keep)
        self._config, self._parts, self._fixed, self._lock = config, parts, fixed, lock
        self._aside = context.aside
        self._last: object = None
        self._making: Making | None = None
        self._pending: Pending | None = None
        self.count = 0
        """Commits that this run has made."""
        self.longest_s = 0.0
        """How long the stream stood still for them between two batches, at most."""
        self.told: Callable[[Made], None] = lambda made: None
        """Called for each, between two batches."""
        self.control = control or ControlLog(folder, context)
        """What was asked of the job from outside the stream; a manifest says how much of it took effect."""

    def turn(self, events: int = 0) -> None:
        """Begin a commit if the time has come, or go on with it; called after a batch of so many events.

        Raises `StateError` if it failed, as `commit` does.
        """
        begun_s = self._clock.monotonic()
        if self._making is not None:
            late = begun_s - self._last_s > self._config.every_s
            rows = _PIECE_ROWS if late or not events else max(_LEAST_ROWS, min(events, _PIECE_ROWS))
            self._go_on(rows)
        elif begun_s - self._last_s >= self._config.every_s:
            self.in_haste = False
            self._begin()
        self.longest_s = max(self.longest_s, self._clock.monotonic() - begun_s)

    def commit(self) -> None:
        """Commit, and wait until it is done."""
        self._finish()
        self._begin()
        self._finish()

    def agree(self, command: Mapping[str, Any]) -> None:
        """Commit, then write down what was asked of the job from outside; it takes effect after this.

        Raises `RuntimeError` while no commit can be made, since outputs are made again and compared.
        """
        if self._is_comparing:
            raise RuntimeError(
                "what its outputs hold beyond a broken commit is being made again and compared"
            )
        self.commit()
        parts = self._parts
        self.control.append(command, self._chain.number, parts.shards.events, parts.source.position())

    def done(self) -> None:
        """What was agreed on has taken effect: commit it."""
        self.control.done = len(self.control.entries)
        self._last = None
        self.commit()

    def hand_over(self) -> tuple[Chain, BinaryIO, ControlLog, Watch]:
        """What a successor in the same folder needs; this one makes no more commits."""
        self._finish()
        self._stopped = True
        return self._chain, self._lock, self.control, self._parts.watch

    def close(self) -> None:
        """Let another run have the folder; a commit still under way then is given up."""
        self._stopped = True
        if self._pending is not None:
            with suppress(Exception):  # the run has failed already, and says why
                self._pending.result()
        self._lock.close()

    def _begin(self) -> None:
        """Begin a commit of this moment, unless nothing has happened since the last one."""
        parts = self._parts
        self._last_s = self._clock.monotonic()
        # What readers may have seen is still being made again: no commit may forget that.
        if self._is_comparing:
            return
        source = parts.source.place() if isinstance(parts.source, Resumable) else None
        now = (source, parts.shards.moment())
        if source is not None and now == self._last:
            return
        self._last = now
        self._chain.number += 1
        outputs = {"sink": parts.sink, "rejected": parts.rejects}
        kept = dict(parts.shards.kept())
        self._making = Making(
            {
                **self._fixed,
                "number": self._chain.number,
                "events": parts.shards.events,
                "source": source,
                **({"control": self.control.done} if self.control.done else {}),
                "encode": parts.format.place() if isinstance(parts.format, Resumable) else None,
            },
            {name: _placing(part) for name, part in outputs.items()},
            [self._freeze(partition, core) for partition, core in kept.items()],
            [s for s in self._chain.segments if not _is_of_one_gone(m.partition_of(s), kept)],
        )

    @property
    def _is_comparing(self) -> bool:
        outputs = self._parts.sink, self._parts.rejects
        return any(getattr(output, "comparing", False) for output in outputs)

    def _freeze(self, partition: str, core: Core) -> Freezing:
        anew = self._chain.wants_base(partition)
        return Freezing(partition, anew, core.freeze(base=anew))

    def _finish(self) -> None:
        """Go on with the commit under way until there is none."""
        self.in_haste = True
        while self._making is not None:
            self._go_on(_PIECE_ROWS)
            self._settle()

    def _go_on(self, rows: int) -> None:
        """Copy some more of the state; hand over what is enough for a part, once the last one is written."""
        assert self._making is not None
        making = self._making
        if making.left and making.left[0].frozen.bytes < _PART_BYTES:
            making.left[0].frozen.take(rows)
        if self._pending is not None and not self._pending.done():
            return
        self._settle()
        if making.last:
            self._making = None
            assert self.made is not None
            self.count += 1
            self.told(self.made)
        elif not making.left:
            making.last = True
            self._pending = self._aside(partial(self.write_manifest, making))
        elif making.left[0].frozen.taken or making.left[0].frozen.bytes >= _PART_BYTES:
            first = making.left[0]
            if first.frozen.taken:
                making.left.pop(0)
            self._pending = self._aside(
                partial(self.write_part, making, first.partition, first.anew, first.frozen.part())
            )

    def _settle(self) -> None:
        """Wait for what is being written."""
        pending, self._pending = self._pending, None
        try:
            if pending is not None:
                pending.result()
        except OSError as error:
            where = error.filename or self.folder
            raise StateError(f"checkpoint: {where}: cannot write: {error.strerror}") from error

    def write_manifest(self, making: Making) -> None:
        """See `Writer`; source and sink are told."""
        super().write_manifest(making)
        if not self._stopped:
            self.tell(making.manifest["number"])

    def tell(self, number: int) -> None:
        """Tell source and sink that a commit is on the disk."""
        places = self._chain.places
        ends = self._parts.source, self._parts.sink
        for part, place, before in zip(ends, places[number], places[min(places)], strict=True):
            if isinstance(part, Committing) and place is not None:
                part.committed(place, before)


def _is_of_one_gone(partition: str, kept: Mapping[str, Core]) -> bool:
    """Whether a segment is of a candidate that serves no more."""
    return partition.startswith(BESIDE) and partition not in kept


def places_of(manifest: m.Manifest) -> list[Place | None]:
    """Where the source and the sink stood."""
    return [manifest["source"], manifest["outputs"]["sink"]]


def _of_size(chunks: Chunks) -> Iterator[bytes | memoryview]:
    """The same bytes in chunks that are worth handing over the interpreter for."""
    held: list[bytes | memoryview] = []
    for chunk in chunks:
        held.append(chunk)
        if sum(map(len, held)) >= _CHUNK_BYTES:
            yield b"".join(held) if len(held) > 1 else chunk
            held = []
    if held:
        yield b"".join(held)


def _placing(output: object) -> Callable[[], Place | None]:
    """Where an output goes on, noted now: what is returned gives the place once its bytes are on the disk."""
    if not isinstance(output, Resumable):
        return lambda: None
    if placing := getattr(output, "placing", None):
        noted: Callable[[], Place | None] = placing()
        return noted
    place = output.place()
    return lambda: place
