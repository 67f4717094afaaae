"""A model is exchanged again and again under a stream that does not stop, and the process killed among it.

STREAMRNN_SWAPS=200 exchanges it as often.
"""

import json
import os
import random
import signal
import subprocess
import sys
import threading

import pytest
from daemon_parts import SUM, checkpoint, pipeline, until

SWAPS = int(os.environ.get("STREAMRNN_SWAPS", "5"))
MEMORYLESS = "0*H + x"
PER_S = 5000


def started(folder):
    log = open(folder / "log", "ab")  # noqa: SIM115 - the process has it
    with log:
        return subprocess.Popen(
            [sys.executable, "-m", "streamrnn", "serve", str(folder), "--no-admin"], stderr=log
        )


def feed(folder, over):
    """Events at a steady rate until `over`; how many they were."""
    count = 0
    with open(folder / "p.in", "a") as file:
        while not over.wait(0.02):
            for _ in range(PER_S // 50):
                file.write(f'{{"k":"k{count % 5}","x":1,"n":{count}}}\n')
                count += 1
            file.flush()
    over.count = count


@pytest.mark.timeout(20_000)
@pytest.mark.slow
def test_a_model_exchanged_under_load_with_kills_loses_doubles_and_reorders_nothing(tmp_path):
    def swap(update):
        (tmp_path / "new").write_text(template.replace("UPDATE", update))
        os.replace(tmp_path / "new", tmp_path / "p.yaml")

    rng, over, kills = random.Random(os.getpid()), threading.Event(), 0
    file = pipeline(
        tmp_path,
        update="UPDATE",
        source="{type: file, path: p.in, follow: true}",
        more=checkpoint("p", ", model_change: keep"),
    )
    template = open_text(file).replace("include: [k]", "include: [k, n]")
    (tmp_path / "p.in").touch()
    swap(SUM)
    feeding = threading.Thread(target=feed, args=(tmp_path, over))
    process = started(tmp_path)
    feeding.start()
    seen = 0
    for i in range(SWAPS):
        until(lambda seen=seen: served(tmp_path) > seen)
        swap((MEMORYLESS, SUM)[i % 2])
        process.send_signal(signal.SIGHUP)
        if rng.random() < 0.5:  # at some moment before, amid or after the exchange
            threading.Event().wait(rng.random() * 0.5)
            process.kill()
            process.wait()
            process = started(tmp_path)
            kills += 1
        else:
            until(lambda least=i - kills: reloads(tmp_path) > least)
        seen = served(tmp_path)
    over.set()
    feeding.join()
    until(lambda: served(tmp_path) >= over.count, within_s=120)
    process.terminate()
    assert process.wait(30) == 0
    lines = [json.loads(line) for line in open_text(tmp_path / "p.out").splitlines()]
    assert [line["n"] for line in lines] == list(range(over.count))
    assert 0 < switches(lines) <= SWAPS + kills


def open_text(path):
    with open(path) as file:
        return file.read()


def served(folder):
    path = folder / "p.out"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def reloads(folder):
    return (folder / "log").read_text().count(": reloaded;")


def switches(lines):
    """How often the model changed, by the answers alone; every answer must be that of one of the two."""
    state, count, current = {}, 0, None
    for line in lines:
        before, y = state.get(line["k"], 0), line["y"]
        state[line["k"]] = y
        assert y in (1, before + 1), f"{line} after {before}"
        if before == 0:
            continue
        model = SUM if y == before + 1 else MEMORYLESS
        count += current is not None and model != current
        current = model
    return count
