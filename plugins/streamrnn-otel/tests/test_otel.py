"""What a collector hears of pipelines: over HTTP as protobuf, and before that in memory."""

import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from streamrnn_otel import Observer, telemetry
from streamrnn_otel.numbers import Rising
from streamrnn_otel.settings import is_wanted

from streamrnn.conformance import check_light_import
from streamrnn.errors import PluginError
from streamrnn.events import Origin, Rejected, Report
from streamrnn.hookspecs import PipelineInfo

PIPELINE = """
name: sums
plugins: [otel]
source: {type: file, path: in.jsonl}
decode: {type: jsonl}
event: {key: k, inputs: {x: [{field: x}]}}
model: {type: formula, state: {H: 0}, update: {H: H + x}, output: {y: H}}
encode: {type: jsonl, include: [k]}
sink: {type: file, path: out.jsonl}
dead_letter: {path: refused.jsonl}
checkpoint: {dir: state, every_s: 0}
limits: {max_batch_events: 4, max_keys: 2}
"""
A, B = (PipelineInfo(name, "formula", "batch_invariant") for name in "ab")


class Collector(BaseHTTPRequestHandler):
    """Keeps what it is sent."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        kind = {"/v1/metrics": ExportMetricsServiceRequest, "/v1/traces": ExportTraceServiceRequest}[
            self.path
        ]
        self.server.heard.append((self.headers, kind.FromString(body)))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *given):
        """Nobody reads it."""


@pytest.fixture
def collector():
    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        server.heard = []
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def run(folder, port, *command, **env):
    (folder / "p.yaml").write_text(PIPELINE)
    lines = [{"k": f"k{i % 3}", "x": i} for i in range(9)] + ["no event"]
    (folder / "in.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    found = kept | {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}"} | env
    return subprocess.run(
        [sys.executable, "-m", "streamrnn", *(command or ("run", str(folder / "p.yaml")))],
        env=found,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )


def attributes(found):
    values = {each.key: each.value for each in found}
    return {key: value.string_value or value.int_value for key, value in values.items()}


def of(heard, kind):
    return [message for _, message in heard if isinstance(message, kind)]


def test_a_collector_hears_what_a_run_did(tmp_path, collector):
    headers = {"OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20t"}
    run(tmp_path, collector.server_port, OTEL_TRACES_SAMPLER="always_on", **headers)
    assert {each["authorization"] for each, _ in collector.heard} == {"Bearer t"}
    resource = of(collector.heard, ExportMetricsServiceRequest)[-1].resource_metrics[0]
    assert attributes(resource.resource.attributes)["service.name"] == "streamrnn"
    points = {}
    for metric in resource.scope_metrics[0].metrics:
        data = getattr(metric, metric.WhichOneof("data"))
        for point in data.data_points:
            told = attributes(point.attributes)
            assert told.pop("streamrnn.pipeline") == "sums"
            points[(metric.name, *told.values())] = point
    numbers = {name: point.as_int for name, point in points.items() if hasattr(point, "as_int")}
    wanted = {"events": 10, "outputs": 9, "batches": 3, "keys.live": 2, "keys.evicted": 7, "up": 0}
    assert {name: numbers[(f"streamrnn.{name}",)] for name in wanted} == wanted
    assert numbers["streamrnn.rejected", "wrong_type"] == 1
    assert points[("streamrnn.batch.duration",)].count == 3
    assert numbers[("streamrnn.commits",)] == points[("streamrnn.commit.duration",)].count > 0
    assert {name[1] for name in points if name[0] == "streamrnn.time"} == {"read", "serve", "write", "commit"}


def test_it_hears_of_every_batch_that_is_sampled(tmp_path, collector):
    run(tmp_path, collector.server_port, OTEL_TRACES_SAMPLER="always_on", OTEL_METRICS_EXPORTER="none")
    assert not of(collector.heard, ExportMetricsServiceRequest)
    spans = [
        span
        for request in of(collector.heard, ExportTraceServiceRequest)
        for span in request.resource_spans[0].scope_spans[0].spans
    ]
    batches = [span for span in spans if span.name == "streamrnn.batch"]
    assert [attributes(span.attributes)["streamrnn.events"] for span in batches] == [4, 4, 2]
    for batch in batches:
        inside = [span for span in spans if span.parent_span_id == batch.span_id]
        assert [span.name for span in inside] == ["streamrnn.read", "streamrnn.serve", "streamrnn.write"]
        ends = [batch.start_time_unix_nano, *(span.end_time_unix_nano for span in inside)]
        assert [span.start_time_unix_nano for span in inside] == ends[:-1]
        assert ends[-1] <= batch.end_time_unix_nano + 1
    assert any(span.name == "streamrnn.commit" for span in spans)


def test_pipelines_of_a_daemon_share_what_sends_and_have_their_own_numbers(tmp_path, collector):
    for name, count in (("q", 3), ("r", 5)):
        text = (
            PIPELINE.replace("sums", name)
            .replace("in.jsonl", f"{name}.jsonl")
            .replace("dir: state", f"dir: {name}")
        )
        text = text.replace("out.jsonl", f"{name}.out").replace("refused.jsonl", f"{name}.refused")
        (tmp_path / f"{name}.yaml").write_text(text)
        (tmp_path / f"{name}.jsonl").write_text('{"k": "a", "x": 1}\n' * count)
    run(tmp_path, collector.server_port, "serve", str(tmp_path), "--no-admin")
    counted = {}
    for request in of(collector.heard, ExportMetricsServiceRequest):
        for metric in request.resource_metrics[0].scope_metrics[0].metrics:
            for point in metric.sum.data_points if metric.name == "streamrnn.events" else ():
                name = attributes(point.attributes)["streamrnn.pipeline"]
                counted[name] = max(point.as_int, counted.get(name, 0))
    assert counted == {"sums": 10, "q": 3, "r": 5}


def test_it_can_be_switched_off(tmp_path, collector):
    run(tmp_path, collector.server_port, OTEL_SDK_DISABLED="true")
    assert not collector.heard
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 9


@pytest.mark.slow
def test_without_a_collector_the_run_is_the_same_and_ends_soon(tmp_path):
    began_s = time.monotonic()
    run(tmp_path, 1)
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 9
    assert time.monotonic() - began_s < 30


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "expected http/protobuf, found grpc"),
        ("OTEL_TRACES_EXPORTER", "zipkin", "expected otlp or none, found zipkin"),
    ],
)
def test_what_cannot_be_done_as_asked_is_told_and_the_run_goes_on(tmp_path, collector, name, value, words):
    done = run(tmp_path, collector.server_port, **{name: value})
    assert f"{name}: {words}" in done.stderr
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 9
    assert not collector.heard


def test_a_signal_has_a_protocol_of_its_own():
    env = {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": "http/protobuf"}
    assert is_wanted("METRICS", env)
    with pytest.raises(PluginError, match="OTEL_EXPORTER_OTLP_PROTOCOL"):
        is_wanted("TRACES", env)
    assert not is_wanted("TRACES", env | {"OTEL_TRACES_EXPORTER": "none"})


@pytest.fixture
def heard():
    """An observer whose exports stay in memory, and a look at them: numbers by pipeline, and spans."""
    reader, spans = InMemoryMetricReader(), InMemorySpanExporter()
    made = telemetry.Telemetry([reader], [SimpleSpanProcessor(spans)], ALWAYS_ON)

    def numbers(name):
        data = reader.get_metrics_data()
        metrics = data.resource_metrics[0].scope_metrics[0].metrics
        (metric,) = (metric for metric in metrics if metric.name == f"streamrnn.{name}")
        return {
            tuple(point.attributes.values()): getattr(point, "value", None) or getattr(point, "count", 0)
            for point in metric.data.data_points
        }

    yield Observer(lambda: made), numbers, spans
    made.close()


def rejected(reason):
    return Rejected(Origin("file", "f"), 0, 1, reason, b"", 0)


def test_pipelines_are_counted_apart_also_when_they_begin_anew(heard):
    observer, numbers, _ = heard
    observer.streamrnn_pipeline_started(A)
    observer.streamrnn_pipeline_started(B)
    for evicted in (1, 5):
        observer.streamrnn_batch_done(A, Report(events=3, outputs=2, live_keys=evicted, evicted=evicted))
    observer.streamrnn_batch_done(B, Report(events=10, rejected=(rejected("not valid JSON: x"),) * 2))
    observer.streamrnn_checkpoint_done(B, 7, 10, 100, 0.5)
    assert numbers("events") == {("a",): 6, ("b",): 10}
    assert numbers("keys.live") == {("a",): 5, ("b",): 0}
    assert numbers("batch.duration") == {("a",): 2, ("b",): 1}
    assert sum(numbers("rejected").values()) == 2
    assert numbers("time")["b", "commit"] == 0.5
    observer.streamrnn_pipeline_stopped(A, ValueError("canary-3f9"))
    assert numbers("up") == {("a",): 0, ("b",): 1}
    observer.streamrnn_pipeline_started(A)  # built again after its failure, with cores that count from 0
    observer.streamrnn_batch_done(A, Report(events=1, evicted=2))
    assert numbers("keys.evicted") == {("a",): 7, ("b",): 0}
    assert numbers("failures") == {("a",): 1, ("b",): 0}
    assert numbers("up") == {("a",): 1, ("b",): 1}


def test_the_words_of_an_error_are_sent_to_nobody(heard):
    observer, _, spans = heard
    observer.streamrnn_pipeline_started(A)
    observer.streamrnn_pipeline_started(B)
    observer.streamrnn_pipeline_stopped(A, ValueError("canary-3f9"))
    (span,) = spans.get_finished_spans()
    assert span.attributes["error.type"] == "ValueError"
    assert "canary" not in span.to_json()


def test_a_pipeline_that_a_reload_put_in_place_need_not_be_started(heard):
    observer, numbers, _ = heard
    observer.streamrnn_batch_done(A, Report(events=3))
    assert numbers("events") == {("a",): 3}
    assert numbers("up") == {("a",): 1}


def sent(monkeypatch, batches, **env):
    """Spans of so many batches and one commit, as the variables have it."""
    spans = InMemorySpanExporter()
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    for name, value in ({"OTEL_METRICS_EXPORTER": "none"} | env).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(telemetry, "OTLPSpanExporter", lambda: spans)
    monkeypatch.setattr(telemetry, "BatchSpanProcessor", SimpleSpanProcessor)
    made = telemetry.telemetry()
    for _ in range(batches):
        made.batch(A, Report(events=1))
    made.commit(A, 1, batches, 10, 0.1)
    made.close()
    return Counter(span.name for span in spans.get_finished_spans())


def test_one_batch_of_a_hundred_has_spans_and_every_commit(monkeypatch):
    found = sent(monkeypatch, 3000)
    assert 5 < found["streamrnn.batch"] == found["streamrnn.write"] < 80
    assert found["streamrnn.commit"] == 1


@pytest.mark.parametrize(("sampler", "share"), [("always_on", 1), ("always_off", 0)])
def test_unless_the_variables_say_otherwise(monkeypatch, sampler, share):
    found = sent(monkeypatch, 20, OTEL_TRACES_SAMPLER=sampler)
    assert (found["streamrnn.batch"], found["streamrnn.commit"]) == (20 * share, share)


def test_the_last_one_to_stop_closes_it_and_the_next_one_begins_another():
    made = []

    def new():
        made.append(telemetry.Telemetry([InMemoryMetricReader()], []))
        return made[-1]

    observer = Observer(new)
    for pipeline in (A, B, A):
        observer.streamrnn_pipeline_started(pipeline)
    observer.streamrnn_pipeline_stopped(A, None)
    assert observer._telemetry is made[0]
    observer.streamrnn_pipeline_stopped(B, None)
    assert observer._telemetry is None
    observer.streamrnn_pipeline_started(A)
    assert len(made) == 2
    observer.streamrnn_pipeline_stopped(A, None)


def test_a_collector_that_answers_nothing_does_not_hold_up_a_stop(monkeypatch):
    never = threading.Event()

    class Stuck(SimpleSpanProcessor):
        def shutdown(self):
            never.wait(20)

    monkeypatch.setattr(telemetry, "LAST_S", 0.05)
    made = telemetry.Telemetry([], [Stuck(InMemorySpanExporter())])
    began_s = time.monotonic()
    made.close()
    never.set()
    assert time.monotonic() - began_s < 10


def test_a_count_that_falls_began_anew():
    rising, seen = Rising(), []
    for count in (0, 2, 5, 5, 1, 4, 0):
        rising.hear(count)
        seen.append(rising.total)
    assert seen == [0, 2, 5, 5, 6, 9, 9]


def test_until_a_pipeline_starts_nothing_of_the_sdk_is_loaded(tmp_path):
    check_light_import("streamrnn_otel")
    (tmp_path / "p.yaml").write_text(PIPELINE)
    (tmp_path / "in.jsonl").touch()
    code = (
        "import sys, streamrnn.cli\nsys.argv[1:] = ['lint', 'p.yaml']\n"
        "try: streamrnn.cli.main()\nexcept SystemExit as end: print(end.code)\n"
        "print('streamrnn_otel' in sys.modules, 'opentelemetry' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=60, capture_output=True, text=True
    )
    assert done.stdout.split() == ["0", "True", "False"]
