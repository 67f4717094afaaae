"""Draws docs/top.svg: `streamrnn top` beside a daemon that serves the pipelines in pipelines/live."""

from __future__ import annotations

import http.client
import io
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from streamrnn.cli.asking import Client  # noqa: E402
from streamrnn.cli.top import table  # noqa: E402
from streamrnn.errors import StreamrnnError  # noqa: E402

WORDS = "house lists would never event model state stream river"
PORTS = {"LETTERS_PORT": "19101", "MEANS_PORT": "19102"}
SECONDS = 3.0


def typed(rng: random.Random, count: int) -> bytes:
    """Words of many typists, a letter at a time."""
    lines = []
    for number in range(count):
        typist = f"typist-{int(rng.paretovariate(1))}"
        for letter in rng.choice(WORDS.split()):
            lines.append(json.dumps({"typist": typist, "word": number, "letter": letter}))
    return "".join(line + "\n" for line in lines).encode()


def readings(rng: random.Random, count: int) -> str:
    """Of meters; one in a thousand is none."""
    values = (rng.random() if rng.random() > 0.001 else "much" for _ in range(count))
    return "".join(json.dumps({"meter": f"m{rng.randrange(900)}", "kw": value}) + "\n" for value in values)


def seen(client: Client) -> dict[str, dict]:
    """How the pipelines are doing, by name."""
    return {each["name"]: each for each in client.get("pipelines")["pipelines"]}


def feed(rng: random.Random) -> None:
    """Events for both pipelines, for as long as the picture takes."""
    means = http.client.HTTPConnection("127.0.0.1", int(PORTS["MEANS_PORT"]))
    with socket.create_connection(("127.0.0.1", int(PORTS["LETTERS_PORT"]))) as letters, closing(means):
        letters.settimeout(10)
        end_s = time.monotonic() + SECONDS
        while time.monotonic() < end_s:
            means.request("POST", "/events", readings(rng, 3000))
            means.getresponse().read()
            data = typed(rng, 300)
            letters.sendall(data)
            answers = 0
            while answers < data.count(b"\n"):
                answers += letters.recv(1 << 16).count(b"\n")


def main() -> None:
    """Run it for real and write the picture."""
    rng = random.Random(1)
    with tempfile.TemporaryDirectory() as name:
        address = f"unix:{name}/admin"
        command = [sys.executable, "-m", "streamrnn", "serve", "pipelines/live", "--admin", address]
        env = {**os.environ, "LIVE": name, **PORTS}
        with subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.DEVNULL) as daemon:
            client = Client(address)
            while daemon.poll() is None:
                try:
                    client.get("readyz")
                    break
                except StreamrnnError:
                    time.sleep(0.05)
            before, began_s = seen(client), time.monotonic()
            feed(rng)
            shown = table(seen(client), before, time.monotonic() - began_s)
            daemon.terminate()
    console = Console(record=True, width=118, file=io.StringIO(), force_terminal=True)
    console.print(Text("$ streamrnn top", style="bold green"))
    console.print(shown)
    target = ROOT / "docs" / "top.svg"
    target.write_text(console.export_svg(title="streamrnn"))
    print(f"wrote {target.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
