"""The `http` source and sink, with clients that know nothing of it: http.client, httpx, and bare bytes.

STREAMRNN_THROWN=5000 throws as many broken requests at it.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import re
import socket
import ssl
import threading
from contextlib import contextmanager, suppress

import httpx
import pytest
from tls_parts import certificates

from streamrnn.build import build_pipeline
from streamrnn.commit.job import build_job
from streamrnn.config.load import load_pipeline
from streamrnn.errors import ConfigError, OptionError
from streamrnn.pipeline import run
from streamrnn.registry import Registry
from streamrnn.testing import quiet_context

REGISTRY = Registry([])
PIPELINE = """
source: {type: TYPE, listen: "tcp://127.0.0.1:0"MORE}
decode: DECODE
event: {key: k, inputs: {x: [{field: x}]}}
model: {type: formula, state: {s: 0}, update: {s: s + x}, output: {y: "1.0 * s"}}
encode: {type: jsonl, include: [k]}
sink: SINK
limits: {max_line_bytes: 200, max_batch_events: 8}
"""
LOG = ", durability: log, log: ingest"
THROWN = int(os.environ.get("STREAMRNN_THROWN", "150"))
"""How many mutations of valid requests are sent."""
TO_FILE = "{type: file, path: out.txt}"
JOB = "checkpoint: {dir: job, every_s: 0.05}\n"


def pipeline_of(more="", sink="{type: http}", kind="http", decode="{type: jsonl}"):
    words = {"TYPE": kind, "MORE": more, "SINK": sink, "DECODE": decode}
    return re.sub("|".join(words), lambda word: words[word[0]], PIPELINE)


@contextmanager
def serving(folder, more="", job=False, **parts):
    """Where a pipeline listens that runs meanwhile on a thread."""
    text = pipeline_of(more, **parts) + (JOB if job else "")
    context = quiet_context(base_dir=folder)
    spec = load_pipeline(text, "p.yaml", REGISTRY, context, {})
    pipeline = (build_job if job else build_pipeline)(spec, REGISTRY, context)
    stopped, failed = threading.Event(), []

    def running():
        try:
            run(pipeline, stopped.is_set, lambda report: None)
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=running)
    thread.start()
    try:
        yield pipeline.parts.source.addresses[0].removeprefix("tcp://")
    finally:
        stopped.set()
        thread.join()
        assert failed == []


def test_a_control_message_has_no_answer_of_its_own(tmp_path):
    with serving(tmp_path, more="}\nreset: [{type: control, field: op, equals: reset}]\n#") as address:
        events = lines({"k": "a", "x": 1}, {"op": "reset", "all": True}, {"k": "a", "x": 1}, {"op": "reset"})
        answers = told(httpx.post(f"http://{address}/events", content=events).content)
        assert answers[:2] == [{"k": "a", "y": 1.0}] * 2
        assert [each["refused"]["number"] for each in answers[2:]] == [4]
        alone = httpx.post(f"http://{address}/events", content=lines({"op": "reset", "glob": "a"}))
        assert (alone.status_code, alone.content) == (200, b"")


def lines(*events):
    return b"".join(json.dumps(event).encode() + b"\n" for event in events)


def told(body):
    return [json.loads(line) for line in body.splitlines()]


def bare(address, data, end=True):
    """What a server says to bytes, until it closes."""
    host, port = address.split(":")
    with socket.create_connection((host, int(port)), timeout=10) as client:
        client.sendall(data)
        if end:
            client.shutdown(socket.SHUT_WR)
        found = b""
        with suppress(ConnectionResetError):
            while data := client.recv(1 << 16):
                found += data
    return found


def request(body, *headers, path="/events", method="POST"):
    head = [f"{method} {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*head, "", ""]).encode() + body


def test_events_are_answered_with_their_outputs_in_order(tmp_path):
    with serving(tmp_path) as address, httpx.Client(base_url=f"http://{address}") as client:
        one = client.post("/events", content=b'{"k": "a", "x": 1}')
        assert (one.status_code, one.headers["content-type"]) == (200, "application/x-ndjson")
        assert one.json() == {"k": "a", "y": 1.0}
        many = client.post("/events", content=lines(*({"k": i % 3, "x": i} for i in range(50))))
        sums = [float(sum(range(i % 3, i + 1, 3))) for i in range(50)]
        assert told(many.content) == [{"k": i % 3, "y": y} for i, y in enumerate(sums)]
        mixed = client.post("/events", content=b'{"k": "a", "x": 2}\nnonsense\n\n{"k": "a", "x": 3}\n')
        answers = told(mixed.content)
        assert [answers[0], answers[2]] == [{"k": "a", "y": 3.0}, {"k": "a", "y": 6.0}]
        assert answers[1]["refused"]["number"] == 2


def test_the_standard_librarys_client_keeps_its_connection(tmp_path):
    with serving(tmp_path) as address:
        client = http.client.HTTPConnection(address, timeout=10)
        for i in range(20):
            client.request("POST", "/events?from=here", lines({"k": "a", "x": 1}))
            answer = client.getresponse()
            assert told(answer.read()) == [{"k": "a", "y": i + 1.0}]
        client.request("POST", "/events", iter([b'{"k": "a",', b' "x": 1}\n', b'{"k": "b", "x": 7}']))
        assert told(client.getresponse().read()) == [{"k": "a", "y": 21.0}, {"k": "b", "y": 7.0}]
        client.close()


def eight_at_once(talk, address):
    """Call `talk(address, name)` on eight threads, each with a name of its own."""
    threads = [threading.Thread(target=talk, args=(address, f"n{i}")) for i in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()


def test_many_at_once_each_hear_of_their_own(tmp_path):
    wrong = []

    def talk(address, name):
        with httpx.Client(base_url=f"http://{address}", timeout=30) as client:
            for i in range(1, 20):
                body = lines(*({"k": name, "x": 1} for _ in range(i)))
                answers = told(client.post("/events", content=body).content)
                at = i * (i - 1) // 2
                if answers != [{"k": name, "y": float(at + j + 1)} for j in range(i)]:
                    wrong.append((name, i, answers))

    with serving(tmp_path) as address:
        eight_at_once(talk, address)
    assert wrong == []


def test_requests_behind_each_other_on_one_connection(tmp_path):
    bodies = [lines({"k": "a", "x": i}) for i in range(30)]
    options = request(b"", method="OPTIONS") * 500
    with serving(tmp_path) as address:
        found = bare(address, options + b"".join(map(request, bodies)))
    assert found.count(b"HTTP/1.1 204") == 500
    answers = [json.loads(line) for line in found.split(b"\n") if line.startswith(b"{")]
    assert answers == [{"k": "a", "y": float(i * (i + 1) // 2)} for i in range(30)]


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (request(b"{}", path="/other"), 404, "path"),
        (request(b"", method="GET"), 405, "method"),
        (request(b""), 400, "empty"),
        (request(b"\n\n"), 400, "empty"),
        (request(b"x" * 3000), 413, "too_long"),
        (request(b"{}", "Content-Encoding: gzip"), 415, "encoding"),
        (request(b"{}", "Origin: https://evil.example"), 403, "origin"),
        (
            b"POST /events HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFF\r\n" + b"x" * 3000,
            413,
            "too_long",
        ),
        (b"POST /events HTTP/1.1\r\nHost: x\r\nContent-Length: nine\r\n\r\n", 400, "http"),
        (b"POST /events HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400, "http"),
        (b"POST /events HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}", 400, "http"),
        (b"\x16\x03\x01\x02\x00 no TLS here\r\n\r\n", 400, "http"),
        (b"GET /" + b"x" * 70_000, 431, "http"),
    ],
)
def test_what_is_none_of_ours_is_refused_and_harms_nobody(tmp_path, sent, status, code):
    with serving(tmp_path, ", max_body_bytes: 2000") as address:
        found = bare(address, sent)
        head, _, body = found.partition(b"\r\n\r\n")
        assert int(head.split()[1]) == status
        assert json.loads(body)["error"]["code"] == code
        assert b"Access-Control" not in head
        assert told(httpx.post(f"http://{address}/events", content=lines({"k": 1, "x": 1})).content)


def test_head_has_no_body(tmp_path):
    with serving(tmp_path) as address:
        assert httpx.head(f"http://{address}/events").status_code == 405


def test_who_asks_first_is_told_to_go_on(tmp_path):
    with serving(tmp_path) as address:
        host, port = address.split(":")
        with socket.create_connection((host, int(port)), timeout=10) as client:
            body = lines({"k": "a", "x": 1})
            client.sendall(request(body, "Expect: 100-continue")[: -len(body)])
            assert client.recv(1000).startswith(b"HTTP/1.1 100")
            client.sendall(body)
            assert b'"y":1.0' in client.recv(1000)


def test_a_page_that_is_allowed_may_post(tmp_path):
    shop = {"Origin": "https://shop.example"}
    with serving(tmp_path, ', allow_origins: ["https://shop.example"]') as address:
        asked = {**shop, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-a"}
        before = httpx.options(f"http://{address}/events", headers=asked)
        assert before.status_code == 204
        assert before.headers["access-control-allow-methods"] == "POST"
        assert before.headers["access-control-allow-headers"] == "x-a"
        for answer in (before, httpx.post(f"http://{address}/events", content=b"{}", headers=shop)):
            assert answer.headers["access-control-allow-origin"] == "https://shop.example"
            assert answer.headers["vary"] == "Origin"
        other = httpx.post(f"http://{address}/events", content=b"{}", headers={"Origin": "https://o.example"})
        assert other.status_code == 403
        assert "access-control-allow-origin" not in other.headers


def test_who_takes_too_long_is_closed(tmp_path):
    with serving(tmp_path, ", request_s: 0.2, idle_s: 0.4") as address:
        slow = bare(address, request(b"{}")[:-1], end=False)
        assert slow.startswith(b"HTTP/1.1 408")
        assert bare(address, b"", end=False) == b""
        assert bare(address, request(lines({"k": 1, "x": 1})), end=False).count(b"200 OK\r\n") == 1


def test_without_answers_events_are_accepted(tmp_path):
    with serving(tmp_path, sink=TO_FILE) as address:
        answer = httpx.post(f"http://{address}/events", content=lines({"k": 1, "x": 1}, {"k": 1, "x": 2}))
        assert (answer.status_code, answer.json()) == (202, {"accepted": 2})
    assert told((tmp_path / "out.txt").read_bytes()) == [{"k": 1, "y": 1.0}, {"k": 1, "y": 3.0}]


def test_over_tls(tmp_path):
    files = certificates(tmp_path)
    shown = f"cert: {files['good']}, key: {files['good.key']}, client_ca: {files['ca']}"
    with serving(tmp_path, f", tls: {{{shown}}}") as address:
        known = ssl.create_default_context(cafile=files["ca"])
        url, body = f"https://{address}/events", lines({"k": 1, "x": 1})
        with pytest.raises(httpx.TransportError):
            httpx.post(url, content=body, verify=known)
        known.load_cert_chain(files["good"], files["good.key"])
        assert told(httpx.post(url, content=body, verify=known).content) == [{"k": 1, "y": 1.0}]


def post(address, events, producer=None, seq=None, epoch=None):
    named = {"Streamrnn-Producer": producer, "Streamrnn-Seq": seq, "Streamrnn-Epoch": epoch}
    headers = {name: str(value) for name, value in named.items() if value is not None}
    answer = httpx.post(f"http://{address}/events", content=lines(*events), headers=headers)
    return answer.status_code, answer.json()


def x(*values):
    return [{"k": 1, "x": value} for value in values]


def test_what_is_answered_202_is_in_the_log_and_counts_once(tmp_path):
    with serving(tmp_path, LOG, sink=TO_FILE, job=True) as address:
        assert post(address, x(1, 2)) == (202, {"accepted": 2, "offset": 0})
        assert post(address, x(3)) == (202, {"accepted": 1, "offset": 2})
        assert post(address, x(4, 5), "p", 0) == (202, {"ack": 2, "epoch": 1})
        assert post(address, x(4, 5, 6), "p", 0) == (202, {"ack": 3, "epoch": 1})
        assert post(address, x(7), "p") == (202, {"ack": 4, "epoch": 1})
    with serving(tmp_path, LOG, sink=TO_FILE, job=True) as address:
        assert post(address, x(6, 7, 8), "p", 2) == (202, {"ack": 5, "epoch": 1})
        assert post(address, x(0, 9), "p", 4) == (202, {"ack": 6, "epoch": 1, "seq_conflict": [4]})
        status, answer = post(address, x(10), "p", 8)
        assert (status, answer["error"]["code"], answer["error"]["next"]) == (409, "gap", 6)
        assert post(address, x(10), "p", 6, 2) == (202, {"ack": 7, "epoch": 2})
        status, answer = post(address, x(11), "p", 7, 1)
        assert (status, answer["error"]["code"]) == (409, "fenced")
        assert post(address, x(1), "not a name")[0] == 400
        assert post(address, x(1), None, 3)[0] == 400
        assert post(address, [], "p")[0] == 400
    served = [line["y"] for line in told((tmp_path / "out.txt").read_bytes())]
    assert served == [float(sum(range(1, i + 1))) for i in range(1, 11)]


def test_no_more_producers_than_there_is_room_for(tmp_path):
    with serving(tmp_path, LOG + ", max_producers: 1", sink=TO_FILE, job=True) as address:
        assert post(address, x(1), "p")[0] == 202
        assert post(address, x(1), "q")[0] == 503


def test_answers_do_not_go_with_a_log(tmp_path):
    with (
        pytest.raises((ConfigError, OptionError), match="expected a source with connections to answer on"),
        serving(tmp_path, LOG, job=True),
    ):
        pass


def test_an_address_for_all_needs_to_be_asked_for(tmp_path):
    text = pipeline_of().replace("127.0.0.1", "0.0.0.0")
    with pytest.raises(ConfigError, match="allow_remote: true"):
        load_pipeline(text, "p.yaml", REGISTRY, quiet_context(base_dir=tmp_path), {})


def mutated(rng, data):
    """Bytes with some of them cut, doubled, changed or put elsewhere."""
    for _ in range(rng.choice([0, 1, 1, 2, 5])):
        a, b = sorted(rng.randrange(len(data) + 1) for _ in range(2))
        piece = data[a : min(b, a + 40)]
        how = rng.randrange(4)
        if how == 0:
            data = data[:a] + data[a + len(piece) :]
        elif how == 1:
            data = data[:a] + piece + data[a:]
        elif how == 2:
            data = data[:a] + rng.randbytes(rng.choice([1, 1, 8])) + data[a + 1 :]
        else:
            data = data[:a] + rng.choice([b"\r\n", b": ", b"\xff", b"0" * 20, b"xn--a.\x80"]) + data[a:]
    return data


def thrown_at(address, rng, shapes, count):
    """Send mutations of valid bytes, in pieces, some of them without waiting for any answer."""
    host, port = address.split(":")
    for _ in range(count):
        data = mutated(rng, rng.choice(shapes))
        with suppress(OSError), socket.create_connection((host, int(port)), timeout=10) as client:
            cut = rng.randrange(len(data) + 1)
            client.sendall(data[:cut])
            client.sendall(data[cut:])
            if rng.random() < 0.5:
                client.shutdown(socket.SHUT_WR)
                while client.recv(1 << 16):
                    pass


def test_nothing_that_is_sent_ends_the_pipeline(tmp_path):
    body = lines({"k": "a", "x": 1})
    shapes = [
        request(body) + request(body),
        request(body, "Expect: 100-continue", "Origin: https://shop.example"),
        request(b"", "Access-Control-Request-Headers: x", method="OPTIONS") + request(body),
        b"POST /events HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    ]
    with serving(tmp_path, ', allow_origins: ["https://shop.example"]') as address:
        thrown_at(address, random.Random(5), shapes, THROWN)
        assert httpx.post(f"http://{address}/events", content=body).status_code == 200


@pytest.mark.parametrize(
    ("codec", "body", "answer"),
    [
        ("{type: csv}", b"k,x\na,1\na,2\n", b'{"k":"a","y":1.0}\n{"k":"a","y":3.0}\n'),
        ("{type: csv}", b"x,k\r\n5,b\r\n", b'{"k":"b","y":5.0}\n'),
        ("{type: csv, header: [k, x]}", b"a,1\na,2\n", b'{"k":"a","y":1.0}\n{"k":"a","y":3.0}\n'),
        (
            "{type: msgpack}",
            b"\0\0\0\x08\x82\xa1k\xa1a\xa1x\1" * 2,
            b'{"k":"a","y":1.0}\n{"k":"a","y":2.0}\n',
        ),
    ],
)
def test_a_body_is_whatever_decode_reads(tmp_path, codec, body, answer):
    with serving(tmp_path, decode=codec) as address, httpx.Client(base_url=f"http://{address}") as client:
        assert client.post("/events", content=body).content == answer
        again = client.post("/events", content=body).content  # the next body begins anew, with its own header
        assert again.count(b'"y":') == answer.count(b'"y":')
