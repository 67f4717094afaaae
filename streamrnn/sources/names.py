"""Which files a pipeline follows, and which may have had such a name before they were rotated."""

from __future__ import annotations

import glob
import os.path
import re
import stat
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from streamrnn.sources.found_again import Candidate

if TYPE_CHECKING:
    from streamrnn.builtins.ends import FileSourceConfig
    from streamrnn.context import Context

_ROTATED = re.compile(r"(.+?)(?:[.\-_](?:\d[\d.:T_-]*|old|bak|prev))?(\.\w*[A-Za-z]\w*)?(\.gz)?")
"""A name, the mark of a rotated file, an ending that stayed behind the mark, and one for the compression."""


def all_followed(config: FileSourceConfig, context: Context) -> Iterable[tuple[str, Path]]:
    """The files that the paths of a source mean by now; one that is named need not exist."""
    return chain.from_iterable(followed(pattern, config, context) for pattern in config.paths)


def followed(pattern: str, config: FileSourceConfig, context: Context) -> list[tuple[str, Path]]:
    """The files that one pattern means by now, sorted by name; a plain name need not exist.

    A compressed file among them is what became of a file that was rotated, and was read before that.
    """
    if not glob.has_magic(pattern):
        return [(pattern, context.path(pattern))]
    found = context.fs.glob(os.path.join(glob.escape(str(context.base_dir)), pattern))
    named = [(name_of(path, context.base_dir), path) for path in found]
    return [(name, path) for name, path in named if not config.is_compressed(name)]


def candidates(config: FileSourceConfig, context: Context, whatever_name: bool = False) -> list[Candidate]:
    """The files that are followed, and those beside them whose names say that they were, or all.

    `log.1`, `log-20261126.gz`, `log.old` and `log.gz` may have been `log`, and `app.1.log` `app.log`.
    """
    names = {path: name for name, path in all_followed(config, context)}
    found = [_candidate(path, home, None, context) for path, home in names.items()]
    for folder in sorted({path.parent for path in names} | set(_folders(config, context))):
        for path in [folder / name for name in context.fs.names(folder)]:
            home = _home(path, config, context)
            if path not in names and (home or whatever_name):
                found.append(_candidate(path, home, config, context))
    return [each for each in found if each is not None]


def _candidate(path: Path, home: str, packed: FileSourceConfig | None, context: Context) -> Candidate | None:
    """A regular file; `packed` unless it is followed."""
    status = context.fs.status(path)
    if status is None or not stat.S_ISREG(status.st_mode):
        return None
    ratio = packed.max_ratio if packed and path.name.endswith(".gz") else None
    name, inode = name_of(path, context.base_dir), (status.st_dev, status.st_ino)
    return Candidate(name, home, path, inode, status.st_mtime_ns, packed is None, ratio)


def _folders(config: FileSourceConfig, context: Context) -> Iterator[Path]:
    """Where rotated files of each path may lie, even if there is no other."""
    for pattern in config.paths:
        if not glob.has_magic(os.path.dirname(pattern)):
            yield context.path(pattern).parent


def _home(path: Path, config: FileSourceConfig, context: Context) -> str:
    """The followed name that a file had before it was rotated; empty if its own says nothing of that."""
    for before in _names_before(path.name):
        name = name_of(path.with_name(before), context.base_dir)
        for pattern in config.paths:
            if name == pattern or (glob.has_magic(pattern) and fnmatchcase(name, pattern)):
                return name
    return ""


def _names_before(name: str) -> Iterator[str]:
    """What a file may have been called before it was rotated, the most likely first."""
    plain = name.removesuffix(".gz")
    found = _ROTATED.fullmatch(plain)
    if found and found[1] + (found[2] or "") != plain:
        yield found[1] + (found[2] or "")
    if plain != name:
        yield plain


def name_of(path: Path, base_dir: Path) -> str:
    """A path as it is told: relative to the folder of the pipeline file, if it lies there."""
    return str(path.relative_to(base_dir) if path.is_relative_to(base_dir) else path)
