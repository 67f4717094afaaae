"""The stages between a decoded record and the core, and behind it: what makes inputs, and names outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from streamrnn import encode as e
from streamrnn.config import model as m
from streamrnn.config.spec import REFUSE_MISSING, SECONDS, Chosen, ElapsedItem, Item, PipelineSpec, told_at
from streamrnn.errors import OptionError
from streamrnn.event import EventStage, Reading, TimeReading
from streamrnn.limits import Elapsed

if TYPE_CHECKING:
    from streamrnn.backend import Backend, TensorSpec
    from streamrnn.context import Context
    from streamrnn.rules import Feature, MessageRule, ResetRule


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
            encoder = item.encoder.build(context) if item.encoder else None
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
        feature: Feature = chosen.build(context)
        with told_at(chosen.path):
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
