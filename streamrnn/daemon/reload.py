"""A pipeline goes on as its file says now, without losing an event or a state.

`prepare` may take its time, on any thread: the file is checked and its model loaded while the old pipeline
serves. `switch` is done between two batches, on the pipeline's own. Four ways, by what has changed:

- how outputs look, or how events are read: only those parts are exchanged;
- the model, its limits: the states go over to new cores, both ends stay open;
- the ends themselves, where they can be opened again: everything is closed, and built from the last commit;
- what would lose events or states: refused, and the old pipeline goes on.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamrnn.build import core_limits
from streamrnn.commit.carry import Change, is_same, model_of
from streamrnn.commit.job import described, take_over
from streamrnn.commit.recovery import differences
from streamrnn.commit.writer import Commits
from streamrnn.daemon.commands import agree
from streamrnn.daemon.handover import Handover, fingerprints, plan
from streamrnn.daemon.hosted import RefusedError
from streamrnn.errors import StreamrnnError
from streamrnn.pipeline import Pipeline
from streamrnn.ports import Resumable
from streamrnn.testing import built_unread

if TYPE_CHECKING:
    from streamrnn.config.spec import Chosen, PipelineSpec
    from streamrnn.daemon.hosted import Hosted, Opened
    from streamrnn.line import Parts

_DECIDES = ("event.key", "event.time", "event.inputs", "reset", "order", "model.context")
"""What a state means beside the model: where one of these changes, no key can go on."""


@dataclass
class Prepared:
    """A pipeline built from a changed file, but for its ends; `asked` is what to do with states."""

    opened: Opened
    pipeline: Pipeline
    asked: Change | None
    handover: Handover | None = None

    def close(self) -> None:
        """It does not take over."""
        for backend in self.pipeline.parts.backends:
            backend.close()
        if self.handover is not None:
            self.handover.close()


def prepare(opened: Opened, asked: Change | None, hosted: Hosted | None = None) -> Prepared:
    """Load and probe the models of a changed file, and warm them up beside the `hosted` pipeline if need be.

    Raises what building it does, and changes nothing.
    """
    prepared = Prepared(opened, built_unread(opened.spec, opened.registry, opened.context), asked)
    if hosted is None or "warmup" not in (_asked_change(prepared), _asked_of_candidate(prepared)):
        return prepared
    try:
        hosted.ask(lambda pipeline: _plan(hosted, pipeline, prepared)).result()
        if prepared.handover is not None:
            prepared.handover.warm_up()
    except BaseException:
        prepared.close()
        raise
    return prepared


def _plan(hosted: Hosted, pipeline: Pipeline, prepared: Prepared) -> Handover | None:
    """How states are to go over from this pipeline. Raises `RefusedError`."""
    was, now, before = pipeline.parts, prepared.pipeline.parts, prepared.handover
    if _declared(hosted.opened.spec, prepared.opened.spec) or (before is not None and before.was is was):
        return before
    if before is not None:  # it was made for one that has failed since then
        before.close()
    prepared.handover = plan(was, now, prepared.opened, _asked_change(prepared))
    return prepared.handover


def _asked_of_candidate(prepared: Prepared) -> str | None:
    candidate = prepared.opened.spec.file.candidate
    return candidate.state if candidate else None


def _asked_change(prepared: Prepared) -> Change | None:
    """What was asked to become of states, with the reload or by the file; None if nothing was said."""
    checkpoint = prepared.opened.spec.file.checkpoint
    if prepared.asked is None and checkpoint is not None and "model_change" in checkpoint.model_fields_set:
        return checkpoint.model_change
    return prepared.asked


def switch(hosted: Hosted, prepared: Prepared) -> str:
    """Go on with what was prepared; how, in words. Raises `RefusedError`, and then all is as it was."""
    old, new = hosted.opened.spec, prepared.opened.spec
    pipeline = hosted.pipeline
    assert pipeline is not None
    try:
        if _are_ends_kept(old, new, pipeline):
            told = _exchange(hosted, pipeline, prepared)
        else:
            told = _build_again(hosted, pipeline, prepared)
    except RefusedError:
        prepared.close()
        raise
    return told


def _are_ends_kept(old: PipelineSpec, new: PipelineSpec, pipeline: Pipeline) -> bool:
    """Whether source, sink and the file of refused events can stay as they are, open."""
    return (
        _section(old.source) == _section(new.source)
        and _section(old.decode) == _section(new.decode)
        and _section(old.sink) == _section(new.sink)
        and old.encode.component is new.encode.component
        and old.file.dead_letter == new.file.dead_letter
        and _apart_from_change(old) == _apart_from_change(new)
        and old.file.limits.max_line_bytes == new.file.limits.max_line_bytes
        and not hasattr(pipeline.parts.source, "supply")
        and (pipeline.commits is None or isinstance(pipeline.commits, Commits))
    )


def _apart_from_change(spec: PipelineSpec) -> dict[str, Any]:
    """The section `checkpoint`, but for what is looked at only when a model changes."""
    checkpoint = spec.file.checkpoint
    return checkpoint.model_dump(exclude={"model_change"}) if checkpoint else {}


def _section(chosen: Chosen) -> tuple[str, Any]:
    return chosen.component.name, chosen.options


def _exchange(hosted: Hosted, pipeline: Pipeline, prepared: Prepared) -> str:
    """The ends stay; of what lies between them, what has changed is exchanged."""
    old, new = hosted.opened.spec, prepared.opened.spec
    was, now = pipeline.parts, prepared.pipeline.parts
    declared = _declared(old, new)
    if _are_cores_kept(old, new, was, now) and not declared:
        _adopt_ends(was, now, old, new)
        prepared.close()
        now.backend, now.verdict = was.backend, was.verdict
        now.shards, now.candidate = was.shards, was.candidate
        vars(was).update(vars(now))  # commits know these parts
        _observe(hosted, pipeline, prepared.opened)
        hosted.opened = prepared.opened
        return "reloaded; the model and all states stay as they were"
    if declared:
        _refuse_other_keys(prepared, declared)
    handover = _plan(hosted, pipeline, prepared)
    if len(was.shards) > new.file.limits.max_keys:
        text = f"limits.max_keys: expected room for the {len(was.shards)} keys there are"
        raise RefusedError(f"{text}, found {new.file.limits.max_keys}")
    if handover is not None:
        handover.check()
    commits = pipeline.commits
    if isinstance(commits, Commits):
        told = {"state": "reset"} if handover is None else handover.told()
        agree(commits, {"reload": {"fingerprint": model_of(now.backend)["fingerprint"], **told}})
    now.shards.partitioned = was.shards.partitioned
    now.shards.forget()
    moved = f"{len(was.shards)} keys are forgotten"
    if handover is not None:
        moved = handover.move(Path(hosted.opened.file))
    _adopt_ends(was, now, old, new)
    context, hooks = prepared.opened.context, hosted.opened.registry.hooks
    changed = Pipeline(now, hooks, context.log.warning, context.clock)
    if isinstance(commits, Commits):
        changed.commits = successor = take_over(commits, new, now, context)
        successor.done()
    _observe(hosted, changed, prepared.opened)
    hosted.opened = prepared.opened
    hosted.serve(changed)
    for backend in was.backends:
        backend.close()
    return f"reloaded; {moved}"


def _observe(hosted: Hosted, pipeline: Pipeline, opened: Opened) -> None:
    """Let the plugins hear of it that its file names now."""
    hosted.observe(opened)
    pipeline.observed_by(opened.registry.hooks)


def _are_cores_kept(old: PipelineSpec, new: PipelineSpec, was: Parts, now: Parts) -> bool:
    """Whether models, limits and what a candidate answers for are what they were."""
    has_failed = was.candidate is not None and was.candidate.tally.error
    return (
        not has_failed
        and fingerprints(was) == fingerprints(now)
        and core_limits(old) == core_limits(new)
        and old.file.candidate == new.file.candidate
    )


def _declared(old: PipelineSpec, new: PipelineSpec) -> list[str]:
    """What has changed of keys, time, inputs and rules, a line each."""
    was, now = described(old), described(new)
    return list(differences({n: was[n] for n in _DECIDES}, {n: now[n] for n in _DECIDES}))


def _refuse_other_keys(prepared: Prepared, declared: list[str]) -> None:
    """Raise `RefusedError` unless all keys may be forgotten, which are not what they were."""
    checkpoint = prepared.opened.spec.file.checkpoint
    if _asked_change(prepared) == "reset" and checkpoint is None:
        return
    ways = (
        "stop it and begin anew in another checkpoint dir" if checkpoint else "--state reset forgets all keys"
    )
    raise RefusedError("\n".join(["no key could go on, since these have changed:", *declared, ways]))


def _adopt_ends(was: Parts, now: Parts, old: PipelineSpec, new: PipelineSpec) -> None:
    now.source.close()
    now.source, now.sink, now.rejects, now.watch = was.source, was.sink, was.rejects, was.watch
    same = _section(old.encode) == _section(new.encode) and old.file.encode == new.file.encode
    if same:
        now.format = was.format
    elif attach := getattr(now.sink, "attach", None):
        attach(now.source, now.format)


def _build_again(hosted: Hosted, pipeline: Pipeline, prepared: Prepared) -> str:
    """Close everything, which commits, and build it from that commit."""
    old, new, source = hosted.opened, prepared.opened, pipeline.parts.source
    was, now = old.spec.file.checkpoint, new.spec.file.checkpoint
    again = "stop the daemon and start it again"
    if was is None or now is None:
        raise RefusedError(
            "an end of the pipeline, its decoding, dead_letter or checkpoint has changed, and without a "
            f"checkpoint before and after there is no commit to go on from: {again}"
        )
    if was.dir != now.dir:
        raise RefusedError(f"checkpoint.dir: expected {was.dir}, found {now.dir}: {again}")
    if isinstance(source, Resumable) and source.place() is None:
        name = old.spec.source.component.name
        raise RefusedError(
            f"what {name} gives can be had only once, so neither end of the pipeline can change while it "
            f"runs: {again}"
        )
    if lines := list(differences(described(old.spec), described(new.spec))):
        ways = "stop it and begin anew in another checkpoint dir"
        raise RefusedError("\n".join(["its commits would be of another pipeline:", *lines, ways]))
    if not is_same(model_of(pipeline.parts.backend), model_of(prepared.pipeline.parts.backend)):
        raise RefusedError("the model and an end have both changed: reload one after the other")
    prepared.close()
    pipeline.close()
    try:
        built = hosted.build(new)
    except (StreamrnnError, OSError) as error:
        _open(hosted, hosted.build(old))
        raise RefusedError(f"{error}\nthe pipeline goes on as it was") from error
    hosted.observe(new)
    hosted.opened = new
    _open(hosted, built)
    return f"reloaded; both ends were opened again; {built.went_on or 'nothing to go on from'}"


def _open(hosted: Hosted, built: Pipeline) -> None:
    hosted.serve(built)
    built.open()
