"""Observers of pipelines whose files change while they serve."""

import sys
from importlib import import_module

import pytest
from daemon_parts import DOUBLING, SUM, checkpoint, hosted
from test_daemon_reload import end, fails, follow, put, reload, serve

from streamrnn.daemon.hosted import RefusedError

LISTENING = """
from streamrnn.hookspecs import hookimpl

heard = []


@hookimpl
def streamrnn_pipeline_started(pipeline):
    heard.append("started")


@hookimpl
def streamrnn_batch_done(report):
    heard.append(report.events)


@hookimpl
def streamrnn_pipeline_stopped(pipeline, error):
    heard.append("stopped")
"""


@pytest.fixture
def listening(tmp_path, monkeypatch):
    """Two plugins, `first` and `second`, and what they have heard by now."""
    for name in ("first", "second"):
        (tmp_path / f"{name}_listens.py").write_text(LISTENING)
        info = tmp_path / f"{name}-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Name: {name}\nVersion: 1\n")
        (info / "entry_points.txt").write_text(f"[streamrnn]\n{name} = {name}_listens\n")
        monkeypatch.delitem(sys.modules, f"{name}_listens", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    return lambda name: import_module(f"{name}_listens").heard


@pytest.mark.parametrize("more", ["", checkpoint()])
@pytest.mark.parametrize("update", [SUM, DOUBLING])
def test_observers_come_and_go_with_the_file(tmp_path, listening, update, more):
    """Be it with another model, or with nothing else; those that stay hear nothing of it."""
    put(tmp_path, 1)
    it = hosted(follow(tmp_path, more=f"plugins: [first]\n{more}"))
    serve(it)
    follow(tmp_path, update=update, more=f"plugins: [first, second]\n{more}")
    reload(it)
    put(tmp_path, 1, 1)
    serve(it)
    follow(tmp_path, more=f"plugins: [second]\n{more}")
    reload(it)
    put(tmp_path, 1, 1, 1)
    serve(it)
    commits = it.stats.commits
    end(it)
    assert listening("first") == ["started", 1, 2, "stopped"]
    assert listening("second") == ["started", 2, 3, "stopped"]
    assert bool(commits) == bool(more)


@pytest.mark.parametrize("is_broken", [False, True])
def test_observers_hear_that_a_pipeline_was_closed_and_opened(tmp_path, listening, is_broken):
    put(tmp_path, 1)
    plugins = "plugins: [first]\ncheckpoint: {dir: state/p, every_s: EVERY}"
    it = hosted(follow(tmp_path, more=plugins.replace("EVERY", "0")))
    serve(it)
    follow(tmp_path, more=plugins.replace("EVERY", "5"))
    if is_broken:
        was, build = it.opened, it._build
        it._build = lambda spec, *given: fails() if spec is not was.spec else build(spec, *given)
        with pytest.raises(RefusedError, match="goes on as it was"):
            reload(it)
    else:
        reload(it)
    put(tmp_path, 2, 2)
    serve(it)
    end(it)
    assert listening("first") == ["started", 1, "stopped", "started", 2, "stopped"]
