"""One event at a time over a UNIX socket: p50 and p99 of the whole pipeline against a minimal blocking loop.

`python -m benchmarks.latency PIPELINE_OR_loop MODEL SOCKET` is the server side of either.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.hand import numpy_step, reader
from benchmarks.workloads import WORKLOADS, pipeline_text, weights_path

WORKLOAD = WORKLOADS["W1"]
WARM_UP, KEYS = 500, 100


def minimal_loop(model: Path, path: str) -> None:
    """Accept once; receive a line, step, answer; nothing else."""
    import orjson

    step, read, states = numpy_step(WORKLOAD, model), reader(WORKLOAD), {}
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        connection, _ = server.accept()
        pending = b""
        while chunk := connection.recv(65536):
            *lines, pending = (pending + chunk).split(b"\n")
            for line in lines:
                event = orjson.loads(line)
                key = event["key"]
                states[key], y = step(states.get(key), read(event))
                connection.sendall(orjson.dumps({"key": key, "y": y.tolist()}) + b"\n")


def round_trips(path: str, events: int) -> np.ndarray:
    """Microseconds from sending an event to having its answer, one in flight."""
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((events + WARM_UP, WORKLOAD.inputs)).round(6).tolist()
    lines = [json.dumps({"key": f"k{i % KEYS}", "x": row}).encode() + b"\n" for i, row in enumerate(rows)]
    took = np.empty(len(lines))
    with connect(path) as client:
        for i, line in enumerate(lines):
            start = time.perf_counter()
            client.sendall(line)
            while not client.recv(65536).endswith(b"\n"):
                pass
            took[i] = time.perf_counter() - start
    return took[WARM_UP:] * 1e6


def connect(path: str) -> socket.socket:
    """A client, as soon as the server listens; half a minute at most."""
    deadline = time.monotonic() + 30
    while True:
        client = socket.socket(socket.AF_UNIX)
        try:
            client.connect(path)
            return client
        except OSError:
            client.close()
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def pipeline_file(folder: Path, path: str) -> Path:
    """The same model behind a socket, answering whoever sent the event."""
    text = pipeline_text(WORKLOAD, weights_path(folder, WORKLOAD), Path("-"), "-")
    text = text.replace("{type: file, path: -}", f'{{type: socket, listen: "unix://{path}"}}', 1)
    text = text.replace("sink: {type: file, path: -}", "sink: {type: socket, to: sender}")
    file = folder / "latency.yaml"
    file.write_text(text)
    return file


def measure(folder: Path, events: int) -> dict[str, tuple[float, float]]:
    """p50 and p99 in microseconds of both servers, in turn."""
    found = {}
    ours, theirs = str(folder / "ours.sock"), str(folder / "loop.sock")
    commands = {
        "minimal loop": (
            [sys.executable, "-m", "benchmarks.latency", str(weights_path(folder, WORKLOAD)), theirs],
            theirs,
        ),
        "streamrnn": ([sys.executable, "-m", "streamrnn", "run", str(pipeline_file(folder, ours))], ours),
    }
    for name, (command, path) in commands.items():
        Path(path).unlink(missing_ok=True)
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as server:
            took = round_trips(path, events)
            server.terminate()
        found[name] = (float(np.percentile(took, 50)), float(np.percentile(took, 99)))
    return found


if __name__ == "__main__":
    minimal_loop(Path(sys.argv[1]), sys.argv[2])
