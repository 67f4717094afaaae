"""The numbers of all pipelines as Prometheus reads them, put together when it asks."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from streamrnn.core.candidate import Tally
    from streamrnn.daemon.fleet import Fleet
    from streamrnn.daemon.hosted import Hosted
    from streamrnn.daemon.stats import Histogram, Stats

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def _compared(number: Callable[[Tally], float]) -> Callable[[Hosted], float | None]:
    """A number of what a candidate has answered, where there is one."""
    return lambda hosted: number(hosted.tally) if hosted.tally else None


_COUNTERS: dict[str, tuple[str, Callable[[Hosted], float]]] = {
    "events": ("Events read", lambda it: it.stats.events),
    "outputs": ("Events answered", lambda it: it.stats.outputs),
    "batches": ("Batches served", lambda it: it.stats.batches),
    "failures": ("Times that the pipeline failed and was closed", lambda it: it.failures),
    "commits": ("Commits made", lambda it: it.stats.commits),
    "evicted_keys": ("Keys that made room for others", lambda it: it.stats.evicted_keys),
    "expired_keys": ("Keys that were unheard for too long", lambda it: it.stats.expired_keys),
    "waves": ("Calls of the model for a wave: one event each of many keys", lambda it: it.stats.steps.waves),
    "wave_events": ("Events in waves; by waves, their width", lambda it: it.stats.steps.wave_events),
    "scans": ("Calls of the model for sequences of few keys", lambda it: it.stats.steps.scans),
    "scan_events": ("Events in them", lambda it: it.stats.steps.scan_events),
}
_GAUGES: dict[str, tuple[str, Callable[[Hosted], float | None]]] = {
    "up": ("Whether the pipeline serves", lambda it: it.state == "serving"),
    "live_keys": ("Keys that have a state", lambda it: it.stats.live_keys),
    "held_events": ("Events that wait for earlier ones", lambda it: it.stats.held),
    "released_keys": (
        "Keys evicted or expired since the pipeline last began",
        lambda it: it.stats.released_keys,
    ),
    "hot_key_depth": (
        "Events of the busiest key in the last batch, one behind the other",
        lambda it: it.stats.hot_key_depth,
    ),
    "event_age_seconds": (
        "How far the largest event time lies behind the clock",
        lambda it: it.stats.event_age_s,
    ),
    "commit_number": ("Number of the last commit", lambda it: it.stats.commit_number),
    "commit_events": ("Events that the last commit holds", lambda it: it.stats.commit_events),
    "commit_bytes": ("Bytes written for the last commit", lambda it: it.stats.commit_bytes),
    "commit_duration_seconds": (
        "From the moment of the last commit until it was on the disk",
        lambda it: it.stats.commit_s,
    ),
    "candidate_events": (
        "Events that the model and its candidate both answered, since that began",
        _compared(lambda tally: tally.events),
    ),
    "candidate_differing_events": (
        "Those of them whose answers are further apart than the tolerance",
        _compared(lambda tally: tally.differing),
    ),
    "candidate_answered_events": (
        "Events whose answer was the candidate's",
        _compared(lambda tally: tally.answered),
    ),
    "candidate_largest_distance": (
        "The largest |a - b| / (1 + |a|) of two answers",
        _compared(lambda tally: tally.largest),
    ),
    "turn_age_seconds": ("Since the pipeline last came to the end of a turn", lambda it: it.turn_age_s),
}
_LABELLED: dict[str, tuple[str, str, Callable[[Stats], dict[str, int]]]] = {
    "rejected": ("Events refused, by the code of the reason", "reason", lambda stats: stats.rejected),
    "resets": ("Outputs that tell of a reset, by its cause", "cause", lambda stats: stats.resets),
}
_HISTOGRAMS: dict[str, tuple[str, Callable[[Stats], Histogram]]] = {
    "serve_seconds": ("From reading a batch to its answers", lambda stats: stats.serve_s),
    "write_seconds": ("What the sink took for a batch", lambda stats: stats.write_s),
    "batch_events": ("Events of a batch", lambda stats: stats.batch_events),
}


class Collector:
    """Asks each pipeline for its numbers; a registry calls it."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def collect(self) -> Iterator[Metric]:
        """See `prometheus_client.registry.Collector`."""
        pipelines = list(self._fleet)
        for name, (told, number) in _COUNTERS.items():
            family = CounterMetricFamily(f"streamrnn_{name}", told, labels=["pipeline"])
            for hosted in pipelines:
                family.add_metric([hosted.name], number(hosted))
            yield family
        for name, (told, value) in _GAUGES.items():
            gauge = GaugeMetricFamily(f"streamrnn_{name}", told, labels=["pipeline"])
            for hosted in pipelines:
                if (found := value(hosted)) is not None:
                    gauge.add_metric([hosted.name], float(found))
            yield gauge
        for name, (told, label, counts) in _LABELLED.items():
            family = CounterMetricFamily(f"streamrnn_{name}", told, labels=["pipeline", label])
            for hosted in pipelines:
                for what, count in sorted(counts(hosted.stats).copy().items()):
                    family.add_metric([hosted.name, what], count)
            yield family
        for name, (told, histogram) in _HISTOGRAMS.items():
            yield _histogram(f"streamrnn_{name}", told, pipelines, histogram)
        yield _lags(pipelines)
        yield _infos(pipelines)


def _histogram(
    name: str, told: str, pipelines: list[Hosted], histogram: Callable[[Stats], Histogram]
) -> HistogramMetricFamily:
    family = HistogramMetricFamily(name, told, labels=["pipeline"])
    for hosted in pipelines:
        found = histogram(hosted.stats)
        bounds = [*map(str, found.bounds), "+Inf"]
        buckets = list(zip(bounds, accumulate(found.counts.copy()), strict=True))
        family.add_metric([hosted.name], buckets, found.total)
    return family


def _lags(pipelines: list[Hosted]) -> Metric:
    labels = ["pipeline", "partition", "unit"]
    family = GaugeMetricFamily("streamrnn_source_lag", "What is there and was not read", labels=labels)
    for hosted in pipelines:
        unit, found = hosted.lag()
        for partition, behind in sorted(found.items()):
            family.add_metric([hosted.name, partition, unit], behind)
    return family


def _infos(pipelines: list[Hosted]) -> InfoMetricFamily:
    family = InfoMetricFamily("streamrnn_pipeline", "What is served", labels=["pipeline"])
    for hosted in pipelines:
        family.add_metric([hosted.name], {name: value for name, value in hosted.identity().items() if value})
    return family


class Metrics:
    """The page of metrics of one daemon, with a registry of its own."""

    def __init__(self, fleet: Fleet) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(Collector(fleet))
        ProcessCollector(registry=self._registry)

    def page(self) -> bytes:
        """The page, in the format of `CONTENT_TYPE`."""
        return generate_latest(self._registry)
