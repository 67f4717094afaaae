"""The manifest of a commit: a JSON file that names everything belonging to it, and vouches for itself."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from hashlib import blake2b, sha256
from typing import Any

from streamrnn.core.shards import WHOLE
from streamrnn.errors import StateError

FORMAT = 1
LOCK = "LOCK"
UNFINISHED = "commit.tmp"

Manifest = dict[str, Any]

_DIGESTS: Mapping[str, Callable[[], Any]] = {
    "blake2b": partial(blake2b, digest_size=32),
    "sha256": sha256,
}
"""Those of segments are sha256, which most processors compute by themselves."""

_COMMIT = re.compile(r"commit-(\d{10})\.json")


class BrokenError(Exception):
    """A manifest or a segment is not what was written."""


def commit_name(number: int) -> str:
    """The file of a commit."""
    return f"commit-{number:010d}.json"


def segment_name(number: int, kind: str, place: int) -> str:
    """The file of a segment of state, `base` or `delta`, by its place among those of its commit."""
    return f"state-{number:010d}.{kind}.{place}.safetensors"


def partition_of(segment: Mapping[str, Any]) -> str:
    """The partition that a segment is of; those of the first version know no partitions."""
    return str(segment.get("partition", WHOLE))


def commit_numbers(names: list[str]) -> list[int]:
    """The numbers of the commits among the names of a folder, newest first."""
    return sorted((int(found[1]) for name in names if (found := _COMMIT.fullmatch(name))), reverse=True)


def kind_of(segment: Mapping[str, Any]) -> str:
    """Whether a segment is of a `base` or of a `delta`."""
    return str(segment["name"].split(".")[1])


def number_of(segment: Mapping[str, Any]) -> int:
    """The commit that a segment was written for."""
    return int(segment["name"].split(".")[0].removeprefix("state-"))


def digest(chunks: Sequence[bytes | memoryview], by: str = "sha256") -> str:
    """What tells bytes from others that an accident made of them."""
    found = _DIGESTS[by]()
    for chunk in chunks:
        found.update(chunk)
    return f"{by}:{found.hexdigest()}"


def is_of(data: bytes, written: str) -> bool:
    """Whether a digest is that of the bytes."""
    by = written.partition(":")[0]
    return by in _DIGESTS and written == digest([data], by)


def encode(manifest: Manifest) -> bytes:
    """The one way to write a manifest down."""
    return _canonical({"digest": digest([_canonical(manifest)], "blake2b"), "manifest": manifest}) + b"\n"


def decode(data: bytes) -> Manifest:
    """The reverse. Raises `BrokenError` if a single bit differs, `StateError` for another format."""
    try:
        outer = json.loads(data)
        manifest: Manifest = outer["manifest"]
        written = encode(manifest)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BrokenError(f"cannot be read: {error}") from error
    if written != data:
        at = next((i for i, (a, b) in enumerate(zip(written, data, strict=False)) if a != b), len(data))
        raise BrokenError(f"does not match its digest; the first byte that differs is {at} or before it")
    if manifest["format"] != FORMAT:
        raise StateError(
            f"the commit has format {manifest['format']}, written by streamrnn {manifest['streamrnn']}; this "
            f"version reads format {FORMAT}: go on with that version, or begin anew in another checkpoint dir"
        )
    return manifest


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
