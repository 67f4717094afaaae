"""What ceilings hold and cost: five million keys through a million rows, evicted or on the disk.

`python -m benchmarks.ceilings [keys]` serves one event of each key and as many again of random ones, and has
every answer checked against a plain loop over ordered dicts. Each way runs in a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import OrderedDict
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from time import process_time

import numpy as np

from streamrnn.backend import Backend, StateSpec, StateTensor, TensorSpec
from streamrnn.cold import LmdbStore
from streamrnn.core import Core
from streamrnn.core.footprint import footprint_bytes
from streamrnn.events import Batch
from streamrnn.limits import EVICTED, NEW, UNKNOWN, Limits

_BATCH, _WIDTH, _MB = 1024, 64, 1 << 20


class Leaky(Backend):
    """64 numbers that decay: next to no work, so that what is measured is all around it."""

    inputs = (TensorSpec("x", (1,), "float32"),)
    outputs = (TensorSpec("y", (), "float32"),)
    state = StateSpec((StateTensor("h", (_WIDTH,), "float32"),), fingerprint="leaky")

    def step(self, state, x):  # type: ignore[no-untyped-def]
        """Half of it, and the input."""
        h = state["h"] * np.float32(0.5) + x["x"]
        return {"h": h}, {"y": h[:, 0].copy()}


def main(keys: int) -> None:
    """Run each way and compare."""
    told = {}
    for way in ("memory", "evict", "plain", "tiers"):
        command = [sys.executable, "-m", "benchmarks.ceilings", str(keys), way]
        told[way] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        print(way, told[way], flush=True)
    evict, tiers, memory, plain = told["evict"], told["tiers"], told["memory"], told["plain"]
    right = evict["causes"] == plain["causes"] and evict["evicted"] == plain["evicted"]
    print(f"evicted {evict['evicted']:,}; they and the causes are those of the plain loop: {right}")
    print(f"evicting: {evict['us'] / memory['us']:.2f} x the time of a run with all keys in memory")
    print(f"  memory {evict['rss_mb'] / evict['told_mb']:.2f} x what dry-run tells, ", end="")
    print(f"{evict['rss_mb'] / evict['first_mb']:.2f} x that when the ceiling was reached")
    print(
        f"two tiers: {tiers['us'] / memory['us']:.2f} x; same answers: {tiers['digest'] == memory['digest']}"
    )


def one(keys: int, way: str) -> None:
    """One way, told as JSON."""
    ceiling = keys // 5
    if way == "plain":
        print(json.dumps(_plain(keys, ceiling)))
        return
    cold, limits = None, Limits(max_keys=2 * keys)
    if way == "evict":
        limits = Limits(max_keys=ceiling, remember_evicted=ceiling)
    elif way == "tiers":
        limits = Limits(max_keys=2 * keys, hot_keys=ceiling)
        cold = LmdbStore(Path(tempfile.gettempdir()), timed=False)
    core = Core(Leaky(), limits=limits, cold=cold)
    told_mb = _rss_mb() + footprint_bytes(core.store) / _MB
    digest, causes, spent, first_mb, events = blake2b(), blake2b(), 0.0, 0.0, 0
    for batch in _batches(keys):
        begun = process_time()
        outputs = core.process(batch)
        spent += process_time() - begun
        events += len(batch)
        for column in (outputs.y["y"], outputs.steps, outputs.cause):
            digest.update(column.tobytes())
        causes.update(outputs.cause.tobytes())
        first_mb = first_mb or (_rss_mb() if events >= 2 * ceiling + _BATCH else 0.0)
    evicted, _ = core.forgotten
    print(
        json.dumps(
            {
                "us": round(1e6 * spent / events, 2),
                "rss_mb": round(_rss_mb()),
                "first_mb": round(first_mb),
                "told_mb": round(told_mb),
                "live": len(core),
                "evicted": evicted,
                "causes": causes.hexdigest()[:16],
                "digest": digest.hexdigest()[:16],
            }
        )
    )


def _batches(keys: int) -> Iterator[Batch]:
    rng = np.random.default_rng(0)
    again = rng.integers(0, keys, keys)
    for start in range(0, 2 * keys, _BATCH):
        ids = range(start, min(start + _BATCH, keys)) if start < keys else again[start - keys :][:_BATCH]
        names = [f"user-{i:08}" for i in ids]
        yield Batch(names, {"x": np.array(ids, np.float32)[:, None] % 7}, positions=np.arange(len(names)))


def _plain(keys: int, ceiling: int) -> dict[str, object]:
    """Who is evicted and why each key begins, event by event."""
    live: OrderedDict[str, None] = OrderedDict()
    gone: OrderedDict[str, None] = OrderedDict()
    forgot, evicted, digest = False, 0, blake2b()
    for batch in _batches(keys):
        causes = np.zeros(len(batch), np.int64)
        for i, key in enumerate(batch.keys):
            if key not in live:
                causes[i] = EVICTED if key in gone else UNKNOWN if forgot else NEW
                gone.pop(key, None)
                if len(live) >= ceiling:
                    evicted += 1
                    gone[live.popitem(last=False)[0]] = None
                    if len(gone) > ceiling:
                        gone.popitem(last=False)
                        forgot = True
            live[key] = None
            live.move_to_end(key)
        digest.update(causes.tobytes())
    return {"causes": digest.hexdigest()[:16], "evicted": evicted}


def _rss_mb() -> float:
    """Resident memory that is this process's own, without pages of files."""
    status = Path("/proc/self/status").read_text().split()
    return sum(int(status[status.index(kind) + 1]) for kind in ("RssAnon:", "RssShmem:")) * 1024 / _MB


if __name__ == "__main__":
    if len(sys.argv) > 2:
        one(int(sys.argv[1]), sys.argv[2])
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 5_000_000)
