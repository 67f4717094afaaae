"""From a `PipelineSpec` to a `Pipeline`: every part built by its component, none privileged."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from streamrnn.backend import Description
from streamrnn.ceilings import check_memory, cold_opener, reserve_of
from streamrnn.config import checks
from streamrnn.config.problems import from_option_error, problem
from streamrnn.config.spec import PipelineSpec, told_at
from streamrnn.core import Core, Shards
from streamrnn.core.candidate import Share, Tally, WithCandidate
from streamrnn.core.deadline import Timed
from streamrnn.core.probe import Verdict, probe, settle
from streamrnn.core.wrap import Chunked, WithContext
from streamrnn.errors import ConfigError, ModelError, OptionError
from streamrnn.event import EventStage
from streamrnn.limits import Limits
from streamrnn.line import Beside, Parts
from streamrnn.order.policy import Policy
from streamrnn.order.waiting import Waiting
from streamrnn.pipeline import Pipeline
from streamrnn.rejects import RejectFile, RejectLog
from streamrnn.stages import elapsed_features, encode_stage, event_stage

if TYPE_CHECKING:
    from streamrnn.backend import Backend
    from streamrnn.context import Context
    from streamrnn.events import Block, Columns
    from streamrnn.offline import Offline
    from streamrnn.ports import Codec, Framer, Sink, Source
    from streamrnn.registry import Registry
    from streamrnn.rules import ResetRule


def build_pipeline(
    spec: PipelineSpec,
    registry: Registry,
    context: Context,
    source: Source | None = None,
    sink: Sink | None = None,
    model: tuple[Backend, Verdict] | None = None,
) -> Pipeline:
    """Load the model and open both ends; `source`, `sink` and `model` take the place of those in the file.

    Raises `ConfigError` for what only shows now, `ModelError`, `SourceError` or `SinkError`.
    """
    with ExitStack() as opened:  # closes what is open already if something after it fails
        backend, verdict = model or build_backend(spec, context)
        if model is None:
            opened.callback(backend.close)
        try:
            parts = _parts(spec, context, backend, verdict, opened, source, sink)
        except OptionError as error:
            raise ConfigError(from_option_error(error, (), spec.tree)) from error
        opened.pop_all()
    return Pipeline(parts, registry.hooks, context.log.warning, context.clock)


def _parts(
    spec: PipelineSpec,
    context: Context,
    backend: Backend,
    verdict: Verdict,
    opened: ExitStack,
    source: Source | None,
    sink: Sink | None,
) -> Parts:
    dead_letter = spec.file.dead_letter
    rules = reset_rules(spec)
    stage = event_stage(spec, backend, rules, context)
    decoder: Codec = spec.decode.build(context)
    encoder: Codec = spec.encode.build(context)
    source = source or build_source(spec, context, decoder)
    opened.callback(source.close)
    decode = _decode(decoder, spec, stage, source)
    reserve = None
    if sink is None:  # else nothing is written
        reserve = reserve_of(spec, context)
    sink = sink or spec.sink.build(context)
    opened.callback(sink.close)
    _attach(spec, sink, source, encoder)
    rejects = RejectFile(dead_letter.path, context) if dead_letter else RejectLog(context)
    beside = build_candidate(spec, context, backend)
    if beside is not None:
        opened.callback(beside.backend.close)
    new_core = _core_maker(spec, context, (backend, beside), rules, getattr(decoder, "heads", None))
    shards = Shards(new_core, getattr(source, "partitioned", False))
    check_memory(spec, context, shards)
    return Parts(
        name=spec.name,
        source=source,
        decode=decode,
        event=stage,
        backend_name=backend.label or spec.model.component.name,
        backend=backend,
        shards=shards,
        encode=encode_stage(spec, backend),
        format=encoder.encoder(),
        sink=sink,
        rejects=rejects,
        verdict=verdict,
        max_batch_events=spec.file.limits.max_batch_events,
        reserve=reserve,
        candidate=beside,
    )


def _core_maker(
    spec: PipelineSpec,
    context: Context,
    models: tuple[Backend, Beside | None],
    rules: list[ResetRule],
    heads: Callable[[Block], list[tuple[int, bytes]]] | None,
) -> Callable[[], Core]:
    """What makes a core of the model, with one of the candidate beside it if there is one."""
    elapsed, limits, policy = elapsed_features(spec, context), core_limits(spec), order_policy(spec)
    open_cold, (backend, beside), candidate = cold_opener(spec, context), models, spec.file.candidate
    if policy is not None:
        # Who is too far ahead was found out on arrival; in another order it would be others.
        limits = replace(limits, max_ahead=None)

    def new_core() -> Core:
        waiting = None if policy is None else Waiting(policy, heads, spec.file.limits.max_batch_events)
        if beside is None or candidate is None:
            return Core(backend, rules, elapsed, limits, waiting, open_cold())
        return WithCandidate(
            *(backend, rules, elapsed, limits, waiting, open_cold()),
            candidate=Core(beside.backend, rules, elapsed, limits, waiting, open_cold()),
            share=Share(candidate.share, candidate.salt),
            tally=beside.tally,
            on_failure=partial(context.log.error, "the candidate serves no more: %s"),
        )

    return new_core


def reset_rules(spec: PipelineSpec) -> list[ResetRule]:
    """The rules in the order of the file."""
    return [rule.build(spec.ticks_per_s) for rule in spec.rules]


def build_source(spec: PipelineSpec, context: Context, decoder: Codec) -> Source:
    """The opened source. Raises `SourceError`, or `OptionError` with paths into the file."""
    source: Source = spec.source.build(context, _framing(decoder, spec.file.limits.max_line_bytes))
    return source


def load_backend(spec: PipelineSpec, context: Context) -> Backend:
    """The loaded and opened model as its component made it. Raises `ModelError` or `ConfigError`."""
    context = spec.trusting(context)
    try:
        backend: Backend = spec.model.build(spec.given, context)
    except OptionError as error:
        raise ConfigError(from_option_error(error, (), spec.tree)) from error
    check_description(spec, backend)
    backend.open()
    deadline_s = spec.file.limits.step_deadline_s
    return backend if deadline_s is None else Timed(backend, deadline_s)


def build_backend(spec: PipelineSpec, context: Context) -> tuple[Backend, Verdict]:
    """The loaded, opened and probed model. Raises `ModelError` or `ConfigError`."""
    backend = load_backend(spec, context)
    if backend.max_rows is not None:
        backend = Chunked(backend)
    verdict = probe(backend)
    if spec.file.numerics == "batch_invariant" and verdict.numerics != "batch_invariant":
        reasons = "; ".join(verdict.reasons)
        raise ModelError(
            "numerics: batch_invariant was asked for, but this model's answers depend on the batch: "
            f"{reasons}. Write numerics: approximate to run it all the same"
        )
    if verdict.numerics == "approximate" and spec.file.numerics is None:
        context.log.warning("numerics: approximate; %s", "; ".join(verdict.reasons))
    backend = settle(backend, verdict)
    if spec.file.model.context:
        backend = WithContext(backend, spec.file.model.context)
    return backend, verdict


def build_candidate(spec: PipelineSpec, context: Context, model: Backend) -> Beside | None:
    """The candidate beside a loaded model, if there is one.

    Raises `ModelError` or `ConfigError`, also if its inputs or outputs are others.
    """
    if spec.candidate is None or spec.file.candidate is None:
        return None
    backend, verdict = build_backend(replace(spec, model=spec.candidate), context)
    found, wanted = (Description(each.inputs, each.outputs) for each in (backend, model))
    if problems := list(checks.candidate_problems(wanted, found)):
        backend.close()
        raise ConfigError([problem(spec.tree, path, message) for path, message in problems])
    return Beside(backend, verdict, Tally(spec.file.candidate.tolerance))


def check_description(spec: PipelineSpec, backend: Backend | Offline) -> None:
    """What `lint` could not see when the backend describes itself only once it is loaded."""
    if spec.description is not None:
        return
    outputs = {tensor.name: tensor for tensor in backend.outputs}
    found = [*checks.model_problems(spec, backend.inputs), *checks.encode_problems(spec, outputs)]
    if found:
        raise ConfigError([problem(spec.tree, path, message) for path, message in found])


def core_limits(spec: PipelineSpec) -> Limits:
    """The limits of the file, times in the rules' ticks."""
    limits, ticks = spec.file.limits, spec.ticks_per_s
    return Limits(
        max_keys=limits.max_keys,
        refuse_new=limits.on_full == "refuse",
        idle=None if limits.idle_s is None else int(limits.idle_s * ticks),
        max_ahead=None if limits.max_ahead_s is None else int(limits.max_ahead_s * ticks),
        max_state_norm=limits.max_state_norm,
        max_value_bytes=limits.max_value_bytes,
        remember_evicted=limits.remember_evicted,
        hot_keys=spec.file.state.hot_keys,
        guard=limits.guard,
    )


def order_policy(spec: PipelineSpec) -> Policy | None:
    """How events come into order; None if they are served as they arrive, whatever they are."""
    order, limits = spec.file.order, core_limits(spec)
    if order is None or (order.type == "arrival" and order.duplicates is None):
        return None
    behind = None if order.max_behind_s is None else int(order.max_behind_s * spec.ticks_per_s)
    return Policy(
        behind,
        limits.max_ahead,
        order.late,
        order.on_full,
        order.max_held_events,
        order.max_held_bytes,
        order.duplicates.remember if order.duplicates else None,
        order.duplicates is not None and order.duplicates.then == "drop",
    )


def _decode(
    codec: Codec, spec: PipelineSpec, stage: EventStage, source: Source
) -> Callable[[Block], Columns]:
    """From blocks to fields; those that the source gives itself, a record that is given for a test holds."""
    paths = tuple(dict.fromkeys((*stage.fields, *spec.file.encode.include)))
    given = set(getattr(spec.source.options, "record_fields", ())) & set(paths)
    if supply := getattr(source, "supply", None):
        with told_at(spec.source.path):
            given |= set(supply(paths))
    whole = _decoder(codec, spec, stage, frozenset())
    if not given:
        return whole
    partly = _decoder(codec, spec, stage, frozenset(given))

    def decode(block: Block) -> Columns:
        if not block.fields:
            return whole(block)
        columns = partly(block)
        columns.fields |= {path: block.fields[path] for path in given}
        return columns

    return decode


def _decoder(
    codec: Codec, spec: PipelineSpec, stage: EventStage, without: frozenset[str]
) -> Callable[[Block], Columns]:
    """A decoder of all fields but some; as arrays of numbers, where they are nothing else."""
    fields = [path for path in stage.fields if path not in without]
    include = [path for path in spec.file.encode.include if path not in without]
    verbatim = tuple(path for path in include if path not in fields)
    if decoder := getattr(codec, "array_decoder", None):
        arrays = {
            path: shape for path, shape in stage.arrays.items() if path not in include and path not in without
        }
        return decoder(fields, verbatim, arrays)  # type: ignore[no-any-return]
    return codec.decoder(fields, verbatim)


def _framing(codec: Codec, max_record_bytes: int) -> Any:
    def new_framer(position: int = 0) -> Framer:
        return codec.framer(max_record_bytes, position)

    return new_framer


def _attach(spec: PipelineSpec, sink: Sink, source: Source, encoder: Codec) -> None:
    """Show the source to a sink that answers on it."""
    if attach := getattr(sink, "attach", None):
        with told_at(spec.sink.path):
            attach(source, encoder.encoder())
