import json

import pytest
from click.testing import CliRunner

from streamrnn.cli.list import command
from streamrnn.hookspecs import KINDS


def run(*arguments):
    result = CliRunner().invoke(command, arguments)
    return result.exit_code, result.stdout, result.stderr


def test_table_is_plain_and_whole():
    code, out, _ = run()
    heading, *rows = out.splitlines()
    assert (code, heading.split()) == (0, ["kind", "name", "summary", "package"])
    ours = [row for row in rows if row.endswith(" streamrnn")]
    assert [tuple(row.split()[:2]) for row in ours if row.startswith("s")] == [
        ("source", "file"),
        ("source", "http"),
        ("source", "log"),
        ("source", "socket"),
        ("source", "stdin"),
        ("source", "websocket"),
        ("sink", "file"),
        ("sink", "http"),
        ("sink", "log"),
        ("sink", "socket"),
        ("sink", "stdout"),
        ("sink", "websocket"),
    ]
    assert len({row.rindex(" ") for row in ours}) == 1, "columns stand below each other"
    assert max(map(len, ours)) > 80
    assert "recurrent layers from a YAML list, weights from safetensors or inline, on the CPU" in out
    assert "\x1b" not in out


@pytest.mark.parametrize("kind", KINDS)
def test_one_kind(kind):
    _, out, _ = run(kind)
    assert {row.split()[0] for row in out.splitlines()[1:]} == {kind}
    assert {item["kind"] for item in json.loads(run(kind, "--format", "json")[1])} == {kind}


def test_unknown_kind():
    code, out, err = run("backends")
    assert (code, out) == (2, "")
    assert "'backends' is not one of 'source'" in err


def test_json():
    found = {(item["kind"], item["name"]): item for item in json.loads(run("--format", "json")[1])}
    assert found["sink", "file"] == {
        "kind": "sink",
        "name": "file",
        "summary": "outputs to a file",
        "package": "streamrnn",
        "example": "{path: out/scores.jsonl}",
        "options": found["sink", "file"]["options"],
    }
    assert {name: (o["required"], o["default"]) for name, o in found["sink", "file"]["options"].items()} == {
        "path": (True, None),
        "if_exists": (False, "overwrite"),
        "rotate": (False, None),
    }
    assert "in" in found["reset", "on_value"]["options"], "the name in the file, not the one in Python"
    assert found["backend", "formula"]["options"]["state"]["default"] == {}
    assert all(o["description"] for key, o in found["backend", "numpy"]["options"].items())


def test_a_broken_plugin_is_told_and_stops_nobody(tmp_path, monkeypatch):
    (tmp_path / "broken_plugin.py").write_text("raise RuntimeError('no such driver')")
    (tmp_path / "broken-1.dist-info").mkdir()
    (tmp_path / "broken-1.dist-info" / "METADATA").write_text("Name: broken\nVersion: 1\n")
    (tmp_path / "broken-1.dist-info" / "entry_points.txt").write_text("[streamrnn]\nbroken = broken_plugin\n")
    monkeypatch.syspath_prepend(tmp_path)
    code, out, err = run("sink")
    assert code == 0
    assert "plugin 'broken' cannot be loaded: RuntimeError: no such driver\n" in err
    assert "stdout" in out
