"""`streamrnn state` on the commits of tests/fixtures, where no model is at hand."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from streamrnn.cli import cli
from streamrnn.commit import keys
from streamrnn.context import FileSystem

JOB = Path(__file__).parent / "fixtures" / "commit_1" / "job"


def state(*arguments):
    result = CliRunner().invoke(cli, ["state", *map(str, arguments)])
    return result.output.splitlines(), result


@pytest.fixture
def folder(tmp_path):
    return Path(shutil.copytree(JOB, tmp_path / "job"))


def test_the_keys_are_listed():
    lines, _ = state("ls", JOB)
    assert lines[0].split("\t") == ["key", "steps", "sequence", "last_time"]
    listed = [json.loads(line.split("\t")[0]) for line in lines[1:]]
    assert listed == sorted(listed)
    assert len(listed) == 9


def test_one_key_is_shown_with_state_and_last_reset():
    (line,), _ = state("get", JOB, "k1")
    assert list(json.loads(line)) == ["s"]
    facts = dict(line.split("\t") for line in state("inspect", JOB, "k1")[0])
    assert (facts["commit"], facts["key"]) == ("7, of 43 events", '"k1"')
    assert facts["last_event"] == "event 42, byte 1861, 1970-01-01T00:01:41Z"
    assert facts["next_event"] == "goes on from this state"
    assert facts["state.s"] == line.split(": ")[1].rstrip("}")
    assert {"reset_sequence", "reset_position", "reset_time", "pending", "field:w"} <= set(facts)


def test_a_key_that_is_not_there_is_told():
    _, result = state("get", JOB, "nobody")
    assert "commit 7 has no key 'nobody'" in str(result.exception)


def test_all_keys_are_exported_from_base_and_deltas():
    now = {record["key"]: record for record in map(json.loads, state("export", JOB)[0][1:])}
    before = {record["key"]: record for record in map(json.loads, state("export", JOB, "--commit", 6)[0][1:])}
    assert list(now) == sorted(now)
    *lines, total = state("diff", JOB, 6, 7)[0]
    assert total == "3 came, 3 went, 3 changed; commit 7 has 9 keys"
    told = {json.loads(key): what for key, what, *_ in (line.split("\t") for line in lines)}
    assert {key for key, what in told.items() if what == "came"} == now.keys() - before.keys()
    assert {key for key, what in told.items() if what == "went"} == before.keys() - now.keys()
    same = {key for key in now.keys() & before.keys() if now[key] == before[key]}
    assert same == (now.keys() & before.keys()) - told.keys()
    assert state("diff", JOB, 7, 7)[0] == ["0 came, 0 went, 0 changed; commit 7 has 9 keys"]


def test_what_is_damaged_is_found(folder):
    assert state("verify", folder)[0] == ["commit 6\twhole", "commit 7\twhole"]
    newest = folder / "state-0000000007.base.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1] + b"\xff")
    lines, result = state("verify", folder)
    assert result.exit_code == 1
    assert lines[0] == "commit 6\twhole"
    assert "state-0000000007.base.safetensors of 2872 bytes does not match its digest" in lines[1]
    _, result = state("ls", folder)
    assert "other commits: 6" in str(result.exception)


def test_a_folder_without_commits_is_told(tmp_path):
    _, result = state("ls", tmp_path)
    assert "expected the folder of a pipeline's commits, found none in it" in str(result.exception)
    assert state("verify", tmp_path)[1].exit_code == 1


def test_it_is_the_state_that_the_core_has():
    (states,) = keys.load(FileSystem(), JOB)
    assert states.tensors["s"].dtype == np.float64
    assert states.columns["sequence"].max() == 43


def test_no_model_library_is_loaded():
    code = (
        "import sys; from streamrnn.cli import cli\n"
        f"cli.main(['state', 'get', {str(JOB)!r}, 'k1'], standalone_mode=False)\n"
        "print([name for name in ('torch', 'onnxruntime', 'pydantic', 'rich') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_why_a_key_was_last_reset(tmp_path):
    made = shutil.copytree(JOB.parent, tmp_path / "made")
    shutil.rmtree(made / "job")
    rules = "[{type: gap, gap_s: 50}, {type: every, events: 3, when: after}]"
    text = (made / "p.yaml").read_text()
    head, _, tail = text.partition("reset:")
    text = f"{head}reset: {rules}\nmodel:{tail.partition('model:')[2]}".replace("idle_s: 30, ", "")
    lines = [{"k": "a", "t": t, "x": 1} for t in (0, 1, 60, 61)] + [{"k": "b", "t": 62, "x": 1}] * 3
    (made / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (made / "p.yaml").write_text(text.replace('["*.jsonl"]', "a.jsonl"))
    subprocess.run([sys.executable, "-m", "streamrnn", "run", "-q", made / "p.yaml"], check=True)

    def inspect(key):
        return dict(line.split("\t") for line in state("inspect", made / "job", key)[0])

    a, b = inspect("a"), inspect("b")
    assert a["last_reset"] == "gap: event 3, byte 54, 1970-01-01T00:01:00Z; 2 events since"
    assert (
        b["last_reset"]
        == "every: event 7, byte 166, 1970-01-01T00:01:02Z, behind it; the next output names it"
    )
    assert b["next_event"] == "begins anew, from the initial state"
    assert json.loads(state("get", made / "job", "b")[0][0]) == "initial"
    state("reset", made / "job", "a")
    a = inspect("a")
    assert a["last_reset"].startswith("control: not shown yet, the next output names it; before that gap: ")
    assert a["pending"] == '["control"]'


def test_keys_are_reset_and_taken_back(folder):
    exported = folder.parent / "keys.jsonl"
    exported.write_text("\n".join(state("export", folder)[0]) + "\n")
    told = "9 keys reset; commit 8 is what the next run goes on from"
    assert state("reset", folder, "--all")[0] == [told]
    *lines, total = state("diff", folder, 7, 8)[0]
    assert total == "0 came, 0 went, 9 changed; commit 8 has 9 keys"
    assert lines[0] == '"k0"\tchanged\ts\tpending,reset_known,steps'
    told = "9 keys replaced, 0 added; commit 9 is what the next run goes on from"
    assert state("import", folder, exported)[0] == [told]
    assert state("diff", folder, 7, 9)[0] == ["0 came, 0 went, 0 changed; commit 9 has 9 keys"]
    assert state("diff", JOB, 7, 9, "--to", folder)[0][:-1] == []
    assert state("verify", folder)[0][2:] == [
        "commit 8\twhole\treset of 9 keys: --all",
        f"commit 9\twhole\timport of 9 keys: {exported}",
    ]


def test_a_pattern_can_be_tried_first(folder):
    before = sorted(path.name for path in folder.iterdir())
    lines, _ = state("reset", folder, "--glob", "k1*", "--dry-run")
    assert lines == ['"k1"', '"k11"', "2 keys would be reset"]
    assert sorted(path.name for path in folder.iterdir()) == before
    told = "2 keys reset; commit 8 is what the next run goes on from"
    assert state("reset", folder, "--glob", "k1*")[0] == [told]


@pytest.mark.parametrize("arguments", [(), ("k1", "--all"), ("--glob", "k*", "--all")])
def test_what_to_reset_is_said_once(folder, arguments):
    _, result = state("reset", folder, *arguments)
    assert result.exit_code == 2
    assert "expected KEY..., --glob or --all, and only one of them" in result.output
