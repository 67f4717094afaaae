"""Prints how many lines the code has, file by file and function by function, against the budget.

Budget: a file about 150 lines in the median, 400 at most; a function about 10 in the median, 60 at most.
"""

from __future__ import annotations

import ast
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
MAX_FILE_LINES, MAX_FUNCTION_LINES = 400, 60


@dataclass(frozen=True)
class Size:
    """Lines of one file or function."""

    lines: int
    name: str


def code_files(root: Path = ROOT) -> list[Path]:
    """The product's own modules: no tests."""
    plugins = [*root.glob("plugins/*/*.py"), *root.glob("plugins/*/streamrnn_*/**/*.py")]
    files = [*root.glob("streamrnn/**/*.py"), *plugins, *root.glob("*.py")]
    return sorted([*files, *root.glob("tools/*.py"), *root.glob("pipelines/*.py")])


def measure(root: Path = ROOT) -> tuple[list[Size], list[Size]]:
    """Sizes of all files and of all functions, largest first."""
    files, functions = [], []
    for path in code_files(root):
        text, name = path.read_text(), path.relative_to(root).as_posix()
        files.append(Size(text.count("\n"), name))
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                functions.append(Size(lines, f"{name}:{node.lineno} {node.name}"))
    return _largest_first(files), _largest_first(functions)


def over_budget(root: Path = ROOT) -> list[Size]:
    """What is larger than it may be."""
    files, functions = measure(root)
    return [s for s in files if s.lines > MAX_FILE_LINES] + [
        s for s in functions if s.lines > MAX_FUNCTION_LINES
    ]


def _largest_first(sizes: list[Size]) -> list[Size]:
    return sorted(sizes, key=lambda size: (-size.lines, size.name))


def main() -> int:
    """Print the table; 1 if something is over the budget."""
    files, functions = measure()
    for size in files:
        print(f"{size.lines:5}  {size.name}")
    print(f"\n{sum(s.lines for s in files)} lines in {len(files)} files, median {median_of(files)}")
    print(f"{len(functions)} functions, median {median_of(functions)}; the longest:")
    for size in functions[:10]:
        print(f"{size.lines:5}  {size.name}")
    over = over_budget()
    for size in over:
        print(f"over budget: {size.lines}  {size.name}", file=sys.stderr)
    return 1 if over else 0


def median_of(sizes: list[Size]) -> int:
    """The middle one."""
    return int(median(size.lines for size in sizes))


if __name__ == "__main__":
    sys.exit(main())
