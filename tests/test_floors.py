"""A module imports only from floors below its own; what is on floor 1 may not know of each other."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "streamrnn"
FLOORS = {
    0: "errors formats events backend offline ports rules hookspecs context notices values limits layers "
    "prefix output_file matching refusals watch almanac cold globs",
    1: "definition order resets features codecs sources sinks backends core builtins encode rejects net log "
    "reserve memory",
    2: "config registry event",
    3: "auto build ceilings commit deadline explain export line pipeline reading verify replay letters "
    "warmup stages",
    4: "testing pipeline_tests daemon cli __main__",
}
FLOOR_OF = {name: floor for floor, names in FLOORS.items() for name in names.split()}
BESIDE = {"conformance", "client"}
"""What nothing imports: a test kit, which may import everything, and what runs in programs of others."""
WORDS_SHARED_ON_FLOOR_1 = {
    ("encode", "codecs"),  # one formatter of floats
    ("backends", "builtins"),  # a component's own options
    ("features", "builtins"),
    ("resets", "builtins"),
    ("builtins", "backends"),  # light parsing that lint needs
    ("codecs", "builtins"),
    ("sources", "builtins"),
    ("sinks", "builtins"),
    ("builtins", "net"),
    ("sources", "net"),  # both ends share one server
    ("sinks", "net"),
    ("sources", "log"),  # what lies on the disk is the same for both ends
    ("sinks", "log"),
    ("builtins", "log"),
    ("sources", "codecs"),  # a log holds lines
    ("sinks", "codecs"),
    ("order", "core"),  # who is too far ahead
}


def part(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def runtime_imports(path: Path) -> set[str]:
    """Modules of the package that a file imports when it runs; imports for types only do not count."""
    tree = ast.parse(path.read_text())
    hidden = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and getattr(block.test, "id", "") == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= submodules if node.module == "streamrnn" else {node.module}
    return {name for name in found if name.split(".")[0] == "streamrnn" and "." in name}


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_come_from_below(path):
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if own in BESIDE:
        return
    assert own in FLOOR_OF, f"{own} stands on no floor; give it one in FLOORS"
    for module in runtime_imports(path):
        other = part(module)
        if other in (own, "__version__"):
            continue
        assert other not in BESIDE, f"{path.name} imports {other}"
        same = FLOOR_OF[own] == FLOOR_OF[other]
        allowed = FLOOR_OF[other] < FLOOR_OF[own] or (
            same and (FLOOR_OF[own] != 1 or (own, other) in WORDS_SHARED_ON_FLOOR_1)
        )
        assert allowed, f"{own} (floor {FLOOR_OF[own]}) imports {other} (floor {FLOOR_OF[other]})"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_the_world_is_reached_through_the_context(path):
    """`open`, clocks and sockets are for the context alone, so that tests can put their own in place."""
    if (
        path.name == "context.py"
        or path.parent.name == "cli"
        or path.name in ("open.py", "conformance.py", "client.py", "cold.py")
    ):
        return
    tree = ast.parse(path.read_text())
    calls = [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    banned = {"open", "time.time", "time.monotonic", "datetime.now", "socket.socket", "os.read", "os.open"}
    assert not banned & set(calls)
    touched = [c for c in calls if c.split(".")[-1] in ("read_text", "write_text", "write_bytes", "mkdir")]
    assert not touched
