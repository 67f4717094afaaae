"""What commits cost with 1,840,000 keys of 64 float32 each: the pause, the restore, the memory.

`python -m benchmarks.commits` prints ratios, each measured in one process: the longest turn of the pipeline
during a commit of 250 MB against the 99th percentile of its turns without one; restoring a job directory
against numpy reading the same state from one file and a dict of the keys, and against sqlite holding a pickle
for each key; the peak of resident memory against the size of the state.
"""

from __future__ import annotations

import pickle
import resource
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from time import perf_counter

import numpy as np

from streamrnn.backend import Backend
from streamrnn.cli.run import few_interruptions
from streamrnn.commit import recovery, writer
from streamrnn.commit.job import build_job
from streamrnn.config.load import load_pipeline
from streamrnn.context import Context
from streamrnn.core import Core
from streamrnn.errors import StateError
from streamrnn.limits import Limits
from streamrnn.pipeline import Pipeline
from streamrnn.registry import Registry

_KEYS, _PAUSE_KEYS, _HIDDEN, _BATCH, _TURNS = 1_840_000, 1_000_000, 64, 4096, 500
_MB = 1 << 20
_QUIET_TURNS, _COMMITS = 150, 7
_ALL = "[fill.jsonl, more.jsonl]"
_PIPELINE = """
source: {{type: file, path: {paths}}}
decode: {{type: jsonl}}
event: {{key: k, inputs: {{x: [{{field: x}}]}}}}
model: {{type: numpy, path: gru.safetensors, layers: [{{type: gru, weights: rnn, hidden: 64}}]}}
limits: {{max_keys: 2000000, max_batch_events: 4096}}
checkpoint: {{dir: {job}, every_s: {every_s}}}
encode: {{type: jsonl, fields: {{n: {{type: meta, name: steps}}}}}}
sink: {{type: file, path: {job}.out, if_exists: append}}
"""


def main(folder: Path) -> None:
    """Make a job directory, then measure each figure in a process of its own."""
    _make_inputs(folder)
    for part in ("fill", "memory", "restore", "pause"):
        subprocess.run([sys.executable, "-m", "benchmarks.commits", part, str(folder)], check=True)


def fill(folder: Path) -> None:
    """Serve an event of each key, and commit."""
    pipeline = _build(folder, _ALL, every_s=1e9)
    while pipeline.parts.shards.events < _KEYS:
        pipeline.run_once()
    pipeline.close()


def memory(folder: Path) -> None:
    """Restore all, serve, commit a base beside it."""
    _always_base()
    pipeline = _build(folder, _ALL, every_s=0.0)
    while pipeline.run_once() is not None:
        pass
    pipeline.close()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    state = _KEYS * _HIDDEN * 4
    over = (peak - 1.5 * state) / _MB
    print(f"memory: peak {peak / state:.2f} x the state; 1.5 x and {over:.0f} MB (goal: at most 300 MB)")


def restore(folder: Path) -> None:
    """Against raw numpy with a dict of keys, and against sqlite with a pickle for each key."""
    database = folder / "state.sqlite"
    database.unlink(missing_ok=True)
    state = np.random.default_rng(2).random((_KEYS, _HIDDEN), np.float32)
    keys = [f"user-{i}" for i in range(_KEYS)]
    np.save(folder / "raw.npy", state)
    (folder / "raw.keys").write_text("\n".join(keys))
    with sqlite3.connect(database) as connection:
        connection.execute("create table state (key text primary key, value blob)")
        rows = ((key, pickle.dumps(row)) for key, row in zip(keys, state, strict=True))
        connection.executemany("insert into state values (?, ?)", rows)
    del state, keys
    backend = _build(folder, _ALL, every_s=1e9).parts.backend
    times: dict[str, list[float]] = {"ours": [], "numpy": [], "sqlite": []}
    for _ in range(3):
        times["ours"].append(_timed(lambda: _read_ours(folder, backend)))
        times["numpy"].append(_timed(lambda: _read_numpy(folder)))
        times["sqlite"].append(_timed(lambda: _read_sqlite(folder)))
    ours, by_numpy, by_sqlite = (min(times[name]) for name in ("ours", "numpy", "sqlite"))
    print(f"restore: {ours / by_numpy:.2f} x numpy and a dict (goal: at most 1.5)")
    print(f"restore: sqlite and pickle take {by_sqlite / ours:.1f} x as long (goal: at least 3)")


def pause(folder: Path) -> None:
    """The longest turn with a commit under way against the usual ones."""
    pipeline = _build(folder, "touch.jsonl", every_s=1e9, job="pause")
    while pipeline.parts.shards.events < _PAUSE_KEYS:
        pipeline.run_once()
    _always_base()
    with few_interruptions():
        _print_pause(pipeline)
    pipeline.close(StateError("measured"))


def _print_pause(pipeline: Pipeline) -> None:
    commits = pipeline.commits
    assert commits is not None
    quiet: list[list[float]] = []
    busy: list[list[float]] = []
    for _ in range(_COMMITS):
        quiet.append([_timed(pipeline.run_once) for _ in range(_QUIET_TURNS)])
        commits._config = commits._config.model_copy(update={"every_s": 0.0})
        turns = [_timed(pipeline.run_once)]
        commits._config = commits._config.model_copy(update={"every_s": 1e9})
        while commits._making is not None:
            turns.append(_timed(pipeline.run_once))
        busy.append(turns)
    without, during = np.concatenate(quiet), np.concatenate(busy)
    p99, size = float(np.quantile(without, 0.99)), _PAUSE_KEYS * _HIDDEN * 4 / _MB
    print(f"pause: {len(during)} turns in {_COMMITS} commits of {size:.0f} MB")
    print(f"  against the p99 of {len(without)} turns without one:")
    print(f"  the longest of each: {_sorted(busy, p99)} (goal for their median: under 2)")
    print(f"  the longest of those without, by as many: {_sorted(quiet, p99)}")
    print(f"  their p99: {np.quantile(during, 0.99) / p99:.2f}; their median: {np.median(during) / p99:.2f}")


def _sorted(parts: list[list[float]], unit_s: float) -> str:
    return ", ".join(f"{longest / unit_s:.2f}" for longest in sorted(max(part) for part in parts))


def _make_inputs(folder: Path) -> None:
    from safetensors.numpy import save_file

    rng = np.random.default_rng(1)
    shapes = {
        "weight_ih_l0": (3 * _HIDDEN, 1),
        "weight_hh_l0": (3 * _HIDDEN, _HIDDEN),
        "bias_ih_l0": (3 * _HIDDEN,),
        "bias_hh_l0": (3 * _HIDDEN,),
    }
    weights = {f"rnn.{n}": rng.uniform(-0.1, 0.1, shape).astype(np.float32) for n, shape in shapes.items()}
    save_file(weights, folder / "gru.safetensors")
    _write_events(folder / "fill.jsonl", range(_KEYS))
    first = range(_PAUSE_KEYS)
    _write_events(folder / "touch.jsonl", [*first, *rng.integers(0, _PAUSE_KEYS, _BATCH * _TURNS * 8)])
    _write_events(folder / "more.jsonl", rng.integers(0, _KEYS, _BATCH * _TURNS * 2).tolist())


def _write_events(path: Path, keys: Iterable[int]) -> None:
    with path.open("w") as file:
        file.writelines(f'{{"k":"user-{key}","x":{key % 7}}}\n' for key in keys)


def _build(folder: Path, paths: str, every_s: float, job: str = "job") -> Pipeline:
    text = _PIPELINE.format(paths=paths, every_s=every_s, job=job)
    context, registry = Context(base_dir=folder), Registry()
    return build_job(load_pipeline(text, "commits.yaml", registry, context, {}), registry, context)


def _always_base() -> None:
    """Let every commit write all state: the most that one can have to do."""
    writer.Chain.wants_base = lambda self, partition: True  # type: ignore[method-assign]


def _timed(call: Callable[[], object]) -> float:
    started = perf_counter()
    call()
    return perf_counter() - started


def _read_ours(folder: Path, backend: Backend) -> None:
    """What a start with a job directory does beside loading the model."""
    core = Core(backend, limits=Limits(2_000_000))

    def restore(manifest: object, segments: Iterable[tuple[str, Iterable[bytes]]]) -> None:
        for _, blobs in segments:
            core.restore(blobs)

    recovery.Recovery(folder / "job", Context()).restore(restore)
    assert len(core) == _KEYS


def _read_numpy(folder: Path) -> tuple[np.ndarray, dict[str, int]]:
    state = np.load(folder / "raw.npy")
    keys = (folder / "raw.keys").read_text().split("\n")
    return state, dict(zip(keys, range(len(keys)), strict=True))


def _read_sqlite(folder: Path) -> tuple[np.ndarray, dict[str, int]]:
    state, rows = np.empty((_KEYS, _HIDDEN), np.float32), {}
    with sqlite3.connect(folder / "state.sqlite") as connection:
        for row, (key, value) in enumerate(connection.execute("select key, value from state")):
            rows[key] = row
            state[row] = pickle.loads(value)
    return state, rows


if __name__ == "__main__":
    if len(sys.argv) > 2:
        {"fill": fill, "memory": memory, "restore": restore, "pause": pause}[sys.argv[1]](Path(sys.argv[2]))
    else:
        with tempfile.TemporaryDirectory() as made:
            main(Path(made))
