"""What keys may come to need is told before the first event, and refused where it is more than allowed."""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from simfs import SimFS
from test_reserve import Told
from toys import MemoryCold, Toy

from streamrnn.build import build_pipeline
from streamrnn.config.load import load_pipeline
from streamrnn.context import Context
from streamrnn.core import Core
from streamrnn.core.footprint import device_bytes, footprint_bytes
from streamrnn.core.slab import HostSlab
from streamrnn.errors import ConfigError
from streamrnn.limits import Limits
from streamrnn.memory import available_bytes, in_words
from streamrnn.registry import Registry

TEXT = """
source: {type: file, path: in.jsonl}
decode: {type: jsonl}
event: {key: k, inputs: {x: [{field: x}]}}
model: {type: formula, state: {s: 0}, update: {s: s + x}, output: {s: s}}
encode: {type: jsonl}
sink: {type: file, path: out.jsonl}
"""
GROUP = {"/proc/self/cgroup": b"0::/a/b\n", "/sys/fs/cgroup/a/b/memory.max": b"max\n"}
MACHINE = {"/proc/meminfo": b"MemTotal:       1000 kB\nMemFree:  1 kB\n"}


@pytest.mark.parametrize(
    ("files", "there"),
    [
        ({"/proc/meminfo": b"", "/proc/self/cgroup": b""}, None),
        (MACHINE, 1_024_000),
        (MACHINE | GROUP, 1_024_000),
        (MACHINE | GROUP | {"/sys/fs/cgroup/a/memory.max": b"5000\n"}, 5000),
        (
            {
                "/proc/self/cgroup": b"9:cpu:/x\n4:memory,cpuset:/a\n0::/\n",
                "/sys/fs/cgroup/memory/a/memory.limit_in_bytes": b"7000\n",
                "/sys/fs/cgroup/memory/memory.limit_in_bytes": b"9223372036854771712\n",
            },
            7000,
        ),
    ],
)
def test_what_there_is_is_what_the_tightest_limit_leaves(files, there):
    assert available_bytes(SimFS({Path(name): data for name, data in files.items()})) == there


def built(text, files=MACHINE):
    told, log = Told(), logging.Logger("memory")
    log.addHandler(told)
    given = {Path("/sim/in.jsonl"): b"", **{Path(name): data for name, data in files.items()}}
    context, registry = Context(base_dir=Path("/sim"), fs=SimFS(given), log=log), Registry()
    context.cold = lambda folder, timed: MemoryCold
    build_pipeline(load_pipeline(TEXT + text, "p.yaml", registry, context, {}), registry, context).close()
    return told.lines


def test_more_than_there_is_is_told():
    assert built("limits: {max_keys: 100, remember_evicted: 0}") == []
    (line,) = built("limits: {max_keys: 1000000, remember_evicted: 0}")
    assert re.match(r"keys may need about 2\d\d\.\d MB of memory", line)
    assert ", by limits.max_keys = 1000000; there are 1.0 MB" in line
    tiers = "state: {tiers: [memory, disk], hot_keys: 100, dir: cold}\n"
    assert built(tiers + "limits: {remember_evicted: 0}") == []


def test_more_than_is_allowed_is_refused():
    limits = "limits: {max_keys: 1000, remember_evicted: 0, max_memory_bytes: %d}"
    assert built(limits % 500_000) == []
    with pytest.raises(ConfigError, match=r"limits.max_memory_bytes: keys may need about \d+,\d+ bytes"):
        built(limits % 50_000)


@pytest.mark.parametrize("hot", [None, 2000])
def test_the_estimate_is_of_what_arrays_take(hot):
    limits = Limits(max_keys=20_000, remember_evicted=0, hot_keys=hot)
    core = Core(Toy(), limits=limits, cold=MemoryCold() if hot else None)
    core.store.grow(hot or 20_000)
    table = sum(array.nbytes for array in core.store.slab._arrays.values())
    table += sum(array.nbytes for array in core.store.columns.parts.values())
    assert table < footprint_bytes(core.store) < 2 * table
    more = footprint_bytes(Core(Toy(), limits=replace(limits, remember_evicted=1000), cold=None).store)
    assert more > footprint_bytes(Core(Toy(), limits=limits, cold=None).store)


class ToyElsewhere(Toy):
    def make_slab(self, capacity):
        return HostSlab(self.state, capacity)


def test_states_on_a_device_are_counted_apart():
    limits = Limits(max_keys=20_000, remember_evicted=0)
    here, there = (Core(toy, limits=limits).store for toy in (Toy(), ToyElsewhere()))
    states = 20_000 * sum(array.nbytes for array in here.slab.read(np.zeros(1, np.int64)).values())
    assert (device_bytes(here), device_bytes(there)) == (0, states)
    assert footprint_bytes(here) == footprint_bytes(there) + states


def test_sizes_are_in_words():
    assert [in_words(n) for n in (12_345, 1_500_000, 2 * 10**9)] == ["12,345 bytes", "1.5 MB", "2.0 GB"]
