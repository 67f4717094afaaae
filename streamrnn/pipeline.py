"""One pipeline: reads, has what it read served, writes, commits, and tells those who look on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict
from operator import attrgetter
from typing import TYPE_CHECKING, Literal, Protocol

from streamrnn.events import Mark, Rejected, Report
from streamrnn.hookspecs import PipelineInfo
from streamrnn.line import mark, mark_core, rest, serve
from streamrnn.ports import EndOfStream

if TYPE_CHECKING:
    from pathlib import Path

    import pluggy

    from streamrnn.commit.writer import Made
    from streamrnn.context import Clock
    from streamrnn.core import Core
    from streamrnn.line import Parts, Served


class Committer(Protocol):
    """Makes commits of a pipeline, on its thread.

    `told` is called for each between two batches, `made` is the last one of this run, of `count`; the stream
    stood still for `longest_s` at most.
    """

    folder: Path
    told: Callable[[Made], None]
    made: Made | None
    count: int
    longest_s: float

    def turn(self, events: int) -> None:
        """Called between batches, with how many events the last one had: commit if it is time."""
        ...

    def commit(self) -> None:
        """Commit, and wait until it is done."""
        ...

    def close(self) -> None:
        """No more will be asked for; after an error nothing was committed."""
        ...


class Onlooker(Protocol):
    """Sees every batch as it passes, on the pipeline's thread, and may not change it: be quick.

    What it raises ends the pipeline; unlike an observer it belongs to the program that hosts it.
    """

    def begun(self) -> None:
        """Something is going to be served."""
        ...

    def served(self, served: Served) -> None:
        """The answers to a block; nothing of them is written."""
        ...

    def written(self, report: Report) -> None:
        """The sink has taken them, and the observers have heard of it."""
        ...


class Pipeline:
    """`open`, then `run_once` until it answers None, then `close`; no signals, no printing inside."""

    def __init__(
        self, parts: Parts, hooks: pluggy.PluginManager, on_broken: Callable[[str], None], clock: Clock
    ) -> None:
        self.parts, self._hooks, self._on_broken = parts, hooks, on_broken
        self._now_s = clock.monotonic
        self.info = PipelineInfo(parts.name, parts.backend_name, parts.verdict.numerics)
        self.commands: deque[Mark] = deque()
        """Marks to handle before the next read; may be appended to from another thread."""
        self._idle: Callable[[], None] = getattr(parts.sink, "idle", lambda: None)
        """Lets a sink go on with what its readers did not take at once."""
        self._commits: Committer | None = None
        self.onlooker: Onlooker | None = None
        self.went_on = ""
        """Which commit it went on from, and what is replayed, in words."""
        self.doing: Literal["read", "serve", "write", "commit", "close"] = "read"
        """What is under way, for whoever waits for the end of it; may be read from another thread."""
        self._closed = self._stopped = False

    @property
    def commits(self) -> Committer | None:
        """What makes the commits of this pipeline; None if it makes none."""
        return self._commits

    @commits.setter
    def commits(self, commits: Committer) -> None:
        self._commits = commits
        commits.told = lambda made: self._observe("streamrnn_checkpoint_done", **asdict(made))

    def open(self) -> None:
        """Everything was opened when it was built; tell the observers."""
        self._observe("streamrnn_pipeline_started")

    def observed_by(self, hooks: pluggy.PluginManager) -> None:
        """From now on by the plugins of these: who comes hears that it started, who goes that it stopped."""
        before, self._hooks = self._hooks, hooks
        was, now = ({name for name, _ in each.list_name_plugin()} for each in (before, hooks))
        self._tell(before, was - now, "streamrnn_pipeline_stopped", error=None)
        self._tell(hooks, now - was, "streamrnn_pipeline_started")

    def run_once(self, wait_ms: int = 100) -> Report | None:
        """Read what has arrived and serve it, commit if it is time; None once the source has ended."""
        report = self._turn(wait_ms)
        if self.commits is not None and report is not None:
            self.doing = "commit"
            self.commits.turn(report.events)
        return report

    def stop(self) -> Iterator[Report]:
        """Read no more from outside, and serve what the source has taken from there already.

        Events that wait for their turn go on waiting in the last commit, if there are commits.
        """
        self._stopped = True
        if stop := getattr(self.parts.source, "stop", None):
            stop()
            while (report := self.run_once(wait_ms=0)) is not None:
                yield report
        elif (report := self._end()) is not None:
            yield report

    def heed(self, core: Core, told: Mark) -> Report:
        """Let one of its cores hear of a mark between two batches; those before it that wait go on first."""
        report = Report()
        self._write(mark_core(self.parts, core, told), report)
        return self._told(report)

    def _turn(self, wait_ms: int) -> Report | None:
        parts, report = self.parts, Report()
        while self.commands:
            self._write(mark(parts, self.commands.popleft()), report)
        self.doing = "read"
        if parts.reserve is not None and wait_ms and parts.reserve.is_short():
            self._idle()
            parts.reserve.wait(wait_ms)
            return self._told(report)
        begun_s = self._now_s()
        try:
            block = parts.source.read(parts.max_batch_events, wait_ms)
        except EndOfStream:
            return self._end(report)
        report.read_s = self._now_s() - begun_s
        if isinstance(block, Mark):
            self._write(mark(parts, block), report)
        elif block:
            report.events = len(block)
            self._write(serve(parts, block), report)
        else:
            self._idle()
        return self._told(report)

    def _end(self, report: Report | None = None) -> Report | None:
        """Serve what still waits, unless it is kept for another run; None if nothing was left to do."""
        report = report or Report()
        if not (self._stopped and self.commits):
            self._write(rest(self.parts), report)
        return self._told(report) if report.outputs or report.rejected else None

    def _told(self, report: Report) -> Report:
        shards = self.parts.shards
        report.live_keys, report.held = len(shards), shards.held
        report.evicted, report.expired = shards.forgotten
        if report.events or report.outputs or report.rejected:
            self._observe("streamrnn_batch_done", report=report)
            if self.onlooker is not None:
                self.onlooker.written(report)
        return report

    def _write(self, served_blocks: Iterable[Served], report: Report) -> None:
        """Hand what is served to the sink and to the dead letters, and count it."""
        self.doing = "serve"
        onlooker = self.onlooker
        rejected: list[Rejected] = []
        if onlooker is not None:
            onlooker.begun()
        begun_s = self._now_s()
        for served in served_blocks:
            out = served.out
            report.serve_s += self._now_s() - begun_s
            if onlooker is not None:
                onlooker.served(served)
            self.doing = "write"
            begun_s = self._now_s()
            self.parts.sink.write(out)
            report.write_s += self._now_s() - begun_s
            report.outputs += len(out)
            if out.rejected:
                rejected += out.rejected
                self._observe("streamrnn_events_rejected", origin=out.block.origin, rejected=out.rejected)
            self.doing = "serve"
            if onlooker is not None:
                onlooker.begun()
            begun_s = self._now_s()
        # Who is refused on arrival and who in his turn: how a stream is cut must not decide who comes first.
        rejected.sort(key=attrgetter("by"))
        report.rejected += tuple(rejected)
        if kept := [event for event in rejected if event.kept]:
            self.parts.rejects.write(kept)

    def close(self, error: BaseException | None = None) -> None:
        """Flush, commit, and give everything back; after an error neither. Twice is fine."""
        if self._closed:
            return
        self._closed = True
        parts = self.parts

        def tell(kind: object, raised: BaseException | None, trace: object) -> None:
            self._observe("streamrnn_pipeline_stopped", error=error or raised)

        with ExitStack() as closing:  # one that fails to close does not keep the others open
            closing.push(tell)
            if self.commits is not None:
                closing.callback(self.commits.close)
            closing.callback(parts.watch.close)
            for backend in parts.backends:
                closing.callback(backend.close)
            for part in (parts.rejects, parts.sink, parts.source):
                closing.callback(part.close)
            closing.callback(setattr, self, "doing", "close")
            if error is None:
                self.doing = "write"
                parts.sink.flush()
                if self.commits is not None:
                    self.doing = "commit"
                    self.commits.commit()

    def _observe(self, hook: str, **told: object) -> None:
        """Tell every observer; one that raises is told nothing from then on."""
        self._tell(self._hooks, None, hook, **told)

    def _tell(
        self, hooks: pluggy.PluginManager, plugins: Collection[str] | None, hook: str, **told: object
    ) -> None:
        """Tell some plugins by name, or all of them."""
        caller = getattr(hooks.hook, hook)
        for implementation in list(caller.get_hookimpls()):
            if plugins is not None and implementation.plugin_name not in plugins:
                continue
            wanted = {"pipeline": self.info, **told}
            try:
                implementation.function(*(wanted[name] for name in implementation.argnames))
            except Exception as error:
                hooks.unregister(implementation.plugin)
                text = f"observer '{implementation.plugin_name}' raised {type(error).__name__}: {error}"
                self._on_broken(f"{text}; it is disabled")


def run(pipeline: Pipeline, stopping: Callable[[], bool], told: Callable[[Report], None]) -> None:
    """Host a pipeline until its source ends or `stopping` says so; what was read is served and flushed."""
    error: BaseException | None = None
    try:
        pipeline.open()
        while not stopping():
            report = pipeline.run_once()
            if report is None:
                return
            told(report)
        for report in pipeline.stop():
            told(report)
    except BaseException as caught:
        error = caught
        raise
    finally:
        pipeline.close(error)
