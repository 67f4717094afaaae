"""What watching costs a pipeline, and what a neighbour that dies again and again costs the others.

`python -m benchmarks.daemon watched` serves the same file with nothing watching and with metrics, a tap and
a scraper, in pairs of processes that take turns, and prints the ratio of events by CPU second. `python -m
benchmarks.daemon isolated` serves four pipelines, of which one dies over and over in every second run, and
compares the latencies and the outputs of the others. Both take the number of pairs as a last argument.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from streamrnn.build import build_pipeline
from streamrnn.cli.asking import Client
from streamrnn.cli.run import few_interruptions
from streamrnn.codecs.jsonl import JsonlCodec
from streamrnn.context import Context
from streamrnn.daemon.access import AdminOptions
from streamrnn.daemon.admin import Admin
from streamrnn.daemon.backoff import Backoff
from streamrnn.daemon.daemon import Daemon
from streamrnn.daemon.fleet import Fleet, open_one
from streamrnn.daemon.hosted import Hosted, Opened
from streamrnn.daemon.notify import Notify
from streamrnn.errors import SourceError
from streamrnn.events import Block, Origin, OutBlock
from streamrnn.net.address import parse
from streamrnn.ports import EndOfStream

EVENTS = {"formula": 1_000_000, "gru": 120_000}
KEYS, HIDDEN = 1000, 64
RATE, SECONDS = 400, 5.0
MODELS = {
    "formula": '{type: formula, state: {H: 0}, update: {H: "0.5*H + x"}, output: {y: H}}',
    "gru": "{type: numpy, path: gru.safetensors, layers: [{type: gru, weights: rnn, hidden: 64}]}",
}
PIPELINE = """
name: {name}
source: {{type: file, path: in.jsonl}}
decode: {{type: jsonl}}
event: {{key: k, inputs: {{x: [{{field: x}}]}}}}
reset: [{{type: every, events: 50}}]
model: {model}
encode: {{type: jsonl, include: [k]}}
sink: {{type: file, path: /dev/null}}
"""


def prepare(folder: Path, model: str, name: str = "p") -> str:
    """A pipeline file, and the weights and events that it reads."""
    rng = np.random.default_rng(5)
    widths = {"weight_ih_l0": (3 * HIDDEN, 1), "weight_hh_l0": (3 * HIDDEN, HIDDEN)}
    widths |= {"bias_ih_l0": (3 * HIDDEN,), "bias_hh_l0": (3 * HIDDEN,)}
    weights = {f"rnn.{n}": rng.uniform(-0.1, 0.1, shape).astype(np.float32) for n, shape in widths.items()}
    save_file(weights, folder / "gru.safetensors")
    (folder / f"{name}.yaml").write_text(PIPELINE.format(name=name, model=MODELS[model]))
    return str(folder / f"{name}.yaml")


def watched(pairs: int) -> None:
    """Events by CPU second with everything watching, against nothing, for each model."""
    for model, count in EVENTS.items():
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            prepare(folder, model)
            rng = random.Random(3)
            with open(folder / "in.jsonl", "w") as file:
                for _ in range(count):
                    file.write(f'{{"k":"k{rng.randrange(KEYS)}","x":{rng.random():.6f}}}\n')
            took: dict[str, list[float]] = {"off": [], "on": []}
            for pair in range(pairs):
                for how in ("off", "on") if pair % 2 else ("on", "off"):
                    command = [sys.executable, "-m", "benchmarks.daemon", how, name]
                    took[how].append(float(subprocess.run(command, check=True, capture_output=True).stdout))
        ratios = np.array(took["off"]) / np.array(took["on"])
        low, median, high = np.quantile(ratios, (0.25, 0.5, 0.75))
        print(
            f"{model}: {pairs} pairs, {count / np.median(took['off']):,.0f} events by CPU second unwatched; "
            f"watched {median:.3f} of it (quartiles {low:.3f} to {high:.3f})"
        )


def one(how: str, folder: Path) -> None:
    """Print the CPU seconds of one run."""
    opened = open_one(str(folder / "p.yaml"))
    hosted = Hosted(opened, Backoff(random.Random(1)))
    hosted.turn()
    assert hosted.pipeline is not None
    if how == "off":
        hosted.pipeline.watch = None
        print(_cpu_s(hosted.run))
        return
    context, address = Context(), f"unix:{folder}/admin"
    fleet = Fleet(random.Random(1))
    fleet.hosted = {"p": hosted}
    daemon = Daemon([str(folder)], context, Notify(context, {}), fleet)
    admin = Admin(daemon, AdminOptions(parse(address)), context)
    admin.start()
    asking = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.daemon", what, address], stdout=subprocess.DEVNULL
        )
        for what in ("scrape", "listen")
    ]
    while not hosted.stats.taps:
        time.sleep(0.01)
    _metrics(address)  # what is loaded with the first request is not what watching costs
    print(_cpu_s(hosted.run))
    for process in asking:
        process.kill()
        process.wait()
    admin.close()


def _cpu_s(work: Callable[[], None]) -> float:
    begun_s = time.process_time()
    with few_interruptions():
        work()
    return time.process_time() - begun_s


def scrape(address: str) -> None:
    """Ask for the metrics once a second, fifteen times as often as is usual."""
    while True:
        _metrics(address)
        time.sleep(1)


def _metrics(address: str) -> None:
    with Client(address)._response("GET", ("metrics",), {}, None) as response:
        response.read()


def listen(address: str) -> None:
    """Take what a tap gives."""
    for _ in Client(address).lines("pipelines", "p", "tap"):
        pass


@dataclass
class Paced:
    """A source of events that are due at a steady rate, from a moment on, and die if it is told to."""

    begins_s: float
    count: int
    dies: bool = False
    given: int = 0

    def __post_init__(self) -> None:
        self._framer: Any = JsonlCodec().framer(1 << 16)

    def read(self, limit: int, wait_ms: int) -> Block | None:
        """What is due by now, within the time to wait."""
        if self.given >= self.count:
            raise EndOfStream
        now_s = time.monotonic()
        if self.dies:
            raise SourceError("the cable was pulled")
        due = min(self.count, int((now_s - self.begins_s) * RATE) + 1)
        if due <= self.given:
            next_s = self.begins_s + self.given / RATE
            time.sleep(max(0.0, min(next_s - now_s, wait_ms / 1000)))
            return None
        for i in range(self.given, due):
            self._framer.feed(f'{{"k":"k{i % 97}","x":{i % 7}}}\n'.encode())
        self.given = due
        return self._framer.take(limit).block(Origin("paced", "paced"))

    def position(self) -> dict[str, int]:
        """See `Source`."""
        return {}

    def close(self) -> None:
        """See `Source`."""


@dataclass
class Timed:
    """A sink that notes when each output came."""

    begins_s: float
    late_s: list[float] = field(default_factory=list)
    written: bytearray = field(default_factory=bytearray)

    def write(self, block: OutBlock) -> None:
        """Events are answered in order, so the n-th was due n steps after the first."""
        now_s = time.monotonic()
        self.late_s += [now_s - self.begins_s - (len(self.late_s) + i) / RATE for i in range(len(block))]
        self.written += block.buffer

    def flush(self) -> None:
        """See `Sink`."""

    def close(self) -> None:
        """See `Sink`."""


def four(folder: Path, dies: bool) -> tuple[list[float], set[bytes], int]:
    """Four pipelines for some seconds: latencies of three, their outputs, and how often the fourth failed."""
    begins_s, sinks, fleet = time.monotonic() + 1.0, dict[str, Timed](), []
    for i in range(4):
        opened = open_one(prepare(folder, "gru", f"p{i}"))
        sinks[opened.name] = Timed(begins_s)
        source = Paced(begins_s, int(RATE * SECONDS), dies=dies and i == 3)
        fleet.append(Hosted(opened, Backoff(random.Random(i)), _building(opened, source, sinks[opened.name])))
    threads = [threading.Thread(target=hosted.run) for hosted in fleet]
    with few_interruptions():
        for thread in threads:
            thread.start()
        for thread in threads[:3]:
            thread.join()
        fleet[3].stop()
        threads[3].join()
    good = [sinks[f"p{i}"] for i in range(3)]
    return (
        [late for sink in good for late in sink.late_s],
        {bytes(s.written) for s in good},
        fleet[3].failures,
    )


def _building(opened: Opened, source: Paced, sink: Timed) -> Callable[..., Any]:
    def build(spec: Any, registry: Any, context: Context) -> Any:
        return build_pipeline(spec, registry, context, source, sink)

    return build


def isolated(pairs: int) -> None:
    """Latencies of three pipelines beside one that serves, and beside one that dies in a loop."""
    p99: dict[bool, list[float]] = {False: [], True: []}
    outputs, failures = set(), []
    with tempfile.TemporaryDirectory() as name:
        for pair in range(pairs):
            for dies in (False, True) if pair % 2 else (True, False):
                late_s, written, failed = four(Path(name), dies)
                p99[dies].append(1000 * float(np.quantile(late_s, 0.99)))
                outputs |= written
                failures.append(failed)
    median = {dies: np.median(found) for dies, found in p99.items()}
    print(
        f"{pairs} pairs of {SECONDS:g} s at {RATE}/s each: p99 {median[False]:.2f} ms beside one that "
        f"serves, {median[True]:.2f} ms beside one that died {max(failures)} times a run; "
        f"{len(outputs)} version of the outputs"
    )


def main(arguments: list[str]) -> None:
    """See above."""
    match arguments:
        case ["watched", *rest]:
            watched(int(rest[0]) if rest else 20)
        case ["isolated", *rest]:
            isolated(int(rest[0]) if rest else 10)
        case ["on" | "off" as how, folder]:
            one(how, Path(folder))
        case ["scrape", address]:
            scrape(address)
        case ["listen", address]:
            listen(address)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
