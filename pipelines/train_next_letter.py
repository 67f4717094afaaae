"""Train the GRU that predicts the next letter of a word, and score it on words it has not seen.

The model reads a word one letter at a time, from a state of zeros, and after each letter predicts the next
one, or "$" when the word ends there. Scores count every such prediction over the test words: how often the
first choice is right (top-1) and how often the right symbol is among the first three (top-3).

Training draws common words more often than rare ones. With a plain draw rare words weigh so much that the
lead of "t" after "lis" nearly vanishes. How common a word is comes from the size levels of SCOWL, 10 being
the most common words, which the Debian package `scowl` 2020.12.07-2 installs under /usr/share/dict/scowl.
Its licence is the one of the word lists themselves, in data/next_letter/NOTICE.md.

To train again (about two minutes on one core), with torch, numpy and safetensors installed:

    apt-get install scowl    # or, without root: apt-get download scowl; dpkg -x scowl_*.deb unpacked
    python pipelines/train_next_letter.py    # and then: --levels unpacked/usr/share/dict/scowl

To score the stored weights, where `scowl` is not needed:

    python pipelines/train_next_letter.py --score
"""

from __future__ import annotations

import argparse
import re
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

HERE = Path(__file__).resolve().parent
SYMBOLS = "$abcdefghijklmnopqrstuvwxyz"
END = 0
HIDDEN_SIZE = 96
PADDING = -100  # the target value that cross_entropy skips by default

BATCH_SIZE = 256
PEAK_LEARNING_RATE = 0.008
MAX_GRADIENT_NORM = 1.0

SCOWL_FOLDER = Path("/usr/share/dict/scowl")
LEVELS_PER_HALVING = 10  # a word ten levels up is drawn half as often
LEVEL_OF_OTHERS = 60  # spelling variants and abbreviations are missing from the level lists read here
LEVEL_FILE = re.compile(r"(?:english|american)-words\.(\d+)")

SHOWN_PREFIXES = ("hous", "lis")


class NextLetter(nn.Module):
    """One GRU layer over one-hot letters, and a linear head that gives a logit for every symbol."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(len(SYMBOLS), HIDDEN_SIZE, batch_first=True)
        self.head = nn.Linear(HIDDEN_SIZE, len(SYMBOLS))

    def forward(self, letters: torch.Tensor) -> torch.Tensor:
        """Map symbol numbers (words, steps) to logits (words, steps, symbols)."""
        one_hot = nn.functional.one_hot(letters, len(SYMBOLS)).float()
        states, _ = self.gru(one_hot)
        logits: torch.Tensor = self.head(states)
        return logits


def read_words(path: Path) -> list[str]:
    """Read a word list, one word a line."""
    return path.read_text(encoding="ascii").split()


def letter_numbers(word: str) -> list[int]:
    """Return the place of each letter in SYMBOLS."""
    return [SYMBOLS.index(letter) for letter in word]


def encode(words: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return inputs and targets of shape (words, longest word)."""
    shape = (len(words), max(map(len, words)))
    # What stands in the inputs past a word's end has no effect: a GRU never looks ahead, and the targets
    # there are skipped.
    inputs = np.zeros(shape, dtype=np.int64)
    targets = np.full(shape, PADDING, dtype=np.int64)
    for row, word in enumerate(words):
        numbers = letter_numbers(word)
        inputs[row, : len(word)] = numbers
        targets[row, : len(word)] = [*numbers[1:], END]
    return torch.from_numpy(inputs), torch.from_numpy(targets)


def read_levels(folder: Path) -> dict[str, int]:
    """Map each word of SCOWL's general and American lists to the lowest level that holds it."""
    levels: dict[str, int] = {}
    for path in folder.glob("*-words.*"):
        name = LEVEL_FILE.fullmatch(path.name)
        if name is None:
            continue
        level = int(name[1])
        for word in path.read_text(encoding="latin-1").split():
            levels[word] = min(level, levels.get(word, level))
    if not levels:
        raise SystemExit(f"no SCOWL level lists in {folder}: install Debian's scowl, or give --levels")
    return levels


def draw_weights(words: list[str], levels: dict[str, int]) -> torch.Tensor:
    """Return how often to draw each word, up to a common factor."""
    found = np.array([levels.get(word, LEVEL_OF_OTHERS) for word in words], dtype=np.float64)
    return torch.from_numpy(2.0 ** (-found / LEVELS_PER_HALVING))


def train(words: list[str], weights: torch.Tensor, steps: int, seed: int) -> NextLetter:
    """Fit a new model to words drawn, with replacement, by their weights."""
    torch.manual_seed(seed)
    model = NextLetter()
    inputs, targets = encode(words)
    optimizer = torch.optim.Adam(model.parameters())
    schedule = OneCycleLR(optimizer, PEAK_LEARNING_RATE, total_steps=steps, pct_start=0.1)
    draws = torch.multinomial(weights, steps * BATCH_SIZE, replacement=True).view(steps, BATCH_SIZE)
    for step, rows in enumerate(draws, start=1):
        loss = nn.functional.cross_entropy(model(inputs[rows]).flatten(0, 1), targets[rows].flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), MAX_GRADIENT_NORM)
        optimizer.step()
        schedule.step()
        if step % 500 == 0:
            print(f"step {step} of {steps}: loss {loss.item():.3f}")
    return model


def hit_rates(logits: torch.Tensor, targets: torch.Tensor) -> tuple[float, float]:
    """Return top-1 and top-3 over all events, given as (events, symbols) and (events,)."""
    hits = logits.topk(3).indices == targets.unsqueeze(1)
    return hits[:, 0].double().mean().item(), hits.any(dim=1).double().mean().item()


@torch.no_grad()
def print_scores(model: NextLetter, words: list[str]) -> None:
    """Print top-1 and top-3 over the words, with the state kept and with it lost."""
    inputs, targets = encode(words)
    real = targets != PADDING
    print(f"{int(real.sum())} events of {len(words)} words")
    with_state = model(inputs)[real]
    # Every letter becomes a word of its own here, which is what a server that loses the state would compute.
    without_state = model(inputs[real].unsqueeze(1)).squeeze(1)
    for label, logits in (("with state", with_state), ("state reset before every letter", without_state)):
        top1, top3 = hit_rates(logits, targets[real])
        print(f"{label}: top-1 {top1:.4f}, top-3 {top3:.4f}")


@torch.no_grad()
def print_choices(model: NextLetter, prefix: str) -> None:
    """Print the three likeliest symbols after a prefix, with their probabilities."""
    logits = model(torch.tensor([letter_numbers(prefix)]))[0, -1]
    best = logits.softmax(dim=0).topk(3)
    ranked = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    choices = [f"{SYMBOLS[symbol]} {chance:.3f}" for symbol, chance in ranked]
    print(f"after {prefix}: {', '.join(choices)}")


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Train or score the next-letter GRU.")
    parser.add_argument("--score", action="store_true", help="only score the weights that exist")
    parser.add_argument("--data", type=Path, default=HERE / "data" / "next_letter", help="folder of words")
    parser.add_argument("--weights", type=Path, default=HERE / "models" / "next_letter.safetensors")
    parser.add_argument("--levels", type=Path, default=SCOWL_FOLDER, help="folder of SCOWL's level lists")
    parser.add_argument("--steps", type=int, default=4000, help="batches to train on")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def train_and_save(arguments: argparse.Namespace) -> None:
    """Train on the training words and store the weights as safetensors."""
    words = read_words(arguments.data / "words_train.txt")
    weights = draw_weights(words, read_levels(arguments.levels))
    start = time.monotonic()
    model = train(words, weights, arguments.steps, arguments.seed)
    print(f"trained in {time.monotonic() - start:.0f} s")
    arguments.weights.parent.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), arguments.weights)


def main() -> None:
    """Train unless told not to, then score what is stored."""
    arguments = parse_arguments()
    torch.set_num_threads(1)  # the order of sums, and so the trained weights, depends on the number
    if not arguments.score:
        train_and_save(arguments)
    # Read back even right after training: the scores are then those of the file that is served.
    model = NextLetter()
    model.load_state_dict(load_file(arguments.weights))
    print_scores(model, read_words(arguments.data / "words_test.txt"))
    for prefix in SHOWN_PREFIXES:
        print_choices(model, prefix)


if __name__ == "__main__":
    main()
