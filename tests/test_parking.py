"""Events of which the process dies, in real processes: found, parked, and the rest goes on.

STREAMRNN_KILLS=500 kills a healthy job from outside so often, and nothing may be parked.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from test_commit_kills import wait_for_commit

from streamrnn.commit import control

PLUGIN = Path(__file__).parent / "plugins" / "deadly"
KILLS = int(os.environ.get("STREAMRNN_KILLS", "4"))
KILLER = 66.5
PIPELINE = f"""
source: {{type: file, path: in.jsonl}}
decode: {{type: jsonl}}
event: {{key: k, inputs: {{x: [{{field: x}}]}}}}
model: {{type: deadly, kills: {KILLER}}}
encode: {{type: jsonl, include: [k]}}
sink: {{type: file, path: out.txt}}
dead_letter: {{path: bad.txt}}
limits: {{max_batch_events: 256}}
checkpoint: {{dir: job, every_s: 0.05}}
"""


def start(folder, *arguments):
    """`streamrnn run`, or another command, with the plugin installed."""
    path = os.pathsep.join([str(PLUGIN), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "streamrnn", *(arguments or ("run", "--quiet", "p.yaml"))]
    return subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def streamrnn(folder, *arguments):
    """How a command ends, and what it says."""
    process = start(folder, *arguments)
    out, err = process.communicate(timeout=60)
    return process.returncode, err, out


def events(n, killers=()):
    rng = random.Random(1)
    made = [{"k": f"k{rng.randrange(20)}", "x": rng.randrange(-40, 40) / 8} for _ in range(n)]
    for at in killers:
        made[at]["x"] = KILLER
    return made


def job(folder, made, text=PIPELINE):
    folder.mkdir()
    (folder / "p.yaml").write_text(text)
    (folder / "in.jsonl").write_text("".join(json.dumps(event) + "\n" for event in made))
    return folder


def lives(folder, most=12):
    """Exit codes of runs until one ends well, and what all of them said."""
    codes, told = [], ""
    while (not codes or codes[-1]) and len(codes) < most:
        code, err, _ = streamrnn(folder, "run", "--quiet", "p.yaml")
        codes.append(code)
        told += err
    return codes, told


def letters(folder):
    return [json.loads(line) for line in (folder / "bad.txt").read_text().splitlines()]


@pytest.mark.slow
def test_an_event_that_kills_is_parked_after_three_lone_deaths_and_the_rest_goes_on(tmp_path):
    made = events(2000, killers=[1234])
    folder = job(tmp_path / "job", made)
    codes, told = lives(folder)
    # once in its batch, three times alone, and then it is parked
    assert codes == [86] * 4 + [0], told
    healthy = job(tmp_path / "healthy", made[:1234] + made[1235:])
    assert streamrnn(healthy, "run", "--quiet", "p.yaml")[0] == 0
    assert (folder / "out.txt").read_bytes() == (healthy / "out.txt").read_bytes()
    (letter,) = letters(folder)
    assert letter["code"] == "crash_suspect"
    assert (letter["number"], str(KILLER) in letter["raw"]) == (1235, True)
    (entry,) = [json.loads(line) for line in (folder / "job" / control.NAME).read_text().splitlines()]
    assert entry["sequence"] == 1
    assert entry["position"] == {letter["partition"]: letter["position"]}
    for said in ("died while it served 256 events", "1 of the 3", "3 of the 3", "is parked", "is over"):
        assert told.count(said) == 1, told
    check_looking_and_replaying(folder)


def check_looking_and_replaying(folder):
    code, _, shown = streamrnn(folder, "dlq", "show", "bad.txt", "--code", "crash_suspect")
    assert code == 0
    assert "record    1235, at" in shown
    mended = PIPELINE.replace(f"kills: {KILLER}", "row_s: 0").split("checkpoint:")[0]
    mended = mended.replace("out.txt", "more.txt").replace("path: bad.txt", "path: worse.txt")
    (folder / "mended.yaml").write_text(mended)
    code, err, _ = streamrnn(folder, "dlq", "replay", "bad.txt", "--through", "mended.yaml")
    assert (code, "1 events replayed, 1 of them served" in err) == (0, True), err
    assert json.loads((folder / "more.txt").read_text())["y"] == KILLER
    code, err, _ = streamrnn(folder, "replay", "p.yaml")
    assert code == 0, err
    for name in os.listdir(folder / "job"):  # all is begun anew, but for what was decided
        if name.startswith(("commit-", "state-")):
            (folder / "job" / name).unlink()
    before = (folder / "out.txt").read_bytes()
    assert lives(folder) == ([0], "")
    assert ((folder / "out.txt").read_bytes(), len(letters(folder))) == (before, 1)


@pytest.mark.slow
def test_kills_from_outside_park_nobody(tmp_path):
    """A model so slow that nearly every kill comes while it is at work on some event."""
    text = PIPELINE.replace(f"kills: {KILLER}", "row_s: 0.001").replace("every_s: 0.05", "every_s: 0.3")
    made = events(4000 if KILLS > 100 else 1500)
    whole = job(tmp_path / "whole", made, text)
    assert streamrnn(whole, "run", "--quiet", "p.yaml")[0] == 0
    rng, kills, rounds, suspected, folder = random.Random(os.getpid()), 0, 0, 0, None
    while kills < KILLS:
        if folder is None:
            rounds += 1
            folder = job(tmp_path / str(rounds), made, text)
        process = start(folder)
        wait_for_commit(folder, process)
        try:
            process.wait(timeout=rng.random() * 0.7)
        except subprocess.TimeoutExpired:
            process.kill()
            kills += 1
        _, err = process.communicate(timeout=60)
        suspected += "suspect mode:" in err
        assert "is parked" not in err
        if process.returncode == 0:
            assert (folder / "out.txt").read_bytes() == (whole / "out.txt").read_bytes()
            folder = None
    if folder is not None:
        assert lives(folder)[0] == [0]
        assert (folder / "out.txt").read_bytes() == (whole / "out.txt").read_bytes()
    assert not list(tmp_path.glob(f"*/job/{control.NAME}"))
    print(f"{kills} kills, {rounds} jobs, {suspected} runs under suspicion")
