"""A pipeline served in this process, with the CPU time of each of its stages.

`python -m benchmarks.ours PIPELINE` prints events, CPU seconds, and seconds by stage as JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from operator import attrgetter
from typing import Any

for _name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

from streamrnn.build import build_pipeline  # noqa: E402
from streamrnn.cli.run import few_collections  # noqa: E402
from streamrnn.config.open import open_pipeline  # noqa: E402
from streamrnn.core.shards import WHOLE  # noqa: E402
from streamrnn.pipeline import run  # noqa: E402

STAGES = (
    ("read", attrgetter("source"), "read"),
    ("decode", None, "decode"),
    ("event", attrgetter("event"), "read"),
    ("core", lambda parts: parts.shards.at(WHOLE), "process"),
    ("encode", attrgetter("encode"), "columns"),
    ("format", None, "format"),
    ("write", attrgetter("sink"), "write"),
)


def timed(call: Callable[..., Any], spent: dict[str, float], stage: str) -> Callable[..., Any]:
    """The same function, its CPU time added up; twice per batch and stage, so it costs nothing."""

    def wrapped(*args: Any, **named: Any) -> Any:
        start = time.process_time()
        try:
            return call(*args, **named)
        finally:
            spent[stage] = spent.get(stage, 0.0) + time.process_time() - start

    return wrapped


def measure(file: str) -> dict[str, Any]:
    """Serve the pipeline of a file once."""
    pipeline = build_pipeline(*open_pipeline(file))
    spent: dict[str, float] = {}
    for stage, owner, name in STAGES:
        target = owner(pipeline.parts) if owner else pipeline.parts
        setattr(target, name, timed(getattr(target, name), spent, stage))
    step = pipeline.parts.backend
    for name in ("step", "scan"):
        if getattr(step, name, None) is not None:
            setattr(step, name, timed(getattr(step, name), spent, "of it the model"))
    events = [0]

    def told(report: Any) -> None:
        events[0] += report.events

    start = time.process_time()
    with few_collections():
        run(pipeline, lambda: False, told)
    return {"events": events[0], "cpu_s": time.process_time() - start, "stages": spent}


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1])))
