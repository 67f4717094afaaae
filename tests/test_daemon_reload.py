"""A pipeline file, or its model, changes while it serves."""

import json
import os
import random
import socket
from dataclasses import replace

import pytest
from daemon_parts import DOUBLING, SUM, checkpoint, hosted, pipeline, running, turn_until, until

from streamrnn.commit.control import NAME
from streamrnn.commit.keys import load
from streamrnn.context import Context, DescriptorStream, FileSystem, ManualClock
from streamrnn.daemon.changes import Changes
from streamrnn.daemon.fleet import Fleet, open_one
from streamrnn.daemon.hosted import RefusedError
from streamrnn.daemon.reload import prepare, switch
from streamrnn.errors import ConfigError, ModelError, SourceError

FOLLOW = "{type: file, path: p.in, follow: true}"


def follow(folder, **given):
    return pipeline(folder, source=FOLLOW, **given)


def put(folder, *xs, key="a", name="p"):
    with open(folder / f"{name}.in", "a") as file:
        file.writelines(f'{{"k":"{key}","x":{x}}}\n' for x in xs)


def got(folder, name="p"):
    return [json.loads(line).get("y") for line in (folder / f"{name}.out").read_text().splitlines()]


def serve(it, turns=8):
    for _ in range(turns):
        it.turn()


def reload(it, state=None, **given):
    found = open_one(it.opened.file)
    was = it.opened.context
    context = replace(found.context, clock=was.clock, stdin=was.stdin, aside=was.aside)
    prepared = prepare(replace(found, context=context), state)
    answer = it.ask(lambda pipeline: switch(it, prepared))
    it.turn()
    return answer.result(0)


def end(it):
    it.stop()
    turn_until(it, "stopped")


def piped():
    reading, writing = os.pipe()
    return DescriptorStream(reading), reading, writing


@pytest.mark.parametrize("more", ["", checkpoint()])
@pytest.mark.parametrize(
    ("update", "extra"), [(DOUBLING, ""), (SUM, "\nlimits: {max_keys: 7}"), (SUM, "\nlimits: {grace_s: 7}")]
)
def test_a_reload_never_swallows_the_first_event_that_comes_on_stdin(tmp_path, more, update, extra):
    """Nor the half of one that is there when it reloads; a peer loses the first message after each reload."""
    stdin, reading, writing = piped()
    it = hosted(pipeline(tmp_path, source="{type: stdin}", more=more), stdin=stdin)
    serve(it, 1)
    expected, total = [], 0
    for x in range(1, 9):
        line = f'{{"k":"a","x":{x}}}\n'.encode()
        cut = x % len(line)
        os.write(writing, line[:cut])
        it.turn()
        now, more_now = (update, more + extra) if x % 2 else (SUM, more)
        pipeline(tmp_path, source="{type: stdin}", update=now, more=more_now)
        reload(it)
        os.write(writing, line[cut:])
        total = (2 if now == DOUBLING else 1) * total + x
        expected.append(total)
        serve(it, 2)
        assert got(tmp_path) == expected
    end(it)
    os.close(reading)
    os.close(writing)


def test_connections_stay_open(tmp_path):
    address = str(tmp_path / "in.sock")
    given = {"source": f"{{type: socket, listen: 'unix:{address}'}}", "sink": "{type: socket, to: sender}"}
    it = hosted(pipeline(tmp_path, **given))
    serve(it, 1)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(address)
        client.sendall(b'{"k":"a","x":1}\n{"k":"a","x"')
        serve(it, 4)
        pipeline(tmp_path, update=DOUBLING, **given)
        assert reload(it) == "reloaded; 1 keys go on under the new model"
        client.sendall(b":1}\n")
        serve(it, 4)
        client.settimeout(5)
        answers = b""
        while answers.count(b"\n") < 2:
            answers += client.recv(1000)
        assert answers == b'{"k":"a","y":1.0}\n{"k":"a","y":3.0}\n'
        end(it)


def test_states_go_on_begin_anew_or_the_reload_is_refused(tmp_path):
    put(tmp_path, 1, 2)
    it = hosted(follow(tmp_path))
    serve(it)
    follow(tmp_path, update=DOUBLING)
    with pytest.raises(RefusedError, match=r"(?s)the states are of another model.*--state reset"):
        reload(it, "refuse")
    put(tmp_path, 3)
    serve(it)
    assert reload(it, "keep") == "reloaded; 1 keys go on under the new model"
    put(tmp_path, 1)
    serve(it)
    follow(tmp_path, update=SUM)
    assert reload(it, "reset") == "reloaded; 1 keys begin anew"
    put(tmp_path, 5)
    serve(it)
    end(it)
    assert got(tmp_path) == [1, 3, 6, 13, 5]


WIDER = """
name: p
source: {type: file, path: p.in, follow: true}
decode: {type: jsonl}
event: {key: k, inputs: {x: [{field: x}]}}
model: {type: formula, state: {H: 0, G: 0}, update: {H: H + x, G: G + 1}, output: {y: H * G}}
encode: {type: jsonl, include: [k], fields: {y: {type: output, output: y}, why: {type: meta, name: cause}}}
sink: {type: file, path: p.out}
"""


@pytest.mark.parametrize("more", ["", checkpoint()])
def test_another_layout_is_refused_by_default_and_reset_says_so_in_the_output(tmp_path, more):
    put(tmp_path, 1, 2)
    it = hosted(follow(tmp_path, more=more))
    serve(it)
    (tmp_path / "p.yaml").write_text(WIDER + more)
    with pytest.raises(RefusedError, match=r"(?s)model.state: was .*H.* is .*G"):
        reload(it)
    with pytest.raises(RefusedError, match="`keep` cannot take over"):
        reload(it, "keep")
    put(tmp_path, 4)
    serve(it)
    reload(it, "reset")
    put(tmp_path, 5, 5)
    serve(it)
    end(it)
    lines = [json.loads(line) for line in (tmp_path / "p.out").read_text().splitlines()]
    assert [line["y"] for line in lines] == [1, 3, 7, 5, 20]
    assert [line.get("why") for line in lines[3:]] == ["control", ""] or lines[3]["why"] == ["control"]
    if more:
        (states,) = load(FileSystem(), tmp_path / "state/p")
        assert states.state("a") == {"H": 10.0, "G": 2.0}


def test_with_other_rules_or_keys_nothing_can_go_on(tmp_path):
    put(tmp_path, 1)
    it = hosted(follow(tmp_path))
    serve(it)
    follow(tmp_path, more="reset: [{type: every, events: 9}]")
    with pytest.raises(RefusedError, match=r"reset: was \[\], is"):
        reload(it)
    assert reload(it, "reset") == "reloaded; 1 keys are forgotten"
    put(tmp_path, 2)
    serve(it)
    end(it)
    assert got(tmp_path) == [1, 2]


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"update": "H + nothing"}, ConfigError, "nothing"),
        ({"more": "numerics: approximately"}, ConfigError, "numerics"),
        ({"sink": "{type: file, path: elsewhere}"}, RefusedError, "stop the daemon"),
        ({"source": "{type: stdin}"}, RefusedError, "stop the daemon"),
        ({"more": "limits: {max_keys: 1}"}, RefusedError, "room for the 2 keys there are"),
        ({"more": checkpoint()}, RefusedError, "stop the daemon"),
    ],
)
def test_what_is_wrong_or_would_lose_something_leaves_the_old_one_as_it_was(tmp_path, change, error, words):
    put(tmp_path, 1)
    put(tmp_path, 1, key="b")
    it = hosted(follow(tmp_path))
    serve(it)
    was = it.pipeline, it.pipeline.parts, vars(it.pipeline.parts).copy()
    pipeline(tmp_path, **{"source": FOLLOW} | change)
    with pytest.raises(error, match=words):
        reload(it)
    assert was == (it.pipeline, it.pipeline.parts, vars(it.pipeline.parts))
    put(tmp_path, 2)
    serve(it)
    end(it)
    assert got(tmp_path) == [1, 1, 3]


def test_a_model_that_is_broken_when_it_is_loaded_leaves_the_old_one(tmp_path):
    put(tmp_path, 1)
    it = hosted(follow(tmp_path))
    serve(it)
    follow(tmp_path, update="log(H) + x", more="numerics: batch_invariant")
    text = (tmp_path / "p.yaml").read_text().replace("{type: formula", "{type: numpy, path: none.safetensors")
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises((ModelError, ConfigError)):
        reload(it)
    put(tmp_path, 2)
    serve(it)
    end(it)
    assert got(tmp_path) == [1, 3]


def test_the_light_way_touches_neither_states_nor_commits(tmp_path):
    put(tmp_path, 1)
    it = hosted(follow(tmp_path, more=checkpoint()))
    serve(it)
    shards, commits, watch = it.pipeline.parts.shards, it.pipeline.commits, it.pipeline.parts.watch
    text = (tmp_path / "p.yaml").read_text()
    (tmp_path / "p.yaml").write_text(
        text.replace("include: [k]", "include: [k], fields: {z: {type: output, output: y}}")
    )
    assert reload(it) == "reloaded; the model and all states stay as they were"
    parts = it.pipeline.parts
    assert (parts.shards, it.pipeline.commits, parts.watch) == (shards, commits, watch)
    put(tmp_path, 2)
    serve(it)
    end(it)
    assert (tmp_path / "p.out").read_text() == '{"k":"a","y":1.0}\n{"k":"a","z":3.0}\n'


def test_the_header_of_a_csv_file_is_not_written_again_unless_its_columns_change(tmp_path):
    put(tmp_path, 1)
    file = follow(tmp_path)
    text = (tmp_path / "p.yaml").read_text().replace("encode: {type: jsonl", "encode: {type: csv")
    (tmp_path / "p.yaml").write_text(text)
    it = hosted(file)
    serve(it)
    for update in (DOUBLING, SUM):
        (tmp_path / "p.yaml").write_text(text.replace(SUM, update))
        reload(it)
        put(tmp_path, 1)
        serve(it)
    end(it)
    assert (tmp_path / "p.out").read_text().splitlines() == ["k,y", "a,1.0", "a,3.0", "a,4.0"]


@pytest.mark.parametrize("seed", range(6))
def test_a_model_swapped_amid_a_backlog_equals_a_straight_run_with_the_switch_there(tmp_path, seed):
    """With kills among the reloads: what is not committed is gone, and comes again the same."""
    rng = random.Random(seed)
    more = checkpoint("p", ", model_change: keep") + "\nlimits: {max_batch_events: 3}"
    put(tmp_path, *range(200))
    it = hosted(follow(tmp_path, more=more))
    switches = []
    for i in range(6):
        serve(it, rng.randrange(2, 12))
        update = ("0*H + x", SUM)[i % 2]
        follow(tmp_path, more=more, update=update)
        if rng.random() < 0.5:
            switches.append((it.pipeline.parts.shards.events, update))
            reload(it)
        else:  # killed; the next one goes on from the last commit, with the file as it is by then
            it.pipeline.close(RuntimeError("killed"))
            it = hosted(it.opened.file)
            it.turn()
            switches.append((it.pipeline.parts.shards.events, update))
    serve(it, 400)
    end(it)
    expected, y, factor = [], 0.0, 1.0
    for number in range(200):
        for at, update in switches:
            if at == number:
                factor = float("0*" not in update)
        y = factor * y + number
        expected.append(y)
    assert got(tmp_path) == expected


@pytest.mark.parametrize("state", ["keep", "reset"])
def test_a_crash_between_the_command_and_its_commit_does_not_undo_it(tmp_path, state):
    put(tmp_path, 1, 2)
    it = hosted(follow(tmp_path, more=checkpoint()))
    serve(it)
    follow(tmp_path, more=checkpoint(), update=DOUBLING)
    new = open_one(it.opened.file)
    fingerprint = prepare(new, None).pipeline.parts.backend.state.fingerprint
    it.pipeline.commits.agree({"reload": {"fingerprint": fingerprint, "state": state}})
    it.pipeline.close(RuntimeError("killed"))
    put(tmp_path, 3)
    it = hosted(it.opened.file)
    serve(it)
    end(it)
    assert it.error == ""
    assert got(tmp_path) == [1, 3, 9 if state == "keep" else 3]
    it = hosted(it.opened.file)  # and once more, from a commit of the new model
    put(tmp_path, 1)
    serve(it)
    end(it)
    assert got(tmp_path)[3] == (19 if state == "keep" else 7)


@pytest.mark.parametrize("is_broken", [False, True])
def test_ends_that_can_be_read_again_are_closed_and_opened_from_a_commit(tmp_path, is_broken):
    """As when an option changes that only says how they go about it; what cannot be opened goes back."""
    put(tmp_path, 1)
    it = hosted(follow(tmp_path, more="checkpoint: {dir: state/p, every_s: 0}"))
    serve(it)
    was = it.opened
    follow(tmp_path, more="checkpoint: {dir: state/p, every_s: 5}")
    if is_broken:
        build = it._build
        it._build = lambda spec, *given: fails() if spec is not was.spec else build(spec, *given)
        with pytest.raises(RefusedError, match=r"(?s)no room.*goes on as it was"):
            reload(it)
        assert it.opened is was
    else:
        assert reload(it) == "reloaded; both ends were opened again; going on from commit 2, " + (
            "behind 1 events; 0 events replayed"
        )
    put(tmp_path, 2)
    serve(it)
    end(it)
    assert got(tmp_path) == [1, 3]


def fails():
    raise SourceError("no room")


def test_without_a_word_about_it_a_restart_with_another_model_is_refused_as_ever(tmp_path):
    put(tmp_path, 1)
    it = hosted(follow(tmp_path, more=checkpoint()))
    serve(it)
    end(it)
    it = hosted(follow(tmp_path, more=checkpoint(), update=DOUBLING))
    it.turn()
    assert it.state == "waiting"
    assert "checkpoint.model_change" in it.error


def test_files_that_come_and_go(tmp_path):
    put(tmp_path, 1)
    put(tmp_path, 7, name="q")
    follow(tmp_path)
    with running(tmp_path) as daemon:
        until(lambda: daemon.fleet.find("p").stats.outputs)
        pipeline(tmp_path, "q", source="{type: file, path: q.in, follow: true}")
        os.rename(tmp_path / "p.yaml", tmp_path / "p.off")
        told = daemon.reload().result(20)
        assert told == {
            "p": "its file is gone: finished and stopped",
            str(tmp_path / "q.yaml"): "new: serves q",
        }
        pipeline(tmp_path, "r", source="{type: file, path: q.in}", sink="{type: file, path: q.out}")
        until(lambda: daemon.fleet.find("q").stats.outputs)
        told = daemon.reload().result(20)
        assert told["q"].startswith("reloaded")
        assert "expected a file of its own" in told[str(tmp_path / "r.yaml")]
        assert [each.name for each in daemon.fleet] == ["q"]
    assert got(tmp_path) == [1]
    assert got(tmp_path, "q") == [7]


def test_a_renamed_pipeline_is_refused(tmp_path):
    put(tmp_path, 1)
    follow(tmp_path)
    with running(tmp_path) as daemon:
        text = (tmp_path / "p.yaml").read_text()
        (tmp_path / "p.yaml").write_text(text.replace("name: p", "name: other"))
        assert "a reload cannot rename it" in daemon.reload("p").result(20)["p"]


def test_changes_are_seen_once_they_stand_still(tmp_path):
    """Each tells of itself once, and not while it is being written."""
    put(tmp_path, 1)
    file = follow(tmp_path)
    clock = ManualClock()
    fleet = Fleet(random.Random(0))
    fleet.hosted = {"p": hosted(file, clock)}
    changes = Changes([str(tmp_path)], Context(clock=clock), fleet)
    due = []

    def look():
        clock.advance(1)
        due.append(changes.due())

    for size in range(6):
        if size < 3:
            with open(file, "a") as text:
                text.write("# more\n")
        look()
    (tmp_path / "new.yaml").write_text("")
    look()
    look()
    assert due == [False] * 3 + [True] + [False] * 3 + [True]
    assert not changes.due(), "not before its time"


def test_a_scaler_that_changes_is_seen_and_taken_over(tmp_path):
    """The states stay: what is in the file of a feature is no part of what keys mean."""
    scaler = tmp_path / "scaler.json"
    scaler.write_text('{"mean": [0], "std": [1]}')
    put(tmp_path, 1)
    file = follow(tmp_path)
    text = (tmp_path / "p.yaml").read_text()
    (tmp_path / "p.yaml").write_text(
        text.replace("{field: x}", "{field: x, standardize: {from: scaler.json}}")
    )
    clock, fleet = ManualClock(), Fleet(random.Random(0))
    it = hosted(file, clock)
    fleet.hosted = {"p": it}
    serve(it)
    changes = Changes([str(tmp_path)], Context(clock=clock), fleet)
    scaler.write_text('{"mean": [0], "std": [0.5]}')
    due = []
    for _ in range(2):
        clock.advance(1)
        due.append(changes.due())
    assert due == [False, True]
    assert reload(it) == "reloaded; the model and all states stay as they were"
    put(tmp_path, 1)
    serve(it, 40)
    end(it)
    assert got(tmp_path) == [1, 3]


def test_control_log_keeps_what_was_asked(tmp_path):
    put(tmp_path, 1)
    it = hosted(follow(tmp_path, more=checkpoint()))
    serve(it)
    for update in (DOUBLING, SUM):
        follow(tmp_path, more=checkpoint(), update=update)
        reload(it)
    end(it)
    lines = [json.loads(line) for line in (tmp_path / "state/p" / NAME).read_text().splitlines()]
    assert [line["sequence"] for line in lines] == [1, 2]
    assert all(line["command"]["reload"]["state"] == "keep" for line in lines)
    assert [line["events"] for line in lines] == [1, 1]
