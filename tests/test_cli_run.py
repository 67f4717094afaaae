"""`streamrnn run` as a user runs it: a process, its pipes, its signals and its exit code."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
RUN = [sys.executable, "-m", "streamrnn", "run"]


def start(pipeline, **streams):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([*RUN, str(pipeline)], cwd=ROOT, **{**pipes, **streams})


def run(pipeline, lines=()):
    process = start(pipeline)
    out, err = process.communicate("".join(line + "\n" for line in lines).encode())
    return [json.loads(line) for line in out.splitlines()], err.decode(), process.returncode


def test_the_textbook_s_numbers():
    events = ['{"x":3}', '{"x":3}', '{"x":3}', '{"reset":true,"x":3}']
    outputs, err, code = run("pipelines/affine.yaml", events)
    assert outputs == [{"y": 2}, {"y": -4}, {"y": -16}, {"y": 2}]
    assert (code, err.count("\n")) == (0, 1)
    assert "served 4 events" in err


def test_repetition_and_a_reset_at_each_step():
    seen = run("pipelines/repetition.yaml", ['{"letter":"a"}', '{"letter":"a"}'])[0]
    assert [output["repeated"] for output in seen] == [0, 1]
    memoryless = run("pipelines/reset_each_step.yaml", ['{"x":3}'] * 3)[0]
    assert [output["y"] for output in memoryless] == [2, 2, 2]


def test_eight_letters_of_two_typists():
    outputs, _, code = run("pipelines/next_letter.yaml")
    assert code == 0
    typed = [(output["typist"][0], output["letter"]) for output in outputs]
    assert typed == list(zip("abababab", "hloiusst", strict=True))
    assert outputs[6]["next"][0] == "e"
    assert outputs[5]["next"][0] == "t"
    assert all(len(output["next"]) == 3 for output in outputs)


def test_a_single_event_is_answered_while_the_stream_stays_open():
    process = start("pipelines/affine.yaml")
    process.stdin.write(b'{"x":3}\n')
    process.stdin.flush()
    assert json.loads(process.stdout.readline()) == {"y": 2}
    process.communicate()
    assert process.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_cleanly(number):
    process = start("pipelines/affine.yaml")
    process.stdin.write(b'{"x":3}\n')
    process.stdin.flush()
    process.stdout.readline()
    process.send_signal(number)
    assert process.wait(timeout=20) == 0
    assert b"served 1 events" in process.stderr.read()
    for stream in (process.stdin, process.stdout, process.stderr):
        stream.close()


def test_a_reader_that_left_is_told_and_ends_the_run():
    process = start("pipelines/affine.yaml")
    process.stdout.close()
    process.stdin.write(b'{"x":3}\n')
    process.stdin.flush()
    assert process.wait(timeout=20) == 4
    assert b"stdout was closed by its reader" in process.stderr.read()
    process.stdin.close()
    process.stderr.close()


def test_refused_events_are_told_and_the_stream_goes_on():
    outputs, err, code = run("pipelines/affine.yaml", ['{"x":3}', "nonsense", '{"x":"three"}', '{"x":3}'])
    assert (outputs, code) == ([{"y": 2}, {"y": -4}], 0)
    assert "stdin:2: refused: not valid JSON" in err
    assert 'stdin:3: refused: x: expected a number, found "three"' in err
    assert "2 rejected" in err


@pytest.mark.parametrize(
    ("change", "code", "told"),
    [
        (("type: formula", "type: formul"), 2, "did you mean 'formula'?"),
        (("{type: stdin}", "{type: file, path: nowhere.jsonl}"), 4, "nowhere.jsonl"),
        (("sink: {type: stdout}", "sink: {type: file, path: /proc/none/out}"), 4, "/proc/none/out"),
    ],
)
def test_exit_codes(tmp_path, change, code, told):
    broken = tmp_path / "broken.yaml"
    broken.write_text((ROOT / "pipelines" / "affine.yaml").read_text().replace(*change))
    outputs, err, found = run(broken)
    assert (outputs, found) == ([], code)
    assert told in err
    assert "Traceback" not in err


def test_progress_is_drawn_on_a_terminal_only():
    ours, theirs = pty.openpty()
    process = start("pipelines/affine.yaml", stderr=theirs)
    os.close(theirs)
    process.communicate(b'{"x":3}\n')
    shown = b""
    try:
        while chunk := os.read(ours, 4096):
            shown += chunk
    except OSError:  # how a terminal says that nobody writes to it any more
        pass
    os.close(ours)
    assert b"serving" in shown
    assert b"served 1 events" in shown


def test_help_and_lint_load_nothing_heavy():
    for arguments in (["--help"], ["lint", "pipelines/affine.yaml", "pipelines/next_letter.yaml"]):
        code = (
            "import sys; from streamrnn.cli import cli\n"
            f"cli.main({arguments!r}, standalone_mode=False)\n"
            "print([name for name in ('numpy', 'torch', 'onnxruntime', 'rich') if name in sys.modules])"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert done.stdout.splitlines()[-1] == "[]"


def test_a_run_that_goes_on_says_what_it_has_and_what_it_passes_over(tmp_path):
    pipeline, events = tmp_path / "p.yaml", tmp_path / "in.jsonl"
    pipeline.write_text(
        "name: counts\nsource: {type: file, path: in.jsonl}\ndecode: {type: jsonl}\n"
        "event: {key: k, inputs: {x: [{field: x}]}}\n"
        "model: {type: formula, state: {h: 0}, update: {h: h + x}, output: {y: h}}\n"
        "encode: {type: jsonl}\nsink: {type: file, path: out.jsonl}\ncheckpoint: {dir: state}\n"
    )
    events.write_text('{"k":"a","x":1}\n{"k":"b","x":2}\n')
    assert run(pipeline)[2] == 0
    with events.open("a") as file:
        file.write('{"k":"a","x":3}\n')
    _, err, code = run(pipeline)
    assert code == 0
    assert "in.jsonl: 16 bytes came behind the end that was found" in err
    assert "served 0 events" in err
    assert "2 live keys" in err
