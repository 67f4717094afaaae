"""Plain numbers and batches as OpenTelemetry has them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from random import Random
from threading import Thread
from typing import TYPE_CHECKING, Any

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import AlwaysOffExemplarFilter, MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import Sampler
from opentelemetry.trace import Status, StatusCode, set_span_in_context

from streamrnn import __version__
from streamrnn_otel.numbers import Numbers
from streamrnn_otel.settings import is_wanted

if TYPE_CHECKING:
    from streamrnn.events import Report
    from streamrnn.hookspecs import PipelineInfo

SHARE = 0.01
"""Of the batches that the SDK is asked to make spans of, unless OTEL_TRACES_SAMPLER says how to choose. Its
own samplers take 6 microseconds to say no."""
LAST_S = 2.0
"""How long a pipeline that stops waits for what is left to be sent."""
_NAME = "streamrnn.pipeline"
_SECONDS = (0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)

Value = Callable[[Numbers], float]
_COUNTERS: Mapping[str, tuple[str, str, Value]] = {
    "events": ("{event}", "events that were read", lambda n: n.events),
    "outputs": ("{output}", "outputs that were written", lambda n: n.outputs),
    "batches": ("{batch}", "batches", lambda n: n.batches),
    "keys.evicted": ("{key}", "keys that made room for others", lambda n: n.evicted.total),
    "keys.expired": ("{key}", "keys that were silent for too long", lambda n: n.expired.total),
    "commits": ("{commit}", "commits", lambda n: n.commits),
    "commit.size": ("By", "bytes written for commits", lambda n: n.commit_bytes),
    "failures": ("{failure}", "times that the pipeline ended with an error", lambda n: n.failures),
}
_GAUGES: Mapping[str, tuple[str, str, Value]] = {
    "keys.live": ("{key}", "keys with a state", lambda n: n.live_keys),
    "events.held": ("{event}", "events that wait for earlier ones", lambda n: n.held),
    "up": ("1", "1 while the pipeline runs", lambda n: n.up),
}


def telemetry() -> Telemetry:
    """What sends by OTLP over HTTP, as the variables of the process say. Raises `PluginError`."""
    env = os.environ
    wants_traces, wants_metrics = is_wanted("TRACES", env), is_wanted("METRICS", env)
    readers = [PeriodicExportingMetricReader(OTLPMetricExporter())] if wants_metrics else []
    processors = [BatchSpanProcessor(OTLPSpanExporter())] if wants_traces else []
    return Telemetry(readers, processors, share=1.0 if env.get("OTEL_TRACES_SAMPLER") else SHARE)


class Telemetry:
    """The numbers and spans of all pipelines.

    A `share` of the batches comes before the sampler, which is that of the process's variables if it is None.
    """

    def __init__(
        self,
        readers: Sequence[MetricReader],
        processors: Sequence[SpanProcessor],
        sampler: Sampler | None = None,
        share: float = 1.0,
    ) -> None:
        resource = Resource.create({} if _is_named() else {SERVICE_NAME: "streamrnn"})
        self._numbers: dict[str, Numbers] = {}
        self._meters = MeterProvider(
            readers, resource, shutdown_on_exit=False, exemplar_filter=AlwaysOffExemplarFilter()
        )
        self._tracers = TracerProvider(sampler, resource, shutdown_on_exit=False)
        for processor in processors:
            self._tracers.add_span_processor(processor)
        self._traces, self._share, self._rng = bool(processors), share, Random()
        self._tracer = self._tracers.get_tracer("streamrnn", __version__)
        self._instruments()

    def started(self, pipeline: PipelineInfo) -> None:
        """It runs."""
        self._of(pipeline).up = 1

    def batch(self, pipeline: PipelineInfo, report: Report) -> None:
        """A batch was written."""
        self._of(pipeline).add(report)
        named = {_NAME: pipeline.name}
        self._duration.record(report.serve_s + report.write_s, named)
        if self._traces and self._rng.random() < self._share:
            counts = {
                **named,
                "streamrnn.events": report.events,
                "streamrnn.outputs": report.outputs,
                "streamrnn.rejected": len(report.rejected),
            }
            phases = {"read": report.read_s, "serve": report.serve_s, "write": report.write_s}
            self._span("streamrnn.batch", counts, phases)

    def commit(self, pipeline: PipelineInfo, number: int, events: int, size: int, duration_s: float) -> None:
        """A commit is on the disk."""
        numbers, named = self._of(pipeline), {_NAME: pipeline.name}
        numbers.commits += 1
        numbers.commit_bytes += size
        numbers.phases["commit"] += duration_s
        self._commit_duration.record(duration_s, named)
        if self._traces:
            told = {**named, "streamrnn.commit": number, "streamrnn.events": events, "streamrnn.bytes": size}
            self._span("streamrnn.commit", told, {"": duration_s})

    def stopped(self, pipeline: PipelineInfo, error: BaseException | None) -> None:
        """It has ended, well or with an error; what that says may be secret, and is for the log alone."""
        numbers = self._of(pipeline)
        numbers.up = 0
        if error is None:
            return
        numbers.failures += 1
        if self._traces:
            named = {_NAME: pipeline.name, "error.type": type(error).__qualname__}
            span = self._tracer.start_span("streamrnn.failure", attributes=named)
            span.set_status(Status(StatusCode.ERROR))
            span.end()

    def close(self) -> None:
        """Send what is left, for `LAST_S` at most: a collector that is gone must not hold up a stop."""
        last = Thread(target=self._shut_down, name="streamrnn-otel", daemon=True)
        last.start()
        last.join(LAST_S)

    def _shut_down(self) -> None:
        self._meters.shutdown(LAST_S * 1000)
        self._tracers.shutdown()

    def _span(self, name: str, attributes: Mapping[str, Any], phases: Mapping[str, float]) -> None:
        """A span that ends now, with one in it for each phase, one behind the other."""
        end_ns = time.time_ns()
        at_ns = end_ns - int(sum(phases.values()) * 1e9)
        span = self._tracer.start_span(name, attributes=attributes, start_time=at_ns)
        if span.is_recording():
            context = set_span_in_context(span)
            for phase, seconds in phases.items():
                next_ns = at_ns + int(seconds * 1e9)
                if phase:
                    self._tracer.start_span(f"streamrnn.{phase}", context, start_time=at_ns).end(next_ns)
                at_ns = next_ns
        span.end(end_ns)

    def _of(self, pipeline: PipelineInfo) -> Numbers:
        found = self._numbers.get(pipeline.name)
        if found is None:
            found = self._numbers[pipeline.name] = Numbers(up=1)
        return found

    def _instruments(self) -> None:
        meter = self._meters.get_meter("streamrnn", __version__)
        for name, (unit, description, value) in _COUNTERS.items():
            meter.create_observable_counter(f"streamrnn.{name}", [self._each(value)], unit, description)
        for name, (unit, description, value) in _GAUGES.items():
            meter.create_observable_gauge(f"streamrnn.{name}", [self._each(value)], unit, description)
        meter.create_observable_counter(
            "streamrnn.rejected", [self._rejected], "{event}", "events that were refused, by code"
        )
        meter.create_observable_counter(
            "streamrnn.time", [self._phases], "s", "time that went into reading, serving, writing, commits"
        )
        self._duration = meter.create_histogram(
            "streamrnn.batch.duration",
            "s",
            "from a batch being read to its outputs being handed to the sink",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self._commit_duration = meter.create_histogram(
            "streamrnn.commit.duration",
            "s",
            "from the moment that a commit holds to its being on the disk",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )

    def _each(self, value: Value) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(options: CallbackOptions) -> Iterator[Observation]:
            for name, numbers in tuple(self._numbers.items()):
                yield Observation(value(numbers), {_NAME: name})

        return observe

    def _rejected(self, options: CallbackOptions) -> Iterator[Observation]:
        for name, numbers in tuple(self._numbers.items()):
            for code, count in dict(numbers.rejected).items():
                yield Observation(count, {_NAME: name, "streamrnn.code": code})

    def _phases(self, options: CallbackOptions) -> Iterator[Observation]:
        for name, numbers in tuple(self._numbers.items()):
            for phase, seconds in numbers.phases.items():
                yield Observation(seconds, {_NAME: name, "streamrnn.phase": phase})


def _is_named() -> bool:
    """Whether the process's variables name the service."""
    return "OTEL_SERVICE_NAME" in os.environ or "service.name=" in os.environ.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    )
