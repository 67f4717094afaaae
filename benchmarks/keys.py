"""Finding the rows of 4,096 random keys: the table of many keys against a dict, by how many there are.

`python -m benchmarks.keys` prints a line each; the two take turns, so that a busy machine slows both.
"""

from __future__ import annotations

from itertools import repeat
from time import perf_counter

import numpy as np

from streamrnn.core.key_index import WideIndex
from streamrnn.core.key_names import KeyNames, Packed

_BATCH, _TURNS = 4096, 40


def ratio(count: int) -> float:
    """How many times as long the dict takes with so many keys, the median of all turns."""
    keys, rows = [f"user-{i * 7919 % 10**8}" for i in range(count)], np.arange(count)
    names, known = KeyNames(), dict(zip(keys, range(count), strict=True))
    names.extend(count)
    names.put(rows, Packed.of(keys))
    index = WideIndex(names)
    index.add(Packed.of(keys), rows)
    rng = np.random.default_rng(1)
    ratios = []
    for _ in range(_TURNS):
        wanted = rng.integers(0, count, _BATCH)
        first, second = _fresh(keys, wanted), _fresh(keys, wanted)
        started = perf_counter()
        by_table = index.find(Packed.of(first))
        middle = perf_counter()
        by_dict = np.fromiter(map(known.get, second, repeat(-1)), np.int64, _BATCH)
        ended = perf_counter()
        assert (by_table == wanted).all()
        assert (by_dict == wanted).all()
        ratios.append((ended - middle) / (middle - started))
    return float(np.median(ratios))


def _fresh(keys: list[str], wanted: np.ndarray) -> list[str]:
    """New strings, as a decoder makes them: their hashes are not known yet."""
    return [(keys[i] + "x")[:-1] for i in wanted.tolist()]


if __name__ == "__main__":
    for size in (1_000, 4_000, 16_000, 64_000, 250_000, 1_000_000):
        print(f"{size:>9,} keys: the dict takes {ratio(size):.2f} x as long")
