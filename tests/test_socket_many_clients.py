"""Whole pipelines with many clients at once; clients and pipeline take turns in one thread."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from streamrnn.build import build_pipeline
from streamrnn.config.load import load_pipeline
from streamrnn.pipeline import Pipeline
from streamrnn.registry import Registry
from streamrnn.testing import quiet_context

MOST_BYTES = 200
TOO_LONG = f"line of more than {MOST_BYTES} bytes"
CUT_OFF = "the connection closed in the midst of a line"
PIPELINE = """
source: {type: socket, listen: "LISTEN", until: last_connection_closed}
decode: {type: jsonl}
event: {key: k, inputs: {x: [{field: x}]}}
model: {type: formula, state: {H: 0}, update: {H: "0.5*H + x"}, output: {y: "-H + 5"}}
encode: {type: jsonl, include: [k]}
sink: {type: socket, to: sender}
limits: {max_line_bytes: 200, max_batch_events: 64}
"""


def built(folder: Path, listen: str) -> Pipeline:
    registry, context = Registry([]), quiet_context(base_dir=folder)
    text = PIPELINE.replace("LISTEN", listen)
    return build_pipeline(load_pipeline(text, "p.yaml", registry, context, {}), registry, context)


def connect(pipeline: Pipeline, folder: Path) -> socket.socket:
    (address,) = pipeline.parts.source.addresses  # type: ignore[attr-defined]
    scheme, _, where = address.partition(":")
    if scheme == "unix":
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(folder / where))
    else:
        client = socket.create_connection(("127.0.0.1", int(where.rpartition(":")[2])))
    client.setblocking(False)
    return client


def line(rng: random.Random, name: int) -> tuple[bytes, dict[str, Any] | str | None]:
    """A line and what it is: an event, the reason of its refusal, or None for no record at all."""
    event = {"k": f"{name}-{rng.randrange(5)}", "x": rng.randrange(100) / 8}
    text, kind = json.dumps(event).encode(), rng.random()
    if kind < 0.85:
        return text + rng.choice([b"\n", b"\r\n"]), event
    if kind < 0.90:
        return b"nonsense\n", "not valid JSON"
    if kind < 0.95:
        return text[:-1] + b" " * rng.randrange(MOST_BYTES, 500) + b"}\n", TOO_LONG
    return b" \t\n", None


class Client:
    """Sends a script in pieces of any size, and reads whenever there is something."""

    def __init__(self, opened: socket.socket, name: int, seed: int, lines: int) -> None:
        self.socket, self.rng = opened, random.Random(seed)
        self.expected: list[dict[str, Any]] = []
        self.script, self.received, self.has_ended = b"", b"", False
        states: dict[str, float] = {}
        for number in range(1, lines + 1):
            text, meaning = line(self.rng, name)
            self.script += text
            if isinstance(meaning, dict):
                state = states[meaning["k"]] = 0.5 * states.get(meaning["k"], 0) + meaning["x"]
                self.expected.append({"k": meaning["k"], "y": -state + 5})
            elif meaning is not None:
                self.expected.append({"refused": {"number": number, "reason": meaning}})
        if self.rng.random() < 0.5:
            self.script += b'{"k": "half'
            self.expected.append({"refused": {"number": lines + 1, "reason": CUT_OFF}})

    def step(self) -> None:
        try:
            if self.script:
                piece = self.script[: self.rng.choice([1, 7, 50, 300, 2000])]
                self.script = self.script[self.socket.send(piece) :]
                if not self.script:
                    self.socket.shutdown(socket.SHUT_WR)
            data = self.socket.recv(1 << 16)
        except BlockingIOError:
            return
        self.received += data
        self.has_ended = not data
        if self.has_ended:
            self.socket.close()

    def check(self) -> None:
        assert self.received.endswith(b"\n")
        found = [json.loads(text) for text in self.received.splitlines()]
        assert len(found) == len(self.expected)
        for answer, expected in zip(found, self.expected, strict=True):
            if "refused" in expected:
                reason = expected["refused"]["reason"]
                assert answer["refused"]["number"] == expected["refused"]["number"]
                assert answer["refused"]["reason"].startswith(reason)
            else:
                assert answer == expected


def step_all(clients: list[Client]) -> bool:
    """One turn of each client; whether any goes on."""
    for client in clients:
        if not client.has_ended:
            client.step()
    return not all(client.has_ended for client in clients)


@pytest.mark.parametrize(
    ("listen", "clients", "lines"), [("tcp://127.0.0.1:0", 100, 200), ("unix:s", 10, 50)]
)
def test_every_client_gets_its_own_answers_in_its_own_order(
    tmp_path: Path, listen: str, clients: int, lines: int
) -> None:
    with closing(built(tmp_path, listen)) as pipeline:
        served = [Client(connect(pipeline, tmp_path), i, 1000 + i, lines) for i in range(clients)]
        events = 0
        step_all(served)
        while (report := pipeline.run_once(wait_ms=0)) is not None:
            events += report.events
            step_all(served)
        assert not step_all(served)
        for client in served:
            client.check()
        assert events == sum(len(client.expected) for client in served)
        assert pipeline.parts.sink.late == 0  # type: ignore[attr-defined]


def test_bad_neighbours_hurt_nobody(tmp_path: Path) -> None:
    with closing(built(tmp_path, "tcp://127.0.0.1:0")) as pipeline, ExitStack() as opened:
        leaves, deaf, drips = (opened.enter_context(closing(connect(pipeline, tmp_path))) for _ in range(3))
        good = [Client(connect(pipeline, tmp_path), i, i, 100) for i in range(20)]
        leaves.send(b'{"k": "gone", "x": 1}\n' * 50 + b'{"k": "gone", "x"')
        leaves.close()
        flood = b'{"k": "flood", "x": 1}\n' * 1000
        turns = 0
        while step_all(good):
            turns += 1
            drips.send(b" ")
            with suppress(BlockingIOError):
                deaf.send(flood)
            assert pipeline.run_once(wait_ms=0) is not None
        for client in good:
            client.check()
        assert turns < 300


@contextmanager
def serving(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], socket.socket]]:
    """`streamrnn run` of a pipeline behind a UNIX socket, and a client of it."""
    file = Path(__file__).parents[1] / "pipelines" / "socket_echo.yaml"
    path = folder / "s"
    env = {**os.environ, "SOCKET": str(path), "PORT": "0"}
    command = [sys.executable, "-m", "streamrnn", "run", "--quiet", str(file)]
    with subprocess.Popen(command, env=env, stderr=subprocess.PIPE) as process:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(30)
        while client.connect_ex(str(path)) != 0:
            with suppress(subprocess.TimeoutExpired):
                pytest.fail(f"it ended with {process.wait(timeout=0.05)}")
        with client:
            yield process, client
        process.terminate()


def test_a_signal_ends_it_once_what_was_read_is_answered(tmp_path: Path) -> None:
    with serving(tmp_path) as (process, client):
        client.sendall(b'{"id": "a", "x": 3}\n{"id": "a", "x": 3}\n')
        with client.makefile("rb") as answers:
            assert [json.loads(answers.readline())["y"] for _ in range(2)] == [2, -4]
            client.sendall(b'{"id": "a"')
            process.send_signal(signal.SIGTERM)
            assert answers.read() == b""
        assert process.wait(timeout=30) == 0
        assert process.communicate()[1].startswith(b"source: durability: memory")
    assert not (tmp_path / "s").exists()


def test_a_process_that_was_stopped_goes_on_in_the_midst_of_a_line(tmp_path: Path) -> None:
    with serving(tmp_path) as (process, client), client.makefile("rb") as answers:
        client.sendall(b'{"id": "a", "x": 3}\n{"id": "a",')
        assert json.loads(answers.readline())["y"] == 2
        process.send_signal(signal.SIGSTOP)
        while Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "T":
            pass
        client.sendall(b' "x": 3}\n')
        process.send_signal(signal.SIGCONT)
        assert json.loads(answers.readline())["y"] == -4
