"""The daemon as a process, and the commands that ask it."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest
from click.testing import CliRunner
from daemon_parts import DOUBLING, checkpoint, pipeline, running, until

from streamrnn.cli import cli
from streamrnn.context import Context
from streamrnn.daemon.access import AdminOptions
from streamrnn.daemon.admin import Admin
from streamrnn.net.address import parse

FOLLOW = "{type: file, path: %s.in, follow: true}"


def put(folder, name, key, x):
    with open(folder / f"{name}.in", "a") as file:
        file.write(f'{{"k":"{key}","x":{x}}}\n')


def lines(folder, name):
    path = folder / f"{name}.out"
    return path.read_text().splitlines() if path.exists() else []


@contextmanager
def process(folder, *options, **given):
    """`streamrnn serve` over a folder, asked at its `admin` socket; what it logs is read at its end."""
    command = [sys.executable, "-m", "streamrnn", "serve", str(folder), "--admin", f"unix:{folder}/admin"]
    log = open(folder / "log", "wb")  # noqa: SIM115 - the process has it
    with log, subprocess.Popen([*command, *options], stderr=log, **given) as running:
        try:
            yield running
        finally:
            running.kill()


def logged(folder):
    return [json.loads(line) for line in (folder / "log").read_text().splitlines()]


def asked(folder, *arguments):
    return CliRunner().invoke(cli, [*arguments, "--admin", f"unix:{folder}/admin"])


@pytest.mark.slow
def test_a_day_in_the_life_of_a_daemon(tmp_path):
    """Started, asked, reloaded by signal and by command, told to commit, stopped: nothing is lost."""
    for name in "ab":
        put(tmp_path, name, "k", 1)
        pipeline(tmp_path, name, source=FOLLOW % name, more=checkpoint(name))
    with process(tmp_path) as daemon:
        until(lambda: lines(tmp_path, "a") and lines(tmp_path, "b"))
        top = asked(tmp_path, "top", "--once", "--every", "0.1")
        assert top.exit_code == 0, top.output
        assert top.output.count("serving") == 2
        pipeline(tmp_path, "a", update=DOUBLING, source=FOLLOW % "a", more=checkpoint("a"))
        daemon.send_signal(signal.SIGHUP)
        until(lambda: sum("reloaded" in line["message"] for line in logged(tmp_path)) == 2)
        put(tmp_path, "a", "k", 1)
        until(lambda: len(lines(tmp_path, "a")) == 2)
        daemon.send_signal(signal.SIGUSR1)
        until(lambda: sum("committed" in line["message"] for line in logged(tmp_path)) == 2)
        reset = asked(tmp_path, "reset", "a", "k")
        assert (reset.exit_code, reset.output) == (0, "1 keys reset\n")
        put(tmp_path, "a", "k", 7)
        until(lambda: len(lines(tmp_path, "a")) == 3)
        (tmp_path / "b.yaml").write_text("name: b\n")
        told = asked(tmp_path, "reload", "b")
        assert told.exit_code == 1
        assert told.output.startswith("b: refused: ")
        put(tmp_path, "b", "k", 5)
        until(lambda: len(lines(tmp_path, "b")) == 2)
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(20) == 0
    assert [json.loads(line)["y"] for line in lines(tmp_path, "a")] == [1, 3, 7]
    assert [json.loads(line)["y"] for line in lines(tmp_path, "b")] == [1, 6]
    ends = [(line["pipeline"], line["message"]) for line in logged(tmp_path) if "stopped" in line["message"]]
    assert sorted(ends) == [("a", "stopped after 3 events"), ("b", "stopped after 2 events")]
    assert not (tmp_path / "admin").exists()


@pytest.mark.slow
def test_the_service_manager_hears_of_everything_and_a_changed_file_is_seen(tmp_path):
    put(tmp_path, "a", "k", 1)
    pipeline(tmp_path, "a", source=FOLLOW % "a", more=checkpoint("a"))
    told = b""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        env = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "2000000"}
        with process(tmp_path, "--watch", env=env) as daemon:
            while b"READY=1" not in told:
                told += manager.recv(1000) + b";"
            pipeline(tmp_path, "a", update=DOUBLING, source=FOLLOW % "a", more=checkpoint("a"))
            while b"RELOADING=1" not in told or not told.endswith(b"READY=1\nSTATUS=pipelines: 1 serving;"):
                told += manager.recv(1000) + b";"
            put(tmp_path, "a", "k", 1)
            until(lambda: len(lines(tmp_path, "a")) == 2)
            daemon.send_signal(signal.SIGINT)
            while b"STOPPING=1" not in told:
                told += manager.recv(1000) + b";"
            assert daemon.wait(20) == 0
    assert b"WATCHDOG=1" in told
    assert [json.loads(line)["y"] for line in lines(tmp_path, "a")] == [1, 3]


def fill(pipe, data):
    while True:
        os.write(pipe, data)


@pytest.mark.slow
def test_a_second_signal_ends_it_at_once_and_signals_to_reload_end_nothing(tmp_path):
    """The outputs of one pipeline go to a pipe that nobody reads, so that it cannot end well."""
    pipeline(tmp_path, "a", source="{type: stdin}", sink="{type: stdout}", more="limits: {grace_s: 60}")
    reading, writing = os.pipe()
    with process(tmp_path, stdin=reading, stdout=subprocess.PIPE) as daemon:
        os.close(reading)
        os.set_blocking(writing, False)
        until(lambda: any(line["message"].startswith("serving") for line in logged(tmp_path)))
        data = b'{"k":"a","x":1}\n' * 3000
        with pytest.raises(BlockingIOError):
            fill(writing, data)
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGTERM, signal.SIGHUP):
            daemon.send_signal(number)
        until(lambda: any(line["message"] == "stopping" for line in logged(tmp_path)))
        assert daemon.poll() is None
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(20) < 0
    os.close(writing)


def test_it_ends_with_its_pipelines(tmp_path):
    put(tmp_path, "a", "k", 1)
    pipeline(tmp_path, "a")
    with process(tmp_path, "--no-admin") as daemon:
        assert daemon.wait(30) == 0
    assert len(lines(tmp_path, "a")) == 1


@pytest.mark.parametrize("keep_going", [False, True])
def test_a_bad_file(tmp_path, keep_going):
    put(tmp_path, "a", "k", 1)
    pipeline(tmp_path, "a")
    pipeline(tmp_path, "b", source="{type: nothing}")
    with process(tmp_path, "--no-admin", *["--keep-going"] * keep_going) as daemon:
        assert daemon.wait(30) == (0 if keep_going else 2)
    assert len(lines(tmp_path, "a")) == keep_going
    assert "b.yaml:3:16: source.type: no source 'nothing'" in (tmp_path / "log").read_text()


@pytest.mark.parametrize(
    ("options", "words"),
    [(["--admin", "tcp://127.0.0.1:0"], "asks for a token"),
     (["--admin", "tcp://0.0.0.0:0", "--admin-token-file", "token"], "can be reached from elsewhere"),
     (["--admin", "nowhere"], "expected tcp://"),
     (["--admin-cert", "x"], "together with --admin-key")],
)  # fmt: skip
def test_what_would_let_in_anybody_is_refused(tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STREAMRNN_ADMIN_TOKEN", raising=False)
    (tmp_path / "token").write_text("0123456789abcdef")
    put(tmp_path, "a", "k", 1)
    pipeline(tmp_path, "a")
    done = subprocess.run(
        [sys.executable, "-m", "streamrnn", "serve", "a.yaml", *options], capture_output=True, timeout=60
    )
    assert done.returncode == 2
    assert words in done.stderr.decode()
    assert not lines(tmp_path, "a")


def test_without_the_server_extra_it_says_what_to_install(tmp_path):
    pipeline(tmp_path, "a")
    code = "import sys; sys.modules['uvicorn'] = None; from streamrnn.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "serve", str(tmp_path)], capture_output=True, timeout=60, text=True
    )
    assert done.returncode == 2
    assert "pip install 'streamrnn[server]'" in done.stderr


@pytest.fixture
def served(tmp_path):
    put(tmp_path, "a", "k", 1)
    pipeline(tmp_path, "a", source=FOLLOW % "a")
    with running(tmp_path) as daemon:
        admin = Admin(daemon, AdminOptions(parse(f"unix:{tmp_path}/admin")), Context())
        admin.start()
        until(lambda: daemon.fleet.find("a").stats.outputs)
        yield daemon
        admin.close()


def test_top_as_json_and_as_a_table(tmp_path, served):
    found = json.loads(asked(tmp_path, "top", "--format", "json").output)
    assert [(it["name"], it["events"]) for it in found] == [("a", 1)]
    words = asked(tmp_path, "top", "--once", "--every", "0.1").output.split()
    assert "events/s" in words
    assert "serving" in words


def test_a_health_check(tmp_path, served):
    checked = asked(tmp_path, "top", "--check")
    assert (checked.exit_code, checked.output) == (0, "")
    it = served.fleet.find("a")
    held, go_on = threading.Event(), threading.Event()

    def hang(found):
        it.turned_s -= 1000
        held.set()
        go_on.wait(30)

    it.ask(hang)
    held.wait(30)
    assert str(asked(tmp_path, "top", "--check").exception) == "not all is well"
    go_on.set()


def test_tap_shows_events_and_answers(tmp_path, served):
    found = []
    listening = threading.Thread(
        target=lambda: found.append(asked(tmp_path, "tap", "a", "--count", "2")), daemon=True
    )
    listening.start()
    until(lambda: served.fleet.find("a").stats.taps)
    put(tmp_path, "a", "k", 2)
    put(tmp_path, "a", "k", "null")
    listening.join(20)
    first, second = found[0].output.splitlines()
    assert first == '{"k":"k","x":2}  ->  {"k":"k","y":3.0}'
    assert second.startswith('{"k":"k","x":null}  ->  refused: ')


def test_reset_and_reload(tmp_path, served):
    assert asked(tmp_path, "reset", "a", "--glob", "*").output == "1 keys reset\n"
    assert asked(tmp_path, "reset", "a").exit_code == 2
    pipeline(tmp_path, "a", update=DOUBLING, source=FOLLOW % "a")
    told = asked(tmp_path, "reload", "--state", "reset")
    assert (told.exit_code, told.output) == (0, "a: reloaded; 1 keys begin anew\n")
    unknown = asked(tmp_path, "reload", "b")
    assert str(unknown.exception) == "no pipeline 'b'; there are: a"


def test_why_knows_the_file_by_the_pipelines_name(tmp_path, served):
    found = asked(tmp_path, "why", "a", "k")
    assert found.output.splitlines()[0] == "1. record 1, byte 0  reset: new"
    assert "   state   H 1" in found.output.splitlines()


def test_nobody_answers(tmp_path):
    found = asked(tmp_path, "top")
    assert "no daemon answers" in str(found.exception)
    assert found.exception.exit_code == 4
