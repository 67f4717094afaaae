"""What the process does while pipelines serve: it starts them, hears what is asked of it, and ends with
them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

from streamrnn.commit.carry import Change
from streamrnn.daemon.clashes import clashes
from streamrnn.daemon.fleet import Fleet, SharedStream, open_all, open_one, pipeline_files
from streamrnn.daemon.hosted import Hosted, NotServingError, Opened, RefusedError
from streamrnn.daemon.reload import prepare, switch
from streamrnn.errors import ConfigError, StreamrnnError

if TYPE_CHECKING:
    from streamrnn.context import Context
    from streamrnn.daemon.notify import Notify

LOG = logging.getLogger("streamrnn.daemon")
ALIVE_S = 60.0
"""How long one turn of a pipeline may take before its daemon counts as hung, if the manager names no time."""


class Daemon:
    """All pipelines of some files and folders.

    `turn` is called now and then, on the thread that signals come to.

    Reloads are done one after the other on a thread of their own: loading a model takes its time.
    """

    def __init__(self, places: Sequence[str], context: Context, notify: Notify, fleet: Fleet) -> None:
        self.places, self.context, self.fleet, self._notify = places, context, fleet, notify
        self.stdout = SharedStream(context.stdout)
        self._reloads = ThreadPoolExecutor(1, "streamrnn-reload")
        self._pending: list[Future[dict[str, str]]] = []
        self._told_ready = False
        self.began_s = context.clock.monotonic()

    def start(self, keep_going: bool = False) -> None:
        """Begin to serve.

        Raises `ConfigError` with every mistake of every file; if `keep_going`, only if none is in order.
        """
        opened, findings = open_all(pipeline_files(self.places, self.context), self.stdout)
        if findings and not (keep_going and opened):
            raise ConfigError(findings)
        for finding in findings:
            LOG.error("not served: %s", finding)
        for each in opened:
            self.fleet.add(each)

    def turn(self) -> bool:
        """Tell the service manager how it is going; whether all is over."""
        now_s = self.context.clock.monotonic()
        if not self._told_ready and self.fleet.was_tried:
            self._told_ready = True
            self._notify.ready(self.status())
        if not self.hung(now_s):
            self._notify.alive()
        self._pending = [pending for pending in self._pending if not pending.done()]
        return self.fleet.is_over and not self._pending

    def hung(self, now_s: float) -> list[Hosted]:
        """Pipelines of which one turn takes longer than the manager waits for a sign of life."""
        return self.fleet.hung(now_s, self._notify.watchdog_s or ALIVE_S)

    def status(self) -> str:
        """How many pipelines serve, in words."""
        states = [hosted.state for hosted in self.fleet]
        counted = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
        return f"pipelines: {counted or 'none'}"

    def stop(self) -> None:
        """Let every pipeline serve what it has, commit and end."""
        LOG.info("stopping")
        self._notify.stopping()
        self._reloads.shutdown(wait=False, cancel_futures=True)
        self.fleet.stop()

    def commit(self) -> None:
        """Ask all pipelines to commit now."""
        for name, asked in self.fleet.commit().items():
            asked.add_done_callback(partial(_log_commit, name))

    def reload(self, name: str | None = None, state: Change | None = None) -> Future[dict[str, str]]:
        """Read the files again; what became of each pipeline, by name. Of one pipeline, if it is named.

        A file that is new is served, one that is gone is let finish. Where something is wrong, what was
        goes on.
        """

        def work() -> dict[str, str]:
            self._notify.reloading()
            try:
                return self._reload_one(name, state) if name is not None else self._reload_all(state)
            finally:
                self._notify.ready(self.status())

        pending = self._reloads.submit(work)
        self._pending.append(pending)
        return pending

    def _reload_one(self, name: str, state: Change | None) -> dict[str, str]:
        hosted = self.fleet.find(name)
        return {name: self._told(name, partial(self._again, hosted, state))}

    def _reload_all(self, state: Change | None) -> dict[str, str]:
        try:
            files = pipeline_files(self.places, self.context)
        except ConfigError as error:
            LOG.error("reload: %s", error)
            return {"": str(error)}
        told = {}
        by_file = {hosted.opened.file: hosted for hosted in self.fleet}
        for file, hosted in by_file.items():
            if file not in files:
                told[hosted.name] = self._told(hosted.name, partial(self._remove, hosted))
        for file in files:
            if hosted := by_file.get(file):  # type: ignore[assignment]
                told[hosted.name] = self._told(hosted.name, partial(self._again, hosted, state))
            else:
                told[file] = self._told(file, partial(self._add, file))
        return told

    def _told(self, name: str, change: Callable[[], str]) -> str:
        """What came of a change, logged; the message of an error, too."""
        try:
            told = change()
        except StreamrnnError as error:
            LOG.error("reload of %s: %s", name, error)
            return f"refused: {error}"
        LOG.info("%s: %s", name, told)
        return told

    def _again(self, hosted: Hosted, state: Change | None) -> str:
        """A pipeline as its file says now.

        Raises what is wrong with the file, and nothing has changed then.
        """
        opened = open_one(hosted.opened.file, self.stdout)
        if opened.name != hosted.name:
            raise RefusedError(
                f"name: expected {hosted.name}, found {opened.name}: a reload cannot rename it"
            )
        self._check_clashes(opened)
        prepared = prepare(opened, state, hosted)
        try:
            answer = hosted.ask(lambda pipeline: switch(hosted, prepared))
        except NotServingError:
            prepared.close()
            if hosted.state == "waiting":
                hosted.observe(opened)
                hosted.opened = opened
                hosted.try_again()
                return "reloaded; it had failed and is tried again"
            raise
        return answer.result()

    def _add(self, file: str) -> str:
        opened = open_one(file, self.stdout)
        self._check_clashes(opened)
        self.fleet.add(opened)
        return f"new: serves {opened.name}"

    def _remove(self, hosted: Hosted) -> str:
        self.fleet.remove(hosted.name)
        return "its file is gone: finished and stopped"

    def _check_clashes(self, opened: Opened) -> None:
        others = [hosted.opened for hosted in self.fleet if hosted.opened.file != opened.file]
        if found := clashes([*others, opened]):
            raise ConfigError(found)


def _log_commit(name: str, done: Future[int | None]) -> None:
    if error := done.exception():
        LOG.warning("%s: no commit: %s", name, error)
    else:
        LOG.info("%s: committed %s", name, done.result() or "where its source keeps its commits")
