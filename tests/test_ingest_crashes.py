"""Sockets on a network that breaks and a disk that loses power: nothing acknowledged is lost or doubled.

STREAMRNN_NET_SEEDS=10000 runs as many seeds; a seed that fails is named, and `IngestJob.seed` replays it.
"""

from __future__ import annotations

import os

import pytest
from ingest_harness import SABOTAGES, IngestJob

SEEDS = int(os.environ.get("STREAMRNN_NET_SEEDS", "80"))
PARTS = 2


@pytest.fixture(scope="module")
def jobs():
    return IngestJob("immediate"), IngestJob("committed")


@pytest.mark.slow
@pytest.mark.timeout(20_000)
@pytest.mark.parametrize("part", range(PARTS))
def test_lives_among_breaking_connections(jobs, part):
    found = {number: jobs[number // PARTS % 2].seed(number) for number in range(part, SEEDS, PARTS)}
    assert {number: why for number, (why, _) in found.items() if why} == {}
    assert sum(crashes for _, crashes in found.values()) > SEEDS / PARTS


@pytest.mark.slow
@pytest.mark.parametrize("name", SABOTAGES)
def test_every_sabotage_shows(jobs, name):
    assert any(jobs[0].seed(number, SABOTAGES[name])[0] for number in range(150))
