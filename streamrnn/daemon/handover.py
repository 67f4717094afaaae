"""How the states of a pipeline go over to its successor: planned and checked before anything changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from streamrnn.commit.beside import Begin, Fate, fate
from streamrnn.commit.carry import Carrying, model_of, way
from streamrnn.commit.job import restore
from streamrnn.daemon.hosted import RefusedError
from streamrnn.errors import SourceError, StateError
from streamrnn.warmup import Warming, build_warming

if TYPE_CHECKING:
    from pathlib import Path

    from streamrnn.commit.carry import Change
    from streamrnn.daemon.hosted import Opened
    from streamrnn.line import Parts

_WORDS = {
    "same": "stay as they were",
    "keep": "go on under the new model",
    "reset": "begin anew",
    "warmup": "go on as the new model would have left them",
    "promote": "go on as the candidate left them",
}


@dataclass
class Handover:
    """States on their way from the parts of one pipeline to those of the next.

    `begin` fills the cores of a candidate that was not there before, `fate` is that of the one that was.
    """

    was: Parts
    now: Parts
    carrying: Carrying
    fate: Fate
    begin: Begin | None

    @property
    def way(self) -> str:
        """What becomes of the states of the model."""
        return "promote" if self.fate == "promote" else self.carrying.way

    def told(self) -> dict[str, str]:
        """What control.log says of it."""
        begins = {"candidate": self.begin.way} if self.begin is not None else {}
        return {"state": self.way, **begins}

    @property
    def _warmings(self) -> list[Warming]:
        found = [self.carrying.warming, self.begin.warming if self.begin else None]
        return [warming for warming in found if warming is not None]

    def warm_up(self) -> None:
        """Serve most of what the pipeline has served, while it goes on; on any thread."""
        goals = {name: core.store.sequence for name, core in self.was.shards.items()}
        for warming in self._warmings:
            warming.catch_up(goals)

    def check(self) -> None:
        """Serve what has come since then. Raises `RefusedError` if a key cannot go on."""
        try:
            for warming in self._warmings:
                warming.check(self.was.shards.items())
        except (StateError, SourceError) as error:
            raise RefusedError(str(error)) from error

    def move(self, file: Path) -> str:
        """Fill the new cores; what became of the states, in words."""
        segments = [(partition, [core.snapshot()]) for partition, core in self.was.shards.kept()]
        try:
            restore(self.now, self.carrying.segments(segments), file, self.fate)
        except StateError as error:
            raise RefusedError(str(error)) from error
        self.carrying.settle(self.now.shards.items())
        if self.begin is not None:
            self.begin.fill()
        beside = "; a candidate begins beside the model" if self.begin is not None else ""
        return f"{len(self.was.shards)} keys {_WORDS[self.way]}{beside}"

    def close(self) -> None:
        """It does not come to it."""
        for warming in self._warmings:
            warming.close()


def plan(was: Parts, now: Parts, opened: Opened, asked: Change | None) -> Handover:
    """How states go from one to the other, whose keys and rules are the same. Raises `RefusedError`."""
    model, beside = model_of(was.backend), was.candidate
    candidate = None if beside is None or beside.tally.error else model_of(beside.backend)
    becomes = fate(model, candidate, now)
    given = opened.spec, opened.registry, opened.context
    try:
        carrying = Carrying(now.backend, "same")
        if becomes != "promote":
            carrying = _carrying(was, now, asked)
        begin = None if now.candidate is None or becomes == "keep" else Begin(*given, now)
        if carrying.way == "warmup":
            carrying.warming = build_warming(*given, now.backend, now.verdict)
    except StateError as error:
        raise RefusedError(str(error)) from error
    return Handover(was, now, carrying, becomes, begin)


def fingerprints(parts: Parts) -> tuple[str, str | None]:
    """Those of the model and of the candidate."""
    beside = parts.candidate
    return parts.backend.state.fingerprint, beside.backend.state.fingerprint if beside else None


def _carrying(was: Parts, now: Parts, asked: Change | None) -> Carrying:
    before, after = model_of(was.backend), model_of(now.backend)
    if asked is None:
        asked = "keep" if before["state"] == after["state"] else "refuse"
    try:
        return Carrying(now.backend, way(before, after, asked))
    except StateError as error:
        raise StateError(f"{error}\n--state reset lets every key begin anew") from error
