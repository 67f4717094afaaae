"""An observer that writes down what it is told, each hook with only some of its arguments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from streamrnn.events import Origin, Rejected, Report
from streamrnn.hookspecs import PipelineInfo, hookimpl

TOLD: list[tuple[Any, ...]] = []


@hookimpl
def streamrnn_pipeline_started(pipeline: PipelineInfo) -> None:
    """See `hookspecs`."""
    TOLD.append(("started", pipeline.name, pipeline.backend, pipeline.numerics))


@hookimpl
def streamrnn_batch_done(report: Report) -> None:
    """See `hookspecs`."""
    TOLD.append(("batch", report.events, report.outputs, report.live_keys, len(report.rejected)))


@hookimpl
def streamrnn_events_rejected(origin: Origin, rejected: Sequence[Rejected]) -> None:
    """See `hookspecs`."""
    TOLD.append(("rejected", origin.partition, [(event.number, event.reason) for event in rejected]))


@hookimpl
def streamrnn_pipeline_stopped(error: BaseException | None) -> None:
    """See `hookspecs`."""
    TOLD.append(("stopped", error))
