"""Makes commits: what a moment between two batches was, published by one rename.

The order is the promise; docs/design.md says why each step stands where it does. The stream stands still
while places are noted and state is copied; the rest is written beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from streamrnn.commit import manifest as m
from streamrnn.errors import StateError
from streamrnn.ports import Committing, Place, Resumable

if TYPE_CHECKING:
    from streamrnn.config.model import Checkpoint
    from streamrnn.context import Context, Pending
    from streamrnn.core import Core
    from streamrnn.pipeline import Parts


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
        sizes = [segment["bytes"] for segment in self.segments if m.partition_of(segment) == partition]
        return not sizes or sum(sizes[1:]) > sizes[0]

    def forget(self, partition: str) -> None:
        """Leave out the segments of a partition."""
        self.segments = [each for each in self.segments if m.partition_of(each) != partition]


@dataclass(frozen=True)
class Frozen:
    """The state of a partition at one moment, not written yet: all of it if `anew`, else what changed."""

    partition: str
    anew: bool
    segment: Callable[[], bytes]

    @property
    def kind(self) -> str:
        """What its file is called."""
        return "base" if self.anew else "delta"


def places_of(manifest: m.Manifest) -> list[Place | None]:
    """Where the source and the sink stood."""
    return [manifest["source"], manifest["outputs"]["sink"]]


class Commits:
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
    ) -> None:
        self.folder, self._config, self._parts, self._fixed = folder, config, parts, fixed
        self._fs, self._clock, self._chain, self._lock = context.fs, context.clock, chain, lock
        self._aside = context.aside
        self._last_s = self._clock.monotonic()
        self._last: object = None
        self._pending: Pending | None = None
        self._stopped = False
        """Whether the run has failed: what is being written must not be published any more."""
        self.longest_s = 0.0
        """How long the stream stood still for the beginning of a commit, at most."""

    def turn(self) -> None:
        """Begin a commit if the time has come, or see to the one under way; called between batches.

        Raises `StateError` if it failed, as `commit` does.
        """
        if self._pending is not None:
            if self._pending.done():
                self._settle()
        elif self._clock.monotonic() - self._last_s >= self._config.every_s:
            self._begin()

    def commit(self) -> None:
        """Commit, and wait until it is done."""
        self._settle()
        self._begin()
        self._settle()

    def _begin(self) -> None:
        """Begin a commit of this moment, unless nothing has happened since the last one."""
        parts = self._parts
        self._last_s = self._clock.monotonic()
        # What readers may have seen is still being made again: no commit may forget that.
        if any(getattr(part, "comparing", False) for part in (parts.sink, parts.rejects)):
            return
        source = self._place_of(parts.source)
        now = (source, parts.shards.moment())
        if source is not None and now == self._last:
            return
        self._pending = self._aside(self._take(source))
        self._last = now
        self.longest_s = max(self.longest_s, self._clock.monotonic() - self._last_s)

    def close(self) -> None:
        """Let another run have the folder; a commit still under way then is given up."""
        self._stopped = True
        if self._pending is not None:
            with suppress(Exception):  # the run has failed already, and says why
                self._pending.result()
        self._lock.close()

    def _settle(self) -> None:
        """Wait for the commit under way, if there is one."""
        pending, self._pending = self._pending, None
        try:
            if pending is not None:
                pending.result()
        except OSError as error:
            where = error.filename or self.folder
            raise StateError(f"checkpoint: {where}: cannot write: {error.strerror}") from error

    def _take(self, source: Place | None) -> Callable[[], None]:
        """Take everything of this moment; the rest of the work, which looks at nothing that moves."""
        parts, number = self._parts, self._chain.number + 1
        outputs = {"sink": self._place_of(parts.sink), "rejected": self._place_of(parts.rejects)}
        frozen = [self._frozen(partition, core) for partition, core in parts.shards.items()]
        self._chain.number = number
        manifest = {
            **self._fixed,
            "number": number,
            "events": parts.shards.events,
            "source": source,
            "outputs": outputs,
        }
        return partial(self._write_commit, manifest, frozen)

    def _frozen(self, partition: str, core: Core) -> Frozen:
        anew = self._chain.wants_base(partition)
        return Frozen(partition, anew, core.freeze(base=anew))

    def _write_commit(self, manifest: m.Manifest, frozen: Sequence[Frozen]) -> None:
        number = manifest["number"]
        for place, part in enumerate(frozen):
            self._write_segment(m.segment_name(number, part.kind, place), part)
        encoded = m.encode({**manifest, "segments": self._chain.segments})
        if not self._stopped:
            self._publish(number, encoded)
            self._chain.kept[number] = {segment["name"] for segment in self._chain.segments}
            self._chain.places[number] = places_of(manifest)
            self._prune()
            self.tell(number)

    def tell(self, number: int) -> None:
        """Tell source and sink that a commit is on the disk."""
        places = self._chain.places
        oldest = places[min(places)]
        for part, place, before in zip(
            (self._parts.source, self._parts.sink), places[number], oldest, strict=True
        ):
            if isinstance(part, Committing) and place is not None:
                part.committed(place, before)

    def _place_of(self, part: object) -> Place | None:
        """Where a source or an output goes on, the output's bytes on the disk; None if it cannot."""
        return part.place() if isinstance(part, Resumable) else None

    def _write_segment(self, name: str, part: Frozen) -> None:
        """Write a partition's segment; a base takes the place of all before it."""
        data = part.segment()
        self._write(self.folder / name, data)
        segment = {"name": name, "bytes": len(data), "digest": m.digest(data), "partition": part.partition}
        if part.anew:
            self._chain.forget(part.partition)
        self._chain.segments.append(segment)

    def _publish(self, number: int, data: bytes) -> None:
        """Make the manifest the newest, once all that it names is on the disk under its name."""
        unfinished = self.folder / m.UNFINISHED
        self._write(unfinished, data)
        self._sync_folder()
        self._fs.replace(unfinished, self.folder / m.commit_name(number))
        self._sync_folder()

    def _write(self, path: Path, data: bytes) -> None:
        with closing(self._fs.open_write(path, append=False)) as file:
            self._fs.write(file, data)
            self._sync(file)

    def _sync(self, file: BinaryIO) -> None:
        self._fs.sync(file)

    def _sync_folder(self) -> None:
        self._fs.sync_folder(self.folder)

    def _prune(self) -> None:
        """Remove what no commit needs that is kept; only once the newest one is on the disk."""
        kept = self._chain.kept
        for number in sorted(kept)[: -self._config.keep]:
            del kept[number]
            self._chain.places.pop(number, None)
        needed = {m.LOCK, *(m.commit_name(number) for number in kept)}.union(*kept.values())
        for name in self._fs.names(self.folder):
            if name not in needed and name.startswith(("commit", "state-")):
                self._fs.remove(self.folder / name)
