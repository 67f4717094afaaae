"""The size budget holds, and the table that shows it runs."""

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import sizes  # noqa: E402


def test_no_file_or_function_is_over_the_budget():
    assert sizes.over_budget() == []


def test_medians_are_near_the_budget():
    files, functions = sizes.measure()
    assert sizes.median_of(files) <= 160
    assert sizes.median_of(functions) <= 12


def test_a_long_function_is_found(tmp_path):
    (tmp_path / "streamrnn").mkdir()
    body = "\n".join("    pass" for _ in range(60))
    (tmp_path / "streamrnn" / "long.py").write_text(f"def f():\n{body}\n")
    assert [size.name for size in sizes.over_budget(tmp_path)] == ["streamrnn/long.py:1 f"]
