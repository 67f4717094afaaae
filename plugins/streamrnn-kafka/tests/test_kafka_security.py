"""Brokers behind TLS and passwords: who gets in, who does not and hears why, and what stays secret."""

import json

import kafka_broker as kafka
import pytest
from guarded_broker import USERS, guarding, server_context
from test_kafka_group import brokers
from test_kafka_live import records
from test_kafka_log_pipeline import PARTS, REGISTRY, context_at
from tls_parts import certificates

from streamrnn.build import build_pipeline
from streamrnn.cli.echo import normalised, to_yaml
from streamrnn.commit.job import build_job, described
from streamrnn.config.checks import file_problems
from streamrnn.config.load import load_pipeline
from streamrnn.errors import ConfigError, OptionError, SinkError, SourceError
from streamrnn.pipeline import run

BROKER = pytest.mark.skipif(
    kafka.MISSING is not None or kafka.GIVEN is not None,
    reason=kafka.MISSING or "the guard in front of the broker knows only where noida-db says it is",
)
__all__ = ["brokers"]
PASSWORD = USERS["streams"]
SASL = "{mechanism: SCRAM-SHA-512, username: streams, password: '${PASSWORD}'}"
ENV = {"PASSWORD": PASSWORD}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def topic(brokers):
    made = kafka.name("in")
    kafka.run(kafka.make_topics(brokers, **{made: 1}))
    kafka.run(kafka.put(brokers, made, records(0, 6, 1)))
    return made


def spec_of(folder, text_or_parts, env=ENV):
    text = text_or_parts
    if isinstance(text, dict):
        text = "".join(f"{name}: {part}\n" for name, part in (PARTS | text).items())
    context, _ = context_at(folder)
    return load_pipeline(text, "p.yaml", REGISTRY, context, env), context


def end(kind, address, topic, **more):
    """An end of a pipeline file."""
    extra = {"delivery": "at_least_once"} if kind == "sink" else {}
    options = {"type": "kafka", "brokers": f'"{address}"', "topic": topic, **extra, **more}
    return {kind: "{" + ", ".join(f"{name}: {value}" for name, value in options.items()) + "}"}


NO_EVENTS = {
    "source": "{type: file, path: none.jsonl}",
    "event": "{key: k, inputs: {x: [{field: x}]}}",
    "encode": "{type: jsonl}",
}


def opened(folder, kind, *args, env=ENV, **more):
    """The answers to the six records, by a pipeline with such a source; none by one with such a sink."""
    parts = end(kind, *args, **more) | (NO_EVENTS if kind == "sink" else {})
    spec, context = spec_of(folder, parts, env)
    (folder / "none.jsonl").write_text("")
    pipeline, seen = build_pipeline(spec, REGISTRY, context), [0]

    def told(report):
        seen[0] += report.outputs

    run(pipeline, lambda: seen[0] == 6, told)
    if kind == "sink":
        return []
    return [json.loads(line)["y"] for line in (folder / "out.txt").read_text().splitlines()]


ALL = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


def tls(files, ca="ca", shown=None):
    named = {"ca": files[ca]} | ({"cert": files[shown], "key": files[f"{shown}.key"]} if shown else {})
    return "{" + ", ".join(f"{name}: {path}" for name, path in named.items()) + "}"


@BROKER
@pytest.mark.parametrize(
    ("shows", "client_ca", "client", "refused"),
    [
        ("good", None, {}, None),
        ("good", "ca", {"shown": "good"}, None),
        ("good", None, {"ca": "strangers_ca"}, "CERTIFICATE_VERIFY_FAILED"),
        ("expired", None, {}, "certificate has expired"),
        ("other_name", None, {}, "IP address mismatch"),
        ("good", "ca", {}, "Unable"),
        ("good", "ca", {"shown": "stranger"}, "Unable"),
        ("good", "ca", {"shown": "expired"}, "Unable"),
    ],
)
@pytest.mark.parametrize("kind", ["source", "sink"])
def test_certificates(brokers, topic, files, tmp_path, kind, shows, client_ca, client, refused):
    context = server_context(files[shows], files[f"{shows}.key"], client_ca and files[client_ca])
    with guarding(brokers, context) as address:
        options = {"tls": tls(files, **client)}
        if refused is not None:
            with pytest.raises((SourceError, SinkError), match=refused):
                opened(tmp_path, kind, address, topic, **options)
        else:
            assert opened(tmp_path, kind, address, topic, **options) == (ALL if kind == "source" else [])


@BROKER
@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
@pytest.mark.parametrize("by_file", [True, False])
def test_passwords(brokers, topic, files, tmp_path, mechanism, by_file):
    (tmp_path / "password").write_text(PASSWORD + "\n")
    secret = "password_file: password" if by_file else "password: '${PASSWORD}'"
    sasl = f"{{mechanism: {mechanism}, username: streams, {secret}}}"
    with guarding(brokers, server_context(files["good"], files["good.key"]), sasl=True) as address:
        assert opened(tmp_path, "source", address, topic, sasl=sasl, tls=tls(files)) == ALL
        (tmp_path / "password").write_text("another")
        for kind, error in (("source", SourceError), ("sink", SinkError)):
            with pytest.raises(error, match="no such password") as raised:
                opened(tmp_path, kind, address, topic, sasl=sasl, tls=tls(files), env={"PASSWORD": "another"})
            assert "another" not in str(raised.value)
        with pytest.raises(SourceError, match="Unable to bootstrap"):
            opened(tmp_path, "source", address, topic, tls=tls(files))


@BROKER
def test_passwords_without_tls(brokers, topic, tmp_path):
    with guarding(brokers, sasl=True) as address:
        assert opened(tmp_path, "source", address, topic, sasl=SASL) == ALL
        with pytest.raises(SourceError, match="Unable to bootstrap"):
            opened(tmp_path, "source", address, topic)


@BROKER
def test_a_group_and_transactions_behind_both(brokers, topic, files, tmp_path):
    out = kafka.name("out")
    kafka.run(kafka.make_topics(brokers, **{out: 1}))
    with guarding(brokers, server_context(files["good"], files["good.key"]), sasl=True) as address:
        both = {"tls": tls(files), "sasl": SASL}
        group = {"group": kafka.name("g")}
        parts = end("source", address, topic, **both, **group) | end("sink", address, out, **both)
        parts["sink"] = parts["sink"].replace("at_least_once", "exactly_once")
        spec, context = spec_of(tmp_path, parts | {"checkpoint": "{dir: job, every_s: 0.2}"})
        seen = [0]

        def told(report):
            seen[0] += report.outputs

        run(build_job(spec, REGISTRY, context), lambda: seen[0] == 6, told)
    found = kafka.run(kafka.found(brokers, out))
    assert [json.loads(value)["y"] for _, _, value, _ in found[0]] == ALL


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"sasl": SASL.replace("${PASSWORD}", "plain")}, "expected a reference such as ${NAME}"),
        ({"sasl": SASL.replace("${PASSWORD}", "${PASSWORD:-plain}")}, "expected a reference such as ${NAME}"),
        ({"sasl": SASL.replace("SCRAM-SHA-512", "PLAIN")}, "password in plain text to another machine"),
        ({"sasl": "{mechanism: PLAIN, username: u}", "tls": "{}"}, "password_file, found neither"),
        ({"sasl": SASL.replace("}'}", "}', password_file: f}")}, "password_file, found both"),
        ({"tls": "{cert: c.pem}"}, "expected cert and key together"),
    ],
)
@pytest.mark.parametrize("kind", ["source", "sink"])
def test_what_is_refused_before_anything_is_connected_to(tmp_path, kind, options, told):
    with pytest.raises(ConfigError) as raised:
        spec_of(tmp_path, end(kind, "broker.example:9092", "t", **options))
    assert told in str(raised.value)
    assert PASSWORD not in str(raised.value)


def test_what_is_wrong_with_files_is_told_at_once(tmp_path):
    for name, text in (("ca", "nothing"), ("password", "one\ntwo\n")):
        (tmp_path / name).write_text(text)
    sasl = "{mechanism: PLAIN, username: u, password_file: password}"
    parts = end("source", "a.example:1", "t", sasl=sasl, tls="{ca: ca, cert: c, key: k}")
    spec, context = spec_of(tmp_path, parts)
    assert [path for path, _ in file_problems(spec, context)] == [
        ("source", "tls", "cert"),
        ("source", "tls", "key"),
    ]
    with pytest.raises((ConfigError, OptionError)) as raised:
        build_pipeline(spec, REGISTRY, context)
    for part in ("expected a CERTIFICATE", "cannot read", "expected one line, the password"):
        assert part in str(raised.value)


def test_a_password_is_shown_and_kept_nowhere(tmp_path):
    spec, _ = spec_of(tmp_path, end("source", "a.example:1", "t", sasl=SASL, tls="{}"))
    assert PASSWORD not in to_yaml(normalised(spec))
    assert "${PASSWORD}" in to_yaml(normalised(spec))
    assert PASSWORD not in repr(spec.source) + repr(spec.source.options) + json.dumps(
        described(spec), default=str
    )
