"""One command, one table: `python -m benchmarks [--events N] [--only W1] [--folder DIR] [--runs N]`.

With `--engines`, of the engine alone.

Every figure of a row comes from the same run on one core; quote the ratios, not the events.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import engines, latency
from benchmarks.workloads import MIXES, WORKLOADS, Workload, events_path, pipeline_text, weights_path

NEEDS = {
    "numpy": ("orjson",),
    "onnxruntime": ("orjson", "onnxruntime", "onnx"),
    "torch": ("orjson", "torch"),
    "bytewax": ("orjson", "bytewax"),
}
GOALS = {
    ("W1", "uniform"): 3.5,
    ("W2", "uniform"): 7.0,
    ("W3", "uniform"): 3.0,
    ("W1", "zipf"): 2.0,
    ("W2", "zipf"): 3.0,
    ("W1", "hot"): 1.0,
    ("W2", "hot"): 1.0,
}
LATENCY_GOAL = 1.5
SHOWN = ("read", "decode", "event", "core", "of it the model", "encode", "format", "write")


def installed() -> list[str]:
    """The hand-written stacks whose libraries are there."""
    return [name for name, modules in NEEDS.items() if all(map(importlib.util.find_spec, modules))]


def on_one_core(*command: str) -> str:
    """What a Python module prints, run on one core with single-threaded libraries."""
    env = os.environ | dict.fromkeys(("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"), "1")
    done = subprocess.run(
        [sys.executable, "-m", *command],
        env=env,
        preexec_fn=lambda: os.sched_setaffinity(0, {0}),
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return done.stdout.splitlines()[-1]


def by_hand(stack: str, workload: Workload, model: Path, events: Path, out: Path) -> float:
    """Events per CPU second of a hand-written loop."""
    told = on_one_core("benchmarks.hand", stack, workload.name, str(model), str(events), str(out))
    count, seconds = told.split()
    return int(count) / float(seconds)


def by_us(workload: Workload, model: Path, events: Path, out: Path) -> dict[str, float]:
    """Events per CPU second of a pipeline, and nanoseconds per event of each stage."""
    file = out.with_suffix(".yaml")
    file.write_text(pipeline_text(workload, model, events, str(out)))
    told = json.loads(on_one_core("benchmarks.ours", str(file)))
    stages = {name: 1e9 * seconds / told["events"] for name, seconds in told["stages"].items()}
    return {"events/s": told["events"] / told["cpu_s"], **stages}


def race(workload: Workload, mix: str, folder: Path, events: int, runs: int, costs: list[str]) -> str:
    """The row of one stream: every stack in turn, the best of some runs each. The stages go to `costs`."""
    model, stream = weights_path(folder, workload), events_path(folder, workload, mix, events)
    out = folder / "out.jsonl"
    hand: dict[str, float] = {}
    ours: dict[str, float] = {}
    for _ in range(runs):
        for stack in installed():
            hand[stack] = max(hand.get(stack, 0), by_hand(stack, workload, model, stream, out))
        found = by_us(workload, model, stream, out)
        if found["events/s"] > ours.get("events/s", 0):
            ours = found
    best = max(hand, key=lambda name: hand[name] if name != "bytewax" else 0)
    goal = GOALS.get((workload.name, mix))
    ratio = ours["events/s"] / hand[best]
    verdict = "" if goal is None else f"{goal}x {'met' if ratio >= goal else '**missed**'}"
    others = ", ".join(f"{name} {rate:,.0f}" for name, rate in hand.items())
    costs.append(f"| {workload.name} {mix} | " + " | ".join(f"{ours.get(s, 0):,.0f}" for s in SHOWN) + " |")
    return f"| {workload.name} {mix} | {ours['events/s']:,.0f} | {others} | {ratio:.1f}x {best} | {verdict} |"


def main() -> None:
    """Race, and print Markdown as the results come."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--events", type=int, default=100_000)
    arguments.add_argument("--runs", type=int, default=2)
    arguments.add_argument("--only", choices=list(WORKLOADS), nargs="*", default=list(WORKLOADS))
    arguments.add_argument("--mixes", choices=MIXES, nargs="*", default=list(MIXES))
    arguments.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir()) / "streamrnn-benchmarks"
    )
    arguments.add_argument("--no-latency", action="store_true")
    arguments.add_argument("--engines", action="store_true", help="core.process alone, by backend")
    given = arguments.parse_args()
    given.folder.mkdir(exist_ok=True)
    if given.engines:
        print("| engine | core.process, events per CPU s | own loop | ratio | goal |\n|---|---|---|---|---|")
        for row in engines.race(given.folder, given.events, given.runs, on_one_core):
            print(row, flush=True)
        return
    costs: list[str] = []
    print("| stream | streamrnn, events per CPU s | by hand | ratio to the best | goal |")
    print("|---|---|---|---|---|")
    for name in given.only:
        for mix in given.mixes:
            if WORKLOADS[name].keys > 10_000 and mix == "hot":
                continue
            row = race(WORKLOADS[name], mix, given.folder, given.events, given.runs, costs)
            print(row, flush=True)
    print(f"\nWhere the time goes, CPU ns per event:\n\n| stream | {' | '.join(SHOWN)} |")
    print("|---" * (len(SHOWN) + 1) + "|")
    print("\n".join(costs))
    if not given.no_latency:
        found = latency.measure(given.folder, 5_000)
        ratio = found["streamrnn"][0] / found["minimal loop"][0]
        verdict = "met" if ratio <= LATENCY_GOAL else "**missed**"
        shown = "; ".join(f"{name} p50 {p50:.0f} us, p99 {p99:.0f} us" for name, (p50, p99) in found.items())
        print(f"\nOne event over a UNIX socket: {shown}; p50 {ratio:.2f}x, goal {LATENCY_GOAL}x {verdict}")


if __name__ == "__main__":
    main()
