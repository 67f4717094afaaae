"""What a pipeline may take of memory and disk, as its file says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from streamrnn.errors import OptionError
from streamrnn.memory import available_bytes, in_words
from streamrnn.reserve import Reserve

if TYPE_CHECKING:
    from streamrnn.cold import ColdStore
    from streamrnn.config.spec import PipelineSpec
    from streamrnn.context import Context
    from streamrnn.core import Shards

_FEWER = "lower it, or let silent keys go to the disk with state: {tiers: [memory, disk]}"


def check_memory(spec: PipelineSpec, context: Context, shards: Shards) -> None:
    """Tell if keys may need more memory than there is. Raises `OptionError` if it is more than allowed."""
    needed, limits, hot = shards.footprint_bytes, spec.file.limits, spec.file.state.hot_keys
    held = f"limits.max_keys = {limits.max_keys}" if hot is None else f"state.hot_keys = {hot}"
    each = ", for each partition" if shards.partitioned else ""
    told = f"keys may need about {in_words(needed)} of memory{each}, by {held}"
    if limits.max_memory_bytes is not None:
        if needed > limits.max_memory_bytes:
            raise OptionError((("limits", "max_memory_bytes"), f"{told}; {_FEWER}"))
        return
    there = available_bytes(context.fs)
    if there is not None and needed > there:
        context.log.warning("%s; there are %s: %s", told, in_words(there), _FEWER)


def reserve_of(spec: PipelineSpec, context: Context) -> Reserve:
    """What halts reading before the disks are full that a pipeline writes to."""
    return Reserve(_written(spec, context), spec.file.limits.disk_reserve_bytes, context)


def _written(spec: PipelineSpec, context: Context) -> list[Path]:
    """Files and folders that grow while a pipeline runs; ends name theirs in `written_paths`."""
    file = spec.file
    names = [
        file.dead_letter and file.dead_letter.path,
        file.checkpoint and file.checkpoint.dir,
        file.state.dir,
    ]
    for chosen in (spec.source, spec.sink):
        names += getattr(chosen.options, "written_paths", ())
    return [context.path(name) for name in names if name]


def cold_opener(spec: PipelineSpec, context: Context) -> Callable[[], ColdStore | None]:
    """What gives each core a place for its cold keys, if there is a tier for them."""
    folder = spec.file.state.dir
    if folder is None:
        return lambda: None
    return context.cold(context.path(folder), spec.file.limits.idle_s is not None)
