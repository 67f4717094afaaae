"""The trained next-letter model, through the whole line, over all words it has never seen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from streamrnn.build import build_pipeline
from streamrnn.config.open import open_pipeline
from streamrnn.pipeline import run

PIPELINES = Path(__file__).parent.parent / "pipelines"
WORDS = (PIPELINES / "data" / "next_letter" / "words_test.txt").read_text().split()
TRUTH = [letter for word in WORDS for letter in [*word[1:], "$"]]


def typed(words):
    return [{"typist": "ann", "word": n, "letter": c} for n, word in enumerate(words) for c in word]


def served(tmp_path, events, reset):
    """The three likeliest next letters after each event."""
    text = (PIPELINES / "next_letter.yaml").read_text()
    text = text.replace("path: data/typed.jsonl", "path: events.jsonl").replace(
        "path: models", f"path: {PIPELINES}/models"
    )
    text = text.replace("{type: on_change, field: word}", reset).replace(
        "{type: stdout}", "{type: file, path: out.jsonl}"
    )
    (tmp_path / "pipeline.yaml").write_text(text)
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    spec, registry, context = open_pipeline(str(tmp_path / "pipeline.yaml"))
    run(build_pipeline(spec, registry, context), lambda: False, lambda report: None)
    return [json.loads(line)["next"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]


def scores(guesses):
    first = sum(guess[0] == letter for guess, letter in zip(guesses, TRUTH, strict=True))
    third = sum(letter in guess for guess, letter in zip(guesses, TRUTH, strict=True))
    return first / len(TRUTH), third / len(TRUTH)


def test_with_state_the_next_letter_is_known_far_better_than_without(tmp_path):
    assert len(TRUTH) == 25_136
    top1, top3 = scores(served(tmp_path, typed(WORDS), "{type: on_change, field: word}"))
    assert top1 >= 0.37
    assert top3 >= 0.63


def test_reset_at_every_letter_it_knows_no_more_than_one_letter_tells(tmp_path):
    top1, _ = scores(served(tmp_path, typed(WORDS), "{type: every, events: 1}"))
    assert top1 <= 0.26


@pytest.mark.parametrize(("prefix", "letter"), [("hous", "e"), ("lis", "t")])
def test_hous_is_followed_by_e_and_lis_by_t(tmp_path, prefix, letter):
    assert served(tmp_path, typed([prefix]), "{type: on_change, field: word}")[-1][0] == letter
