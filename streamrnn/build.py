"""From a `PipelineSpec` to a `Pipeline`: every part built by its component, none privileged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from streamrnn import encode as e
from streamrnn.backend import Description
from streamrnn.ceilings import check_memory, cold_opener, reserve_of
from streamrnn.config import checks
from streamrnn.config import model as m
from streamrnn.config.problems import Path, from_option_error, problem
from streamrnn.config.spec import REFUSE_MISSING, SECONDS, Chosen, ElapsedItem, Item, PipelineSpec
from streamrnn.core import Core, Shards
from streamrnn.core.candidate import Share, Tally, WithCandidate
from streamrnn.core.deadline import Timed
from streamrnn.core.probe import Verdict, probe, settle
from streamrnn.core.wrap import Chunked, WithContext
from streamrnn.errors import ConfigError, ModelError, OptionError
from streamrnn.event import EventStage, Reading, TimeReading
from streamrnn.limits import Elapsed, Limits
from streamrnn.line import Beside, Parts
from streamrnn.order.policy import Policy
from streamrnn.order.waiting import Waiting
from streamrnn.pipeline import Pipeline
from streamrnn.rejects import RejectFile, RejectLog

if TYPE_CHECKING:
    from streamrnn.backend import Backend, TensorSpec
    from streamrnn.context import Context
    from streamrnn.events import Block, Columns
    from streamrnn.offline import Offline
    from streamrnn.ports import Codec, Framer, Sink, Source
    from streamrnn.registry import Registry
    from streamrnn.rules import Feature, MessageRule, ResetRule


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
    elapsed, limits, policy = elapsed_features(spec, context), core_limits(spec), order_policy(spec)
    open_cold = cold_opener(spec, context)
    decoder: Codec = _build(spec.decode, context)
    encoder: Codec = _build(spec.encode, context)
    source = source or build_source(spec, context, decoder)
    opened.callback(source.close)
    decode = _decode(decoder, spec, stage, source)
    reserve = None
    if sink is None:  # else nothing is written
        reserve = reserve_of(spec, context)
    sink = sink or _build(spec.sink, context)
    opened.callback(sink.close)
    _attach(spec, sink, source, encoder)
    rejects = RejectFile(dead_letter.path, context) if dead_letter else RejectLog(context)
    beside = build_candidate(spec, context, backend)
    if beside is not None:
        opened.callback(beside.backend.close)
    if policy is not None:
        # Who is too far ahead was found out on arrival; in another order it would be others.
        limits = replace(limits, max_ahead=None)

    def new_core() -> Core:
        heads, most = getattr(decoder, "heads", None), spec.file.limits.max_batch_events
        waiting = None if policy is None else Waiting(policy, heads, most)
        if beside is None or spec.file.candidate is None:
            return Core(backend, rules, elapsed, limits, waiting, open_cold())
        return WithCandidate(
            *(backend, rules, elapsed, limits, waiting, open_cold()),
            candidate=Core(beside.backend, rules, elapsed, limits, waiting, open_cold()),
            share=Share(spec.file.candidate.share, spec.file.candidate.salt),
            tally=beside.tally,
            on_failure=partial(context.log.error, "the candidate serves no more: %s"),
        )

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


def reset_rules(spec: PipelineSpec) -> list[ResetRule]:
    """The rules in the order of the file."""
    return [_build(rule, spec.ticks_per_s) for rule in spec.rules]


def build_source(spec: PipelineSpec, context: Context, decoder: Codec) -> Source:
    """The opened source. Raises `SourceError`, or `OptionError` with paths into the file."""
    source: Source = _build(spec.source, context, _framing(decoder, spec.file.limits.max_line_bytes))
    return source


def load_backend(spec: PipelineSpec, context: Context) -> Backend:
    """The loaded and opened model as its component made it. Raises `ModelError` or `ConfigError`."""
    context = spec.trusting(context)
    try:
        backend: Backend = _build(spec.model, spec.given, context)
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


def event_stage(spec: PipelineSpec, backend: Backend, rules: list[ResetRule], context: Context) -> EventStage:
    """The stage that makes keys, times and inputs."""
    event = spec.file.event
    keys = [event.key] if isinstance(event.key, str) else event.key or []
    duplicates = spec.file.order.duplicates if spec.file.order else None
    wanted: dict[str, TensorSpec] = {tensor.name: tensor for tensor in backend.inputs}
    return EventStage(
        key_fields=tuple(keys),
        time=_time_reading(event.time) if event.time else None,
        inputs={name: _readings(items, context) for name, items in spec.inputs.items()},
        specs=wanted,
        rule_fields=tuple(sorted({path for rule in rules for path in (*rule.fields, *rule.previous_fields)})),
        max_key_bytes=spec.file.limits.max_key_bytes,
        id_fields=tuple(duplicates.paths) if duplicates else (),
        message_rules=tuple(cast("MessageRule", rule) for rule in rules if hasattr(rule, "message_fields")),
    )


def elapsed_features(spec: PipelineSpec, context: Context) -> list[Elapsed]:
    """The keyed features, each with the column it fills."""
    found = []
    for name, items in spec.inputs.items():
        column = 0
        for i, item in enumerate(items):
            if isinstance(item, ElapsedItem):
                scale = 1 / (SECONDS[item.unit] * spec.ticks_per_s)
                then = _chain(_features(item.then, 1, context))
                if then is not None and not np.isfinite(then(np.array([[item.first]]))).all():
                    text = f"expected a number that then can take, found {item.first:g}"
                    raise OptionError((("event", "inputs", name, i, "first"), text))
                found.append(Elapsed(name, column, scale, item.first, item.across_reset, then))
            column += item.width
    return found


def encode_stage(spec: PipelineSpec, backend: Backend) -> e.EncodeStage:
    """The stage that names an output record's columns."""
    fields = spec.file.encode.fields
    if fields is None:
        made: dict[str, e.Make] = {tensor.name: e.output(tensor.name) for tensor in backend.outputs}
    else:
        made = {name: _make(made) for name, made in fields.items()}
    return e.EncodeStage(tuple(spec.file.encode.include), made)


def _make(made: m.EncodedField) -> e.Make:
    match made:
        case m.Output():
            return e.output(made.output)
        case m.Argmax():
            return e.argmax(made.output, made.labels)
        case m.TopK():
            return e.top_k(made.output, made.k, made.labels, made.scores)
        case m.Threshold():
            return e.threshold(made.output, made.above)
        case m.Meta():
            return e.meta(made.name)


def _readings(items: list[Item], context: Context) -> list[Reading]:
    readings, start = [], 0
    for item in items:
        place = slice(start, start + item.width)
        start += item.width
        if isinstance(item, ElapsedItem):
            readings.append(Reading((), place))
            continue
        has_missing = item.missing is not REFUSE_MISSING
        takes = getattr(item.encoder.options, "takes", "") if item.encoder else ""
        numeric, width = takes == "numbers", len(item.fields)
        if item.encoder and numeric:
            encoder: Feature | None = _features([item.encoder], width, context)[0]
        else:
            encoder = _build(item.encoder, context) if item.encoder else None
        if item.encoder:
            width = item.encoder.options.width(width)  # type: ignore[attr-defined]
        length = width if takes == "list" else 0
        then = tuple(_features(item.then, width, context))
        missing = item.missing if has_missing else None
        readings.append(
            Reading(item.fields, place, missing, has_missing, encoder, numeric, length, then, item.range)
        )
    return readings


def _time_reading(time: m.Time) -> TimeReading:
    rfc3339 = time.unit == "rfc3339"
    per_unit = time.ticks_per_s // (1 if rfc3339 else m.Time.TICKS[time.unit])
    return TimeReading(time.field, rfc3339, per_unit)


def _features(chain: Sequence[Chosen], width: int, context: Context) -> list[Feature]:
    """Features over `width` numbers, each tried once: only now is it known whether files they read fit."""
    built = []
    for chosen in chain:
        feature: Feature = _build(chosen, context)
        with _told_at(chosen.path):
            feature.encode(np.zeros((1, width)), {})
        width = chosen.options.width(width)  # type: ignore[attr-defined]
        built.append(feature)
    return built


def _chain(steps: list[Feature]) -> Any:
    """The steps as one function; what they refuse becomes nan, which the core refuses."""
    if not steps:
        return None

    def then(values: Any) -> Any:
        refused: dict[int, str] = {}
        with np.errstate(over="ignore", invalid="ignore"):
            for step in steps:
                values = step.encode(np.ascontiguousarray(values), refused)
        values[list(refused)] = np.nan
        return values

    return then


def _decode(
    codec: Codec, spec: PipelineSpec, stage: EventStage, source: Source
) -> Callable[[Block], Columns]:
    """From blocks to fields; those that the source gives itself, a record that is given for a test holds."""
    paths = tuple(dict.fromkeys((*stage.fields, *spec.file.encode.include)))
    given = set(getattr(spec.source.options, "record_fields", ())) & set(paths)
    if supply := getattr(source, "supply", None):
        with _told_at(spec.source.path):
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
        with _told_at(spec.sink.path):
            attach(source, encoder.encoder())


def _build(chosen: Chosen, *args: Any) -> Any:
    """Build a component; what it says of its options is told with the path of its section."""
    with _told_at(chosen.path):
        return chosen.component.resolve("build")(chosen.options, *args)


@contextmanager
def _told_at(section: Path) -> Iterator[None]:
    try:
        yield
    except OptionError as error:
        raise OptionError(*((section + tuple(path), text) for path, text in error.problems)) from error
