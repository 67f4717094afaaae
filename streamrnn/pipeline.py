"""One pipeline, and the way of an event through it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from streamrnn.encode import Answered, EncodeStage
from streamrnn.event import EventStage
from streamrnn.events import Block, Mark, OutBlock, Rejected, Report
from streamrnn.hookspecs import PipelineInfo
from streamrnn.ports import EndOfStream

if TYPE_CHECKING:
    from pathlib import Path

    import pluggy

    from streamrnn.backend import Backend
    from streamrnn.commit.writer import Made
    from streamrnn.core import Shards
    from streamrnn.core.probe import Verdict
    from streamrnn.events import Column, Columns, IntArray
    from streamrnn.ports import Sink, Source
    from streamrnn.rejects import Rejects
    from streamrnn.reserve import Reserve


@dataclass
class Parts:
    """What a pipeline is made of, in the order of the line."""

    name: str
    source: Source
    decode: Callable[[Block], Columns]
    event: EventStage
    backend_name: str
    backend: Backend
    shards: Shards
    encode: EncodeStage
    format: Callable[[Mapping[str, Column], int], tuple[bytes, IntArray]]
    sink: Sink
    rejects: Rejects
    verdict: Verdict
    max_batch_events: int
    reserve: Reserve | None = None


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


@dataclass(slots=True)
class Served:
    """One block that was served: what the core said of its events, and what is to be written."""

    answered: Answered
    out: OutBlock


class Pipeline:
    """`open`, then `run_once` until it answers None, then `close`; no signals, no printing inside."""

    def __init__(self, parts: Parts, hooks: pluggy.PluginManager, on_broken: Callable[[str], None]) -> None:
        self.parts, self._hooks, self._on_broken = parts, hooks, on_broken
        self.info = PipelineInfo(parts.name, parts.backend_name, parts.verdict.numerics)
        self.commands: deque[Mark] = deque()
        """Marks to handle before the next read; may be appended to from another thread."""
        self._idle: Callable[[], None] = getattr(parts.sink, "idle", lambda: None)
        """Lets a sink go on with what its readers did not take at once."""
        self._commits: Committer | None = None
        self.went_on = ""
        """Which commit it went on from, and what is replayed, in words."""
        self.doing: Literal["read", "serve", "write", "commit", "close"] = "read"
        """What is under way, for whoever waits for the end of it; may be read from another thread."""
        self._closed = False

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

    def run_once(self, wait_ms: int = 100) -> Report | None:
        """Read what has arrived and serve it, commit if it is time; None once the source has ended."""
        report = self._turn(wait_ms)
        if self.commits is not None and report is not None:
            self.doing = "commit"
            self.commits.turn(report.events)
        return report

    def stop(self) -> Iterator[Report]:
        """Read no more from outside, and serve what the source has taken from there already."""
        if stop := getattr(self.parts.source, "stop", None):
            stop()
            while (report := self.run_once(wait_ms=0)) is not None:
                yield report

    def _turn(self, wait_ms: int) -> Report | None:
        parts = self.parts
        while self.commands:
            parts.shards.mark(self.commands.popleft())
        self.doing = "read"
        if parts.reserve is not None and wait_ms and parts.reserve.is_short():
            self._idle()
            parts.reserve.wait(wait_ms)
            return self._report()
        try:
            block = parts.source.read(parts.max_batch_events, wait_ms)
        except EndOfStream:
            return None
        if isinstance(block, Mark):
            parts.shards.mark(block)
            return self._report()
        if block:
            return self._serve(block)
        self._idle()
        return self._report()

    def _serve(self, block: Block) -> Report:
        self.doing = "serve"
        served = serve(self.parts, block)
        self.doing = "write"
        self.parts.sink.write(served.out)
        report = self._report(len(block), len(served.out), served.out.rejected)
        self._tell(block, report)
        return report

    def _report(self, events: int = 0, outputs: int = 0, rejected: tuple[Rejected, ...] = ()) -> Report:
        shards = self.parts.shards
        evicted, expired = shards.forgotten
        return Report(events, outputs, len(shards), rejected, evicted, expired)

    def _tell(self, block: Block, report: Report) -> None:
        if report.rejected:
            self.parts.rejects.write(report.rejected)
            self._observe("streamrnn_events_rejected", origin=block.origin, rejected=report.rejected)
        self._observe("streamrnn_batch_done", report=report)

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
            for part in (parts.backend, parts.rejects, parts.sink, parts.source):
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
        caller = getattr(self._hooks.hook, hook)
        for implementation in list(caller.get_hookimpls()):
            wanted = {"pipeline": self.info, **told}
            try:
                implementation.function(*(wanted[name] for name in implementation.argnames))
            except Exception as error:
                self._hooks.unregister(implementation.plugin)
                text = f"observer '{implementation.plugin_name}' raised {type(error).__name__}: {error}"
                self._on_broken(f"{text}; it is disabled")


def serve(parts: Parts, block: Block) -> Served:
    """The way of an event but for its ends: decode, event, core, encode."""
    core = parts.shards.of(block.origin)
    decoded = parts.decode(block)
    batch, records, refused = parts.event.read(decoded, block)
    outputs = core.process(batch)
    refused |= {int(records[i]): reason for i, reason in outputs.refused.items()}
    rejected = tuple(_rejected(block, i, refused[i]) for i in sorted(refused))
    answered = Answered(outputs, batch, core.cause_names)
    buffer, ends = parts.format(parts.encode.columns(answered, decoded, records), len(outputs))
    keys = [batch.keys[i] for i in outputs.accepted.tolist()]
    return Served(answered, OutBlock(buffer, ends, keys, records[outputs.accepted], block, rejected))


def _rejected(block: Block, i: int, reason: str) -> Rejected:
    position, number = int(block.positions[i]), int(block.numbers[i])
    return Rejected(block.origin, position, number, reason, block.record(i), i)


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
