"""Finds the newest commit that is whole, and tells whether a pipeline may go on from it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamrnn.commit import manifest as m
from streamrnn.commit.writer import Chain, places_of
from streamrnn.errors import StateError

if TYPE_CHECKING:
    from streamrnn.context import Context, FileSystem


@dataclass
class Found:
    """A commit to go on from: what it says, and the commits beside it.

    `fell_back` says that a newer one was there and is broken.
    """

    manifest: m.Manifest
    chain: Chain
    fell_back: bool


class Recovery:
    """The commits of a folder, newest first. What is broken is told, and the one before it taken."""

    def __init__(self, folder: Path, context: Context) -> None:
        self.folder, self._fs, self._log = folder, context.fs, context.log
        self._numbers = m.commit_numbers(context.fs.names(folder))
        self._manifests: dict[int, m.Manifest] = {}
        self._broken: list[str] = []
        for number in self._numbers:
            try:
                self._manifests[number] = read_manifest(self._fs, folder, number)
            except m.BrokenError as error:
                if not self._manifests:
                    self._is_broken(number, error)

    def newest(self) -> m.Manifest | None:
        """What the newest commit says of itself, be its state whole or not; None if there is no commit.

        Raises `StateError` if no manifest is whole.
        """
        if self._numbers and not self._manifests:
            raise self._all_broken()
        return next(iter(self._manifests.values()), None)

    def restore(self, into: Callable[[m.Manifest, Iterator[tuple[str, Iterator[bytes]]]], None]) -> Found:
        """The newest commit whose state is whole, after `into` has been given it, by partition.

        `into` may be called again after it met a `BrokenError`. Raises `StateError` if all are broken.
        """
        for number, manifest in self._manifests.items():
            try:
                into(manifest, segments_of(self._fs, self.folder, manifest))
            except m.BrokenError as error:
                self._is_broken(number, error)
                continue
            for told in self._broken:
                self._log.error("%s; going on from commit %d, the one before it", told, number)
            kept = {each: {s["name"] for s in other["segments"]} for each, other in self._manifests.items()}
            places = {each: places_of(other) for each, other in self._manifests.items()}
            chain = Chain(max(self._numbers), manifest["segments"], kept, places)
            return Found(manifest, chain, bool(self._broken))
        raise self._all_broken()

    def _is_broken(self, number: int, error: m.BrokenError) -> None:
        self._broken.append(f"{self.folder / m.commit_name(number)}: {error}")

    def _all_broken(self) -> StateError:
        way_out = f"no commit in {self.folder} is whole; to begin anew, name another checkpoint dir"
        return StateError("\n".join([*self._broken, way_out]))


def differences(was: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """A line for each declaration that decides what state and positions mean and is not what it was."""
    for name in sorted({*was, *now}):
        if was.get(name) != now.get(name):
            yield f"  {name}: was {_short(was.get(name))}, is {_short(now.get(name))}"


def refuse_other(folder: Path, was: Mapping[str, Any], now: Mapping[str, Any], another_way: str = "") -> None:
    """Raise `StateError` unless a commit was made by the same pipeline, as far as state goes."""
    if lines := list(differences(was, now)):
        ways = (
            "go on with the pipeline it was kept under; begin anew in another checkpoint dir; or remove this "
            "one, which forgets every key and writes the outputs anew" + another_way
        )
        raise StateError("\n".join([f"the commits in {folder} are of another pipeline:", *lines, ways]))


def segments_of(fs: FileSystem, folder: Path, manifest: m.Manifest) -> Iterator[tuple[str, Iterator[bytes]]]:
    """Each partition of a commit with its segments, read one at a time.

    Raises `BrokenError` at one that is not what was written.
    """
    for partition in sorted({m.partition_of(segment) for segment in manifest["segments"]}):
        of_it = [each for each in manifest["segments"] if m.partition_of(each) == partition]
        yield partition, _one_ahead([partial(_segment, fs, folder, segment) for segment in of_it])


def _one_ahead(reads: Sequence[Callable[[], bytes]]) -> Iterator[bytes]:
    """What each of them gives; the next one is read and checked on a thread while this one is laid down."""
    with ThreadPoolExecutor(1, "streamrnn-recovery") as pool:
        ahead = pool.submit(reads[0])
        for read in reads[1:]:
            current, ahead = ahead, pool.submit(read)
            yield current.result()
            del current
        yield ahead.result()


def read_manifest(fs: FileSystem, folder: Path, number: int) -> m.Manifest:
    """One commit of a folder. Raises `BrokenError` if it is damaged or missing."""
    return m.decode(_read(fs, folder / m.commit_name(number)))


def _short(value: Any) -> str:
    return json.dumps(value) if value is not None else "nothing"


def _read(fs: FileSystem, path: Path) -> bytes:
    try:
        return fs.read_bytes(path)
    except FileNotFoundError as error:
        raise m.BrokenError("is missing") from error
    except OSError as error:
        raise StateError(f"{path}: cannot read: {error.strerror}") from error


def _segment(fs: FileSystem, folder: Path, segment: Mapping[str, Any]) -> bytes:
    data = _read(fs, folder / segment["name"])
    if not m.is_of(data, segment["digest"]):
        text = f"{segment['name']} of {len(data)} bytes does not match its digest"
        raise m.BrokenError(text)
    return data
