"""A new model takes over with the states it would have, had it served from the beginning.

No rule looks at a model, so what is right needs no third definition: up to the exchange the answers of a run
with the old model alone, from there on those of a run with the new one alone.
"""

from __future__ import annotations

import json
import random
import re

import pytest
from click.testing import CliRunner
from daemon_parts import DOUBLING, SUM, checkpoint, hosted, pipeline, running, until
from test_daemon_reload import end, follow, reload, serve

from streamrnn.cli import cli
from streamrnn.client import Producer
from streamrnn.daemon.hosted import RefusedError

TEXT = """
name: {name}
source: {source}
decode: {{type: jsonl}}
event: {{key: k, time: {{field: t, unit: s}}, inputs: {{x: [{{field: x}}]}}}}
reset:
  - {{type: gap, gap_s: 5}}
  - {{type: every, events: 7}}
  - {{type: on_value, field: x, equals: 3, when: after}}
model: {{type: formula, state: {{H: 0}}, update: {{H: {update}}}, output: {{y: H}}}}
encode:
  type: jsonl
  include: [k, n]
  fields: {{y: {{type: output, output: y}}, s: {{type: meta, name: steps}}}}
sink: {sink}
{more}
"""
OTHER = "0.5*H + 2*x"
SOURCES = {
    "a file that grows": "{type: file, path: p.in, follow: true}",
    "a log of three partitions": "{type: log, path: log, follow: true}",
}


def events(rng, count):
    """Lines that come in order of time, of eight keys; some are none."""
    time, found = 0, []
    for n in range(count):
        time += rng.random() < 0.4
        line = {"k": f"k{rng.randrange(8)}", "t": time, "x": rng.randrange(5), "n": n}
        found.append(json.dumps(line) if rng.random() < 0.95 else '{"k": 1')
    return found


def write(folder, lines):
    """Into the file, and by key into the partitions of the log."""
    with open(folder / "p.in", "a") as file:
        file.writelines(f"{line}\n" for line in lines)
    for name in "012":
        path = folder / "log" / name / f"{0:020}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a") as file:
            file.writelines(f"{line}\n" for line in lines if "k" in line and partition_of(line) == name)


def partition_of(line):
    found = re.search(r"k(\d)", line)
    return str(int(found[1]) % 3) if found else "0"


def answers(folder):
    return [json.loads(line) for line in (folder / "p.out").read_text().splitlines()]


def serve_all(it, folder, count):
    """Until there are so many answers."""
    for _ in range(500):
        if (folder / "p.out").exists() and len(answers(folder)) == count:
            return
        it.turn()
    raise AssertionError(f"{len(answers(folder))} answers, expected {count}: {it.error}")


def by_number(found):
    return {answer["n"]: answer for answer in found}


def alone(folder, source, update, lines):
    """The answers of one model to all events."""
    folder.mkdir()
    write(folder, lines)
    it = hosted(pipeline(folder, source=source, update=update, text=TEXT))
    serve_all(it, folder, sum("n" in line for line in lines))
    end(it)
    return by_number(answers(folder))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", SOURCES)
def test_from_the_exchange_on_the_answers_are_those_of_the_new_model_alone(tmp_path, kind, seed):
    """Amid a backlog, behind a restart and before one; a key that begins anew by hand does so for both."""
    rng, source = random.Random(seed), SOURCES[kind]
    lines = events(rng, 120)
    more = checkpoint("p", ", model_change: warmup") + "\nlimits: {max_batch_events: 7}"
    old, new = (
        alone(tmp_path / name, source, update, lines) for name, update in (("old", SUM), ("new", OTHER))
    )
    folder = tmp_path / "job"
    folder.mkdir()

    def put(update):
        return pipeline(folder, source=source, update=update, more=more, text=TEXT)

    write(folder, lines[:90])
    it = hosted(put(SUM))
    serve(it, rng.randrange(2, 9))
    if rng.random() < 0.5:
        it.pipeline.close(RuntimeError("killed"))
        it = hosted(it.opened.file)
        serve(it, 2)
    put(OTHER)
    if rng.random() < 0.5:
        before = len(answers(folder))
        assert "go on as the new model would have left them" in reload(it)
    else:  # the next run finds it
        it.pipeline.close(RuntimeError("killed"))
        it = hosted(it.opened.file)
        it.turn()
        assert it.error == ""
        before = len(answers(folder))
    write(folder, lines[90:])
    serve_all(it, folder, len(old))
    if rng.random() < 0.5:
        it.pipeline.close(RuntimeError("killed"))
        it = hosted(it.opened.file)
        it.turn()
        serve_all(it, folder, len(old))
    end(it)
    found = answers(folder)
    assert len(found) == len(old) == len(new)
    for i, answer in enumerate(found):
        assert answer == (old if i < before else new)[answer["n"]], (i, before)
    assert any(old[n] != new[n] for n in old)


@pytest.mark.parametrize("runs", [True, False], ids=["while it runs", "while it is stopped"])
@pytest.mark.parametrize("kind", SOURCES)
def test_a_reset_by_hand_is_done_again_where_it_was(tmp_path, kind, runs):
    from streamrnn.daemon.commands import reset

    def put(update):
        return pipeline(tmp_path, source=SOURCES[kind], update=update, more=checkpoint(), text=TEXT)

    def line(n, key="k1"):
        return json.dumps({"k": key, "t": 0, "x": 1, "n": n})

    write(tmp_path, [line(0), line(1), line(2, "k2")])
    it = hosted(put(SUM))
    serve_all(it, tmp_path, 3)
    if runs:
        reset(it.pipeline, {"keys": ["k1"]})
    else:
        end(it)
        done = CliRunner().invoke(cli, ["state", "reset", str(tmp_path / "state/p"), "k1"])
        assert done.exit_code == 0, done.output
        it = hosted(it.opened.file)
    write(tmp_path, [line(3)])
    serve_all(it, tmp_path, 4)
    put("3*H + x")
    reload(it, "warmup")
    write(tmp_path, [line(4), line(5, "k2")])
    serve_all(it, tmp_path, 6)
    end(it)
    assert {n: answer["y"] for n, answer in by_number(answers(tmp_path)).items()} == {
        0: 1, 1: 2, 2: 1, 3: 1, 4: 4, 5: 4,
    }  # fmt: skip


def test_what_the_log_of_a_socket_holds_is_enough(tmp_path):
    source = f'{{type: socket, listen: "unix:{tmp_path}/in", durability: log, log: ingest}}'

    def put(update):
        file = pipeline(tmp_path, source=source, update=update, more=checkpoint())
        text = (tmp_path / "p.yaml").read_text().replace("include: [k]", "include: [k, n]")
        (tmp_path / "p.yaml").write_text(text)
        return file

    put(SUM)
    with running(tmp_path) as daemon, Producer(f"unix:{tmp_path}/in", "p") as producer:
        for n in range(50):
            producer.send(json.dumps({"k": f"k{n % 3}", "x": 1, "n": n}).encode())
        until(lambda: daemon.fleet.find("p").stats.outputs == 50)
        put("2*H + x")
        told = daemon.reload("p", "warmup").result(30)
        assert told == {"p": "reloaded; 3 keys go on as the new model would have left them"}
        producer.send(b'{"k": "k0", "x": 1, "n": 50}')
        until(lambda: daemon.fleet.find("p").stats.outputs == 51)
    assert answers(tmp_path)[-1] == {"k": "k0", "n": 50, "y": 2.0**18 - 1}


def refused(folder, words, **given):
    it = hosted(follow(folder, more=checkpoint(), **given))
    (folder / "p.in").write_text('{"k":"a","x":1}\n{"k":"b","x":2}\n')
    serve_all(it, folder, 2)
    follow(folder, more=checkpoint(), update=DOUBLING, **given)
    return it


def test_what_is_not_there_any_more_is_refused_and_the_old_model_goes_on(tmp_path):
    it = refused(tmp_path, "")
    (tmp_path / "p.in").rename(tmp_path / "gone")
    (tmp_path / "p.in").write_text("")
    with pytest.raises(
        RefusedError, match=r"(?s)warmup: 2 keys could not be rebuilt, the first one 'a', of "
    ):
        reload(it, "warmup")
    (tmp_path / "p.in").write_text('{"k":"a","x":5}\n')
    for _ in range(40):
        it.turn()
        it.opened.context.clock.now_s += 1
    end(it)
    assert [answer["y"] for answer in answers(tmp_path)] == [1, 2, 6]


def test_a_source_that_cannot_be_read_again_is_refused(tmp_path):
    source = f'{{type: socket, listen: "unix:{tmp_path}/in"}}'
    it = hosted(pipeline(tmp_path, source=source, more="limits: {max_keys: 9}"))
    serve(it)
    pipeline(tmp_path, source=source, update=DOUBLING, more="limits: {max_keys: 9}")
    with pytest.raises(
        RefusedError, match=r"warmup: what the source 'socket' has given cannot be read again"
    ):
        reload(it, "warmup")
    end(it)
