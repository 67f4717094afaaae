"""OpenTelemetry for streamrnn: metrics of every pipeline and spans of batches, by OTLP over HTTP.

What is heard once per batch is added to plain numbers; the SDK, which is imported when the first pipeline
starts, reads them when it is time to send.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import TYPE_CHECKING

from streamrnn.hookspecs import PipelineInfo, hookimpl

if TYPE_CHECKING:
    from streamrnn.events import Report
    from streamrnn_otel.telemetry import Telemetry

__all__ = ["Observer", "observer"]


def _new() -> Telemetry:
    from streamrnn_otel.telemetry import telemetry

    return telemetry()


class Observer:
    """Hears of all pipelines of the process that name the plugin; what it sends has one exporter for all.

    `new` makes that when the first one begins; it is closed when the last one has stopped. Hooks are called
    on each pipeline's own thread.
    """

    def __init__(self, new: Callable[[], Telemetry] = _new) -> None:
        self._new, self._lock = new, Lock()
        self._telemetry: Telemetry | None = None
        self._running: set[str] = set()

    @hookimpl
    def streamrnn_pipeline_started(self, pipeline: PipelineInfo) -> None:
        """Begin to send. Raises `PluginError` for variables that ask for what cannot be done."""
        self._of(pipeline).started(pipeline)

    @hookimpl
    def streamrnn_batch_done(self, pipeline: PipelineInfo, report: Report) -> None:
        """Count a batch, and make spans of it if it is sampled."""
        self._of(pipeline).batch(pipeline, report)

    @hookimpl
    def streamrnn_checkpoint_done(
        self, pipeline: PipelineInfo, number: int, events: int, bytes: int, duration_s: float
    ) -> None:
        """Count a commit, and make a span of it if it is sampled."""
        self._of(pipeline).commit(pipeline, number, events, bytes, duration_s)

    @hookimpl
    def streamrnn_pipeline_stopped(self, pipeline: PipelineInfo, error: BaseException | None) -> None:
        """Send what is left once no pipeline runs any more."""
        self._of(pipeline).stopped(pipeline, error)
        with self._lock:
            self._running.discard(pipeline.name)
            if self._running:
                return
            last, self._telemetry = self._telemetry, None
        if last is not None:
            last.close()

    def _of(self, pipeline: PipelineInfo) -> Telemetry:
        """A pipeline that is exchanged by a reload goes on without being started again."""
        found = self._telemetry
        if found is not None and pipeline.name in self._running:
            return found
        with self._lock:
            if self._telemetry is None:
                self._telemetry = self._new()
            self._running.add(pipeline.name)
            return self._telemetry


observer = Observer()
"""The entry point: every pipeline has hooks of its own, and all of them lead here."""
