"""What the tests of the daemon share: pipeline files, and pipelines that are turned by hand on a clock by
hand.
"""

import random
import threading
import time
from contextlib import contextmanager
from dataclasses import replace

from at_once import AtOnce

from streamrnn.build import build_pipeline
from streamrnn.commit.job import build_job
from streamrnn.context import Context, ManualClock
from streamrnn.daemon.backoff import Backoff
from streamrnn.daemon.daemon import Daemon
from streamrnn.daemon.fleet import Fleet, open_one
from streamrnn.daemon.hosted import Hosted
from streamrnn.daemon.notify import Notify
from streamrnn.testing import ListSink, ListSource

PIPELINE = """
name: {name}
source: {source}
decode: {{type: jsonl}}
event: {{key: k, inputs: {{x: [{{field: x}}]}}}}
model: {{type: formula, state: {{H: 0}}, update: {{H: {update}}}, output: {{y: H}}}}
encode: {{type: jsonl, include: [k]}}
sink: {sink}
{more}
"""
SUM, DOUBLING = "H + x", "2*H + x"


def pipeline(folder, name="p", *, update=SUM, source="", sink="", more="", text=PIPELINE):
    """A pipeline file that adds up x by key."""
    file = folder / f"{name}.yaml"
    source = source or f"{{type: file, path: {name}.in}}"
    sink = sink or f"{{type: file, path: {name}.out}}"
    file.write_text(text.format(name=name, update=update, source=source, sink=sink, more=more))
    return str(file)


def checkpoint(name="p", more=""):
    return f"checkpoint: {{dir: state/{name}, every_s: 0{more}}}"


def events(folder, count, name="p", keys=3):
    lines = [f'{{"k":"k{i % keys}","x":{i}}}\n' for i in range(count)]
    (folder / f"{name}.in").write_text("".join(lines))


def opened(file, clock=None, **given):
    found = open_one(file)
    given = {"clock": clock or ManualClock(), "aside": AtOnce} | given
    return replace(found, context=replace(found.context, **given))


def hosted(file, clock=None, build=build_job, **given):
    return Hosted(opened(file, clock, **given), Backoff(random.Random(1)), build)


def fed(items, sink=None):
    """A way to build a pipeline whose source is a list; each time the same list goes on."""
    source, sink = ListSource(items), sink or ListSink()

    def build(spec, registry, context):
        return build_pipeline(spec, registry, context, source, sink)

    return build, sink


def turn_until(hosted, state, turns=1000):
    for _ in range(turns):
        if hosted.state == state:
            return
        hosted.turn()
    raise AssertionError(f"{hosted.state} and not {state} after {turns} turns: {hosted.error}")


@contextmanager
def running(folder, **given):
    """A daemon over the pipelines in a folder, on its threads."""
    context = Context(**given)
    daemon = Daemon([str(folder)], context, Notify(context, {}), Fleet(random.Random(0)))
    daemon.start()
    try:
        until(lambda: daemon.fleet.was_tried)
        yield daemon
    finally:
        daemon.stop()
        for thread in daemon.fleet._threads.values():
            thread.join(20)
    assert daemon.fleet.is_over


def until(happened, within_s=30.0):
    """Wait for what other threads are about to do."""
    never, deadline_s = threading.Event(), time.monotonic() + within_s
    while not (found := happened()):
        assert time.monotonic() < deadline_s, "it never happened"
        never.wait(0.002)
    return found
