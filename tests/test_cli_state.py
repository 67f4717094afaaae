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
    assert (facts["commit"], facts["sequence"]) == ("7", "42")
    assert {"reset_sequence", "reset_position", "reset_time", "pending", "field:w"} <= set(facts)


def test_a_key_that_is_not_there_is_told():
    _, result = state("get", JOB, "nobody")
    assert "commit 7 has no key 'nobody'" in str(result.exception)


def test_all_keys_are_exported_from_base_and_deltas():
    now = {record["key"]: record for record in map(json.loads, state("export", JOB)[0])}
    before = {record["key"]: record for record in map(json.loads, state("export", JOB, "--commit", 6)[0])}
    assert list(now) == sorted(now)
    lines, _ = state("diff", JOB, 6, 7)
    told = {json.loads(key): what for key, what, *_ in (line.split("\t") for line in lines)}
    assert {key for key, what in told.items() if what == "came"} == now.keys() - before.keys()
    assert {key for key, what in told.items() if what == "went"} == before.keys() - now.keys()
    same = {key for key in now.keys() & before.keys() if now[key] == before[key]}
    assert same == (now.keys() & before.keys()) - told.keys()
    assert state("diff", JOB, 7, 7)[0] == []


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
