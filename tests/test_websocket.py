"""The `websocket` source and sink, with the client of another library, and with bare bytes."""

from __future__ import annotations

import json
import random
import ssl
from contextlib import ExitStack

import pytest
from test_http import LOG, THROWN, bare, eight_at_once, lines, serving, thrown_at, told
from tls_parts import certificates
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

KEY = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
UPGRADE = ("Connection: Upgrade", "Upgrade: websocket", KEY)


def opened(address, path="/events", scheme="ws", **options):
    return connect(f"{scheme}://{address}{path}", compression=None, proxy=None, **options)


def sockets(folder, more="", **options):
    return serving(folder, more, kind="websocket", **{"sink": "{type: websocket}"} | options)


def handshake(*headers, path="/events", method="GET"):
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", *headers, "", ""]).encode()


def test_a_message_is_answered_by_a_message(tmp_path):
    with sockets(tmp_path) as address, opened(address) as client:
        client.send('{"k": "a", "x": 1}')
        assert json.loads(client.recv(timeout=10)) == {"k": "a", "y": 1.0}
        client.send(lines({"k": "a", "x": 2}, {"k": "b", "x": 3}))
        assert told(client.recv(timeout=10)) == [{"k": "a", "y": 3.0}, {"k": "b", "y": 3.0}]
        client.send('nonsense\n{"k": "a", "x": 4}')
        answers = told(client.recv(timeout=10))
        assert (answers[0]["refused"]["number"], answers[1]) == (1, {"k": "a", "y": 7.0})
        client.send("")
        assert json.loads(client.recv(timeout=10))["error"]["code"] == "empty"
        client.send(['{"k": "a",', ' "x": ', "5}"])
        assert json.loads(client.recv(timeout=10)) == {"k": "a", "y": 12.0}
        assert client.ping().wait(10)


def test_messages_may_be_sent_ahead_of_their_answers(tmp_path):
    with sockets(tmp_path) as address, opened(address) as client:
        for i in range(500):
            client.send(lines({"k": "a", "x": 1}) * (i % 3 + 1))
        at = 0
        for i in range(500):
            count = i % 3 + 1
            expected = [{"k": "a", "y": float(at + j + 1)} for j in range(count)]
            assert told(client.recv(timeout=20)) == expected
            at += count


def test_many_at_once_each_hear_of_their_own(tmp_path):
    wrong = []

    def talk(address, name):
        with opened(address) as client:
            for i in range(50):
                client.send(json.dumps({"k": name, "x": 1}))
                answer = json.loads(client.recv(timeout=20))
                if answer != {"k": name, "y": i + 1.0}:
                    wrong.append((name, i, answer))

    with sockets(tmp_path) as address:
        eight_at_once(talk, address)
    assert wrong == []


def test_texts_and_bytes_are_events_alike(tmp_path):
    with sockets(tmp_path) as address, opened(address) as client:
        for message in ('{"k": "ä", "x": 1}', '{"k": "ä", "x": 1}'.encode()):
            client.send(message)
        assert [json.loads(client.recv(timeout=10))["y"] for _ in range(2)] == [1.0, 2.0]


@pytest.mark.parametrize(
    ("options", "status"),
    [({"path": "/other"}, 404), ({"origin": "https://evil.example"}, 403)],
)
def test_what_is_none_of_ours_is_not_opened(tmp_path, options, status):
    with sockets(tmp_path, ', allow_origins: ["https://shop.example"]') as address:
        with pytest.raises(InvalidStatus) as raised, opened(address, **options):
            pass
        assert raised.value.response.status_code == status
        assert "error" in json.loads(raised.value.response.body)
        with opened(address, origin="https://shop.example") as client:
            client.send('{"k": 1, "x": 1}')
            assert json.loads(client.recv(timeout=10))["y"] == 1.0


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (handshake(), b"400"),
        (handshake(*UPGRADE), b"400"),
        (handshake(*UPGRADE, "Sec-WebSocket-Version: 12"), b"426"),
        (handshake(*UPGRADE, "Sec-WebSocket-Version: 13", method="POST"), b"400"),
        (b"\x16\x03\x01 no TLS here\r\n\r\n", b"400"),
        (b"GET /" + b"x" * 70_000, b"431"),
    ],
)
def test_what_is_no_handshake_is_refused(tmp_path, sent, status):
    with sockets(tmp_path) as address:
        assert bare(address, sent).split()[1] == status


@pytest.mark.parametrize("frame", [b"\xff\xff", b"\x81\x02ab", b"\x83\x80abcd", b"\x89\xfe\x00\x80"])
def test_frames_that_are_none_close_the_connection(tmp_path, frame):
    """Reserved bits, no mask, an opcode that is none, a ping that is too long."""
    with sockets(tmp_path) as address:
        found = bare(address, handshake(*UPGRADE, "Sec-WebSocket-Version: 13") + frame, end=False)
        head, _, rest = found.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101")
        assert (rest[:1], rest[2:4]) == (b"\x88", (1002).to_bytes(2, "big"))


def test_a_message_that_is_too_large_closes_the_connection(tmp_path):
    with sockets(tmp_path, ", max_body_bytes: 1000") as address, opened(address) as client:
        client.send("x" * 1001)
        with pytest.raises(ConnectionClosed) as raised:
            client.recv(timeout=10)
        assert raised.value.rcvd.code == 1009


def test_who_takes_too_long_is_closed(tmp_path):
    with sockets(tmp_path, ", request_s: 0.2, idle_s: 0.5") as address:
        assert bare(address, handshake(*UPGRADE)[:-1], end=False).startswith(b"HTTP/1.1 408")
        half = bare(address, handshake(*UPGRADE, "Sec-WebSocket-Version: 13") + b"\x81\x85abcdx", end=False)
        assert half.partition(b"\r\n\r\n")[2][2:4] == (1008).to_bytes(2, "big")
        with opened(address) as client, pytest.raises(ConnectionClosed):
            client.recv(timeout=10)


def test_a_pipeline_that_ends_says_goodbye(tmp_path):
    with ExitStack() as clients:
        with sockets(tmp_path) as address:
            client = clients.enter_context(opened(address))
            client.send('{"k": 1, "x": 1}')
            client.recv(timeout=10)
        with pytest.raises(ConnectionClosed) as raised:
            client.recv(timeout=10)
        assert raised.value.rcvd.code == 1001


def test_with_a_log_a_message_is_answered_with_its_place(tmp_path):
    out = {"sink": "{type: file, path: out.txt}", "job": True}
    with sockets(tmp_path, LOG, **out) as address, opened(address) as client:
        for i in range(3):
            client.send(lines({"k": 1, "x": 1}, {"k": 1, "x": 1}))
            assert json.loads(client.recv(timeout=10)) == {"accepted": 2, "offset": 2 * i}
    assert [line["y"] for line in told((tmp_path / "out.txt").read_bytes())] == [1, 2, 3, 4, 5, 6]


def test_over_tls(tmp_path):
    files = certificates(tmp_path)
    shown = f", tls: {{cert: {files['good']}, key: {files['good.key']}}}"
    known = ssl.create_default_context(cafile=files["ca"])
    with sockets(tmp_path, shown) as address, opened(address, scheme="wss", ssl=known) as client:
        client.send('{"k": 1, "x": 1}')
        assert json.loads(client.recv(timeout=10)) == {"k": 1, "y": 1.0}


def frame(data, first=0x81):
    """A frame as a client sends it, with a mask that changes nothing."""
    size = bytes([0x80 | len(data)]) if len(data) < 126 else b"\xfe" + len(data).to_bytes(2, "big")
    return bytes([first]) + size + bytes(4) + data


def test_nothing_that_is_sent_ends_the_pipeline(tmp_path):
    event = b'{"k": "a", "x": 1}'
    start = handshake(*UPGRADE, "Sec-WebSocket-Version: 13", "Sec-WebSocket-Extensions: permessage-deflate")
    shapes = [
        start + frame(event) + frame(b"ping", 0x89) + frame(event) + frame(b"\x03\xe8", 0x88),
        start + frame(event[:5], 0x01) + frame(b"", 0x89) + frame(event[5:], 0x80) + frame(event * 10),
        start + frame(event, 0x82) + frame(b"\x0f\xa0bye", 0x88) + frame(event),
    ]
    with sockets(tmp_path) as address:
        thrown_at(address, random.Random(6), shapes, THROWN)
        with opened(address) as client:
            client.send(event)
            assert json.loads(client.recv(timeout=10))["k"] == "a"
