"""Where a replay begins: with nothing, or with a commit."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from streamrnn.commit import control, recovery
from streamrnn.commit import manifest as m
from streamrnn.commit.carry import model_of
from streamrnn.commit.exports import meaning_of, mismatch
from streamrnn.commit.job import described, restore
from streamrnn.errors import SourceError, StateError
from streamrnn.ports import Resumable

if TYPE_CHECKING:
    from streamrnn.config.spec import PipelineSpec
    from streamrnn.context import Context
    from streamrnn.line import Parts
    from streamrnn.ports import Place
    from streamrnn.replay.replay import Replay


@dataclass
class Beginning:
    """A commit: the folder that it is in, and what it says."""

    folder: Path
    manifest: m.Manifest

    @property
    def output(self) -> Place | None:
        """How long the outputs were, and what they ended with; None if the sink does not keep them."""
        place: Place | None = self.manifest["outputs"]["sink"]
        return place

    def __str__(self) -> str:
        return f"commit {self.manifest['number']} of {self.manifest['events']} events"


def read_commit(path: Path, context: Context) -> Beginning:
    """The newest commit of a folder, or the one whose file is named. Raises `StateError` if it is broken."""
    is_file = path.suffix == ".json"
    folder = path.parent if is_file else path
    numbers = m.commit_numbers([path.name] if is_file else context.fs.names(path))
    if not numbers:
        raise StateError(
            f"{path}: expected the folder of a pipeline's commits, or the file commit-NUMBER.json of one"
        )
    try:
        return Beginning(folder, recovery.read_manifest(context.fs, folder, numbers[0]))
    except m.BrokenError as error:
        raise StateError(f"{folder / m.commit_name(numbers[0])}: {error}") from error


def begin(beginning: Beginning, parts: Parts, spec: PipelineSpec, context: Context) -> None:
    """Fill the pipeline's cores, and let its source go on where the commit left it.

    `spec` is the pipeline with its own source. Raises `StateError` if the state is of another pipeline,
    `SourceError` if the data is not what the commit was reading.
    """
    manifest = beginning.manifest
    now = meaning_of({"pipeline": described(spec), "model": model_of(parts.backend)})
    if lines := mismatch(meaning_of(manifest), now):
        told = f"{beginning} in {beginning.folder} is of another pipeline:"
        raise StateError("\n".join([told, *lines, "leave the commit out to begin with nothing"]))
    try:
        segments = recovery.segments_of(context.fs, beginning.folder, manifest)
        notes = restore(parts, segments, beginning.folder)
    except m.BrokenError as error:
        raise StateError(f"{beginning} in {beginning.folder}: {error}") from error
    for note in notes:
        context.log.warning("%s", note)
    if manifest.get("encode") is not None and isinstance(parts.format, Resumable):
        parts.format.resume(manifest["encode"])
    place = manifest["source"]
    if place is None or not isinstance(parts.source, Resumable):
        context.log.warning(
            "the source of %s could be read only once: the recorded data must begin with what came after it",
            beginning,
        )
        return
    parts.source.resume(_renamed(place, parts.source.place(), spec.source.component.name))


def obey(replay: Replay, beginning: Beginning | None, spec: PipelineSpec, context: Context) -> None:
    """Let a replay do what was asked of the job from outside the stream, since a commit or its beginning.

    It tells a person of what cannot be done again. Raises `StateError` if the log is damaged.
    """
    if spec.file.checkpoint is None:
        return
    parts = replay.parts
    folder = context.path(spec.file.checkpoint.dir) if beginning is None else beginning.folder
    done = 0 if beginning is None else beginning.manifest.get("control", 0)
    found = list(control.read(context.fs, folder)[0][done:])
    fingerprint = parts.backend.state.fingerprint
    others = [e for e in found if e.command.get("reload", {}).get("fingerprint", fingerprint) != fingerprint]
    if others:
        context.log.warning(
            "behind %d events another model took over, which is not replayed", others[0].events
        )
    found = [entry for entry in found if "reset" in entry.command]
    if parts.shards.partitioned:
        replay.placed = found
    elif spec.file.order is None:
        replay.by_hand = deque(found)
    elif all(len(entry.position) == 1 for entry in found):
        replay.placed = found
    else:
        context.log.warning(
            "%d resets by hand are left out: under `order`, several files do not tell between which events "
            "they came",
            len(found),
        )


def _renamed(place: Place, here: Place | None, source: str) -> Place:
    """The place among files that may have other names here, in the same order, or held standard input."""
    if here is None or "files" not in here:
        return place
    if "read_until_ns" in place:
        raise SourceError(
            "the commit was following files, which it knows by what they held and not by a place in recorded "
            "data: replay from the beginning"
        )
    files = here["files"]
    if "files" in place and len(files) == len(place["files"]):
        return {**place, "files": files}
    if source == "stdin" and len(files) == 1 and place.get("began") == 0:
        return {
            "files": files,
            "index": int(place["ended"]),
            "before": place["before"],
            "framer": place["framer"],
        }
    names = ", ".join(place.get("files", ["a part of standard input"]))
    raise SourceError(
        f"the commit was reading {names}; found {', '.join(files)}: name all of them, in that order"
    )
