"""One pipeline of the daemon: built, served, and built again after it failed.

It knows nothing of the others.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass
from threading import Event, Lock
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from streamrnn.commit.job import build_job
from streamrnn.daemon.stats import Stats
from streamrnn.deadline import deadline
from streamrnn.errors import StreamrnnError

if TYPE_CHECKING:
    from streamrnn.config.spec import PipelineSpec
    from streamrnn.context import Context
    from streamrnn.core.candidate import Tally
    from streamrnn.daemon.backoff import Backoff
    from streamrnn.pipeline import Pipeline
    from streamrnn.registry import Registry

State = Literal["loading", "serving", "waiting", "ended", "stopped"]
OVER: tuple[State, ...] = ("ended", "stopped")
_T = TypeVar("_T")


class RefusedError(StreamrnnError):
    """What was asked of a pipeline cannot be done; it goes on as it was."""


class NotServingError(RefusedError):
    """There is no pipeline to ask: it is being loaded, waits after a failure, or is over."""


@dataclass(frozen=True)
class Opened:
    """A pipeline file as it was read, and what it is built with."""

    file: str
    spec: PipelineSpec
    registry: Registry
    context: Context
    digest: str = ""
    """Of the file's bytes, before any variable was put in."""

    @property
    def name(self) -> str:
        """What the pipeline is called."""
        return self.spec.name


class Hosted:
    """`run` on a thread of its own, or `turn` again and again; everything else may be called from any thread.

    Between two batches it does what was asked with `ask`. A pipeline that fails is closed, which commits
    nothing, and built anew when its back-off is over: one with `checkpoint` goes on from its last commit.
    """

    def __init__(
        self,
        opened: Opened,
        backoff: Backoff,
        build: Callable[[PipelineSpec, Registry, Context], Pipeline] = build_job,
    ) -> None:
        self.opened, self.backoff, self._build = opened, backoff, build
        self.state: State = "loading"
        self.error = ""
        """Why it last failed; empty while it serves."""
        self.failures = 0
        """How often it failed since the daemon began."""
        self.tried = False
        """Whether it was built, or failed to be, at least once."""
        self.pipeline: Pipeline | None = None
        self.stats = Stats(opened.context.clock)
        self.exit_code = 0
        self.turned_s = self.began_s = self.again_s = opened.context.clock.monotonic()
        """When it last came to the end of a turn, began to serve, and may be built again."""
        self._kept = ExitStack()
        """The deadline of the model that serves."""
        self._asked: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._lock = Lock()
        self._stopping = False
        self._wake = Event()
        self.observe(opened)

    @property
    def name(self) -> str:
        """What it is called."""
        return self.opened.name

    @property
    def turn_age_s(self) -> float:
        """Seconds since it last came to the end of a turn."""
        return self._now() - self.turned_s

    def identity(self) -> dict[str, str]:
        """What is served: digests of file and model, the backend, how far its answers can be relied on."""
        pipeline = self.pipeline
        known = {"config": self.opened.digest}
        if pipeline is None:
            return known
        model = pipeline.parts.backend.state.fingerprint
        return known | {
            "model": model[:16],
            "backend": pipeline.info.backend,
            "numerics": pipeline.info.numerics,
        }

    @property
    def tally(self) -> Tally | None:
        """What the candidate beside the model has answered, if there is one."""
        beside = self.pipeline.parts.candidate if self.pipeline is not None else None
        return beside.tally if beside is not None else None

    def lag(self) -> tuple[str, Mapping[str, int]]:
        """What is there and was not read, by partition, with its unit; nothing if the source cannot say."""
        source = self.pipeline.parts.source if self.pipeline is not None else None
        if (find := getattr(source, "lag", None)) is None:
            return "", {}
        try:
            return source.lag_unit, find()  # type: ignore[union-attr]
        except (StreamrnnError, OSError, ValueError, RuntimeError):
            return "", {}  # it is being closed, or changes right now

    def observe(self, opened: Opened) -> None:
        """Hear of the commits of a pipeline that is built from `opened`."""
        if not opened.registry.hooks.is_registered(self.stats):
            opened.registry.hooks.register(self.stats, name="streamrnn.daemon")

    def run(self) -> None:
        """Serve until the source ends or `stop` was called."""
        while (wait_s := self.turn()) is not None:
            if wait_s:
                self._wake.wait(wait_s)
                self._wake.clear()

    def stop(self) -> None:
        """Read no more; serve and commit what was taken, then be over."""
        self._stopping = True
        if (pipeline := self.pipeline) is not None:
            pipeline.parts.watch.signalled()
        self._wake.set()

    def try_again(self) -> None:
        """Do not wait for the back-off to be over."""
        self.again_s = self._now()
        self._wake.set()

    def ask(self, command: Callable[[Pipeline], _T]) -> Future[_T]:
        """Do something between two batches. A `RefusedError` of it is for whoever asked, all else a failure.

        Raises `NotServingError` if there is no pipeline to ask now.
        """
        answer: Future[_T] = Future()
        with self._lock:
            if self.state != "serving":
                raise NotServingError(self._absence())
            self._asked.append((answer, lambda: command(self._serving())))
        return answer

    def turn(self) -> float | None:
        """One step. Seconds to wait before the next one, of which `stop` knows to end them; None if over."""
        try:
            wait_s = self._turn()
        except (Exception, SystemExit) as error:
            wait_s = self._failed(error)
        self.turned_s = self._now()
        return wait_s

    def _turn(self) -> float | None:
        if self.pipeline is None:
            return self._without()
        if self._stopping:
            for _ in self.pipeline.stop():
                self.turned_s = self._now()
            self._end("stopped")
            return None
        self._answer()
        if self._serving().run_once() is None:
            self._end("ended")
            return None
        return 0.0

    def _without(self) -> float | None:
        if self._stopping:
            self.state = "stopped"
            return None
        if (wait_s := self.again_s - self._now()) > 0:
            return wait_s
        self.state = "loading"
        pipeline = self.build(self.opened)
        self.serve(pipeline)
        pipeline.open()
        self.opened.context.log.info("serving; %s", pipeline.went_on or "nothing to go on from")
        return 0.0

    def build(self, opened: Opened) -> Pipeline:
        """The pipeline of a file, as its last commit left it. Raises what building it does."""
        return self._build(opened.spec, opened.registry, opened.context)

    def serve(self, pipeline: Pipeline) -> None:
        """This one, from now on; on the pipeline's thread."""
        pipeline.onlooker = self.stats
        time = self.opened.spec.file.event.time
        self.stats.ticks_per_s = time.ticks_per_s if time else None
        self.stats.stops()
        self.stats.starts(pipeline.parts.shards)
        if pipeline.commits is not None and (made := pipeline.commits.made) is not None:
            self.stats.committed(made.number, made.events, made.bytes, made.duration_s)
        self.began_s = self._now()
        self._kept.close()
        self._kept.enter_context(deadline(pipeline))
        with self._lock:
            self.pipeline, self.state = pipeline, "serving"
            self.error, self.tried = "", True

    def _answer(self) -> None:
        while self._asked:
            answer, command = self._asked.popleft()
            if not answer.set_running_or_notify_cancel():
                continue
            try:
                answer.set_result(command())
            except RefusedError as error:
                answer.set_exception(error)
            except BaseException as error:
                answer.set_exception(NotServingError(f"{self.name} failed over it: {error}"))
                raise

    def _end(self, state: State) -> None:
        self._serving().close()
        self._leave(state)
        self.opened.context.log.info("%s after %d events", state, self.stats.events)

    def _failed(self, error: BaseException) -> float | None:
        log, pipeline = self.opened.context.log, self.pipeline
        self.failures += 1
        self.error = (
            f"{type(error).__name__}: {error}" if not isinstance(error, StreamrnnError) else str(error)
        )
        self.exit_code = error.exit_code if isinstance(error, StreamrnnError) else 1
        self._leave("waiting")
        if pipeline is not None:
            try:
                pipeline.close(error)
            except Exception as closing:
                log.error("closing after a failure failed, too: %s", closing)
        unexpected = None if isinstance(error, StreamrnnError) else error
        if self._stopping:
            self.state = "stopped"
            log.error("failed while it stopped: %s", self.error, exc_info=unexpected)
            return None
        wait_s = self.backoff.failed(self._now() - self.began_s if pipeline is not None else 0.0)
        self.again_s = self._now() + wait_s
        log.error("failed: %s; trying again in %.1f s", self.error, wait_s, exc_info=unexpected)
        return wait_s

    def _leave(self, state: State) -> None:
        """There is no pipeline any more: whoever asked something is told so."""
        with self._lock:
            self.pipeline, self.state, self.tried = None, state, True
            asked, self._asked = self._asked, deque()
        self._kept.close()
        self.stats.stops()
        for answer, _ in asked:
            if answer.set_running_or_notify_cancel():
                answer.set_exception(NotServingError(self._absence()))

    def _absence(self) -> str:
        why = f": {self.error}" if self.error else ""
        return f"{self.name} serves nothing now, it is {self.state}{why}"

    def _serving(self) -> Pipeline:
        assert self.pipeline is not None
        return self.pipeline

    def _now(self) -> float:
        return self.opened.context.clock.monotonic()
