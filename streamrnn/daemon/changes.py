"""Files that change under a daemon that watches them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from streamrnn.daemon.fleet import pipeline_files
from streamrnn.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from streamrnn.config.spec import PipelineSpec
    from streamrnn.context import Context
    from streamrnn.daemon.fleet import Fleet

Marks = dict[str, tuple[int, int, int] | None]
"""By file, what tells it from what it was: inode, size and time of the last change."""


class Changes:
    """Asked every second or so, it tells when a pipeline file, or one that it names, has changed and stands
    still again.

    It looks rather than listens: that works on every file system, and with files that are links to others
    which are exchanged, as a ConfigMap's are.
    """

    def __init__(self, places: Sequence[str], context: Context, fleet: Fleet, every_s: float = 1.0) -> None:
        self._places, self._context, self._fleet, self._every_s = places, context, fleet, every_s
        self._looked_s = context.clock.monotonic()
        self._known = self._last = self._marks()

    def due(self) -> bool:
        """Whether something has changed since this last said so, and no more since the look before."""
        now_s = self._context.clock.monotonic()
        if now_s - self._looked_s < self._every_s:
            return False
        self._looked_s = now_s
        before, self._last = self._last, self._marks()
        if self._last == self._known or self._last != before:
            return False
        self._known = self._last
        return True

    def _marks(self) -> Marks:
        try:
            files = pipeline_files(self._places, self._context)
        except ConfigError:
            files = []
        for hosted in self._fleet:
            files += [str(hosted.opened.context.path(path)) for path in _named(hosted.opened.spec)]
        return {file: self._mark(file) for file in files}

    def _mark(self, file: str) -> tuple[int, int, int] | None:
        found = self._context.fs.status(Path(file))
        return None if found is None else (found.st_ino, found.st_size, found.st_mtime_ns)


def _named(spec: PipelineSpec) -> Iterator[str]:
    """The files of the models, and those that features are read from."""
    items = [item for items in spec.inputs.values() for item in items]
    features = [each for item in items for each in (*item.then, getattr(item, "encoder", None))]
    for chosen in (spec.model, spec.candidate, *features):
        if chosen is not None:
            path = getattr(chosen.options, "path", None)
            yield from getattr(chosen.options, "read_paths", [path] if isinstance(path, str) else [])
