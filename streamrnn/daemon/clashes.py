"""What two pipelines of one process must not share."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from streamrnn.config.problems import Path, problem

if TYPE_CHECKING:
    from streamrnn.daemon.hosted import Opened
    from streamrnn.errors import Finding

Resource = tuple[str, str]
"""A kind and which one of it, in a form that is equal for two ways to write the same."""


def clashes(pipelines: Iterable[Opened]) -> list[Finding]:
    """A finding for each thing that a pipeline wants and one before it has, with both files."""
    owners: dict[Resource, tuple[Opened, Path]] = {}
    found = []
    for opened in pipelines:
        for resource, path in resources(opened):
            if resource not in owners:
                owners[resource] = opened, path
                continue
            other, its = owners[resource]
            kind, which = resource
            at = ".".join(map(str, its))
            text = f"expected a {kind} of its own, found {which}, which is {at} of {other.file}, too"
            found.append(problem(opened.spec.tree, path, text))
    return found


def resources(opened: Opened) -> Iterator[tuple[Resource, Path]]:
    """What a pipeline wants for itself, each with where its file says so."""
    spec, context = opened.spec, opened.context

    def place(name: str) -> str:
        return os.path.realpath(context.path(name))

    yield ("name", spec.name), ("name",) if spec.file.name else ()
    if spec.file.checkpoint is not None:
        yield ("folder of commits", place(spec.file.checkpoint.dir)), ("checkpoint", "dir")
    if spec.file.dead_letter is not None:
        yield ("file", place(spec.file.dead_letter.path)), ("dead_letter", "path")
    if spec.source.component.name == "stdin":
        yield ("source", "standard input"), ("source",)
    if isinstance(path := getattr(spec.sink.options, "path", None), str):
        yield ("file", place(path)), ("sink", "path")
    for section, chosen in (("source", spec.source), ("sink", spec.sink)):
        if isinstance(log := getattr(chosen.options, "log", None), str):
            yield ("log", place(log)), (section, "log")
        for address in chosen.options.addresses() if hasattr(chosen.options, "addresses") else ():
            if address.path:
                yield ("socket", place(address.path)), (section, "listen")
            elif address.port:  # port 0 is any that is free
                yield ("address", str(address)), (section, "listen")
