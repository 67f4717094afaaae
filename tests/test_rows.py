"""What moves rows about in a batch equals plain indexing, and what is cheap to ask equals what is dear."""

import warnings
from itertools import pairwise

import numpy as np
import pytest

from streamrnn.core.boundaries import Boundaries
from streamrnn.core.columns import Columns
from streamrnn.core.links import Linker
from streamrnn.core.rows import all_finite, put_rows, zeros
from streamrnn.core.schedule import CALL_STEPS, cut, stretches


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "int64", "bool", "object"])
@pytest.mark.parametrize("shape", [(), (1,), (3,), (16,), (2, 5), (0,)])
def test_rows_are_put_as_by_an_assignment(dtype, shape):
    rng = np.random.default_rng(0)
    rows = rng.permutation(50)[:20]
    values = (100 * rng.normal(size=(20, *shape))).astype(dtype)
    kept = np.zeros((50, *shape), dtype)
    expected = kept.copy()
    expected[rows] = values
    put_rows(kept, rows, values)
    put_rows(kept, rows[:0], values[:0])
    np.testing.assert_array_equal(kept, expected)
    if shape == (2, 5):  # rows that do not lie in one piece, in either array
        put_rows(kept, rows, np.asfortranarray(values))
        np.testing.assert_array_equal(kept, expected)
        other = np.zeros((2, 50, 5), dtype).swapaxes(0, 1)
        put_rows(other, rows, values)
        np.testing.assert_array_equal(other, expected)


def test_rows_of_another_number_or_type_are_not_copied_as_they_are():
    with pytest.raises(ValueError, match="shape mismatch"):
        put_rows(np.zeros((9, 8)), np.arange(4), np.ones((3, 8)))
    with pytest.raises(IndexError):
        put_rows(np.zeros((9, 8)), np.array([9]), np.ones((1, 8)))
    kept = np.zeros((9, 8))
    put_rows(kept, np.arange(4), np.ones((4, 8), np.float32))
    assert kept.sum() == 32


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int64"])
@pytest.mark.parametrize("size", [0, 3, 5000])
def test_one_number_that_is_not_finite_is_found(dtype, size):
    largest = np.finfo(dtype).max if dtype != "int64" else np.iinfo(dtype).max
    array = np.full((size, 2), largest, dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert all_finite(array)
        assert all_finite(array[:, 0])
        for value in (np.nan, np.inf, -np.inf) if dtype != "int64" and size else ():
            array[size // 2, 1] = value
            assert not all_finite(array)
            assert not all_finite(array[:, 1])
            assert all_finite(array[:, 0])


def test_columns_of_some_rows_come_back_as_they_went():
    dtypes = {"flag": "bool", "count": "int64", "what": "object", "small": "int8", "sequence": "int64"}
    columns = Columns(dtypes)
    columns.grow(4)
    columns["count"][:] = range(4)
    columns["what"][2] = "kept"
    rows = np.array([3, 1])
    records = columns.take(rows)
    assert records["count"].tolist() == [3, 1]
    records["count"] = 7
    records["flag"] = [True, False]
    records["what"] = ["a", "b"]
    records["sequence"] = 9
    assert columns["count"].tolist() == [0, 1, 2, 3], "a copy"
    columns.put(records)
    columns.grow(6)
    assert columns["count"].tolist() == [0, 7, 2, 7, 0, 0]
    assert columns["sequence"].tolist() == [0, 9, 0, 9, 0, 0]
    assert columns["flag"].tolist() == [False, False, False, True, False, False]
    assert columns["what"].tolist() == [None, "b", "kept", "a", None, None]
    columns.clear(np.array([1, 2]))
    assert columns["count"].tolist() == [0, 0, 0, 7, 0, 0]
    assert columns["what"].tolist() == [None, None, None, "a", None, None]


def drawn_links(linker, seed, n):
    """A batch in which few or many events share rows, and its links."""
    rng = np.random.default_rng(seed)
    high = [3, 100, n, 30 * n, 10**6][seed % 5]
    rows = rng.integers(0, high, n)
    return rows, linker.link(rows, high)


@pytest.mark.parametrize("n", [1, 2, 60, 255, 256, 3000])
def test_links_keep_the_order_of_the_log_within_a_row(n):
    linker = Linker()
    for seed in range(40):
        rows, links = drawn_links(linker, seed, n)
        assert sorted(links.order.tolist()) == list(range(n))
        assert links.begins.tolist() == np.flatnonzero(links.starts).tolist()
        ends = [*links.begins[1:].tolist(), n]
        runs = [links.order[a:b].tolist() for a, b in zip(links.begins.tolist(), ends, strict=True)]
        assert all(run == sorted(run) for run in runs)
        assert dict(zip(links.rows.tolist(), runs, strict=True)) == {
            row: np.flatnonzero(rows == row).tolist() for row in set(rows.tolist())
        }
        assert all(len(run) == 1 for run in runs[links.mixed :])
        if links.distinct:
            assert links.order.tolist() == list(range(n))


@pytest.mark.parametrize("n", [1, 2, 60, 255, 256, 3000])
@pytest.mark.parametrize("seed", range(10))
def test_a_batch_without_resets_is_cut_as_any_other(seed, n):
    _, links = drawn_links(Linker(), seed, n)
    nothing = np.zeros(n, np.int64)
    found, expected = (
        cut(links, Boundaries(nothing, np.zeros(n, np.int8), nothing, nothing != 0, quiet))
        for quiet in (True, False)
    )
    for name in ("order", "begins", "lengths", "rows", "fresh", "kept", "start_of", "place"):
        assert getattr(found, name).tolist() == getattr(expected, name).tolist(), name
    assert (np.diff(found.lengths) <= 0).all()
    places = range(int(found.lengths.max()) + 2)
    assert [found.running(k) for k in places] == [int((found.lengths > k).sum()) for k in places]


@pytest.mark.parametrize("seed", range(40))
def test_stretches_take_every_step_once_and_pad_little(seed):
    lengths = (-np.sort(-np.random.default_rng(seed).zipf(1.3, 1 + seed).clip(max=2000))).tolist()
    found, done = stretches(lengths), 0
    for steps in found:
        running = [length for length in lengths if length > done]
        done += steps
        ends = sorted({length for length in running if length <= done})
        assert done == ends[-1]
        for end, next_end in pairwise(ends):
            assert (next_end - end) * sum(length <= end for length in running) <= CALL_STEPS
    assert done == lengths[0]


STRETCHES = {
    "one": ([7], [7]),
    "alike": ([9, 9, 9], [9]),
    "one call is cheaper than two": ([9, 9, 8, 1], [9]),
    "short ones end before the others go on": ([900, 890, 2, 1], [2, 898]),
    "the busiest key is alone at last": ([900, 300, 290, 280], [300, 600]),
}


@pytest.mark.parametrize("name", STRETCHES)
def test_so_many_steps_are_scanned_at_a_time(name):
    lengths, steps = STRETCHES[name]
    assert stretches(lengths) == steps


def test_a_large_array_is_zeros_that_can_be_written():
    for shape, dtype in (((3,), "int64"), ((70_000, 16), "float32"), ((600_000,), [("a", "i8"), ("b", "?")])):
        array = zeros(shape, dtype)
        assert (array.shape, array.dtype, array.flags.writeable) == (shape, np.dtype(dtype), True)
        assert not array.tobytes().strip(b"\0")
        array[-1] = np.ones((), dtype)
        assert array[-1].tobytes().strip(b"\0")
