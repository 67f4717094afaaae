"""The pipeline of a file with `checkpoint`: goes on from its newest commit, and makes new ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, cast

import numpy as np

from streamrnn import __version__
from streamrnn.build import build_pipeline
from streamrnn.commit import manifest as m
from streamrnn.commit import recovery
from streamrnn.commit.beside import Begin, Fate, fate
from streamrnn.commit.carry import Carrying, is_same, model_of, way
from streamrnn.commit.control import ControlLog, apply_reset
from streamrnn.commit.suspects import Suspects
from streamrnn.commit.writer import Chain, Commits
from streamrnn.core.shards import BESIDE, WHOLE
from streamrnn.errors import StateError
from streamrnn.ports import Resumable
from streamrnn.warmup import build_warming

if TYPE_CHECKING:
    from collections.abc import Mapping

    from streamrnn.config.spec import Chosen, PipelineSpec
    from streamrnn.context import Context
    from streamrnn.core import Core
    from streamrnn.line import Parts
    from streamrnn.pipeline import Committer, Pipeline
    from streamrnn.registry import Registry


class Committed(Protocol):
    """A source whose options say `brings_commits`: where it stands is committed by others, as by a broker.

    What it makes is asked for in the place of `Commits`, and is all that is done about `checkpoint`.
    """

    def commits(
        self, folder: Path, config: Any, parts: Parts, context: Context, fixed: Mapping[str, Any]
    ) -> Committer:
        """The commits of a pipeline of `parts`; `fixed` is what a manifest says of it beside positions."""
        ...


def build_job(spec: PipelineSpec, registry: Registry, context: Context) -> Pipeline:
    """The pipeline of a file; with `checkpoint` in it, as its last commit left it.

    Raises what `build_pipeline` raises, and `StateError` if another run holds the folder, or what is in it
    cannot be gone on from. Outputs are cut to where the commit left them only after all else was checked.
    """
    config = spec.file.checkpoint
    if config is None:
        if note := getattr(spec.source.options, "durability_note", None):
            context.log.warning("source: %s", note)
        return build_pipeline(spec, registry, context)
    folder = context.path(config.dir)
    if getattr(spec.source.options, "brings_commits", False):
        return _committed_by_source(spec, registry, context, folder)
    with ExitStack() as opened:
        lock = _hold(folder, context)
        opened.callback(lock.close)
        commits_there = recovery.Recovery(folder, context)
        control = ControlLog(folder, context)
        newest = commits_there.newest()
        if newest is not None:
            recovery.refuse_other(folder, newest["pipeline"], described(spec))
        context = replace(context, resuming=newest is not None, commits_kept=config.keep)
        pipeline = build_pipeline(spec, registry, context)
        opened.callback(pipeline.close, StateError("not started"))
        parts = pipeline.parts
        watch = Suspects(folder, context, control, spec.file.limits.max_batch_events)
        found = None
        if newest is not None:
            found = _go_on(commits_there, spec, pipeline, registry, context, control)
        _tell_promises(spec, parts, context)
        watch.begin(0 if found is None else found.manifest["number"], parts.shards.events)
        parts.watch = watch
        chain = Chain() if found is None else found.chain
        commits = Commits(folder, config, parts, context, _fixed(spec, parts), chain, lock, control)
        if found is None:
            commits.commit()
        elif not found.fell_back:
            commits.tell(found.manifest["number"])
        pipeline.commits = commits
        opened.pop_all()
    return pipeline


def _committed_by_source(spec: PipelineSpec, registry: Registry, context: Context, folder: Path) -> Pipeline:
    """A pipeline whose commits are its source's affair, in a folder that several runs may share."""
    with ExitStack() as opened:
        pipeline = build_pipeline(spec, registry, replace(context, resuming=True))
        opened.callback(pipeline.close, StateError("not started"))
        parts, source = pipeline.parts, cast("Committed", pipeline.parts.source)
        pipeline.commits = source.commits(folder, spec.file.checkpoint, parts, context, _fixed(spec, parts))
        opened.pop_all()
    return pipeline


def _tell_promises(spec: PipelineSpec, parts: Parts, context: Context) -> None:
    """Say what commits cannot do for these ends. Raises `StateError` if they would do harm."""
    name = spec.source.component.name
    if not isinstance(parts.source, Resumable) and not hasattr(spec.source.options, "checkpoint_note"):
        raise StateError(
            f"source: '{name}' would begin anew at every start and its events count twice, since it has no "
            "place() and resume(); leave `checkpoint` out"
        )
    for section, chosen, part in (("source", spec.source, parts.source), ("sink", spec.sink, parts.sink)):
        if not isinstance(part, Resumable) or part.place() is None:
            note = getattr(chosen.options, "checkpoint_note", "it cannot be gone on with after a crash")
            context.log.warning("%s: %s", section, note)


def described(spec: PipelineSpec) -> dict[str, Any]:
    """What decides the meaning of state and positions: keys, time, inputs, rules, context, both ends."""
    event = spec.file.event
    return {
        "source": _chosen(spec.source),
        "decode": _chosen(spec.decode),
        "event.key": event.key,
        "event.time": event.time.model_dump(mode="json", exclude_defaults=True) if event.time else None,
        "event.inputs": {name: [_unbounded(item) for item in items] for name, items in event.inputs.items()},
        "order": spec.file.order.model_dump(mode="json", exclude_defaults=True) if spec.file.order else None,
        "reset": [_chosen(rule) for rule in spec.rules],
        "model.context": spec.file.model.context,
        "sink": _chosen(spec.sink),
        "dead_letter": spec.file.dead_letter.path if spec.file.dead_letter else None,
    }


def _unbounded(item: Mapping[str, Any]) -> dict[str, Any]:
    """A feature without its range, which decides who is refused and not what a state means."""
    return {name: value for name, value in item.items() if name != "range"}


def _chosen(chosen: Chosen) -> dict[str, Any]:
    """Its type and options, but for those that change only how it goes about it."""
    apart = set(getattr(chosen.options, "operational", ()))
    options = chosen.options.model_dump(mode="json", exclude_defaults=True, exclude=apart)
    return {"type": chosen.component.name, **options}


def _fixed(spec: PipelineSpec, parts: Parts) -> dict[str, Any]:
    return {
        "format": m.FORMAT,
        "streamrnn": __version__,
        "numpy": np.__version__,
        "libraries": dict(parts.backend.libraries),
        "name": spec.name,
        "pipeline": described(spec),
        "backend": parts.backend_name,
        "numerics": parts.verdict.numerics,
        "model": model_of(parts.backend),
        **({"candidate": model_of(parts.candidate.backend)} if parts.candidate else {}),
    }


def _tell_upgrades(was: m.Manifest, now: m.Manifest, context: Context) -> None:
    """Say which libraries are others than those a commit was made under."""
    before, after = ({"numpy": made["numpy"], **made.get("libraries", {})} for made in (was, now))
    for name in sorted(before.keys() & after.keys()):
        if before[name] != after[name]:
            context.log.warning(
                "the commit was made with %s %s, this is %s: the last bits of answers may change",
                name,
                before[name],
                after[name],
            )


def _hold(folder: Path, context: Context) -> BinaryIO:
    try:
        context.fs.make_folder(folder)
        lock = context.fs.lock(folder / m.LOCK)
    except OSError as error:
        raise StateError(f"checkpoint: {error.filename or folder}: {error.strerror}") from error
    if lock is None:
        raise StateError(f"checkpoint: {folder} is in use by another run; one directory serves one at a time")
    return lock


def _go_on(
    there: recovery.Recovery,
    spec: PipelineSpec,
    pipeline: Pipeline,
    registry: Registry,
    context: Context,
    control: ControlLog,
) -> recovery.Found:
    """State, source, then outputs, which are the only ones that change something."""
    parts = pipeline.parts
    notes: set[str] = set()

    def restored(manifest: m.Manifest, segments: Iterator[tuple[str, Iterator[bytes]]]) -> None:
        recovery.refuse_other(there.folder, manifest["pipeline"], described(spec))
        control.done = manifest.get("control", 0)
        becomes = fate(manifest["model"], manifest.get("candidate"), parts)
        carrying = Carrying(parts.backend, "same")
        if becomes != "promote":
            carrying = _carrying(there.folder, manifest, spec, parts, control)
        notes.clear()
        notes.update(restore(parts, carrying.segments(segments), there.folder, becomes))
        if carrying.way == "warmup":
            carrying.warming = build_warming(spec, registry, context, parts.backend, parts.verdict)
            carrying.warming.check(parts.shards.items())
        carrying.settle(parts.shards.items())

    found = there.restore(restored)
    if parts.candidate is not None and not _has_candidate(found.manifest, parts):
        begin = Begin(spec, registry, context, parts)
        if begin.warming is not None:
            begin.warming.check(parts.shards.items())
        begin.fill()
        found.chain.segments = []
    for note in notes:
        context.log.warning("%s", note)
    manifest = found.manifest
    _tell_upgrades(manifest, _fixed(spec, parts), context)
    if not is_same(manifest["model"], model_of(parts.backend)):
        found.chain.segments = []  # those of another model cannot be laid under what comes
    if isinstance(parts.source, Resumable) and manifest["source"] is not None:
        parts.source.resume(manifest["source"])
    began = manifest.get("encode") if manifest["outputs"]["sink"] is not None else None
    if began is not None and isinstance(parts.format, Resumable):
        parts.format.resume(began)
    again = {"again": True} if found.fell_back else {}
    for name, part in (("sink", parts.sink), ("rejected", parts.rejects)):
        place = manifest["outputs"][name]
        if place is not None and isinstance(part, Resumable):
            part.resume(place | again)
    pipeline.went_on = _told(found, parts)
    for entry in control.due(manifest["number"]):
        if "reset" in entry.command:
            apply_reset(parts.shards, entry.command["reset"], pipeline.heed)
    control.done = len(control.entries)
    return found


def _has_candidate(manifest: m.Manifest, parts: Parts) -> bool:
    """Whether a commit holds the states of the candidate that is to serve."""
    is_kept = fate(manifest["model"], manifest.get("candidate"), parts) == "keep"
    return is_kept and any(m.partition_of(each).startswith(BESIDE) for each in manifest["segments"])


def restore(
    parts: Parts, segments: Iterable[tuple[str, Iterable[bytes]]], folder: Path, candidate: Fate = "drop"
) -> set[str]:
    """Fill the pipeline's cores with the segments of a commit, by partition; notes for a person.

    `candidate` says what becomes of the states of one. Raises `StateError` if they do not fit.
    """
    parts.shards.forget()
    notes = set()
    for partition, blobs in segments:
        name = partition.removeprefix(BESIDE)
        if name != WHOLE and not parts.shards.partitioned:
            raise StateError(
                f"the commits in {folder} keep state by partition ('{name}') and this source has none: "
                "go on with the source it was kept under, or begin anew in another checkpoint dir"
            )
        core = _core_for(parts.shards.at(name), name != partition, candidate)
        if core is not None:
            notes.add(core.restore(blobs))
    return {note for note in notes if note}


def _core_for(core: Core, is_beside: bool, candidate: Fate) -> Core | None:
    """Which core a segment is for, that of a candidate or not; None if it is for none any more."""
    if candidate == "promote":
        return core if is_beside else None
    if not is_beside:
        return core
    return core.candidate if candidate == "keep" else None


def _told(found: recovery.Found, parts: Parts) -> str:
    """Where a run goes on, and how much of what outputs held is made again."""
    begun = f"going on from commit {found.manifest['number']}, behind {found.manifest['events']:,} events"
    if found.fell_back:
        return f"{begun}; what the outputs hold beyond it is made again and compared"
    cut = [getattr(part, "cut_bytes", None) for part in (parts.sink, parts.rejects)]
    if cut[0] is None:
        return f"{begun}; what followed it is served again"
    if cut_bytes := sum(each or 0 for each in cut):
        return f"{begun}; {cut_bytes:,} bytes of outputs are cut, and their events replayed"
    return f"{begun}; 0 events replayed"


def _carrying(
    folder: Path, manifest: m.Manifest, spec: PipelineSpec, parts: Parts, control: ControlLog
) -> Carrying:
    """How the states of a commit come to the model of this run. Raises `StateError` if they must not."""
    was, now = manifest["model"], model_of(parts.backend)
    assert spec.file.checkpoint is not None
    asked = spec.file.checkpoint.model_change
    for entry in control.due(manifest["number"]):
        reload = entry.command.get("reload", {})
        if reload.get("fingerprint") == now["fingerprint"]:  # a crash came between the command and its commit
            asked = reload["state"]
    try:
        return Carrying(parts.backend, way(was, now, asked))
    except StateError:
        told = {f"model.{name}": was[name] for name in ("fingerprint", "state")}
        is_now = {f"model.{name}": now[name] for name in ("fingerprint", "state")}
        ways = "" if asked != "refuse" else "; or see checkpoint.model_change"
        recovery.refuse_other(folder, told, is_now, ways)
        raise


def take_over(before: Commits, spec: PipelineSpec, parts: Parts, context: Context) -> Commits:
    """What makes the commits of a pipeline that goes on in the folder of another, with state of its own.

    The one before must have committed this very moment; its first commit holds all of the state.
    """
    assert spec.file.checkpoint is not None
    chain, lock, control, parts.watch = before.hand_over()
    chain.segments = []
    fixed = _fixed(spec, parts)
    return Commits(before.folder, spec.file.checkpoint, parts, context, fixed, chain, lock, control)
