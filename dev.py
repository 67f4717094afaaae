"""Sets up `.venv` on first use, then works in it. Needs nothing but Python 3.11 with venv.

python3 dev.py run pipelines/next_letter.yaml     any streamrnn command
python3 dev.py test                               lint, types and all tests
python3 dev.py sizes                              lines per file and function
python3 dev.py setup                              only the set-up
"""

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
ENV = ROOT / ".venv"
BIN = ENV / ("Scripts" if os.name == "nt" else "bin")
PROJECTS = [ROOT / "pyproject.toml", *sorted(ROOT.glob("plugins/*/pyproject.toml"))]
CHECKS = (
    ["ruff", "check", "."],
    ["ruff", "format", "--check", "."],
    ["mypy"],
    ["pytest", "-n", "auto", "-m", "slow or not slow"],
)


def set_up() -> None:
    """Make the environment, or renew it when a project file has changed since."""
    stamp = ENV / "stamp"
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in PROJECTS) + sys.version.encode())
    if stamp.exists() and stamp.read_text() == digest.hexdigest():
        return
    print("setting up .venv (half a minute, once)", file=sys.stderr, flush=True)
    venv.create(ENV, with_pip=True)
    install = [str(BIN / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    plugins = [part for path in PROJECTS[1:] for part in ("--editable", str(path.parent))]
    subprocess.run([*install, "--editable", f"{ROOT}[test]", *plugins], check=True, stdout=sys.stderr)
    stamp.write_text(digest.hexdigest())


def test(arguments: list[str]) -> int:
    """Everything that must hold; arguments go to pytest alone and skip the rest."""
    if arguments:
        return subprocess.call([str(BIN / "pytest"), *arguments], cwd=ROOT)
    codes = [subprocess.call([str(BIN / check[0]), *check[1:]], cwd=ROOT) for check in CHECKS]
    return max(codes)


def main() -> int:
    """Set up, then do what was asked."""
    if sys.version_info < (3, 11):  # noqa: UP036 - here to say so to those who have an older one
        sys.exit(f"streamrnn needs Python 3.11 or newer, this is {sys.version.split()[0]}")
    asked, arguments = (sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else ("--help", [])
    set_up()
    if asked == "setup":
        return 0
    if asked == "test" and not any(Path(name).suffix in (".yaml", ".yml") for name in arguments):
        return test(arguments)
    if asked == "sizes":
        return subprocess.call([str(BIN / "python"), str(ROOT / "tools" / "sizes.py"), *arguments])
    return subprocess.call([str(BIN / "streamrnn"), asked, *arguments])


if __name__ == "__main__":
    sys.exit(main())
