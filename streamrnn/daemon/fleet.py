"""All pipelines of the daemon, each on a thread of its own."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from threading import Lock, Thread
from typing import TYPE_CHECKING

from streamrnn.config.checks import file_problems
from streamrnn.config.open import open_pipeline
from streamrnn.config.problems import problem
from streamrnn.daemon.backoff import Backoff
from streamrnn.daemon.clashes import clashes
from streamrnn.daemon.hosted import OVER, Hosted, NotServingError, Opened, RefusedError
from streamrnn.errors import ConfigError, Finding

if TYPE_CHECKING:
    from streamrnn.context import Context, Stream

LOG = "streamrnn.pipeline"
"""Loggers of pipelines are below it, each under its pipeline's name."""
SUFFIXES = (".yaml", ".yml")


class SharedStream:
    """Standard output for several pipelines: what one of them writes stays in one piece."""

    def __init__(self, stream: Stream) -> None:
        self._stream, self._lock = stream, Lock()

    def read(self, size: int, wait_ms: int) -> bytes | None:
        """See `Stream.read`."""
        return self._stream.read(size, wait_ms)

    def write(self, data: bytes) -> None:
        """See `Stream.write`."""
        with self._lock:
            self._stream.write(data)


def pipeline_files(places: Sequence[str], context: Context) -> list[str]:
    """The files that are named, and of folders those whose names end as YAML does, sorted.

    Raises `ConfigError` for a folder without any, or a place where nothing is.
    """
    found: list[str] = []
    for place in places:
        folder = Path(place)
        names = (
            [name for name in context.fs.names(folder) if not name.startswith(".")] if folder.is_dir() else []
        )
        files = [str(folder / name) for name in names if Path(name).suffix in SUFFIXES]
        if folder.is_dir() and not files:
            text = (
                f"expected pipeline files ({', '.join('*' + s for s in SUFFIXES)}) in this folder, found none"
            )
            raise ConfigError([Finding(place, 1, 1, "", text)])
        found += files or [place]
    return list(dict.fromkeys(found))


def open_one(file: str, stdout: Stream | None = None) -> Opened:
    """A pipeline file, read and checked as `lint` does. Raises `ConfigError`."""
    spec, registry, context = open_pipeline(file)
    if found := [problem(spec.tree, *each) for each in file_problems(spec, context)]:
        raise ConfigError(found)
    log = logging.getLogger(f"{LOG}.{spec.name}")
    context = replace(context, log=log, stdout=stdout or context.stdout)
    digest = sha256(context.fs.read_bytes(Path(file))).hexdigest()[:16]
    return Opened(file, spec, registry, context, digest)


def open_all(files: Sequence[str], stdout: Stream | None = None) -> tuple[list[Opened], list[Finding]]:
    """Those that are in order, and all mistakes of the others; one that clashes with another is a mistake."""
    opened, findings = list[Opened](), list[Finding]()
    for file in files:
        try:
            opened.append(open_one(file, stdout))
        except ConfigError as error:
            findings += error.findings
    found = clashes(opened)
    clashing = {finding.file for finding in found}
    return [each for each in opened if each.file not in clashing], [*findings, *found]


class Fleet:
    """Pipelines by name. `add`, `stop` and `remove` are called on one thread, all else on any."""

    def __init__(self, rng: random.Random, new: Callable[[Opened, Backoff], Hosted] = Hosted) -> None:
        self.rng, self._new = rng, new
        self.hosted: dict[str, Hosted] = {}
        """Replaced as a whole, never changed."""
        self._threads: dict[str, Thread] = {}
        self.stopping = False

    def __iter__(self) -> Iterator[Hosted]:
        return iter(self.hosted.values())

    def find(self, name: str) -> Hosted:
        """A pipeline by its name. Raises `KeyError`."""
        return self.hosted[name]

    def add(self, opened: Opened) -> Hosted:
        """Begin to serve a pipeline."""
        hosted = self._new(opened, Backoff(random.Random(self.rng.random())))
        self.hosted = {**self.hosted, opened.name: hosted}
        thread = Thread(target=hosted.run, name=f"pipeline:{opened.name}", daemon=True)
        self._threads[opened.name] = thread
        thread.start()
        return hosted

    def remove(self, name: str) -> None:
        """Let a pipeline finish what it has, commit and end; then it is forgotten."""
        hosted = self.hosted[name]
        hosted.stop()
        self._threads.pop(name).join()
        self.hosted = {other: each for other, each in self.hosted.items() if other != name}

    def stop(self) -> None:
        """Let all of them finish and commit; `is_over` tells when."""
        self.stopping = True
        for hosted in self:
            hosted.stop()

    def commit(self) -> dict[str, Future[int | None]]:
        """Ask all that serve and have a `checkpoint` to commit now."""
        from streamrnn.daemon.commands import commit

        asked = {}
        for hosted in self:
            try:
                asked[hosted.name] = hosted.ask(commit)
            except NotServingError:
                continue
        return asked

    @property
    def is_over(self) -> bool:
        """Whether every pipeline has ended or stopped."""
        return all(hosted.state in OVER for hosted in self)

    @property
    def is_ready(self) -> bool:
        """Whether every pipeline serves, or has come to its end."""
        return all(hosted.state in ("serving", *OVER) for hosted in self) and not self.stopping

    @property
    def was_tried(self) -> bool:
        """Whether every pipeline was built, or failed to be, at least once."""
        return all(hosted.tried for hosted in self)

    @property
    def exit_code(self) -> int:
        """That of the last failure of a pipeline that could not be stopped well; else 0."""
        return max((hosted.exit_code for hosted in self if hosted.error), default=0)

    def hung(self, now_s: float, within_s: float) -> list[Hosted]:
        """Pipelines that are in the midst of a turn for longer."""
        return [hosted for hosted in self if hosted.state == "serving" and now_s - hosted.turned_s > within_s]


__all__ = ["Fleet", "RefusedError", "SharedStream", "open_all", "open_one", "pipeline_files"]
