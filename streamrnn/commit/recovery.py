"""Finds the newest commit that is whole, and tells whether a pipeline may go on from it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamrnn.commit import manifest as m
from streamrnn.commit.writer import Chain, places_of
from streamrnn.errors import StateError

if TYPE_CHECKING:
    from streamrnn.context import Context, FileSystem


@dataclass
class Found:
    """A commit to go on from: what it says, its segments of state by partition, and the commits beside it.

    `fell_back` says that a newer one was there and is broken.
    """

    manifest: m.Manifest
    segments: dict[str, list[bytes]]
    chain: Chain
    fell_back: bool


def newest(folder: Path, context: Context) -> Found | None:
    """The newest commit in a folder; None if there is none. What is broken is told, and the one before taken.

    Raises `StateError` if all are broken, or the newest is of a format that this version does not read.
    """
    fs = context.fs
    numbers = m.commit_numbers(fs.names(folder))
    chain, found, broken = Chain(max(numbers, default=0)), None, list[str]()
    for number in numbers:
        path = folder / m.commit_name(number)
        try:
            manifest = read_manifest(fs, folder, number)
            if found is None:
                segments = segments_of(fs, folder, manifest)
                found = Found(manifest, segments, chain, bool(broken))
                chain.segments = manifest["segments"]
        except m.BrokenError as error:
            if found is None:
                broken.append(f"{path}: {error}")
            continue
        chain.kept[number] = {segment["name"] for segment in manifest["segments"]}
        chain.places[number] = places_of(manifest)
    if found is None and broken:
        way_out = f"no commit in {folder} is whole; to begin anew, name another checkpoint dir"
        raise StateError("\n".join([*broken, way_out]))
    for told in broken:
        assert found is not None
        before = found.manifest["number"]
        context.log.error("%s; going on from commit %d, the one before it", told, before)
    return found


def differences(was: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """A line for each declaration that decides what state and positions mean and is not what it was."""
    for name in sorted({*was, *now}):
        if was.get(name) != now.get(name):
            yield f"  {name}: was {_short(was.get(name))}, is {_short(now.get(name))}"


def refuse_other(folder: Path, was: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise `StateError` unless a commit was made by the same pipeline, as far as state goes."""
    if lines := list(differences(was, now)):
        ways = (
            "go on with the pipeline it was kept under; begin anew in another checkpoint dir; or remove this "
            "one, which forgets every key and writes the outputs anew"
        )
        raise StateError("\n".join([f"the commits in {folder} are of another pipeline:", *lines, ways]))


def segments_of(fs: FileSystem, folder: Path, manifest: m.Manifest) -> dict[str, list[bytes]]:
    """The segments that a commit names, by partition. Raises `BrokenError` if one is not what was written."""
    found: dict[str, list[bytes]] = {}
    for segment in manifest["segments"]:
        found.setdefault(m.partition_of(segment), []).append(_segment(fs, folder, segment))
    return found


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
    if m.digest(data) != segment["digest"]:
        text = f"{segment['name']} of {len(data)} bytes does not match its digest"
        raise m.BrokenError(text)
    return data
