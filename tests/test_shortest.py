from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from streamrnn.codecs.shortest import shortest


def bits(values: NDArray[np.float64]) -> NDArray[np.uint64]:
    return values.view(np.uint64)


def as_numpy_prints(values: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.array([float(str(value)) for value in values])


def random_bits(count: int) -> NDArray[np.float32]:
    patterns = np.random.default_rng(3).integers(0, 2**32, count, dtype=np.uint64).astype(np.uint32)
    values = patterns.view(np.float32)
    return values[np.isfinite(values)]


def neighbours(values: NDArray[np.float32]) -> NDArray[np.float32]:
    patterns = values.view(np.uint32)
    near = np.concatenate([patterns + np.uint32(step) for step in (0, 1, 2, 2**32 - 1, 2**32 - 2)])
    floats = near.view(np.float32)
    return floats[np.isfinite(floats)]


ROWS = {
    "random bits": random_bits(100_000),
    "usual sizes": np.random.default_rng(4).normal(size=30_000).astype(np.float32),
    "powers of two": neighbours((np.arange(1, 255, dtype=np.uint32) << 23).view(np.float32)),
    "powers of ten": neighbours((10.0 ** np.arange(-44, 39)).astype(np.float32)),
    "subnormals": np.arange(1, 2**23, 4099, dtype=np.uint32).view(np.float32),
    "ties": (np.arange(2**23, 2**24, 701) / 16).astype(np.float32),
    "integers past 2**24": (np.arange(2**23, 2**24, 701) * 1024.0).astype(np.float32),
    "hundredths": (np.arange(-5000, 5000) / 100).astype(np.float32),
}


@pytest.mark.parametrize("values", ROWS.values(), ids=ROWS)
def test_it_is_what_numpy_prints_and_reads_back(values: NDArray[np.float32]) -> None:
    found = shortest(values)
    assert (bits(found) == bits(as_numpy_prints(values))).all()
    assert (found.astype(np.float32).view(np.uint32) == values.view(np.uint32)).all()


def test_few_numbers_come_out_as_many_do() -> None:
    values = np.concatenate([row[:50] for row in ROWS.values()])
    alone = np.concatenate([shortest(values[i : i + 1]) for i in range(len(values))])
    assert (bits(alone) == bits(shortest(values))).all()


@pytest.mark.parametrize("count", [0, 1, 4, 100])
def test_zeros_keep_their_sign_and_what_is_not_finite_stays(count: int) -> None:
    values = np.tile(np.array([0.0, -0.0, np.inf, -np.inf], np.float32), count)
    assert (bits(shortest(values)) == bits(values.astype(np.float64))).all()
    assert np.isnan(shortest(np.full(count, np.nan, np.float32))).all()


def test_shapes_are_kept() -> None:
    for shape in [(0, 3), (2, 3), (50, 3), (5, 4, 6)]:
        values = np.full(shape, 0.1, np.float32)
        assert shortest(values).tolist() == np.full(shape, 0.1).tolist()
    transposed = np.arange(200, dtype=np.float32).reshape(2, 100).T
    assert shortest(transposed).tolist() == transposed.tolist()
