"""A source that promises nothing across its partitions has a state for each of them."""

from __future__ import annotations

import random

import pytest
from crash_harness import BASE, Job, events, run_seed, swapped
from simfs import SimFS

from streamrnn.commit.keys import load, load_partition
from streamrnn.commit.moved import moved
from streamrnn.errors import StateError
from streamrnn.sources.file import FileSource

FILES = {"a.jsonl": events(random.Random(1), 50), "b.jsonl": b"", "c.jsonl": events(random.Random(2), 40)}


@pytest.fixture
def parted():
    with swapped(FileSource, "partitioned", True):
        yield Job(files=FILES)


def test_each_partition_is_served_as_if_it_were_alone(parted):
    both = parted.whole()[2]
    for name in ("a.jsonl", "c.jsonl"):
        alone = Job(files={other: data if other == name else b"" for other, data in FILES.items()})
        assert alone.whole()[2][name] == both[name]


@pytest.mark.slow
def test_lives_that_end_in_a_loss_of_power_change_nothing(parted):
    expected = parted.whole()
    assert {seed: why for seed in range(40) if (why := run_seed(parted, expected, seed).wrong)} == {}


def test_the_keys_of_each_partition_can_be_told(parted):
    fs = SimFS(parted.files)
    parted.live(fs, random.Random(0))
    found = load(fs, BASE / "job")
    assert [states.partition for states in found] == ["a.jsonl", "b.jsonl", "c.jsonl"]
    assert load_partition(fs, BASE / "job", None, "c.jsonl").rows == found[2].rows != found[0].rows
    assert {each.partition for each in moved(found[1:], found)} == {"a.jsonl"}
    with pytest.raises(StateError, match="expected --partition; the commit has state of a"):
        load_partition(fs, BASE / "job", None, None)


def test_state_by_partition_is_not_gone_on_with_by_a_source_without(parted):
    fs = SimFS(parted.files)
    parted.live(fs, random.Random(0))
    with (
        swapped(FileSource, "partitioned", False),
        pytest.raises(StateError, match="keep state by partition"),
    ):
        parted.live(fs, random.Random(0))
