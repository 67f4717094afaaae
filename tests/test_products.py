"""A row times a matrix has the same bits alone and in any company, with the kernels of several CPUs."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from streamrnn.backends.blas import BLAS_LIMIT
from streamrnn.backends.products import ROWS_MAX, JoinedTiles, Product, joined_tiles

MOST = 300
COUNTS = (*range(2, 40), 64, 100, 255, 256, 257, MOST)


def lonely_and_together(product: Product, x: np.ndarray, rng: np.random.Generator) -> str | None:
    """How many rows it takes to change the bits of one of them, or None."""
    alone = np.concatenate([product(x[[row]]) for row in range(len(x))])
    room = np.empty((MOST + 4, alone.shape[1]), alone.dtype)
    for n in COUNTS:
        picked = rng.permutation(len(x))[:n]
        for out in (None, room):
            if not np.array_equal(product(x[picked], out), alone[picked]):
                return f"{n} rows of {x.shape[1]} x {alone.shape[1]} {x.dtype}, tiles of {product.tile_rows}"
    return None


def random_products(seeds: range) -> list[str]:
    """What does not hold, over matrices of random shapes, single columns and long inner sides among them."""
    found = []
    with BLAS_LIMIT:
        for seed in seeds:
            rng = np.random.default_rng(seed)
            inputs = int(rng.integers(1, 400 if seed % 3 == 0 else 70))
            columns = 1 if seed % 11 == 0 else int(rng.integers(1, 400 if seed % 2 == 0 else 70))
            dtype = ("float32", "float64")[seed % 2]
            matrix = rng.standard_normal((inputs, columns)).astype(dtype)
            x = rng.standard_normal((MOST, inputs)).astype(dtype)
            product = Product(matrix, (None, None, None, 1, 8)[seed % 5])
            assert np.allclose(product(x), x @ matrix, rtol=1e-3, atol=1e-3)
            found += filter(None, [lonely_and_together(product, x, rng)])
    return found


def test_a_row_has_the_same_bits_in_any_company() -> None:
    assert random_products(range(60)) == []


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the kernels of these CPUs are for x86-64")
@pytest.mark.parametrize("cpu", ["Nehalem", "Sandybridge", "Haswell", "SkylakeX"])
def test_so_it_is_with_the_kernels_of_other_cpus(cpu: str) -> None:
    if cpu == "SkylakeX" and "avx512f" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("this CPU has no AVX-512")
    here = str(Path(__file__).parent)
    asked = "import test_products as t; print(t.random_products(range(40)))"
    code = f"import sys; sys.path.insert(0, {here!r}); {asked}"
    env = os.environ | {"OPENBLAS_CORETYPE": cpu}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_tiles_are_joined_only_where_that_keeps_their_bits() -> None:
    for shape in ((32, 128), (128, 512), (300, 5)):
        for tile_rows in (1, 2, 4, 8):
            joined = JoinedTiles(*shape, "<f4", tile_rows)
            x, w = joined._x, joined._w
            with BLAS_LIMIT:
                tiles = np.concatenate([x[i : i + tile_rows] @ w for i in range(0, ROWS_MAX, tile_rows)])
                for rows in range(tile_rows, ROWS_MAX + 1, tile_rows):
                    same = np.array_equal(x[:rows] @ w, tiles[:rows])
                    assert same or not joined.agree(rows)


def test_what_was_found_is_remembered_by_shape() -> None:
    assert joined_tiles(7, 9, "<f4") is joined_tiles(7, 9, "<f4")
