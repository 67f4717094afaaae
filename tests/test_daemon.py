"""Pipelines that live, fail and live again side by side."""

import json
import logging
import random
import socket

import pytest
from daemon_parts import checkpoint, events, hosted, opened, pipeline, turn_until

from streamrnn.commit.job import build_job
from streamrnn.context import Context, ManualClock, Net
from streamrnn.daemon.backoff import Backoff
from streamrnn.daemon.clashes import clashes
from streamrnn.daemon.daemon import Daemon
from streamrnn.daemon.fleet import Fleet, open_all, pipeline_files
from streamrnn.daemon.hosted import Hosted, NotServingError
from streamrnn.daemon.logs import Lines, escaped
from streamrnn.daemon.notify import Notify
from streamrnn.errors import ConfigError, SourceError


class Dies:
    """A source that gives what another does and dies in the midst of it, so many times."""

    def __init__(self, source, after, left):
        self._source, self._after, self._left = source, after, left

    def __getattr__(self, name):
        return getattr(self._source, name)

    def read(self, limit, wait_ms):
        if self._left and self._after == 0:
            self._left.pop()
            raise SourceError("the cable was pulled")
        self._after -= 1
        return self._source.read(3, wait_ms)


def dying(times, after=2):
    left = list(range(times))

    def build(spec, registry, context):
        found = build_job(spec, registry, context)
        found.parts.source = Dies(found.parts.source, after, left)
        return found

    return build


def test_back_off_doubles_up_to_a_ceiling_and_starts_again_after_a_good_while():
    backoff = Backoff(random.Random(0), first_s=1, longest_s=8, steady_s=60)
    waits = [backoff.failed(0) for _ in range(6)]
    assert all(full / 2 <= wait <= full for wait, full in zip(waits, [1, 2, 4, 8, 8, 8], strict=True))
    assert len(set(waits)) == 6
    assert backoff.failed(59) > 4
    assert backoff.failed(60) <= 1


def test_a_pipeline_that_fails_goes_on_from_its_last_commit(tmp_path):
    events(tmp_path, 100)
    whole = hosted(pipeline(tmp_path))
    turn_until(whole, "ended")
    expected = (tmp_path / "p.out").read_bytes()
    clock = ManualClock()
    file = pipeline(tmp_path, more=checkpoint())
    (tmp_path / "p.out").unlink()
    it = hosted(file, clock, dying(4))
    for failure in range(1, 5):
        turn_until(it, "waiting")
        assert it.failures == failure
        assert it.error == "the cable was pulled"
        wait_s = it.turn()
        assert 0 < wait_s <= 0.5 * 2 ** (failure - 1)
        clock.advance(wait_s)
        it.turn()
    turn_until(it, "ended")
    assert (tmp_path / "p.out").read_bytes() == expected


def test_no_wait_is_spent_once_it_is_told_to_try_again(tmp_path):
    events(tmp_path, 9)
    it = hosted(pipeline(tmp_path, more=checkpoint()), build=dying(1))
    turn_until(it, "waiting")
    it.try_again()
    it.turn()
    turn_until(it, "ended")


def test_one_that_dies_does_not_touch_the_others(tmp_path):
    """Real threads: one of three dies whenever it reads, and is tried again without any wait."""
    names = ["a", "b", "c"]
    for name in names:
        events(tmp_path, 500, name)
        pipeline(tmp_path, name)
    left = list(range(50))

    def new(found, backoff):
        backoff.first_s = 0.0
        return Hosted(found, backoff, dying_of(left) if found.name == "b" else build_job)

    def dying_of(left):
        def build(spec, registry, context):
            found = build_job(spec, registry, context)
            found.parts.source = Dies(found.parts.source, 0, left)
            return found

        return build

    fleet = Fleet(random.Random(1), new)
    found, findings = open_all(pipeline_files([str(tmp_path)], Context()))
    assert not findings
    for each in found:
        fleet.add(each)
    for thread in fleet._threads.values():
        thread.join(30)
    assert [each.state for each in fleet] == ["ended"] * 3
    assert [each.failures for each in fleet] == [0, 50, 0]
    assert len({(tmp_path / f"{name}.out").read_bytes() for name in names}) == 1


def test_a_stop_serves_what_was_read_and_commits(tmp_path):
    events(tmp_path, 100)
    it = hosted(pipeline(tmp_path, more=checkpoint(more="")), build=dying(0))
    turn_until(it, "serving")
    it.turn()
    it.stop()
    turn_until(it, "stopped")
    assert it.pipeline is None
    assert (tmp_path / "p.out").read_bytes().count(b"\n") == it.stats.outputs > 0


def test_what_is_asked_of_one_that_serves_nothing_is_refused_and_never_left_waiting(tmp_path):
    events(tmp_path, 9)
    it = hosted(pipeline(tmp_path), build=dying(1, after=1))
    with pytest.raises(NotServingError, match="p serves nothing now, it is loading"):
        it.ask(lambda found: 1)
    turn_until(it, "serving")
    answered, broken = it.ask(lambda found: found.parts.name), it.ask(lambda found: 1 / 0)
    unheard = it.ask(lambda found: 3)
    it.turn()
    assert answered.result(0) == "p"
    for each in (broken, unheard):
        assert isinstance(each.exception(0), NotServingError)
    assert it.state == "waiting"
    assert it.error == "ZeroDivisionError: division by zero"


def test_counts_are_those_of_what_was_served(tmp_path):
    (tmp_path / "p.in").write_text('{"k":"a","x":1}\n{"k":"b","x":2}\nnone\n{"k":"a","x":3}\n{"k":"a"}\n')
    it = hosted(pipeline(tmp_path, more="reset: [{type: every, events: 2}]"))
    turn_until(it, "ended")
    stats = it.stats
    assert (stats.events, stats.outputs, stats.live_keys, stats.batches) == (5, 3, 2, 1)
    assert sum(stats.rejected.values()) == 2
    assert stats.resets == {"new": 2}
    assert stats.begun_keys - stats.released_keys == 2
    assert stats.steps.wave_events + stats.steps.scan_events == 3


CLASHES = [
    ({}, {"more": checkpoint("a")}, {"more": checkpoint("a")}, "folder of commits"),
    ({}, {"sink": "{type: file, path: x}"}, {"sink": "{type: file, path: ./x}"}, "file"),
    ({}, {"sink": "{type: file, path: x}"}, {"more": "dead_letter: {path: x}"}, "file"),
    ({}, {"source": "{type: stdin}"}, {"source": "{type: stdin}"}, "standard input"),
    ({}, {"source": "{type: socket, listen: 'tcp://127.0.0.1:4711'}"},
     {"sink": "{type: socket, listen: 'tcp://127.0.0.1:4711', to: subscribers}"}, "address"),
    ({}, {"source": "{type: socket, listen: 'unix:s'}"}, {"source": "{type: socket, listen: 'unix:./s'}"},
     "socket"),
]  # fmt: skip


@pytest.mark.parametrize(("_", "one", "other", "kind"), CLASHES)
def test_two_that_want_the_same_are_refused_with_both_files(tmp_path, _, one, other, kind):
    pipeline(tmp_path, "a", **one)
    pipeline(tmp_path, "b", **other)
    found, findings = open_all(pipeline_files([str(tmp_path)], Context()))
    assert [each.name for each in found] == ["a"]
    (finding,) = findings
    assert kind in finding.message
    assert finding.file == str(tmp_path / "b.yaml")
    assert str(tmp_path / "a.yaml") in finding.message


def test_two_that_share_nothing_are_not_refused(tmp_path):
    same = "{type: socket, listen: 'tcp://127.0.0.1:0'}"
    files = [pipeline(tmp_path, name, source=same, sink="{type: stdout}") for name in "ab"]
    assert clashes([opened(file) for file in files]) == []


def test_a_bad_file_keeps_all_from_starting_unless_told_otherwise(tmp_path, caplog):
    events(tmp_path, 9)
    pipeline(tmp_path)
    pipeline(tmp_path, "bad", source="{type: none_such}")
    pipeline(tmp_path, "worse", update="H +")
    daemon = a_daemon(tmp_path)
    with pytest.raises(ConfigError) as caught:
        daemon.start()
    assert {finding.file for finding in caught.value.findings} == {
        str(tmp_path / "bad.yaml"),
        str(tmp_path / "worse.yaml"),
    }
    assert not daemon.fleet.hosted
    daemon.start(keep_going=True)
    assert [each.name for each in daemon.fleet] == ["p"]
    assert "bad.yaml:3:16: source.type: no source 'none_such'" in caplog.text


def test_a_folder_without_pipelines_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="expected pipeline files"):
        pipeline_files([str(tmp_path)], Context())


class Manager(Net):
    """A service manager that keeps what it is told."""

    def __init__(self):
        self.told = []

    def send_datagram(self, address, data):
        self.told += data.decode().split("\n")


def a_daemon(folder, env=None, clock=None):
    net = Manager()
    context = Context(net=net, clock=clock or ManualClock())
    return Daemon([str(folder)], context, Notify(context, env or {}), Fleet(random.Random(0)))


ENV = {"NOTIFY_SOCKET": "/run/notify", "WATCHDOG_USEC": "8000000"}


def test_the_service_manager_is_told_and_the_watchdog_stops_when_a_pipeline_hangs(tmp_path):
    clock = ManualClock()
    daemon = a_daemon(tmp_path, ENV, clock)
    net = daemon.context.net
    events(tmp_path, 9)
    it = hosted(pipeline(tmp_path), clock)
    daemon.fleet.hosted = {"p": it}
    assert not daemon.turn()
    assert net.told == ["WATCHDOG=1"]
    turn_until(it, "serving")
    daemon.turn()
    assert net.told[1:] == ["READY=1", "STATUS=pipelines: 1 serving"]
    for _ in range(3):
        clock.advance(2)
        it.turned_s = clock.now_s
        daemon.turn()
    assert net.told[3:] == ["WATCHDOG=1"] * 3
    clock.advance(8.1)  # no turn ends
    daemon.turn()
    assert net.told[6:] == []
    daemon.stop()
    assert net.told[6:] == ["STOPPING=1"]
    turn_until(it, "stopped")


def test_datagrams_reach_a_real_socket(tmp_path):
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(path)
        Notify(Context(), {"NOTIFY_SOCKET": path}).ready("all\nis well")
        assert listening.recv(100) == b"READY=1\nSTATUS=all is well"


def test_a_manager_that_is_gone_stops_nothing(tmp_path, caplog):
    notify = Notify(Context(), {"NOTIFY_SOCKET": str(tmp_path / "gone"), "WATCHDOG_USEC": "1"})
    notify.alive()
    notify.stopping()
    assert caplog.text.count("cannot send") == 1


@pytest.mark.parametrize("env", [{}, {"WATCHDOG_USEC": "5"}, ENV | {"WATCHDOG_PID": "1"}])
def test_no_watchdog_without_a_manager_that_wants_one(env):
    assert Notify(Context(), env, pid=2).watchdog_s is None


def hostile(rng):
    parts = ["\n", "\r", "\x1b[2J", "\x00", "\x85", "\u2028", "\u202e", '"', "\\", "ü", "\ud800", "k" * 9000]
    return "".join(rng.choice(parts) for _ in range(rng.randrange(6)))


@pytest.mark.parametrize("for_people", [True, False])
def test_a_record_is_a_line_whatever_stands_in_it(for_people):
    lines, rng = Lines(ManualClock(5.25), for_people), random.Random(7)
    for _ in range(2000):
        record = logging.LogRecord("streamrnn.pipeline.p", 30, "", 0, "key %s", (hostile(rng),), None)
        text = lines.format(record)
        assert text.isprintable()
        assert len(text) < 60_000
        if not for_people:
            assert json.loads(text).keys() == {"time", "level", "pipeline", "message"}


def test_records_say_when_whose_and_where_from():
    lines = Lines(ManualClock(5.25), for_people=False)
    try:
        1 / 0
    except ZeroDivisionError as error:
        caught = (type(error), error, error.__traceback__)
    record = logging.LogRecord("other", 40, "", 0, "m", (), caught)
    record.threadName = "pipeline:p"
    found = json.loads(lines.format(record))
    assert found.pop("traceback").startswith("Traceback")
    assert found == {
        "time": "1970-01-01T00:00:05.250Z",
        "level": "error",
        "pipeline": "p",
        "message": "m",
        "logger": "other",
    }
    assert escaped("a\nb\x1b") == "a\\nb\\x1b"


def test_what_was_not_read_yet_is_told(tmp_path):
    """Of a file that is followed, and of a log; nothing of a source that cannot say."""
    from streamrnn.daemon.metrics import _lags

    lines = "".join(f'{{"k":"a","x":{i}}}\n' for i in range(10))
    (tmp_path / "p.in").write_text(lines)
    path = tmp_path / "log" / "0" / f"{0:020}.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text(lines)
    sources = {
        "file": "{type: file, path: p.in, follow: true}",
        "log": "{type: log, path: log, follow: true}",
        "none": "{type: file, path: p.in}",
    }
    pipelines = []
    for name, source in sources.items():
        it = hosted(pipeline(tmp_path, name, source=source, more="limits: {max_batch_events: 4}"))
        while it.stats.events < 4:
            it.turn()
        pipelines.append(it)
    found = {(s.labels["pipeline"], s.labels["unit"]): s.value for s in _lags(pipelines).samples}
    rest = sum(map(len, lines.splitlines(keepends=True)[4:]))
    assert found == {("file", "bytes"): rest, ("log", "bytes"): rest}
    assert [it.stats.hot_key_depth for it in pipelines] == [4, 4, 4]
    for it in pipelines:
        it.stop()
        turn_until(it, "stopped")
