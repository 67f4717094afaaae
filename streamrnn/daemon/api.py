"""What the daemon can be asked for over HTTP: one function for each question."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from streamrnn.daemon import commands
from streamrnn.daemon import messages as s
from streamrnn.daemon.metrics import Metrics
from streamrnn.daemon.tap import Tap
from streamrnn.letters.reading import read

if TYPE_CHECKING:
    from streamrnn.daemon.daemon import Daemon
    from streamrnn.daemon.hosted import Hosted
    from streamrnn.pipeline import Pipeline

_LOOK_S = 0.1
"""How often a listener's events are fetched: rarely enough to cost the stream nothing."""
_T = TypeVar("_T")


class UnknownError(Exception):
    """There is no pipeline of that name."""


@dataclass
class Api:
    """The daemon's answers. Raises `UnknownError`, `RefusedError`, or `TimeoutError` after `patience_s`."""

    daemon: Daemon
    patience_s: float = 30.0

    def __post_init__(self) -> None:
        self._metrics = Metrics(self.daemon.fleet)

    async def livez(self) -> s.Health:
        """Whether no pipeline hangs."""
        now_s = self.daemon.context.clock.monotonic()
        return s.Health(ok=not self.daemon.hung(now_s))

    async def readyz(self) -> s.Health:
        """Whether every pipeline serves, or has come to its end."""
        return s.Health(ok=self.daemon.fleet.is_ready)

    async def metrics(self) -> bytes:
        """All numbers, as Prometheus reads them."""
        return self._metrics.page()

    async def pipelines(self) -> s.Statuses:
        """How all pipelines are doing."""
        return s.Statuses(pipelines=[status(hosted) for hosted in self.daemon.fleet])

    async def pipeline(self, name: str) -> s.Status:
        """How a pipeline is doing."""
        return status(self._find(name))

    async def state(self, name: str, query: s.KeyQuery) -> s.KeyStates:
        """All that is known of a key, read between two batches."""
        hosted = self._find(name)

        def look(pipeline: Pipeline) -> dict[str, Any]:
            return commands.look(pipeline, hosted.opened.spec, query.key, query.partition)

        return s.KeyStates(key=query.key, partitions=await self._ask(hosted, look))

    async def reset(self, name: str, body: s.Reset) -> s.ResetDone:
        """Let keys begin anew with their next events; committed when it answers."""
        what = body.model_dump(exclude_none=True)
        count = await self._ask(self._find(name), lambda pipeline: commands.reset(pipeline, what))
        return s.ResetDone(keys=count)

    async def checkpoint(self, name: str, body: s.Nothing) -> s.Committed:
        """Commit now."""
        return s.Committed(commit=await self._ask(self._find(name), commands.commit))

    async def reload(self, name: str, body: s.Reload) -> s.Reloaded:
        """Read a pipeline's file again, and go on as it says."""
        self._find(name)
        return s.Reloaded(pipelines=await self._wait(self.daemon.reload(name, body.state)))

    async def reload_all(self, body: s.Reload) -> s.Reloaded:
        """Read all files again: new ones are served, those that are gone are let finish."""
        return s.Reloaded(pipelines=await self._wait(self.daemon.reload(None, body.state)))

    async def dead_letters(self, name: str, query: s.LettersQuery) -> s.Letters:
        """Refused events: counts by code, and the last ones with their bytes, if a file keeps them."""
        hosted = self._find(name)
        letter = hosted.opened.spec.file.dead_letter
        counted = dict(hosted.stats.rejected)
        if letter is None:
            return s.Letters(counted=counted, file=None, last=[])
        context = hosted.opened.context
        path = context.path(letter.path)

        def last() -> list[dict[str, Any]]:
            if context.fs.status(path) is None:
                return []
            letters = deque((each for _, each in read(context.fs, path)), maxlen=query.last)
            return [msgspec.to_builtins(each) for each in letters]

        return s.Letters(counted=counted, file=str(path), last=await asyncio.to_thread(last))

    async def tap(self, name: str, query: s.TapQuery) -> AsyncIterator[bytes]:
        """Events and outputs as they pass, a JSON object a line; an empty line now and then says it still
        listens.
        """
        hosted = self._find(name)
        tap = Tap(self.daemon.context.clock, query.key, query.per_s)
        return self._listened(hosted, tap, query.seconds)

    async def _listened(self, hosted: Hosted, tap: Tap, seconds: float | None) -> AsyncIterator[bytes]:
        hosted.stats.taps = [*hosted.stats.taps, tap]
        clock = self.daemon.context.clock
        began_s = spoke_s = clock.monotonic()
        try:
            yield b"\n"
            while seconds is None or clock.monotonic() - began_s < seconds:
                lines = b"".join(msgspec.json.encode(event) + b"\n" for event in tap.take())
                if lines or clock.monotonic() - spoke_s > 1:
                    spoke_s = clock.monotonic()
                    yield lines or b"\n"
                if self.daemon.fleet.stopping or hosted.state in ("ended", "stopped"):
                    return
                await asyncio.sleep(_LOOK_S)
        finally:
            hosted.stats.taps = [each for each in hosted.stats.taps if each is not tap]

    def _find(self, name: str) -> Hosted:
        try:
            return self.daemon.fleet.find(name)
        except KeyError:
            known = ", ".join(self.daemon.fleet.hosted) or "none"
            raise UnknownError(f"no pipeline '{name}'; there are: {known}") from None

    async def _ask(self, hosted: Hosted, command: Callable[[Pipeline], _T]) -> _T:
        return await self._wait(hosted.ask(command))

    async def _wait(self, asked: Future[_T]) -> _T:
        """What was asked is done all the same, should it take longer than this waits."""
        return await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(asked)), self.patience_s)


def status(hosted: Hosted) -> s.Status:
    """How a pipeline is doing, read while it goes on."""
    stats, pipeline, spec = hosted.stats, hosted.pipeline, hosted.opened.spec
    steps = stats.steps
    calls = steps.waves + steps.scans
    quantiles = {f"p{q}": stats.serve_s.quantile(q / 100) for q in (50, 99)}
    commit = s.Commit(
        number=stats.commit_number,
        events=stats.commit_events,
        bytes=stats.commit_bytes,
        duration_s=stats.commit_s,
    )
    return s.Status(
        name=hosted.name,
        file=hosted.opened.file,
        state=hosted.state,
        error=hosted.error,
        failures=hosted.failures,
        doing=pipeline.doing if pipeline else None,
        source=spec.source.component.name,
        sink=spec.sink.component.name,
        identity=hosted.identity(),
        events=stats.events,
        outputs=stats.outputs,
        rejected=dict(stats.rejected),
        resets=dict(stats.resets),
        live_keys=stats.live_keys,
        held=stats.held,
        released_keys=stats.released_keys,
        batches=stats.batches,
        wave_width=(steps.wave_events + steps.scan_events) / calls if calls else None,
        serve_ms={name: 1000 * found for name, found in quantiles.items() if found is not None},
        event_age_s=stats.event_age_s,
        turn_age_s=hosted.turn_age_s,
        position=dict(stats.position),
        commit=commit if stats.commits else None,
        candidate=_candidate(hosted),
        taps=len(stats.taps),
    )


def _candidate(hosted: Hosted) -> s.Candidate | None:
    pipeline, section = hosted.pipeline, hosted.opened.spec.file.candidate
    if pipeline is None or section is None or (beside := pipeline.parts.candidate) is None:
        return None
    tally = beside.tally
    return s.Candidate(
        model=beside.backend.state.fingerprint[:16],
        share=section.share,
        events=tally.events,
        differing=tally.differing,
        apart=tally.apart,
        answered=tally.answered,
        largest=tally.largest,
        worst=tally.worst,
        error=tally.error,
    )
