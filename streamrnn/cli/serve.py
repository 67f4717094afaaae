"""`streamrnn serve`: many pipelines in one process, until all have ended or a signal comes."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from threading import Event
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from streamrnn.cli.stopping import Stopping, Waiting
from streamrnn.cli.threads import one_thread

if TYPE_CHECKING:
    from streamrnn.context import Context
    from streamrnn.daemon.admin import Admin
    from streamrnn.daemon.daemon import Daemon
    from streamrnn.daemon.fleet import Fleet

_TURN_S = 0.2


@click.command("serve")
@click.argument("places", metavar="DIR_OR_FILE...", nargs=-1, required=True, type=click.Path())
@click.option("--keep-going", is_flag=True,
              help="Serve the files that are in order, and name the others.")  # fmt: skip
@click.option("--watch", is_flag=True, help="Reload when a pipeline file or a model's has changed.")
@click.option(
    "--admin",
    "address",
    metavar="ADDRESS",
    help="Where to be asked: unix:PATH or tcp://HOST:PORT; by default a socket for this user alone.",
)
@click.option("--no-admin", is_flag=True, help="Do not listen for questions.")
@click.option(
    "--admin-token-file",
    type=click.Path(),
    metavar="FILE",
    help="Holds the token that is asked for over tcp; else $STREAMRNN_ADMIN_TOKEN.",
)
@click.option("--admin-cert", type=click.Path(), metavar="FILE", help="For TLS: the certificate.")
@click.option("--admin-key", type=click.Path(), metavar="FILE", help="For TLS: its key.")
@click.option(
    "--admin-client-ca",
    type=click.Path(),
    metavar="FILE",
    help="For TLS: who must have signed a client's certificate.",
)
@click.option("--admin-insecure", is_flag=True, help="Allow other machines to ask without TLS.")
@click.option("--log-format", type=click.Choice(["auto", "json", "text"]), default="auto",
              help="auto: text on a terminal, else a JSON object a line.")  # fmt: skip
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info")
def command(places: tuple[str, ...], **given: Any) -> None:
    """Serve every pipeline in DIR_OR_FILE..., each on a thread of its own.

    One that fails is tried again after a while that doubles up to a minute, and does not touch the others.
    A file with a mistake keeps all from starting unless --keep-going: whoever starts it by hand, or a
    deployment, should hear of it, where nobody would miss one pipeline of many.

    SIGTERM and SIGINT let all finish and commit, a second one ends the process at once; SIGHUP reloads,
    SIGUSR1 commits now. It ends by itself once every pipeline has come to its end.
    """
    with Stopping() as stop:
        one_thread()
        code = _serve(places, _Given(**given), stop)
        if code:
            sys.exit(code)


@dataclass(frozen=True)
class _Given:
    """The options of the command."""

    keep_going: bool
    watch: bool
    address: str | None
    no_admin: bool
    admin_token_file: str | None
    admin_cert: str | None
    admin_key: str | None
    admin_client_ca: str | None
    admin_insecure: bool
    log_format: str
    log_level: str

    @property
    def for_people(self) -> bool | None:
        """How to log; None asks the terminal."""
        return None if self.log_format == "auto" else self.log_format == "text"


def _serve(places: tuple[str, ...], given: _Given, stop: Stopping) -> int:
    import logging
    import os
    import random

    from streamrnn.cli.run import few_interruptions
    from streamrnn.context import Context
    from streamrnn.daemon.changes import Changes
    from streamrnn.daemon.daemon import Daemon
    from streamrnn.daemon.fleet import Fleet
    from streamrnn.daemon.logs import log_to
    from streamrnn.daemon.notify import Notify

    context = Context(rng=random.Random(), log=logging.getLogger("streamrnn.daemon"))
    log_to(sys.stderr, context.clock, logging.getLevelName(given.log_level.upper()), given.for_people)
    fleet = Fleet(context.rng)
    daemon = Daemon(places, context, Notify(context, os.environ), fleet)
    with ExitStack() as opened, _signals() as asked:
        opened.enter_context(few_interruptions())
        stop.waiting = lambda: _waited_for(fleet)
        admin = None if given.no_admin else _admin(daemon, given, context)
        if admin is not None:
            opened.callback(admin.close)
        stop.has_begun = True  # the first pipelines serve before the last ones are loaded
        daemon.start(given.keep_going)
        if admin is not None:
            admin.start()
            context.log.info("asked at %s", admin.address)
        stop.grace_s = max(hosted.opened.spec.file.limits.grace_s for hosted in fleet)
        changes = Changes(places, context, fleet) if given.watch else None
        while not daemon.turn():
            _heed(daemon, stop, asked)
            if changes is not None and changes.due():
                daemon.reload()
            asked.woken.wait(_TURN_S)
            asked.woken.clear()
    return fleet.exit_code


def _admin(daemon: Daemon, given: _Given, context: Context) -> Admin:
    """The server of the admin API, listening. Raises `OptionError`, `PluginError` or `SourceError`."""
    import os

    from streamrnn.builtins.sockets import Tls
    from streamrnn.daemon.access import admin_options, default_address
    from streamrnn.errors import OptionError, PluginError

    try:
        from streamrnn.daemon.admin import Admin
    except ModuleNotFoundError as error:
        text = "pip install 'streamrnn[server]' adds it; --no-admin does without"
        raise PluginError(f"the admin API needs the package {error.name}: {text}") from error
    files = given.admin_cert, given.admin_key
    if (files[0] is None) != (files[1] is None) or (given.admin_client_ca and files[0] is None):
        raise OptionError((("--admin-cert",), "expected it together with --admin-key"))
    tls = None
    if files[0] and files[1]:
        tls = Tls.model_validate({"cert": files[0], "key": files[1], "client_ca": given.admin_client_ca})
    address = given.address or default_address(os.environ)
    options = admin_options(address, given.admin_token_file, tls, given.admin_insecure, os.environ, context)
    return Admin(daemon, options, context)


class _Asked:
    """What signals have asked for since it was last seen to."""

    def __init__(self) -> None:
        self.reload = self.commit = False
        self.woken = Event()

    def on(self, number: int, frame: FrameType | None) -> None:
        """A signal has come; all else is done on the main thread's next turn."""
        self.reload |= number == signal.SIGHUP
        self.commit |= number == signal.SIGUSR1


@contextmanager
def _signals() -> Iterator[_Asked]:
    asked, numbers = _Asked(), (signal.SIGHUP, signal.SIGUSR1)
    for number in numbers:
        signal.signal(number, asked.on)
    try:
        yield asked
    finally:
        for number in numbers:  # a late one must not end a process that is ending well
            signal.signal(number, signal.SIG_IGN)


def _heed(daemon: Daemon, stop: Stopping, asked: _Asked) -> None:
    if stop.asked and not daemon.fleet.stopping:
        daemon.stop()
    if asked.reload and not stop.asked:
        asked.reload = False
        daemon.reload()
    if asked.commit:
        asked.commit = False
        daemon.commit()


def _waited_for(fleet: Fleet) -> Waiting:
    """The first pipeline that has not finished, and what it is doing."""
    from streamrnn.cli.run import WAITED_FOR
    from streamrnn.daemon.hosted import OVER

    for hosted in fleet:
        if hosted.state not in OVER:
            what, code = WAITED_FOR[hosted.pipeline.doing] if hosted.pipeline else ("it to be loaded", 3)
            return f"{hosted.name}: {what}", code
    return "the admin server, to close", 4
