"""Reset rules that have no reach: that contradict themselves, or that can never fire."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from streamrnn.builtins import resets

if TYPE_CHECKING:
    from streamrnn.config.model import PipelineFile
    from streamrnn.config.spec import Chosen


def out_of_reach(rules: Sequence[Chosen], file: PipelineFile) -> Iterator[tuple[Chosen, str]]:
    """Pairs of a rule and why it has no reach."""
    counts = [rule.options.events for rule in rules if isinstance(rule.options, resets.Every)]
    for rule in rules:
        options = rule.options
        if isinstance(options, resets.OnValue):
            yield from ((rule, why) for why in _contradictions(options))
        elif isinstance(options, resets.Every) and options.events > min(counts):
            yield rule, f"can never fire: another rule resets every {min(counts)} events"
        elif isinstance(options, resets.Gap | resets.Age | resets.Calendar) and 1 in counts:
            yield rule, "can never change anything: another rule resets at every event"
        elif isinstance(options, resets.OnChange):
            key = file.event.key
            if options.field in (key if isinstance(key, list) else [key]):
                yield (
                    rule,
                    f"can never fire: '{options.field}' is part of the key, so it never changes in one",
                )
        if isinstance(options, resets.Gap) and file.limits.idle_s and options.gap_s >= file.limits.idle_s:
            yield (
                rule,
                f"can never fire: limits.idle_s forgets the key after {file.limits.idle_s:g} s already",
            )


def _contradictions(options: resets.OnValue) -> Iterator[str]:
    above, below, values = options.above, options.below, options.values
    if values is not None and not values:
        yield "can never fire: the list of values is empty"
    if above is not None and below is not None and above >= below:
        yield f"can never fire: no number is above {above:g} and below {below:g}"
    elif values and (above is not None or below is not None):
        numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
        if not any((above is None or v > above) and (below is None or v < below) for v in numbers):
            yield "can never fire: none of the values lies within the bounds"
