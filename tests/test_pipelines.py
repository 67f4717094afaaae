"""Every pipeline that ships is listed, lints, and does what its own tests say."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamrnn.config.open import open_pipeline
from streamrnn.pipeline_tests import collect, run_case

ROOT = Path(__file__).parent.parent
OURS = sorted([*ROOT.glob("pipelines/*.yaml"), *ROOT.glob("pipelines/live/*.yaml")])
FILES = [*OURS, *sorted(ROOT.glob("plugins/*/*.yaml"))]
CASES = [case for file in FILES for case in collect(file)]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_it_lints_and_has_tests(file):
    spec, _, _ = open_pipeline(str(file))
    assert spec.file.tests


@pytest.mark.parametrize("case", CASES, ids=str)
def test_its_own_tests_hold(case):
    assert run_case(case) == []


@pytest.mark.parametrize("file", OURS, ids=lambda file: file.name)
def test_it_is_listed_with_what_it_teaches(file):
    assert f"({file.relative_to(ROOT / 'pipelines')})" in (ROOT / "pipelines" / "README.md").read_text()
