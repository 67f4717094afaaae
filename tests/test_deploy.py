"""What is shipped for running it elsewhere."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from daemon_parts import events, hosted, pipeline, turn_until

from streamrnn.daemon.fleet import Fleet
from streamrnn.daemon.metrics import Metrics

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_the_unit_is_one(tmp_path):
    unit = tmp_path / "streamrnn.service"
    text = (DEPLOY / "streamrnn.service").read_text()
    unit.write_text(text.replace("/opt/streamrnn/bin/streamrnn", sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False
    )
    ours = [line for line in done.stderr.splitlines() if "streamrnn.service" in line]
    assert (done.returncode, ours) == (0, [])


def test_the_unit_has_no_privileges_and_gives_longer_than_the_grace():
    text = (DEPLOY / "streamrnn.service").read_text()
    for line in ("Type=notify", "DynamicUser=yes", "NoNewPrivileges=yes", "CapabilityBoundingSet="):
        assert f"\n{line}\n" in text
    assert int(re.search(r"TimeoutStopSec=(\d+)", text)[1]) > 10


def test_the_image_runs_as_nobody_and_has_a_health_check():
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    assert sum(line.startswith("FROM ") for line in lines) == 2
    assert "USER 10001" in lines
    assert any(line.startswith("HEALTHCHECK ") for line in lines)
    for source in re.findall(r"(?m)^COPY (?!--from)(.+) \S+$", "\n".join(lines)):
        assert all((ROOT / name).exists() for name in source.split())


def test_the_dashboard_asks_for_numbers_that_there_are(tmp_path):
    events(tmp_path, 9)
    it = hosted(pipeline(tmp_path, more="reset: [{type: every, events: 2}]"))
    turn_until(it, "ended")
    fleet = Fleet(None)
    fleet.hosted = {"p": it}
    page = Metrics(fleet).page().decode()
    there = set(re.findall(r"(?m)^# HELP (\S+)", page)) | set(re.findall(r"(?m)^(streamrnn_\w+)[{ ]", page))
    dashboard = json.loads((DEPLOY / "grafana.json").read_text())
    asked = {
        name
        for panel in dashboard["panels"]
        for target in panel["targets"]
        for name in re.findall(r"streamrnn_\w+", target["expr"])
    }
    assert len(asked) > 15
    assert asked <= there
    places = [tuple(panel["gridPos"].values()) for panel in dashboard["panels"]]
    assert len(set(places)) == len(places)
